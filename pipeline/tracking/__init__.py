"""MLflow behind four ideas: a store inside the project, a run, a run reopened, and a registry of bundles.

Nothing here imports MLflow until a run starts or a champion is looked up. `LDCT_TRACKING=off` turns it off.
"""

from pipeline.tracking.registry import champion, describe_bundle, log_card, register_bundle
from pipeline.tracking.run import Run, reopen_run, start_run, write_run_json
from pipeline.tracking.store import project_root, store_uri

__all__ = [
    "Run",
    "champion",
    "describe_bundle",
    "log_card",
    "project_root",
    "register_bundle",
    "reopen_run",
    "start_run",
    "store_uri",
    "write_run_json",
]

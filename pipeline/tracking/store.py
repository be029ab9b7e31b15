"""Where runs are kept, and a client for it that starts quietly and fails fast."""

from __future__ import annotations

import logging
import os
import sqlite3
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PROBE_SECONDS: Final = 3
_PATH_COLUMNS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_CLIENT_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own defaults let a dead server hold a stage up for minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def tracking_is_off() -> bool:
    """Whether `LDCT_TRACKING=off` is set."""
    return os.environ.get("LDCT_TRACKING", "").lower() == "off"


def is_project(folder: Path) -> bool:
    """Whether a folder holds a project's dvc.yaml: beside code it is a pipeline file of the package's own."""
    return (folder / "dvc.yaml").is_file() and not (folder / "__init__.py").exists()


def project_root() -> Path:
    """The project's folder: DVC's, else the nearest parent that `is_project`, else the working directory.

    `dvc exp run --temp` works in a copy under `.dvc/tmp/exps/` that is deleted afterwards; what must
    outlive it belongs into the project itself, so that is what is returned.
    """
    here = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    if os.environ.get("DVC_ROOT"):
        return here
    return next((folder for folder in (here, *here.parents) if is_project(folder)), here)


def store_uri() -> str:
    """`MLFLOW_TRACKING_URI` when set, else the SQLite file inside the project (absolute, as MLflow needs)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_store()


def store_name() -> str:
    """`store_uri` without a user name or password, for messages."""
    return _without_credentials(store_uri())


def store_is_missing() -> bool:
    """Whether nothing was ever tracked in this project, so that looking would only make an empty store."""
    return store_uri() == _own_store() and not _database().exists()


def connect() -> MlflowClient:
    """Open the store, creating the project's own one on first use.

    Raises:
        TrackingError: the server does not answer, or the store cannot be opened.
    """
    for name, value in _CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = store_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        _probe(uri)
    with quiet():
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what matters is said by us, in one line
        with tracking_errors("open the store"), exclusive():
            if uri == _own_store():
                _follow_move()
            return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    """Find or make an experiment; in the project's own store its files go to `.ldct/mlartifacts`.

    Raises:
        TrackingError: the store fails, or the experiment was deleted.
    """
    artifacts = _artifacts() if store_uri() == _own_store() else None
    with quiet(), tracking_errors(f"open experiment {name}"), exclusive():
        found = client.get_experiment_by_name(name)
        if found is None:
            return str(client.create_experiment(name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"{store_name()}: experiment {name} was deleted; restore it in MLflow")
    return str(found.experiment_id)


@contextmanager
def exclusive() -> Iterator[None]:
    """Let one process at a time create tables, experiments or versions in the project's own store.

    MLflow's first use by several processes at once fails half-way through its migrations.
    """
    try:
        _state().mkdir(exist_ok=True)
    except OSError as refused:
        raise TrackingError(
            f"{_state()}: cannot be made ({refused.strerror}); set LDCT_TRACKING=off"
        ) from None
    with FileLock(_state() / "mlflow.lock", timeout=300):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the deprecation warnings of MLflow's own dependencies away from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def tracking_errors(doing: str) -> Iterator[None]:
    """Turn what MLflow raises when a store fails into a one-line `TrackingError`."""
    try:
        yield
    except store_failures() as failure:
        raise TrackingError(f"{store_name()}: cannot {doing}: {first_line(failure)}") from failure


def store_failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when a store fails; connection errors of `requests` are OSErrors."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def first_line(failure: Exception) -> str:
    """The first line of an exception's message, at most 200 characters, without credentials."""
    text = _without_credentials(str(failure))
    return next(iter(text.splitlines()), type(failure).__name__)[:200]


def _follow_move() -> None:
    """Point the store at its own files again after the project was moved, copied or mounted elsewhere.

    MLflow keeps absolute paths only, so a copy would write its files into the original.
    """
    if not _database().exists():
        return
    with closing(sqlite3.connect(_database())) as database, database:
        try:
            known = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError:
            return  # no tables yet, or no database: MLflow makes them, or says so
        for (old,) in known:
            if old.endswith("/.ldct/mlartifacts") and old != _artifacts():
                for table, column in _PATH_COLUMNS:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, length(?) + 1) "  # noqa: S608
                        f"WHERE substr({column}, 1, length(?)) = ?",
                        (_artifacts(), old, old, old),
                    )


def _probe(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS):  # noqa: S310 (http only)
            return
    except urllib.error.HTTPError:
        return  # something answers; if it is no MLflow server, the first real call says so
    except (OSError, ValueError) as silent:
        reason = getattr(silent, "reason", silent)
        raise TrackingError(
            f"{store_name()}: the MLflow server does not answer ({reason}); start it, unset "
            "MLFLOW_TRACKING_URI to use the project's own store, or set LDCT_TRACKING=off"
        ) from None


def _without_credentials(text: str) -> str:
    user, at, _ = urlsplit(store_uri()).netloc.rpartition("@")
    return text.replace(user + at, "") if at else text


def _state() -> Path:
    return project_root() / ".ldct"


def _artifacts() -> str:
    return (_state() / "mlartifacts").as_uri()


def _own_store() -> str:
    return f"sqlite:///{_database()}"


def _database() -> Path:
    return _state() / "mlflow.db"

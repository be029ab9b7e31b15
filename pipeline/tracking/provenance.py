"""Where a run comes from: the commit, the DVC stage and the digests of its settings and data."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path


def provenance_tags(stage: str, config: Path, data_digest: str) -> dict[str, str]:
    """Tags that tie a run to what it was made from; what is unknown (no git, no experiment) is left out.

    Raises:
        FileNotFoundError: `config` does not exist.
    """
    tags = {
        "dvc.stage": stage,
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME", ""),
        "config.sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "data.sha256": data_digest,
        **_git_tags(),
    }
    return {name: value for name, value in tags.items() if value}


def _git_tags() -> dict[str, str]:
    sha = _git("rev-parse", "HEAD")
    if not sha:
        return {}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git.sha": sha,
        "git.dirty": "unknown" if changes is None else str(bool(changes)).lower(),
        "mlflow.source.git.commit": sha,  # what the user interface shows as the version
    }


def _git(*arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None

"""Settings of `ldct ingest`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.config.base import Settings


class IngestSettings(Settings):
    """Which cases to read, and from where.

    Attributes:
        manifest: folder with `cases.csv` and `splits/`.
        split: name of the split that gives each case its role.
        root: folder that the manifest's paths are relative to, or `$NAME` for an environment variable that
            holds it (patient data stay where they are, and their place stays out of the repository).
        workers: processes that read cases side by side.
    """

    manifest: Path
    split: str
    root: str
    workers: int = Field(ge=1)

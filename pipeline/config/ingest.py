"""Settings of `ldct ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.config.base import Settings


class SourceSettings(Settings):
    """One data set.

    Attributes:
        manifest: folder with `cases.csv` and `splits/`; its name is that of the source.
        split: name of the split that gives each case its role.
        root: folder that the manifest's paths are relative to, or `$NAME` for an environment variable that
            holds it (patient data stay where they are, and their place stays out of the repository).
    """

    manifest: Path
    split: str
    root: str

    @property
    def name(self) -> str:
        """What its cases are marked with, and left out by."""
        return self.manifest.resolve().name


class IngestSettings(Settings):
    """Which cases to read, and from where.

    Attributes:
        sources: the data sets, whose cases become one.
        workers: processes that read cases side by side.
    """

    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1)]
    workers: int = Field(ge=1)

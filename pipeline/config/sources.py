"""What the sources of the kept manifests are: `data_manifests/sources.yaml`."""

from __future__ import annotations

from pipeline.config.base import Settings


class SourceOrigin(Settings):
    """Where a source is from.

    Attributes:
        title: what it is known by, and what it is.
        licence: of the images.
        dois: without the resolver.
        repository: where the files were taken from.
        attribution: that the licence asks for.
    """

    title: str
    licence: str
    dois: tuple[str, ...] = ()
    repository: str = ""
    attribution: str = ""


class SourceOrigins(Settings):
    """All of them, by the names of their manifests."""

    sources: dict[str, SourceOrigin]

"""What earlier stages of a preset left; where it is missing, the command that makes it is named."""

from __future__ import annotations

from pipeline.bundle import Bundle, load_bundle
from pipeline.config.layout import Layout
from pipeline.data.cases import INDEX
from pipeline.errors import BundleError, DataError


def trained_bundle(layout: Layout, name: str, kind: str | None = None) -> Bundle:
    """The best weights of a model of the preset, or of a recipe.

    Args:
        layout: of the preset.
        name: of the training.
        kind: refuse a bundle of any other kind.

    Raises:
        BundleError: they are missing, damaged or of another kind.
    """
    path, config = layout.bundle(name), layout.config(name)
    if path.exists():
        return load_bundle(path, kind)
    if config.is_file():
        raise BundleError(f"{path}: no such bundle; ldct train {name} --preset {layout.preset} makes it")
    raise BundleError(
        f"{path}: no such bundle, and no {config} to train it; name a model that the preset "
        f"{layout.preset} has, in {layout.config('evaluate')}"
    )


def check_ingested(layout: Layout) -> None:
    """See that the preset has cases.

    Raises:
        DataError: it has none.
    """
    index = layout.cases / INDEX
    if not index.is_file():
        raise DataError(f"{index}: no such file; run `ldct ingest --preset {layout.preset}` first")

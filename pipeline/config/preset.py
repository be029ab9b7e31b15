"""Which preset runs: the one named on the command line, else the one line of `configs/preset.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.config.base import Settings, load_settings
from pipeline.errors import ConfigError

CONFIGS: Final = Path("configs")
STAGES: Final = frozenset({"simulate", "ingest", "evaluate", "predict"})
"""Settings files of a preset that belong to a stage; every other one is a model's."""


class ActivePreset(Settings):
    """`configs/preset.yaml`: the line that chooses the preset of `dvc repro`."""

    preset: str


def choose_preset(named: str | None = None) -> str:
    """The preset called `named`, or the active one of this project.

    Raises:
        ConfigError: the working directory is no project root, or there is no such preset.
    """
    if not CONFIGS.is_dir():
        raise ConfigError(f"{Path.cwd()}: no configs/ folder here; run this in the root of the project")
    preset = load_settings(CONFIGS / "preset.yaml", ActivePreset).preset if named is None else named
    known = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())
    if preset not in known:
        raise ConfigError(
            f"{preset or repr(preset)}: no such preset; configs/ has {', '.join(known) or 'none'}"
        )
    return preset


def model_names(preset: str) -> list[str]:
    """The models that a preset has settings for, sorted."""
    return sorted(path.stem for path in (CONFIGS / preset).glob("*.yaml") if path.stem not in STAGES)

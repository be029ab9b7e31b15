"""Which preset runs: the one named on the command line, else the one line of `configs/preset.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.config.base import Settings, load_settings
from pipeline.config.layout import CONFIGS, RECIPES
from pipeline.errors import ConfigError

__all__ = [
    "CONFIGS",
    "STAGES",
    "ActivePreset",
    "choose_preset",
    "model_names",
    "names_in_words",
    "preset_names",
    "presets_with",
    "recipe_names",
    "trainable_names",
]

STAGES: Final = frozenset({"simulate", "ingest", "evaluate", "predict"})
"""Settings files of a preset that belong to a stage; every other one is a model's."""

_FIRST_STAGES: Final = ("simulate", "ingest")
"""A preset has settings for one of them: one with data of its own needs no phantoms."""


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
    known = preset_names()
    if preset not in known:
        raise ConfigError(
            f"{preset or repr(preset)}: no such preset; configs/ has {', '.join(known) or 'none'}"
        )
    return preset


def preset_names() -> list[str]:
    """Folders of `configs/` that make pairs or read them in; the others hold recipes and trials."""
    return sorted({path.parent.name for stage in _FIRST_STAGES for path in CONFIGS.glob(f"*/{stage}.yaml")})


def model_names(preset: str) -> list[str]:
    """The models that a preset has settings for, sorted."""
    return sorted(path.stem for path in (CONFIGS / preset).glob("*.yaml") if path.stem not in STAGES)


def presets_with(name: str) -> list[str]:
    """The presets that have a model of this name."""
    return [preset for preset in preset_names() if name in model_names(preset)]


def trainable_names(preset: str) -> list[str]:
    """What can be trained in a preset: its own models, then the recipes."""
    own = model_names(preset)
    return [*own, *(name for name in recipe_names() if name not in own)]


def recipe_names() -> list[str]:
    """The recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def names_in_words() -> str:
    """The models of each preset and the recipes, for a help text; outside a project it says so."""
    presets = preset_names()
    if not presets:
        return f"There is no {CONFIGS}/ folder with presets here: run this in the root of the project."
    lines = [f"{preset}: {', '.join(model_names(preset))}" for preset in presets]
    return "  \n".join([*lines, f"recipes, for every preset: {', '.join(recipe_names()) or 'none'}"])

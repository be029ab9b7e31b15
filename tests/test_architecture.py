"""What the house promises: imports point downwards, settings parse, dvc.yaml names the code a stage runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config import Layout, load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.ingest import IngestSettings
from pipeline.config.predict import PredictSettings
from pipeline.config.simulate import SimulateSettings
from pipeline.config.train import load_train_settings

CHECKOUT = Path(__file__).parents[1]
PRESETS = sorted(path.parent.name for path in (CHECKOUT / "configs").glob("*/simulate.yaml"))
STAGE_SETTINGS = {
    "simulate": SimulateSettings,
    "ingest": IngestSettings,
    "evaluate": EvaluateSettings,
    "predict": PredictSettings,
}

DECIDES_NO_RESULT = (
    "pipeline/errors.py",
    "pipeline/tracking",
    "pipeline/config/base.py",
    "pipeline/config/layout.py",
    "pipeline/config/preset.py",
    "pipeline/stages/bars.py",
    "pipeline/stages/earlier.py",
    "pipeline/stages/processes.py",
)
"""Left out of dvc.yaml: how a stage fails, also for want of what others make, where it records, where
files lie, its bars, its processes."""
DECIDES_NO_WEIGHTS = ("pipeline/figures", "pipeline/engine/progress.py", "pipeline/models/tiles.py")
"""Pictures of a training, and the tiles that only `predict` cuts: they must not retrain a model."""


def test_rooms_import_downwards_only() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_preset_of_the_road_has_the_same_settings_files() -> None:
    assert PRESETS == ["demo", "paper", "reference", "smoke"]
    road = [preset for preset in PRESETS if preset != "reference"]  # which has a dvc.yaml of its own
    names = [{path.name for path in (CHECKOUT / "configs" / preset).glob("*.yaml")} for preset in road]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_settings_of_a_preset_parse_and_say_their_command(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    for name in (path.stem for path in Path("configs", preset).glob("*.yaml")):
        path = Layout(preset).config(name)
        if name in STAGE_SETTINGS:
            load_settings(path, STAGE_SETTINGS[name])
        else:
            load_train_settings(path)
        assert path.read_text(encoding="utf-8").startswith("#"), f"{path} does not open with its command"


def stage_dependencies() -> dict[str, list[str]]:
    """Paths below pipeline/ that each stage of dvc.yaml depends on, `foreach` items written out."""
    stages = YAML(typ="safe").load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    written_out: dict[str, list[str]] = {}
    for name, stage in stages.items():
        for key, item in stage.get("foreach", {"": {}}).items():
            dependencies = stage.get("do", stage)["deps"]
            for field, value in item.items():
                dependencies = [path.replace(f"${{item.{field}}}", value) for path in dependencies]
            written_out[f"{name}@{key}" if key else name] = [
                path for path in dependencies if path.startswith("pipeline/")
            ]
    return written_out


STAGES = stage_dependencies()


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_the_code_that_a_stage_runs(stage: str) -> None:
    """Otherwise an edit that matters would leave an old result standing."""
    name = stage.partition("@")[0]
    of_other_items = {
        path
        for other, paths in STAGES.items()
        if other.partition("@")[0] == name
        for path in paths
        if path not in STAGES[stage]
    }
    left_out = {*DECIDES_NO_RESULT, *(DECIDES_NO_WEIGHTS if name == "train" else ())}
    used = set(reachable(f"pipeline/stages/{name}.py", without=frozenset(left_out | of_other_items)))
    for own in own_modules(stage):  # only what all items share may name the code of the others
        used |= set(reachable(own, without=frozenset(left_out)))
    assert sorted(path for path in used if not is_below(path, STAGES[stage])) == []


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_names_code_that_exists(stage: str) -> None:
    assert [path for path in STAGES[stage] if not (CHECKOUT / path).exists()] == []


def own_modules(stage: str) -> list[str]:
    """Modules that not every item of a `foreach` depends on, but `stage` does."""
    items = [paths for other, paths in STAGES.items() if other.partition("@")[0] == stage.partition("@")[0]]
    shared = set.intersection(*map(set, items))
    return [path for path in STAGES[stage] if path not in shared and path.endswith(".py")]


def is_below(path: str, folders: Any) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def reachable(start: str, *, without: frozenset[str]) -> Iterator[str]:
    """Modules imported from `start` on; a name re-exported by a package counts as the module that defines it.

    Packages' own `__init__` modules are registries and re-exports, so they are passed through, not reported.
    """
    waiting, seen = [start], {start}
    while waiting:
        path = waiting.pop()
        yield path
        for found in imported(path) - seen:
            seen.add(found)
            if not is_below(found, without):
                waiting.append(found)


@cache
def imported(path: str) -> frozenset[str]:
    found = {defining_module(module, name) for module, name in import_statements(path)}
    return frozenset(module for module in found if module is not None)


def import_statements(path: str) -> list[tuple[str, str]]:
    tree = ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline"
        for alias in node.names
    ]


def defining_module(module: str, name: str) -> str | None:
    """Where `from module import name` gets `name` from; None where a package itself defines it."""
    base = module.replace(".", "/")
    if (CHECKOUT / f"{base}.py").is_file():
        return f"{base}.py"
    if (CHECKOUT / base / f"{name}.py").is_file():
        return f"{base}/{name}.py"
    for source, exported in import_statements(f"{base}/__init__.py"):
        if exported == name:
            return defining_module(source, name)
    return None

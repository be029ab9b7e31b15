"""The pipeline file of the shipped weights names the code that its stages run."""

import pytest
from ruamel.yaml import YAML

from tests.test_architecture import (
    CHECKOUT,
    DECIDES_NO_RESULT,
    DECIDES_NO_WEIGHTS,
    STAGES,
    is_below,
    reachable,
)

COMMANDS = {
    "simulate": "simulate",
    "ingest": "ingest",
    "train": "train",
    "texture": "train",
    "evaluate": "evaluate",
    "publish": "publish",
}


def code_of(stage):
    text = (CHECKOUT / "pipeline" / "weights" / "dvc.yaml").read_text(encoding="utf-8")
    found = YAML(typ="safe").load(text)["stages"][stage]
    return [path for path in found.get("do", found)["deps"] if path.startswith("pipeline/")]


@pytest.mark.parametrize("stage", COMMANDS)
def test_the_weights_depend_on_all_code_that_decides_them(stage):
    """Of families and kinds of evaluation that denoisers do not have, the root's pipeline file tells."""
    command, named = COMMANDS[stage], code_of(stage)
    of_other_items = {
        path
        for other, paths in STAGES.items()
        if other.partition("@")[0] == command
        for path in paths
        if not is_below(path, named)
    } - set(STAGES.get(f"{command}@redcnn", STAGES.get(command, ())))
    left_out = {*DECIDES_NO_RESULT, *(DECIDES_NO_WEIGHTS if command == "train" else ())}
    used = reachable(f"pipeline/stages/{command}.py", without=frozenset(left_out | of_other_items))
    assert sorted(path for path in used if not is_below(path, named)) == []


@pytest.mark.parametrize("stage", [*COMMANDS, "kernel_pairs", "card"])
def test_the_weights_depend_on_code_that_exists(stage):
    named = [path for path in code_of(stage) if not path.endswith(".safetensors")]  # `publish` writes these
    assert [path for path in named if not (CHECKOUT / path).exists()] == []

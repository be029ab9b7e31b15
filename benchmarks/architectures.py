"""The shipped network beside RED-CNN, trained for the same time: `python benchmarks/architectures.py`.

    python benchmarks/architectures.py [--minutes 8] [--data data/reference/cases] [--rounds 2]

Both are trained with the settings of `configs/reference/denoiser.yaml` but for the network and the steps:
`drunet` in the shipped size, and `redcnn` with 32 filters and the same noise map. Short trainings, in turns,
tell how many samples each takes per second; the steps are as many as the minutes hold, and both learning
rates fall to their end within them. Scored by `ldct evaluate` on the test patients as
`configs/reference/evaluate.yaml` says.

Works in a scratch folder; writes `benchmarks/results/architectures.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from run import CHECKOUT, environment, machine

from pipeline.bundle import load_bundle

NETWORKS: dict[str, dict[str, Any]] = {
    "drunet": {"architecture": "drunet", "arguments": {"features": [16, 32, 64], "noise_map": True}},
    "redcnn": {"architecture": "redcnn", "arguments": {"features": 32, "noise_map": True}},
}
PRESET = "reference"
TIMED_STEPS = 200
CONVENTIONS = ("redcnn", "full")


def main() -> None:
    """Measure, print the table and keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="of training, for each network")
    parser.add_argument("--data", type=Path, default=Path("data", PRESET, "cases"))
    parser.add_argument("--rounds", type=int, default=2, help="of short trainings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ldct-architectures-") as scratch:
        project = new_project(Path(scratch), options.data.resolve())
        speed = samples_per_second(project, options.rounds)
        batch_size = read(CHECKOUT / "configs" / PRESET / "denoiser.yaml")["batch_size"]
        networks = {}
        for name, per_second in speed.items():
            steps = max(1, round(options.minutes * 60 * per_second / batch_size))
            train(project, name, steps)
            networks[name] = {
                "samples_per_second": per_second,
                "steps": steps,
                "parameters": parameters(project, name),
                "gain_db": scores(project, name),
            }
    result = {
        "machine": machine() | {"torch_threads": torch.get_num_threads()},
        "minutes": options.minutes,
        "networks": networks,
    }
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "architectures.json").write_text(text, encoding="utf-8")
    print("\n".join(table(networks)))


def new_project(root: Path, cases: Path) -> Path:
    """A folder with the reference settings and the cases, in which nothing is trained yet."""
    shutil.copytree(CHECKOUT / "configs", root / "configs")
    (root / "data" / PRESET).mkdir(parents=True)
    (root / "data" / PRESET / "cases").symlink_to(cases)
    evaluate = root / "configs" / PRESET / "evaluate.yaml"
    settings = read(evaluate)
    for unasked in ("detectability", "sharpness"):
        settings["restoration"].pop(unasked)
    write(evaluate, settings)
    return root


def samples_per_second(project: Path, rounds: int) -> dict[str, float]:
    """Of each network's training: the median over rounds, in each of which all take their turn."""
    found: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for _ in range(rounds):
        for name, speeds in found.items():
            *_, last = re.findall(r"(\d+) samples/s", train(project, name, TIMED_STEPS))
            speeds.append(float(last))
    return {name: statistics.median(speeds) for name, speeds in found.items()}


def train(project: Path, name: str, steps: int) -> str:
    """Train a network for so many steps, validated once at the end; returns what it said."""
    settings = read(CHECKOUT / "configs" / PRESET / "denoiser.yaml")
    settings |= {"model": NETWORKS[name], "steps": steps, "validate_every": steps, "checkpoint_every": steps}
    write(project / "configs" / PRESET / f"{name}.yaml", settings)
    return ldct(project, "train", name)


def parameters(project: Path, name: str) -> int:
    """How many numbers a trained network has."""
    bundle = load_bundle(project / "models" / PRESET / name / "bundle.safetensors", "denoiser")
    return sum(weights.numel() for weights in bundle.tensors.values())


def scores(project: Path, name: str) -> dict[str, dict[str, float]]:
    """PSNR gains over the input by dose and convention, means over the test patients."""
    ldct(project, "evaluate", name)
    told = json.loads((project / "metrics" / PRESET / f"{name}.json").read_text(encoding="utf-8"))
    return {
        dose: {
            convention: round(scored["against_normal_dose"][convention]["restored"]["gain_db"], 2)
            for convention in CONVENTIONS
        }
        for dose, scored in told["doses"].items()
    }


def ldct(project: Path, command: str, name: str) -> str:
    """What a stage says that runs in the project.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", command, name, "--preset", PRESET],
        cwd=project,
        env=environment() | {"LDCT_TRACKING": "off", "PYTHONPATH": os.fspath(CHECKOUT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}{command} {name} ended with {done.returncode}")
    return done.stderr


def table(networks: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown, a row for each network."""
    doses = list(next(iter(networks.values()))["gain_db"])
    heads = [f"{100 * float(dose.removeprefix('dose_')):g} %, `redcnn` / `full` [dB]" for dose in doses]
    lines = [
        f"| network | parameters | steps | {' | '.join(heads)} |",
        "|" + "---|" * (3 + len(doses)),
    ]
    for name, facts in networks.items():
        gains = [" / ".join(f"{facts['gain_db'][dose][one]:+.2f}" for one in CONVENTIONS) for dose in doses]
        lines.append(f"| {name} | {facts['parameters']:,} | {facts['steps']:,} | {' | '.join(gains)} |")
    return lines


def read(path: Path) -> dict[str, Any]:
    """Settings of a YAML file."""
    values: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return values


def write(path: Path, values: dict[str, Any]) -> None:
    """Settings to a YAML file."""
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(values, file)


if __name__ == "__main__":
    main()

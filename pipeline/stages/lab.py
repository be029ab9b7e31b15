"""`ldct lab restoration`: run the experiments that are not done yet, record them, write the page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from pipeline import __version__
from pipeline.config.base import load_settings
from pipeline.config.lab import RestorationLab
from pipeline.config.layout import CONFIGS
from pipeline.errors import ConfigError
from pipeline.lab.bench import Bench
from pipeline.lab.claims import EXPERIMENTS, Experiment, total_cost
from pipeline.lab.page import page, verdict_of
from pipeline.lab.progress import LabProgress
from pipeline.manifest import digest_of
from pipeline.tracking import project_root

NAME: Final = "restoration"
SETTINGS: Final = CONFIGS / "lab" / f"{NAME}.yaml"


def run(target: Path, *, claims: Sequence[int] = (), fresh: bool = False, settings: Path = SETTINGS) -> None:
    """Test claims and write `restoration.md`, `restoration.json` and a figure each to a folder.

    Args:
        target: the folder; results in it that the settings still describe are kept.
        claims: numbers; all when empty.
        fresh: run again what is there.
        settings: YAML file.

    Raises:
        ConfigError: there is no such claim, or the settings cannot be used.
    """
    unknown = [number for number in claims if number not in EXPERIMENTS]
    if unknown:
        known = ", ".join(map(str, EXPERIMENTS))
        raise ConfigError(f"claim {unknown[0]}: the restoration lab has the claims {known}")
    lab = load_settings(settings, RestorationLab)
    target.mkdir(parents=True, exist_ok=True)
    chosen = {number: one for number, one in EXPERIMENTS.items() if not claims or number in claims}
    records = _kept(target, lab)
    waiting = {n: one for n, one in chosen.items() if fresh or n not in records}
    out, console = Console(highlight=False, soft_wrap=True), Console(stderr=True)
    cost = total_cost(waiting.values(), lab)
    progress = LabProgress(cost, console)
    bench = Bench(project_root() / ".ldct" / "lab", progress, fresh=fresh)
    with progress if cost else nullcontext():
        for number, one in waiting.items():
            findings = one.run(lab, bench, _figure(target, one))
            records[number] = {"digest": _digest(one, lab), "version": __version__, **asdict(findings)}
            _write(target, lab, records)
    _write(target, lab, records)
    for number, one in chosen.items():
        claim = one.claim(lab)
        verdict = verdict_of(claim, records[number])[1]
        out.print(f"claim {number:>2}  {verdict.value:<9}  {claim.says}", markup=False)
    out.print(f"page: {target / f'{NAME}.md'}", markup=False)


def _kept(target: Path, lab: RestorationLab) -> dict[int, dict[str, Any]]:
    """Records of earlier runs with the very same settings, whose figures are there."""
    try:
        found = json.loads((target / f"{NAME}.json").read_text(encoding="utf-8"))["claims"]
    except (OSError, ValueError, KeyError):
        return {}
    return {
        number: found[str(number)]
        for number, one in EXPERIMENTS.items()
        if found.get(str(number), {}).get("digest") == _digest(one, lab) and _figure(target, one).is_file()
    }


def _digest(one: Experiment, lab: RestorationLab) -> str:
    return digest_of({"settings": json.dumps(one.decides(lab), sort_keys=True)})[:16]


def _figure(target: Path, one: Experiment) -> Path:
    return target / f"{one.name}.png"


def _write(target: Path, lab: RestorationLab, records: dict[int, dict[str, Any]]) -> None:
    ordered = {number: _judged(number, lab, records[number]) for number in EXPERIMENTS if number in records}
    text = json.dumps({"rule": lab.rule, "claims": ordered}, indent=1, ensure_ascii=False)
    _replace(target / f"{NAME}.json", text + "\n")
    _replace(target / f"{NAME}.md", page(lab, records))


def _judged(number: int, lab: RestorationLab, record: dict[str, Any]) -> dict[str, Any]:
    claim = EXPERIMENTS[number].claim(lab)
    judgements, verdict = verdict_of(claim, record)
    measures = {
        name: {"least": claim.measures[name].least, "mean": j.mean, "sd": j.sd, "verdict": j.verdict.value}
        for name, j in judgements.items()
    }
    return {**record, "says": claim.says, "verdict": verdict.value, "measures": measures}


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)

"""The page a student reads: Markdown, from settings and recorded results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.lab import Claim, Measure, RestorationLab
from pipeline.lab.claims import EXPERIMENTS
from pipeline.lab.verdict import Judgement, Verdict, judge_all, overall

Record = Mapping[str, Any]
"""What the JSON file holds of one claim."""


def page(lab: RestorationLab, records: Mapping[int, Record]) -> str:
    """Summary, rule, and a section for each claim that has run."""
    known = {number: one for number, one in EXPERIMENTS.items() if number in records}
    parts = [
        "# Restoration: what the lecture claims, put to the test",
        "Written by `ldct lab restoration`; every number is in [restoration.json](restoration.json), every "
        "setting in `configs/lab/restoration.yaml`. Phantom patients, small networks, short trainings: a "
        "verdict speaks of these sizes, not of all networks.",
        _summary(lab, records),
        f"**The rule, written down before the experiments ran.** {lab.rule}",
        f"Seeds {', '.join(map(str, lab.seeds))}; each draws its own patients, first weights, order of "
        "patches and noise.",
        f"**Earlier rounds.** {lab.history}",
        *(_section(number, one.claim(lab), records[number], one.name) for number, one in known.items()),
    ]
    return "\n\n".join(parts) + "\n"


def verdict_of(claim: Claim, record: Record) -> tuple[dict[str, Judgement], Verdict]:
    """The judgement of each measure, and of the claim."""
    judgements = judge_all(record["effects"], claim.measures, record["at_least"])
    return judgements, overall(judgements)


def _summary(lab: RestorationLab, records: Mapping[int, Record]) -> str:
    rows = []
    for number, one in EXPERIMENTS.items():
        claim = one.claim(lab)
        verdict = f"**{verdict_of(claim, records[number])[1].value}**" if number in records else "not run"
        rows.append([str(number), claim.says, verdict])
    return _table(("claim", "the lecture says", "verdict"), rows)


def _section(number: int, claim: Claim, record: Record, name: str) -> str:
    judgements, verdict = verdict_of(claim, record)
    table = record["table"]
    parts = [
        f"## Claim {number}: {claim.says.rstrip('.')}",
        f"**The lecture.** {claim.lecture}",
        f"**What we did.** {claim.did}",
        f"![{record['caption']}]({name}.png)",
        f"*{record['caption']}*",
        _measures(claim.measures, record, judgements),
        f"**Verdict: the claim {_in_words(verdict)}.** {getattr(claim.lessons, verdict.value)}",
        _table(table["columns"], [[_number(cell) for cell in row] for row in table["rows"]]),
    ]
    return "\n\n".join([*parts, table["note"]] if table["note"] else parts)


def _in_words(verdict: Verdict) -> str:
    return "is undecided" if verdict is Verdict.UNDECIDED else verdict.value


def _measures(
    measures: Mapping[str, Measure],
    record: Record,
    judgements: Mapping[str, Judgement],
) -> str:
    rows = []
    for name, measure in measures.items():
        unit = "" if measure.unit == "1" else f" {measure.unit}"
        found = judgements[name]
        effects = record["effects"][name]
        bounds = record["at_least"].get(name, [False] * len(effects))
        per_seed = ", ".join(
            ("≥ " if bound else "") + _number(effect) for effect, bound in zip(effects, bounds, strict=True)
        )
        mean = f"{_number(found.mean)} ± {_number(found.sd)}{unit}"
        rows.append(
            [
                measure.effect,
                f"≥ {measure.least:g}{unit}",
                per_seed,
                mean,
                f"{found.verdict.value}: {found.because}",
            ]
        )
    return _table(("effect", "stated before", "per seed", "mean ± SD", "verdict"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _number(cell: str | float) -> str:
    """Four significant digits."""
    return cell if isinstance(cell, str) else f"{cell:.4g}"

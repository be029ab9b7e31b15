"""Gains by anatomy, kernel, texture and thickness, over all held-out sources together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.report.card.facts import Card
from pipeline.report.card.markdown import percent, signed, table
from pipeline.report.card.scores import Group as ScoredGroup

TITLES: Final = {
    "anatomy": "Anatomy",
    "kernel": "Kernel of the header",
    "texture": "Noise texture of the kernel (smooth peaks below 0.3 /mm, sharp above 0.45 /mm)",
    "thickness": "Slice thickness",
    "scan": "How the scan behind the noise was found",
}


@dataclass(frozen=True)
class Group:
    """Held-out cases that are alike.

    Attributes:
        sources: that have some.
        patients: over all of them.
        slices: over all of them.
        gain_db: mean over patients by dose fraction and convention.
    """

    sources: tuple[str, ...]
    patients: int
    slices: int
    gain_db: Mapping[tuple[float, str], float]


@dataclass(frozen=True)
class _Part:
    source: str
    dose: float
    found: ScoredGroup


def groups(card: Card, grouping: str) -> dict[str, Group]:
    """By name; a mean over patients is that of the sources' means, weighted by their patients."""
    parts: dict[str, list[_Part]] = {}
    for fold in card.folds:
        for dose, own in fold.by_dose.items():
            for name, found in own.groups(grouping).items():
                parts.setdefault(name, []).append(_Part(fold.held_out, dose, found))
    return {name: _group(parts[name], card.conventions) for name in sorted(parts)}


def doses_of(card: Card) -> list[float]:
    """That any held-out source was scored at, the highest first."""
    return sorted({dose for fold in card.folds for dose in fold.by_dose}, reverse=True)


def groups_table(card: Card, grouping: str) -> str:
    """A row per group, with the gain under each convention at each dose."""
    doses = doses_of(card)
    heads = ["group", "held-out sources", "patients, slices"]
    heads += [f"gain at {percent(dose)}, {' / '.join(card.conventions)} [dB]" for dose in doses]
    return table(heads, [list(_row(card, name, own)) for name, own in groups(card, grouping).items()])


def _row(card: Card, name: str, own: Group) -> Iterator[str]:
    yield from (name, ", ".join(own.sources), f"{own.patients}, {own.slices}")
    for dose in doses_of(card):
        yield " / ".join(signed(own.gain_db.get((dose, convention))) for convention in card.conventions)


def _group(parts: Sequence[_Part], conventions: Sequence[str]) -> Group:
    once = {part.source: part.found for part in parts}
    gain_db = {}
    for dose in {part.dose for part in parts}:
        for name in conventions:
            mean_db = mean_gain_db([part.found for part in parts if part.dose == dose], name)
            if mean_db is not None:
                gain_db[dose, name] = mean_db
    return Group(
        sources=tuple(once),
        patients=sum(found.patients for found in once.values()),
        slices=sum(found.slices for found in once.values()),
        gain_db=gain_db,
    )


def mean_gain_db(found: Sequence[ScoredGroup], convention: str) -> float | None:
    """Mean over the patients of some groups; None where one of them has no such number."""
    known = [(one.patients, one.gains[convention].gain_db) for one in found if convention in one.gains]
    totals_db = [patients * gain_db for patients, gain_db in known if gain_db is not None]
    if not known or len(totals_db) < len(known):
        return None
    return sum(totals_db) / sum(patients for patients, _ in known)

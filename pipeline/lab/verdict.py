"""From one number per seed to a verdict; the rule is older than the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean, stdev

from pipeline.config.lab import Measure


class Verdict(Enum):
    """What the numbers say of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judgement:
    """A measure, its numbers and what follows.

    Attributes:
        mean: over the seeds.
        sd: over the seeds (n − 1).
        verdict: see `judge`.
    """

    mean: float
    sd: float
    verdict: Verdict


def judge(effects: Sequence[float], *, least: float) -> Judgement:
    """Whether an effect is there.

    It holds when every seed's effect is positive, the mean exceeds twice the SD and the mean reaches `least`;
    it fails when even mean + 2 SD stays below `least`; otherwise it is undecided.

    Args:
        effects: one per seed; positive speaks for the claim.
        least: smallest mean that counts.

    Raises:
        ValueError: fewer than three seeds.
    """
    if len(effects) < 3:
        raise ValueError(f"a verdict needs three seeds or more, got {len(effects)}")
    mean, sd = fmean(effects), stdev(effects)
    if min(effects) > 0 and mean > 2 * sd and mean >= least:
        return Judgement(mean, sd, Verdict.HOLDS)
    return Judgement(mean, sd, Verdict.FAILS if mean + 2 * sd < least else Verdict.UNDECIDED)


def judge_all(
    effects: Mapping[str, Sequence[float]], measures: Mapping[str, Measure]
) -> dict[str, Judgement]:
    """A judgement for each measure of a claim.

    Raises:
        ValueError: what was measured is not what the settings announce.
    """
    if effects.keys() != measures.keys():
        raise ValueError(f"measured {sorted(effects)}, but the settings announce {sorted(measures)}")
    return {name: judge(effects[name], least=measure.least) for name, measure in measures.items()}


def overall(judgements: Mapping[str, Judgement]) -> Verdict:
    """The claim holds when all its measures hold, and fails when one fails."""
    verdicts = {judgement.verdict for judgement in judgements.values()}
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.UNDECIDED

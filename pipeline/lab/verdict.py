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
        because: the same in words.
    """

    mean: float
    sd: float
    verdict: Verdict
    because: str


def judge(effects: Sequence[float], *, least: float, lower_bounds: bool = False) -> Judgement:
    """Whether an effect is there.

    It holds when every seed's effect is positive, the mean exceeds twice the SD and the mean reaches `least`;
    it fails when even mean + 2 SD stays below `least`; otherwise it is undecided. Lower bounds can make a
    measure hold, not fail: the effect may be larger.

    Args:
        effects: one per seed; positive speaks for the claim.
        least: smallest mean that counts.
        lower_bounds: some of the effects are.

    Raises:
        ValueError: fewer than three seeds.
    """
    if len(effects) < 3:
        raise ValueError(f"a verdict needs three seeds or more, got {len(effects)}")
    mean, sd = fmean(effects), stdev(effects)
    doubts = [
        doubt
        for doubt, applies in (
            ("not every seed speaks for it", min(effects) <= 0),
            ("the mean does not exceed twice the SD", mean <= 2 * sd),
            ("the mean is below the stated effect", mean < least),
        )
        if applies
    ]
    if not doubts:
        return Judgement(mean, sd, Verdict.HOLDS, "all seeds, the spread and the size agree")
    if mean + 2 * sd >= least:
        return Judgement(mean, sd, Verdict.UNDECIDED, ", ".join(doubts))
    if lower_bounds:
        return Judgement(mean, sd, Verdict.UNDECIDED, "the mean falls short, but it is a lower bound")
    return Judgement(mean, sd, Verdict.FAILS, "even mean + 2 SD is below the stated effect")


def judge_all(
    effects: Mapping[str, Sequence[float]],
    measures: Mapping[str, Measure],
    at_least: Mapping[str, Sequence[bool]],
) -> dict[str, Judgement]:
    """A judgement for each measure of a claim; `at_least` tells which effects are lower bounds.

    Raises:
        ValueError: what was measured is not what the settings announce.
    """
    if effects.keys() != measures.keys():
        raise ValueError(f"measured {sorted(effects)}, but the settings announce {sorted(measures)}")
    return {
        name: judge(effects[name], least=measure.least, lower_bounds=any(at_least.get(name, ())))
        for name, measure in measures.items()
    }


def overall(judgements: Mapping[str, Judgement]) -> Verdict:
    """The claim holds when all its measures hold, and fails when one fails."""
    verdicts = {judgement.verdict for judgement in judgements.values()}
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.UNDECIDED

"""The claims of the restoration lab, by their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.config.lab import Claim, RestorationLab
from pipeline.lab import depth, detail, ease, footprint, identity, removal, residual
from pipeline.lab.bench import Bench
from pipeline.lab.findings import Findings

Cost = Callable[[RestorationLab], float]


@dataclass(frozen=True)
class Experiment:
    """How a claim is put to the test.

    Attributes:
        name: of its settings and its figure.
        run: does it, and draws the figure.
        cost: of its trainings; claims that name the same function share them.
        reads: other settings that decide its result.
    """

    name: str
    run: Callable[[RestorationLab, Bench, Path], Findings]
    cost: Cost | None = None
    reads: tuple[str, ...] = ("seeds", "phantoms")

    def claim(self, lab: RestorationLab) -> Claim:
        """Its settings."""
        claim: Claim = getattr(lab, self.name)
        return claim

    def decides(self, lab: RestorationLab) -> dict[str, Any]:
        """All settings that the result depends on, the rule's numbers included, the prose not."""
        prose = {"says", "lecture", "did", "lessons"}
        values = lab.model_dump()
        own = {key: value for key, value in values[self.name].items() if key not in prose}
        return {self.name: own} | {name: values[name] for name in self.reads}


EXPERIMENTS: Final[dict[int, Experiment]] = {
    2: Experiment("identity", identity.run),
    3: Experiment("detail", detail.run, depth.cost, ("seeds", "phantoms", "depth")),
    4: Experiment("ease", ease.run, depth.cost, ("seeds", "phantoms", "depth")),
    6: Experiment("residual", residual.run, residual.cost),
    9: Experiment("removal", removal.run, removal.cost),
    29: Experiment("footprint", footprint.run, reads=("seeds",)),
}
"""In the order of the page."""


def total_cost(experiments: Iterable[Experiment], lab: RestorationLab) -> float:
    """Of all trainings that experiments need, shared ones once."""
    return sum(cost(lab) for cost in {one.cost for one in experiments} if cost is not None)

"""What a check of the physics gives back: numbers with their limits, and what to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Measure:
    """A number and the range that it has to lie in.

    Attributes:
        what: where it was measured, e.g. `fan beam, 5 % dose`.
        value: the number; one that is not finite does not hold.
        low: least value allowed.
        high: greatest value allowed.
        standard_error: chance in the value, one standard deviation; None where it is not measured.

    Raises:
        ValueError: the range is empty or has no end at all.
    """

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf
    standard_error: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high or math.inf == self.high == -self.low:
            raise ValueError(f"{self.what}: no range from {self.low} to {self.high}")

    @property
    def holds(self) -> bool:
        """The value lies in its range."""
        return math.isfinite(self.value) and self.low <= self.value <= self.high

    @property
    def strain(self) -> float:
        """Share of its range that the value uses up, so that measures compare; above 1 it does not hold."""
        if not math.isfinite(self.value):
            return math.inf
        if math.isinf(self.low):
            return self.value / self.high
        if math.isinf(self.high):
            return self.low / self.value if self.value > 0 else math.inf
        return abs(2 * self.value - self.high - self.low) / (self.high - self.low)

    @property
    def limit(self) -> str:
        """The range as people write it."""
        if math.isinf(self.low):
            return f"≤ {self.high:g}"
        if math.isinf(self.high):
            return f"≥ {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Plot:
    """Curves of one small plot.

    Attributes:
        title: the quantity and its unit.
        x_label: the other axis.
        curves: x and y by label.
        references: values by label, drawn as dashed lines.
    """

    title: str
    x_label: str
    curves: Curves
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """An image of added noise.

    Attributes:
        title: what it shows.
        hu: `(H, W)` HU.
        limit_hu: HU from the centre to either end of the colours.
    """

    title: str
    hu: npt.NDArray[np.float32]
    limit_hu: float


@dataclass(frozen=True)
class Check:
    """One property of the physics, proven or not.

    Attributes:
        key: its name in files.
        title: its name in tables.
        proves: what it means for the user, and how it was measured.
        quantity: what the numbers of `measures` are.
        measures: numbers with their limits; all have to hold.
        plots: what to draw.
        images: what to show.

    Raises:
        ValueError: nothing was measured.
    """

    key: str
    title: str
    proves: str
    quantity: str
    measures: Sequence[Measure]
    plots: Sequence[Plot] = ()
    images: Sequence[Image] = ()

    def __post_init__(self) -> None:
        if not self.measures:
            raise ValueError(f"{self.key}: nothing was measured")

    @property
    def passed(self) -> bool:
        """Every measure holds."""
        return all(measure.holds for measure in self.measures)

    @property
    def worst(self) -> Measure:
        """The measure nearest to its limit, or farthest beyond it."""
        return max(self.measures, key=lambda measure: measure.strain)

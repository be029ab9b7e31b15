"""Whether a series is like what a network was trained on, judged by the fingerprint in its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Dose = Literal["low_dose", "normal_dose"]

LOW_DOSE: Final[tuple[Dose, ...]] = ("low_dose",)
"""Noise that a denoiser was trained on."""
BOTH_DOSES: Final[tuple[Dose, ...]] = ("low_dose", "normal_dose")
"""Noise that a segmenter may meet: before and after denoising."""

SPACING_MARGIN: Final = 1.25
"""Training ranges are those of a few patients, and the field of view is fitted to each: 360 or 450 mm is not
another kind of image."""
THICKNESS_MARGIN: Final = 1.5
"""Scanners round the same thickness to 1, 1.25 or 1.5 mm; 1 to 3 mm halves the noise and is another image."""
NOISE_MARGIN: Final = 1.25
"""The noise of patients scanned alike differs that much by their size alone."""
HU_MARGIN: Final = 50.0
"""The training's percentiles are those of the normal dose: noise at low dose reaches beyond them."""
MOST_OUTSIDE: Final = 0.05
"""Share of voxels outside the training's 0.5 to 99.5 % range, which held 99 % of its own: more bone or
contrast medium than in another patient stays below, a skull or a wrong intercept does not."""
AIR_BELOW_HU: Final = -500.0
"""A twentieth of the training below this: its scans show the air around the patient."""
AIRLESS_FROM_HU: Final = -50.0
"""The lowest twentieth of a scan is air, lung or fat; from here on it is none of them."""
NO_TISSUE_BELOW_HU: Final = -200.0
"""The highest twentieth of a scan is soft tissue and bone; below this it is neither."""

_KERNELS_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """What a series is like.

    Attributes:
        pixel_spacing_mm: between rows and between columns, where known.
        slice_thicknesses_mm: nominal, every one that a slice of the sample names.
        kernels: reconstruction kernels, cleaned (`identity.shown`), every one that a slice of it names.
        noise_sd_hu: of the source images (`metrics.noise.global_noise_sd_hu`), where there is soft tissue.
        hu: (n, rows, columns) HU of a sample of its slices.
        visible: (n, rows, columns) bool, true where a slice shows something: no padding.
    """

    pixel_spacing_mm: tuple[float, float] | None
    slice_thicknesses_mm: tuple[float, ...]
    kernels: tuple[str, ...]
    noise_sd_hu: float | None
    hu: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


def unfamiliar(
    fingerprint: Mapping[str, Any],
    facts: SeriesFacts,
    *,
    noise_of: Sequence[Dose] = LOW_DOSE,
    made_noise_sd_hu: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """What of a series lies outside the training, margins granted; what either side does not know is passed.

    Args:
        fingerprint: of the training (`data.fingerprint.describe`); an empty one says nothing.
        facts: of the series.
        noise_of: the stored doses whose noise the network has met; none, and noise is not judged.
        made_noise_sd_hu: lowest and highest noise of a low dose made while training; the network has met it
            instead of the stored ones.

    Returns:
        A short phrase per fact, e.g. `noise 24.6 HU (trained on 8.1 to 15.3)`; none when all is familiar.
    """
    phrases = (
        *_hu(fingerprint.get("normal_dose_hu_percentiles"), facts.hu[facts.visible]),
        _noise(_met_noise(fingerprint, noise_of, made_noise_sd_hu), facts.noise_sd_hu),
        _pixel_spacing(fingerprint, facts.pixel_spacing_mm),
        *(_slice_thickness(fingerprint, thickness_mm) for thickness_mm in facts.slice_thicknesses_mm),
        *(_kernel(fingerprint.get("kernels"), kernel) for kernel in facts.kernels),
    )
    return tuple(phrase for phrase in phrases if phrase)


def _hu(percentiles: Mapping[str, float] | None, hu: npt.NDArray[np.float32]) -> tuple[str, ...]:
    """CT numbers on another scale (a lost intercept), or of another kind of object."""
    if not percentiles or not hu.size:
        return ()
    low, high = percentiles["0.5"], percentiles["99.5"]
    outside = float(np.mean((hu < low - HU_MARGIN) | (hu > high + HU_MARGIN)))
    if outside > MOST_OUTSIDE:
        return (f"{outside:.0%} of voxels outside {low:g} to {high:g} HU (99 % of the training lay within)",)
    lowest, highest = (float(value) for value in np.percentile(hu, [5, 95]))
    if lowest > AIRLESS_FROM_HU and percentiles["5"] < AIR_BELOW_HU:
        return (f"95 % of voxels above {lowest:.0f} HU (trained with air at {percentiles['5']:g} HU)",)
    if highest < NO_TISSUE_BELOW_HU <= percentiles["95"]:
        return (f"95 % of voxels below {highest:.0f} HU (trained on tissue to {percentiles['95']:g} HU)",)
    return ()


def _met_noise(
    fingerprint: Mapping[str, Any], doses: Sequence[Dose], made_sd_hu: tuple[float, float] | None
) -> _Span | None:
    known = fingerprint.get("noise_sd_hu") or {}
    return _span([known.get(dose) for dose in doses] if made_sd_hu is None else [made_sd_hu])


def _noise(trained: _Span | None, sd_hu: float | None) -> str | None:
    if sd_hu is None or trained is None or trained.holds(sd_hu, NOISE_MARGIN):
        return None
    return f"noise {sd_hu:.1f} HU (trained on {trained:.1f})"


def _pixel_spacing(fingerprint: Mapping[str, Any], spacing_mm: tuple[float, float] | None) -> str | None:
    trained = _span([fingerprint.get(f"{axis}_spacing_mm") for axis in ("row", "column")])
    if (
        spacing_mm is None
        or trained is None
        or all(trained.holds(step_mm, SPACING_MARGIN) for step_mm in spacing_mm)
    ):
        return None
    row_mm, column_mm = spacing_mm
    return f"pixel spacing {row_mm:.3g} x {column_mm:.3g} mm (trained on {trained:.3g})"


def _slice_thickness(fingerprint: Mapping[str, Any], thickness_mm: float) -> str | None:
    trained = _span([fingerprint.get("slice_thickness_mm")])
    if trained is None or trained.holds(thickness_mm, THICKNESS_MARGIN):
        return None
    return f"slice thickness {thickness_mm:.3g} mm (trained on {trained:.3g})"


def _kernel(trained: Mapping[str, int] | None, kernel: str) -> str | None:
    if not trained or kernel.casefold() in {name.casefold() for name in trained}:
        return None
    commonest = sorted(trained, key=lambda name: (-trained[name], name))
    more = ", …" if len(commonest) > _KERNELS_NAMED else ""
    return f"kernel {kernel} (trained on {', '.join(commonest[:_KERNELS_NAMED])}{more})"


@dataclass(frozen=True)
class _Span:
    """The lowest and the highest value in the training."""

    lowest: float
    highest: float

    def holds(self, value: float, margin: float) -> bool:
        return self.lowest / margin <= value <= self.highest * margin

    def __format__(self, digits: str) -> str:
        lowest, highest = format(self.lowest, digits), format(self.highest, digits)
        return lowest if lowest == highest else f"{lowest} to {highest}"


def _span(ranges: Sequence[Sequence[float] | None]) -> _Span | None:
    """What several ranges span together; None where one of them is not known."""
    known = [found for found in ranges if found is not None]
    if not known or len(known) < len(ranges):
        return None
    return _Span(min(lowest for lowest, _ in known), max(highest for _, highest in known))

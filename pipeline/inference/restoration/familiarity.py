"""Whether a series is like what a network was trained on, judged by the fingerprint in its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.dicom.reconstruction import reduced_noise
from pipeline.hu import body_region
from pipeline.inference.restoration.body import cross_section_cm2, skull_share
from pipeline.inference.restoration.facts import SeriesFacts
from pipeline.inference.survey import METAL_HU

UNFAMILIAR_HU: Final = "UNFAMILIAR_HU"
"""Code of CT numbers on another scale, or of another kind of object."""
UNFAMILIAR_NOISE: Final = "UNFAMILIAR_NOISE"
"""Code of more or less noise than in the training."""
UNFAMILIAR_SPACING: Final = "UNFAMILIAR_SPACING"
"""Code of larger or smaller pixels."""
UNFAMILIAR_THICKNESS: Final = "UNFAMILIAR_THICKNESS"
"""Code of thicker or thinner slices."""
UNFAMILIAR_KERNEL: Final = "UNFAMILIAR_KERNEL"
"""Code of another reconstruction kernel."""
UNFAMILIAR_ANATOMY: Final = "UNFAMILIAR_ANATOMY"
"""Code of another part of the body, such as a head or an extremity."""
METAL: Final = "METAL"
"""Code of implants, or whatever else is as dense and throws streaks."""
ALREADY_DENOISED: Final = "ALREADY_DENOISED"
"""Code of an iterative or learned reconstruction, or of images that a program denoised."""

FACT_CODES: Final = (
    UNFAMILIAR_ANATOMY,
    UNFAMILIAR_HU,
    METAL,
    ALREADY_DENOISED,
    UNFAMILIAR_NOISE,
    UNFAMILIAR_SPACING,
    UNFAMILIAR_THICKNESS,
    UNFAMILIAR_KERNEL,
)

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
MANY_KERNELS: Final = 8
"""A network trained on so many has met textures from smooth to sharp: one more name tells nothing of them."""
METAL_MM2: Final = 25.0
"""In one slice: wires of the sternum and small clips stay below, a hip or a pacemaker does not."""
MOST_SKULL: Final = 0.25
"""Share of the slices with a skull around them; one of eight is where a scan of the trunk begins."""
SMALLEST_TRUNK_CM2: Final = 250.0
"""A slim adult's waist of 60 cm encloses 280 cm²; a neck, a thigh or a knee has less than this."""

_KERNELS_NAMED: Final = 3
_TRUNK: Final = frozenset({"chest", "abdomen", "pelvis", "spine"})
"""One scan runs from each of these regions into the next."""
_SMALL: Final = frozenset({"head", "neck", "extremity"})


@dataclass(frozen=True)
class Unfamiliar:
    """One fact of a series that lies outside the training.

    Attributes:
        code: its stable reason code.
        phrase: a few words with both values, e.g. `noise 24.6 HU (trained on 8.1 to 15.3)`.
    """

    code: str
    phrase: str


def unfamiliar(
    fingerprint: Mapping[str, Any],
    facts: SeriesFacts,
    *,
    noise_of: Sequence[Dose] = LOW_DOSE,
    made_noise_sd_hu: tuple[float, float] | None = None,
) -> tuple[Unfamiliar, ...]:
    """What of a series lies outside the training, margins granted; what either side does not know is passed.

    Args:
        fingerprint: of the training (`data.fingerprint.describe`); an empty one says nothing.
        facts: of the series.
        noise_of: the stored doses whose noise the network has met; none, and noise is not judged.
        made_noise_sd_hu: lowest and highest noise of a low dose made while training; the network has met it
            instead of the stored ones.

    Returns:
        Each fact with its code; none when all is familiar.
    """
    trained_hu, trained_kernels = fingerprint.get("normal_dose_hu_percentiles"), fingerprint.get("kernels")
    trained_noise = _met_noise(fingerprint, noise_of, made_noise_sd_hu)
    thicknesses = [_slice_thickness(fingerprint, thickness_mm) for thickness_mm in facts.slice_thicknesses_mm]
    found = (
        (UNFAMILIAR_ANATOMY, _anatomy(fingerprint.get("anatomies"), facts)),
        (UNFAMILIAR_HU, _hu(trained_hu, facts.hu[facts.visible])),
        (METAL, _metal(trained_hu, facts.metal_mm2)),
        (ALREADY_DENOISED, _reconstruction(trained_kernels, facts)),
        (UNFAMILIAR_NOISE, _noise(trained_noise, facts.noise_sd_hu)),
        (UNFAMILIAR_SPACING, _pixel_spacing(fingerprint, facts.pixel_spacing_mm)),
        *((UNFAMILIAR_THICKNESS, phrase) for phrase in thicknesses),
        *((UNFAMILIAR_KERNEL, _kernel(trained_kernels, kernel)) for kernel in facts.kernels),
    )
    return tuple(Unfamiliar(code, phrase) for code, phrase in found if phrase)


def _anatomy(anatomies: Mapping[str, int] | None, facts: SeriesFacts) -> str | None:
    """Another part of the body: by its header, else a head or something slim by its pixels."""
    trained = {body_region(name) for name in anatomies or ()} - {"unknown"}
    if not trained:
        return None
    known = trained | (_TRUNK if trained & _TRUNK else frozenset())
    named = facts.region in known | {"unknown"}
    shown = _other_pixels(known, facts) if named else f"{facts.region} by its header"
    return shown and f"{shown} (trained on {', '.join(sorted(trained))})"


def _other_pixels(known: Set[str], facts: SeriesFacts) -> str | None:
    """A head by its skull, or a body too slim for a trunk, where none such is among the known regions."""
    if facts.pixel_spacing_mm is None:
        return None
    sample = facts.hu, facts.visible, facts.pixel_spacing_mm
    if "head" not in known and (share := skull_share(*sample)) >= MOST_SKULL:
        return f"a skull around {share:.0%} of the slices"
    if known & _SMALL or (area_cm2 := cross_section_cm2(*sample)) is None or area_cm2 >= SMALLEST_TRUNK_CM2:
        return None
    return f"at most {area_cm2:.0f} cm² of body in a slice: an extremity, a neck or a child"


def _metal(percentiles: Mapping[str, float] | None, area_mm2: float | None) -> str | None:
    if not percentiles or percentiles["99.5"] >= METAL_HU or area_mm2 is None or area_mm2 < METAL_MM2:
        return None
    return f"metal: {area_mm2:.0f} mm² of a slice at {METAL_HU:g} HU and above"


def _reconstruction(trained: Mapping[str, int] | None, facts: SeriesFacts) -> str | None:
    """An image whose noise a vendor's algorithm has lowered already, unless the training knows its kernel."""
    if trained is None:
        return None
    family = reduced_noise(
        [name for name in facts.kernels if not _is_among(name, trained)], facts.description
    )
    return family and f"denoised already: {family} reconstruction"


def _hu(percentiles: Mapping[str, float] | None, hu: npt.NDArray[np.float32]) -> str | None:
    """CT numbers on another scale (a lost intercept), or of another kind of object."""
    if not percentiles or not hu.size:
        return None
    low, high = percentiles["0.5"], percentiles["99.5"]
    outside = float(np.mean((hu < low - HU_MARGIN) | (hu > high + HU_MARGIN)))
    if outside > MOST_OUTSIDE:
        return f"{outside:.0%} of voxels outside {low:g} to {high:g} HU (99 % of the training lay within)"
    lowest, highest = (float(value) for value in np.percentile(hu, [5, 95]))
    if lowest > AIRLESS_FROM_HU and percentiles["5"] < AIR_BELOW_HU:
        return f"95 % of voxels above {lowest:.0f} HU (trained with air at {percentiles['5']:g} HU)"
    if highest < NO_TISSUE_BELOW_HU <= percentiles["95"]:
        return f"95 % of voxels below {highest:.0f} HU (trained on tissue to {percentiles['95']:g} HU)"
    return None


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
    if not trained or len(trained) >= MANY_KERNELS or _is_among(kernel, trained):
        return None
    commonest = sorted(trained, key=lambda name: (-trained[name], name))
    more = ", …" if len(commonest) > _KERNELS_NAMED else ""
    return f"kernel {kernel} (trained on {', '.join(commonest[:_KERNELS_NAMED])}{more})"


def _is_among(kernel: str, trained: Mapping[str, int]) -> bool:
    return kernel.casefold() in {name.casefold() for name in trained}


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

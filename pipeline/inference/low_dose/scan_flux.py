"""The photons behind a series: read off its own noise, taken from its tags, or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from pipeline.dicom import SeriesEntry
from pipeline.dose.calibration import NoNoiseError, calibrate_flux
from pipeline.dose.flux import BODY, HEAD, Bowtie, Flux, flux_from_tags
from pipeline.dose.insertion import Acquisition
from pipeline.dose.regions import Regions
from pipeline.dose.texture import KernelFit
from pipeline.errors import DataError
from pipeline.hu import body_region
from pipeline.inference.low_dose.method import Method
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import UnfitSeriesError
from pipeline.projector import Beam

MISSING_DOSE_TAGS: Final = "MISSING_DOSE_TAGS"
"""Reason code of a series that has no kVp, exposure or thickness to take its photons from."""
NO_NOISE: Final = "NO_NOISE"
"""Reason code of a series that shows less noise than rounding makes."""
FLUX_FROM_TAGS: Final = "FLUX_FROM_TAGS"
FLUX_DISAGREES: Final = "FLUX_DISAGREES"
"""Reason codes of a series that has partners with a warning."""

_DIGITS: Final = 6
"""Significant digits of what is estimated: sums differ in the last bits with the number of threads."""
_MOST_APART: Final = 5.0
"""How far photons of image and tags may be: the tags alone are right within a factor of three."""


@dataclass(frozen=True)
class FoundFlux:
    """Photons, where they were read (`image`, `tags` or `given`), and warnings by reason code."""

    flux: Flux
    source: str
    warnings: Mapping[str, str]


def find_flux(
    entry: SeriesEntry,
    method: Method,
    survey: Survey,
    regions: Regions,
    texture: KernelFit,
    scan: Acquisition,
    exposure: torch.Tensor,
) -> FoundFlux:
    """Find the photons; the tags stand in for an image whose noise cannot be measured.

    Args:
        entry: the series.
        method: what is chosen.
        survey: the first pass over it.
        regions: uniform tissue in its sample.
        texture: of the noise in them.
        scan: rays and kernel of the noise to insert; the search begins at its photons.
        exposure: (slices,) relative mAs, on the device to use.

    Raises:
        UnfitSeriesError: the image has no noise, or tags are needed and missing.
    """
    bowtie = _bowtie(method, entry.body_part)
    if isinstance(method.flux, float):
        return FoundFlux(Flux(method.flux, bowtie), "given", {})
    roughly = "photons from the tags, right within a factor of three at best"
    if method.flux == "image":
        scan = replace(scan, flux=replace(scan.flux, bowtie=bowtie))
        of_sample = exposure[list(survey.indices)]
        try:
            photons = calibrate_flux(
                survey.hu,
                survey.visible,
                regions,
                scan,
                of_sample,
                texture=texture,
                step_hu=survey.step_hu,
            )
        except NoNoiseError as error:
            raise UnfitSeriesError(NO_NOISE, str(error)) from None
        except DataError as error:
            roughly = f"{roughly}, since the image does not tell: {error}"
        else:
            return FoundFlux(
                Flux(rounded(photons), bowtie), "image", _disagreement(entry, method, scan.beam, photons)
            )
    missing = _missing_tags(entry)
    if missing:
        why = "" if method.flux == "tags" else "the image's own noise cannot be measured, and "
        raise UnfitSeriesError(
            MISSING_DOSE_TAGS,
            f"{why}no {', '.join(missing)} above 0 in the headers; name the photons per ray, e.g. --flux 2e5",
        )
    photons = _photons_of_tags(entry, scan.beam)
    return FoundFlux(Flux(rounded(photons), bowtie), "tags", {FLUX_FROM_TAGS: roughly})


def rounded(value: float) -> float:
    """To as many digits as repeat on every machine."""
    return float(f"{value:.{_DIGITS}g}")


def _tags(entry: SeriesEntry) -> dict[str, float | None]:
    exposures = [mas for mas in entry.exposure_mas if mas is not None]
    return {
        "KVP": entry.kvp,
        "Exposure": float(np.mean(exposures)) if exposures else None,
        "SliceThickness": entry.slice_thickness_mm,
    }


def _missing_tags(entry: SeriesEntry) -> list[str]:
    return [name for name, value in _tags(entry).items() if value is None or value <= 0]


def _photons_of_tags(entry: SeriesEntry, beam: Beam) -> float:
    """Of a series that misses no tags."""
    kvp, exposure_mas, thickness_mm = (value or 0.0 for value in _tags(entry).values())
    return flux_from_tags(kvp=kvp, exposure_mas=exposure_mas, slice_thickness_mm=thickness_mm, beam=beam)


def _disagreement(entry: SeriesEntry, method: Method, beam: Beam, photons: float) -> dict[str, str]:
    """A warning where image and tags tell of quite different photons."""
    if _missing_tags(entry):
        return {}
    by_tags = _photons_of_tags(entry, beam)
    if 1 / _MOST_APART <= photons / by_tags <= _MOST_APART:
        return {}
    doubt = "a smoothing reconstruction" if photons > by_tags else "anatomy taken for noise"
    if method.kernel != "image":
        doubt = f"--kernel {method.kernel} is not the image's"
    return {
        FLUX_DISAGREES: f"{photons:.1e} photons per ray by the image's noise, {by_tags:.1e} by its tags: "
        f"{doubt} or wrong tags; check, or name the photons with --flux"
    }


def _bowtie(method: Method, body_part: str | None) -> Bowtie | None:
    if method.bowtie == "auto":
        return HEAD if body_region(body_part) == "head" else BODY
    return {"body": BODY, "head": HEAD, "none": None}[method.bowtie]

"""Low-contrast detectability: a network may lower the noise and lose the lesions with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.data import Case
from pipeline.dose.lesions import disc_hu
from pipeline.metrics import (
    Detectability,
    Scores,
    cho_scores,
    dense_dog_channels,
    estimate_detectability,
    npw_scores,
)
from pipeline.metrics.observers import FEWEST_IMAGES
from pipeline.models.precision import preferred_device
from pipeline.stages.evaluation.context import Metrics
from pipeline.stages.evaluation.scenes import (
    INPUT,
    RESTORED,
    ROI_PIXELS,
    Restore,
    ScanOf,
    SceneNoise,
    Scenes,
    find_scenes,
    methods_of,
    over_cases,
    read_scan,
)

PLACES_PER_CASE: Final = 4
NPW: Final = "npw"
CHO: Final = "cho"
_DIGITS: Final = 4

Found = dict[str, dict[str, list[Scores]]]
"""By observer and method: answers at each place."""


def detectability(
    cases: Sequence[Case],
    restore: Restore,
    *,
    baselines: Mapping[str, Restore] = MappingProxyType({}),
    dose_fractions: Sequence[float],
    contrast_hu: float,
    diameter_mm: float,
    realisations: int,
    seed: int,
    scan_of: ScanOf = read_scan,
) -> Metrics:
    """Can a disc in uniform tissue be found as well after denoising as before?

    At up to four places of one slice of each case, windows at each dose are drawn again and again, with and
    without the disc (blurred by the scan's kernel), restored, and shown to two model observers that know disc
    and background (`metrics.observers`). All methods see the same windows.

    The normal dose's own noise is the same in all windows of a place, so it counts as background: d' is that
    of the noise which the dose adds, 1/√(1 − dose fraction) times that of a new scan, for all methods.

    Args:
        cases: with a normal dose; those without uniform tissue or a scan are left out and named.
        restore: the denoiser.
        baselines: others, by name.
        dose_fractions: shares of the normal dose.
        contrast_hu: of the disc.
        diameter_mm: of the disc, before the blur.
        realisations: of each place, with and without the disc each.
        seed: of noise and bootstrap.
        scan_of: gives the scan behind a case; where its noise cannot be read, a scan can be assumed.

    Returns:
        `lesion`, `observers`, `realisations`, `places`; `by_dose[dose][observer][method]` over all places;
        `by_case[case]` with `source`, `slice`, `places`, `kernel_cutoff_per_mm`, `kernel_boost` and its own
        `by_dose`; `left_out[case]`: why; `verdict[dose][observer]` of the denoiser against its input.
        A method has `d_prime` and `auc`, each with `_95_low` and `_95_high`; all but the input have `change`
        of d' with the same, and `verdict`: lost, kept or gained.

    Raises:
        DataError: no case can be looked at.
        ValueError: fewer than 100 realisations, or a disc that does not fit.
    """
    if realisations < FEWEST_IMAGES:
        raise ValueError(f"realisations must be at least {FEWEST_IMAGES}, got {realisations}")
    methods = methods_of(restore, baselines)
    device = preferred_device()

    def look(case: Case) -> tuple[Scenes, dict[str, Found]]:
        scenes = find_scenes(case, PLACES_PER_CASE, scan_of, device)
        disc = _disc(scenes, contrast_hu, diameter_mm)
        noise = SceneNoise(scenes, device, seed=seed)
        return scenes, {
            f"{dose_fraction:g}": _observed(scenes, noise, methods, disc, dose_fraction, realisations)
            for dose_fraction in dose_fractions
        }

    found, left_out = over_cases(cases, "looking for lesions", look)
    by_dose = {dose: _compared([of_case[dose] for _, of_case in found], seed) for dose in found[0][1]}
    return {
        "lesion": {"contrast_hu": contrast_hu, "diameter_mm": diameter_mm, "blurred_by": "the scan's kernel"},
        "observers": {
            NPW: "non-prewhitening matched filter, template: the disc",
            CHO: "channelised Hotelling, 10 dense difference-of-Gaussian channels, learnt on the other half",
        },
        "realisations": realisations,
        "places": sum(len(scenes.places) for scenes, _ in found),
        "verdict": {dose: _verdicts(observers) for dose, observers in by_dose.items()},
        "by_dose": by_dose,
        "by_case": {
            scenes.case.case_id: _described(scenes)
            | {"by_dose": {dose: _compared([one], seed) for dose, one in of_case.items()}}
            for scenes, of_case in found
        },
        "left_out": left_out,
    }


def _disc(scenes: Scenes, contrast_hu: float, diameter_mm: float) -> npt.NDArray[np.float32]:
    return disc_hu(
        contrast_hu=contrast_hu,
        diameter_mm=diameter_mm,
        side=ROI_PIXELS,
        pixel_mm=scenes.case.pixel_mm,
        kernel=scenes.kernel,
    )


def _observed(
    scenes: Scenes,
    noise: SceneNoise,
    methods: Mapping[str, Restore],
    disc: npt.NDArray[np.float32],
    dose_fraction: float,
    realisations: int,
) -> Found:
    """Draw, restore and score all places of a case at one dose."""
    told = replace(scenes.case, dose_fraction=dose_fraction)
    draw = noise.missing_hu(dose_fraction)
    size = (len(methods), len(scenes.places), 2, realisations, ROI_PIXELS, ROI_PIXELS)
    seen = np.empty(size, np.float32)
    for number in range(2 * realisations):
        realisation, with_disc = divmod(number, 2)
        for place, window in enumerate(scenes.normal_dose_hu + draw()):
            roi = scenes.roi(place)
            window[roi] += with_disc * disc
            for method, restore in enumerate(methods.values()):
                seen[method, place, with_disc, realisation] = restore(window, told)[roi]
    channels = dense_dog_channels(ROI_PIXELS)
    pairs = {name: list(images) for name, images in zip(methods, seen, strict=True)}
    return {
        NPW: {name: [npw_scores(with_, without, disc) for without, with_ in pairs[name]] for name in methods},
        CHO: {
            name: cho_scores([(with_, without) for without, with_ in pairs[name]], channels)
            for name in methods
        },
    }


def _compared(found: Sequence[Found], seed: int) -> Metrics:
    """By observer and method, over all places of some cases."""
    table: Metrics = {}
    for observer, methods in found[0].items():
        estimates = {
            name: estimate_detectability(
                [scene for one in found for scene in one[observer][name]], np.random.default_rng(seed)
            )
            for name in methods
        }
        before = estimates[INPUT]
        table[observer] = {
            name: _values(one, None if name == INPUT else before) for name, one in estimates.items()
        }
    return table


def _values(found: Detectability, before: Detectability | None) -> Metrics:
    values: Metrics = {
        **_number("d_prime", found.d_prime, found.d_prime_interval),
        **_number("auc", found.auc, found.auc_interval),
    }
    if before is not None:
        values |= _number("change", *found.change_from(before)) | {"verdict": found.verdict(before)}
    return values


def _number(name: str, value: float, interval: tuple[float, float]) -> dict[str, float | None]:
    """A value and its interval; null where it is infinite: images without any noise."""
    numbers = {name: value, f"{name}_95_low": interval[0], f"{name}_95_high": interval[1]}
    return {key: round(one, _DIGITS) if math.isfinite(one) else None for key, one in numbers.items()}


def _verdicts(observers: Metrics) -> dict[str, str]:
    return {observer: methods[RESTORED]["verdict"] for observer, methods in observers.items()}


def _described(scenes: Scenes) -> Metrics:
    kernel = scenes.kernel
    return {
        "source": scenes.case.source,
        "slice": scenes.index,
        "places": scenes.places.tolist(),
        "kernel_cutoff_per_mm": kernel.cutoff_per_mm if math.isfinite(kernel.cutoff_per_mm) else None,
        "kernel_boost": kernel.boost,
    }

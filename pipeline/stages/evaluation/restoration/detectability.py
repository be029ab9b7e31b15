"""Low-contrast detectability: a network may lower the noise and lose the lesions with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.config.evaluate import DetectabilitySettings
from pipeline.metrics import (
    Detectability,
    Scores,
    cho_scores,
    dense_dog_channels,
    estimate_detectability,
    npw_scores,
)
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import INPUT, RESTORED, Metrics
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.scenes import (
    ROI_PIXELS,
    Restore,
    SceneNoise,
    Scenes,
    over_scenes,
    require_finite_windows,
)
from pipeline.stages.evaluation.restoration.whole_bar import Bar

LOOKING: Final = "looking for lesions"
NPW: Final = "npw"
CHO: Final = "cho"
_DIGITS: Final = 4

Found = dict[str, dict[str, list[Scores]]]
"""By observer and method: answers at each place."""


def detectability(
    scans: Sequence[Scan],
    methods: Mapping[str, Restore],
    settings: DetectabilitySettings,
    *,
    seed: int,
    bar: Bar = progress,
) -> Metrics:
    """Can a disc in uniform tissue be found as well after denoising as before?

    At some places of one slice of each case, windows at each dose are drawn again and again, with and
    without the disc (blurred by the scan's kernel), restored, and shown to two model observers that know disc
    and background (`metrics.observers`). All methods see the same windows.

    The normal dose's own noise is the same in all windows of a place, so it counts as background: d' is that
    of the noise which the dose adds, 1/√(1 − dose fraction) times that of a new scan, for the input.

    Args:
        scans: of the cases, in the order in which they are tried; those without uniform tissue, and those
            whose pixels do not suit the disc, are left out and named.
        methods: `input` as it is, `restored`, and others.
        settings: disc, doses, and how many cases, places and realisations.
        seed: of the bootstrap.
        bar: goes through the cases.

    Returns:
        `lesion`, `observers`, `realisations`, `places`; `by_dose[dose][observer][method]` over all places;
        `by_case[case]` with `source`, `slice`, `places`, `kernel_cutoff_per_mm`, `kernel_boost` and its own
        `by_dose`; `left_out[case]`: why; `verdict[dose][observer]` of the denoiser against its input.
        A method has `d_prime` and `auc`, each with `_95_low` and `_95_high`; all but the input have `change`
        of d' with the same, and `verdict`: lost, kept or gained.

    Raises:
        DataError: no case can be looked at.
    """

    def look(scenes: Scenes) -> tuple[Scenes, dict[str, Found]]:
        disc = scenes.disc_hu(settings.contrast_hu, settings.diameter_mm, ROI_PIXELS)
        noise = SceneNoise(scenes)
        return scenes, {
            f"{dose:g}": _observed(scenes, noise, methods, disc, dose, settings.realisations)
            for dose in settings.dose_fractions
        }

    found, left_out = over_scenes(
        scans, settings.cases, settings.places_per_case, look, what=LOOKING, bar=bar
    )
    by_dose = {dose: _compared([of_case[dose] for _, of_case in found], seed) for dose in found[0][1]}
    lesion = settings.model_dump(include={"contrast_hu", "diameter_mm"})
    return {
        "lesion": {**lesion, "blurred_by": "the scan's kernel"},
        "observers": {
            NPW: "non-prewhitening matched filter, template: the disc",
            CHO: "channelised Hotelling, 10 dense difference-of-Gaussian channels, learnt on the other half",
        },
        "realisations": settings.realisations,
        "places": sum(len(scenes.places) for scenes, _ in found),
        "verdict": {dose: _verdicts(observers) for dose, observers in by_dose.items()},
        "by_dose": by_dose,
        "by_case": {
            scenes.scan.case.case_id: _described(scenes)
            | {"by_dose": {dose: _compared([one], seed) for dose, one in of_case.items()}}
            for scenes, of_case in found
        },
        "left_out": left_out,
    }


def _observed(
    scenes: Scenes,
    noise: SceneNoise,
    methods: Mapping[str, Restore],
    disc: npt.NDArray[np.float32],
    dose_fraction: float,
    realisations: int,
) -> Found:
    """Draw, restore and score all places of a case at one dose."""
    draw = noise.missing_hu(dose_fraction)
    size = (len(methods), len(scenes.places), 2, realisations, ROI_PIXELS, ROI_PIXELS)
    seen = np.empty(size, np.float32)
    for number in range(2 * realisations):
        realisation, with_disc = divmod(number, 2)
        for place, window in enumerate(scenes.normal_dose_hu + draw()):
            roi = scenes.roi(place)
            window[roi] += with_disc * disc
            for method, restore in enumerate(methods.values()):
                seen[method, place, with_disc, realisation] = restore(window, scenes.scan, dose_fraction)[roi]
    channels = dense_dog_channels(ROI_PIXELS)
    for name, images in zip(methods, seen, strict=True):
        require_finite_windows(images, scenes.scan, name, dose_fraction)
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
    return {key: round(one, _DIGITS) + 0.0 if math.isfinite(one) else None for key, one in numbers.items()}


def _verdicts(observers: Metrics) -> dict[str, str]:
    return {observer: methods[RESTORED]["verdict"] for observer, methods in observers.items()}


def _described(scenes: Scenes) -> Metrics:
    kernel = scenes.kernel
    return {
        "source": scenes.scan.case.source,
        "slice": scenes.index,
        "places": scenes.places.tolist(),
        "kernel_cutoff_per_mm": kernel.cutoff_per_mm if math.isfinite(kernel.cutoff_per_mm) else None,
        "kernel_boost": kernel.boost,
    }

"""What a denoiser leaves of edges: the TTF of discs of stated contrast in the noise of real scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.config.evaluate import SharpnessSettings
from pipeline.errors import DataError
from pipeline.metrics import disc_ttf, f50_interval
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import INPUT, Metrics
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.scenes import (
    Restore,
    SceneNoise,
    Scenes,
    over_scenes,
    require_finite_windows,
)
from pipeline.stages.evaluation.restoration.whole_bar import Bar

MEASURING: Final = "measuring edges"
BACKGROUND_HU: Final = 40.0
RADIUS_MM: Final = 8.0
REACH_MM: Final = 6.0
FEWEST_PIXELS: Final = 3
"""Within reach to either side of the edge; with fewer `disc_ttf` measures none."""
CONTRAST_LEFT: Final = 0.2
"""With less of its contrast left a disc is gone, and has no f50."""


def ttf_of(
    scans: Sequence[Scan],
    methods: Mapping[str, Restore],
    settings: SharpnessSettings,
    *,
    dose_fractions: Sequence[float],
    seed: int,
    bar: Bar = progress,
) -> Metrics:
    """The f50 of discs before and after denoising, by dose and contrast.

    A disc of 8 mm radius in uniform 40 HU, blurred by the kernel of each case's scan, gets all the noise of
    the dose at a place of the case, again and again; the restored images are averaged and their edge measured
    (`metrics.disc_ttf`). The input's own f50 is that of the disc without noise.

    Args:
        scans: of the cases, in the order in which they are tried; those without uniform tissue, and those
            whose images are too narrow or pixels too wide for the disc, are left out and named.
        methods: `input` as it is, `restored`, and others.
        settings: contrasts, and how many cases and realisations; 50 keep f50 within a few per cent at 100 HU
            and noise of 50 HU.
        dose_fractions: shares of the normal dose.
        seed: of the bootstrap.
        bar: goes through the cases.

    Returns:
        `disc`, `realisations`; `by_case[case][dose][contrast][method]`: `f50_per_mm` (null where less than a
        fifth of the contrast is left), its `f50_95_low` and `f50_95_high`, and `contrast_hu` as measured;
        `by_dose[dose][contrast][method]`: mean over cases of f50 and of contrast as shares of the input's,
        `f50_share` (a lost disc counts 0) and `contrast_share`; `left_out[case]`: why.

    Raises:
        DataError: no case can be looked at.
    """

    def look(scenes: Scenes) -> tuple[str, Metrics]:
        case = scenes.scan.case
        if scenes.side * case.pixel_mm < 4 * RADIUS_MM:
            raise DataError(f"case {case.case_id}: {scenes.side} pixels are less than {4 * RADIUS_MM:g} mm")
        if FEWEST_PIXELS * case.pixel_mm > REACH_MM:
            raise DataError(
                f"case {case.case_id}: pixels of {case.pixel_mm:g} mm are too wide to measure an edge, "
                f"{REACH_MM / FEWEST_PIXELS:g} mm at most"
            )
        noise = SceneNoise(scenes)
        edges = {}
        for dose_fraction in dose_fractions:
            draw = noise.all_hu(dose_fraction)
            noise_hu = np.stack([draw()[0] for _ in range(settings.realisations)])
            edges[f"{dose_fraction:g}"] = {
                f"{contrast_hu:g}": _at_contrast(scenes, noise_hu, methods, dose_fraction, contrast_hu, seed)
                for contrast_hu in settings.contrasts_hu
            }
        return case.case_id, edges

    found, left_out = over_scenes(scans, settings.cases, 1, look, what=MEASURING, bar=bar)
    return {
        "disc": {"radius_mm": RADIUS_MM, "background_hu": BACKGROUND_HU, "blurred_by": "the scan's kernel"},
        "realisations": settings.realisations,
        "by_dose": _shares([edges for _, edges in found]),
        "by_case": dict(found),
        "left_out": left_out,
    }


def _at_contrast(
    scenes: Scenes,
    noise_hu: npt.NDArray[np.float32],
    methods: Mapping[str, Restore],
    dose_fraction: float,
    contrast_hu: float,
    seed: int,
) -> Metrics:
    """By method, one case at one dose and contrast."""
    measure = _Measure(scenes.side, scenes.scan.case.pixel_mm)
    disc = BACKGROUND_HU + scenes.disc_hu(contrast_hu, 2 * RADIUS_MM, scenes.side)
    rows = {INPUT: measure.without_noise(disc)}
    for name, restore in methods.items():
        if name != INPUT:
            restored = np.stack([restore(disc + one, scenes.scan, dose_fraction) for one in noise_hu])
            require_finite_windows(restored, scenes.scan, name, dose_fraction)
            rows[name] = measure.of(restored, contrast_hu, np.random.default_rng(seed))
    return rows


class _Measure:
    """Measures the edge of the disc in the middle of windows."""

    def __init__(self, side: int, pixel_mm: float) -> None:
        middle = float(side // 2)
        self._where: dict[str, Any] = {
            "centre_pixels": (middle, middle),
            "radius_mm": RADIUS_MM,
            "reach_mm": REACH_MM,
            "pixel_mm": pixel_mm,
        }

    def without_noise(self, disc_hu: npt.NDArray[np.float32]) -> dict[str, float | None]:
        """The disc as the scan's kernel leaves it."""
        ttf = disc_ttf(disc_hu[None], **self._where)
        return {"f50_per_mm": round(ttf.f50_per_mm, 4), "contrast_hu": round(ttf.contrast_hu, 2)}

    def of(
        self, images_hu: npt.NDArray[np.float32], contrast_hu: float, generator: np.random.Generator
    ) -> dict[str, float | None]:
        """Restored discs."""
        if np.ptp(images_hu) == 0:
            return {"f50_per_mm": None, "contrast_hu": 0.0}
        ttf = disc_ttf(images_hu, **self._where)
        if ttf.contrast_hu / contrast_hu < CONTRAST_LEFT:
            return {"f50_per_mm": None, "contrast_hu": round(ttf.contrast_hu, 2)}
        low, high = f50_interval(images_hu, generator, **self._where)
        return {
            "f50_per_mm": round(ttf.f50_per_mm, 4),
            "f50_95_low": round(low, 4),
            "f50_95_high": round(high, 4),
            "contrast_hu": round(ttf.contrast_hu, 2),
        }


def _shares(by_case: Sequence[Metrics]) -> Metrics:
    """By dose, contrast and method the mean over cases of what is left of the input's."""
    table: Metrics = {}
    for dose, contrasts in by_case[0].items():
        for contrast, methods in contrasts.items():
            rows = [of_case[dose][contrast] for of_case in by_case]
            table.setdefault(dose, {})[contrast] = {
                name: {
                    "f50_share": _mean_share(rows, name, "f50_per_mm"),
                    "contrast_share": _mean_share(rows, name, "contrast_hu"),
                }
                for name in methods
                if name != INPUT
            }
    return table


def _mean_share(rows: Sequence[Metrics], name: str, key: str) -> float:
    shares = [(methods[name][key] or 0.0) / methods[INPUT][key] for methods in rows]
    return round(float(np.mean(shares)), 4)

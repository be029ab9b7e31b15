"""CT numbers: how each kind of tissue looks from its points and its depth."""

from __future__ import annotations

import numpy as np

from pipeline.hu import AIR_HU
from pipeline.simulate.fields import Array
from pipeline.simulate.painting import Tissue
from pipeline.simulate.shapes import Points


def even(mean_hu: float, texture_hu: float = 3.0) -> Tissue:
    """A soft tissue: one CT number with a little unevenness."""
    value, coarse, fine = np.float32(mean_hu), np.float32(texture_hu * 0.6), np.float32(texture_hu * 0.8)

    def tissue(points: Points, depth: Array) -> Array:  # noqa: ARG001
        hu: Array = value + coarse * points.coarse + fine * points.fine
        return hu

    return tissue


def layered(core: Tissue, shell: Tissue, shell_mm: float, *, blend_mm: float = 1.2) -> Tissue:
    """A core under a shell: cancellous bone under its cortex, or fluid inside a wall."""

    def tissue(points: Points, depth: Array) -> Array:
        share = np.clip((depth - np.float32(shell_mm)) * np.float32(1 / blend_mm) + np.float32(0.5), 0, 1)
        outer = shell(points, depth)
        hu: Array = outer + share * (core(points, depth) - outer)
        return hu

    return tissue


def marbled(lean_hu: float, fat_hu: float, fat_share: float) -> Tissue:
    """Muscle in sheets with fat between them and streaks inside; `fat_share` 0 is none, 1 a lot."""
    lean = even(lean_hu, 5.0)

    def tissue(points: Points, depth: Array) -> Array:
        present = np.clip(points.coarse - 0.5 * points.rough + np.float32(0.7 * fat_share - 0.3), 0, 1)
        sheet = np.abs((depth + np.float32(4.5) * points.rough) % np.float32(17) - np.float32(8))
        between = np.clip(np.float32(1.7) - sheet, 0, 1) * present
        streak = np.clip(points.fine + np.float32(0.7) * points.rough - np.float32(2.6 - fat_share), 0, 0.6)
        fatty = np.maximum(np.float32(0.75) * between, streak)
        hu: Array = lean(points, depth) + fatty * np.float32(fat_hu - lean_hu)
        return hu

    return tissue


def lung(mean_hu: float, gradient_hu_per_mm: float) -> Tissue:
    """Parenchyma, denser towards the back where blood and weight settle."""

    def tissue(points: Points, depth: Array) -> Array:  # noqa: ARG001
        hu: Array = np.float32(mean_hu) + np.float32(gradient_hu_per_mm) * points.y
        hu += np.float32(14) * points.coarse + np.float32(20) * points.fine
        return hu

    return tissue


def with_gas(content: Tissue, gas_in_front_of_y_mm: float) -> Tissue:
    """A hollow organ of a patient on the back: gas collects in front of a fluid level."""

    def tissue(points: Points, depth: Array) -> Array:
        share = np.clip(np.float32(gas_in_front_of_y_mm) - points.y + np.float32(0.5), 0, 1)
        filled = content(points, depth)
        hu: Array = filled + share * (np.float32(AIR_HU + 20) - filled)
        return hu

    return tissue


def kidney(cortex_hu: float, medulla_hu: float) -> Tissue:
    """Cortex outside, pyramids inside with columns of cortex between them."""

    def tissue(points: Points, depth: Array) -> Array:
        pyramid = np.clip((depth - np.float32(7.0) + np.float32(1.5) * points.coarse) / 2, 0, 1)
        pyramid *= np.clip(np.float32(1.4) - np.abs(points.coarse + points.rough), 0, 1)
        hu: Array = np.float32(cortex_hu) + pyramid * np.float32(medulla_hu - cortex_hu) + 3 * points.fine
        return hu

    return tissue


def faeces(mean_hu: float) -> Tissue:
    """Colon content: lumps with gas bubbles."""

    def tissue(points: Points, depth: Array) -> Array:  # noqa: ARG001
        bubbles = np.clip(points.fine - 1, 0, 2)
        hu: Array = np.float32(mean_hu) + 25 * points.coarse - 250 * bubbles
        return hu

    return tissue


def brain(grey_hu: float, white_hu: float, csf_hu: float) -> Tissue:
    """Cortex, folded with fluid between the folds, over white matter."""

    def tissue(points: Points, depth: Array) -> Array:
        fold = np.abs(points.coarse + np.float32(0.6) * points.rough)
        reach = np.clip((np.float32(17.0) - depth) / 7, 0, 1)
        sulcus = np.clip(np.float32(1.15) - fold / np.float32(0.24), 0, 1) * reach
        ribbon = np.clip(np.float32(1.9) - fold / np.float32(0.5), 0, 1) * np.clip(reach * 2, 0, 1)
        grey = np.maximum(ribbon, np.clip((np.float32(6.0) - depth) / 2, 0, 1))
        matter = np.float32(white_hu) + grey * np.float32(grey_hu - white_hu) + np.float32(0.7) * points.fine
        hu: Array = matter + sulcus * np.float32(0.8) * (np.float32(csf_hu) - matter)
        return hu

    return tissue

"""Claim 2: with H = I, what a restoration has to undo is the noise alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.lab import RestorationLab
from pipeline.degradations import Degradation, GaussianBlur, Identity, WhiteNoise, degrade
from pipeline.figures import Panel, save_panels
from pipeline.hu import ABDOMEN, HUWindow
from pipeline.lab.bench import Bench
from pipeline.lab.findings import Findings, Table
from pipeline.lab.phantoms import unscanned

DIFFERENCE = HUWindow(-100, 100)


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:  # noqa: ARG001 (nothing is trained)
    """Compare y − x with the noise, drawn again on its own."""
    claim = lab.identity
    noise = WhiteNoise(claim.noise_sd_hu)
    operators: dict[str, Degradation] = {"H = I": Identity(), "H = blur": GaussianBlur(claim.blur_sigma_mm)}
    equal: dict[str, list[float]] = {name: [] for name in operators}
    rest: dict[str, list[float]] = {name: [] for name in operators}
    rows: list[list[str | float]] = []
    pictures: list[list[Panel]] = []
    for seed in lab.seeds:
        truth = torch.from_numpy(unscanned(lab.phantoms, "test", seed).truth)[:, None]
        n = _degraded(torch.zeros_like(truth), (noise,), lab, seed)
        pictures.clear()
        for name, operator in operators.items():
            y = _degraded(truth, (operator, noise), lab, seed)
            difference = y - truth
            equal[name].append(float((difference == n).double().mean()))
            rest[name].append(float((difference - n).double().square().mean().sqrt()))
            rows.append([name, seed, equal[name][-1], rest[name][-1]])
            pictures.append(_row(name, truth, y, n))
    save_panels(figure, pictures)
    return Findings(
        effects={"equal": equal["H = I"], "blurred": rest["H = blur"]},
        table=Table(("operator", "seed", "pixels with y − x = n", "RMS of y − x − n (HU)"), rows),
        caption=f"y = Hx + n with white noise of {claim.noise_sd_hu:g} HU; right: y − x without n.",
    )


def _degraded(
    hu: torch.Tensor, steps: tuple[Degradation, ...], lab: RestorationLab, seed: int
) -> torch.Tensor:
    pixel_mm = torch.full((len(hu),), lab.phantoms.pixel_mm)
    return degrade(hu, steps, pixel_mm=pixel_mm, generator=torch.Generator().manual_seed(seed)).hu


def _row(name: str, x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> list[Panel]:
    def image(hu: torch.Tensor) -> npt.NDArray[np.float32]:
        first: npt.NDArray[np.float32] = hu[0, 0].numpy()
        return first

    return [
        Panel(image(x), ABDOMEN, "x"),
        Panel(image(y), ABDOMEN, f"y, {name}"),
        Panel(image(y - x), DIFFERENCE, "y − x", diverging=True),
        Panel(image(y - x - n), DIFFERENCE, "y − x − n", diverging=True),
    ]

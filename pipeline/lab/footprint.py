"""Claim 29: where one input of a transposed convolution goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.config.lab import RestorationLab
from pipeline.figures.png import new_figure, save_png
from pipeline.lab.bench import Bench
from pipeline.lab.findings import Findings, Table
from pipeline.lab.phantoms import Array

SIDE = 7


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:  # noqa: ARG001 (nothing is trained)
    """Send one pixel through transposed convolutions and compare the output with the kernel."""
    claim = lab.footprint
    cases = [(kernel, stride) for stride in claim.strides for kernel in claim.kernels]
    shape_right: list[float] = []
    values_right: list[float] = []
    rows: list[list[str | float]] = []
    for seed in lab.seeds:
        checks = []
        for kernel, stride in cases:
            output, weight = _spread(kernel, stride, seed)
            block = _block(kernel, stride)
            expected = np.zeros(output.shape, bool)
            expected[block, block] = True
            checks.append(
                (np.array_equal(output != 0, expected), np.array_equal(output[block, block], weight))
            )
            size = f"{output.shape[0]} × {output.shape[1]}"
            rows.append([f"{kernel} × {kernel}", stride, seed, size, int((output != 0).sum()), kernel**2])
        shape_right.append(float(np.mean([right for right, _ in checks])))
        values_right.append(float(np.mean([right for _, right in checks])))
    _draw(figure, cases, lab.seeds[0])
    return Findings(
        effects={"footprint": shape_right, "values": values_right},
        table=Table(("kernel", "stride", "seed", "output", "outputs that are not zero", "k²"), rows),
        caption=f"Above: a {SIDE} × {SIDE} image of zeros with a 1 in its middle, through transposed "
        "convolutions. Below: an image of ones through kernels of ones: how many inputs reach each output.",
    )


def _block(kernel: int, stride: int) -> slice:
    first = stride * (SIDE // 2)
    return slice(first, first + kernel)


def _spread(kernel: int, stride: int, seed: int) -> tuple[Array, Array]:
    """The output for a single 1 in the middle, and the kernel, which has no weight of 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand((kernel, kernel), generator=generator) + 0.5
    sign = torch.randint(0, 2, (kernel, kernel), generator=generator) * 2 - 1
    one_hot = torch.zeros(SIDE, SIDE)
    one_hot[SIDE // 2, SIDE // 2] = 1
    return _through(one_hot, weight * sign, stride), (weight * sign).numpy()


def _through(image: torch.Tensor, weight: torch.Tensor, stride: int) -> Array:
    kernel = len(weight)
    layer = nn.ConvTranspose2d(1, 1, kernel, stride=stride, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
        output: Array = layer(image[None, None])[0, 0].numpy()
    return output


def _draw(path: Path, cases: list[tuple[int, int]], seed: int) -> None:
    figure = new_figure(2.7 * len(cases), 5.6, None)
    cells = figure.subplots(2, len(cases), squeeze=False)
    for (kernel, stride), above, below in zip(cases, *cells, strict=True):
        spread = above.imshow(_spread(kernel, stride, seed)[0], cmap="RdBu_r", vmin=-1.5, vmax=1.5)
        above.set_title(f"k = {kernel}, stride {stride}", fontsize=9)
        counts = _through(torch.ones(SIDE, SIDE), torch.ones(kernel, kernel), stride)
        drawn = below.imshow(counts, cmap="viridis", vmin=0)
        below.set_title("inputs per output", fontsize=9)
        figure.colorbar(spread, ax=above, shrink=0.7)
        figure.colorbar(drawn, ax=below, shrink=0.7)
        for axes in (above, below):
            axes.tick_params(labelsize=7)
    save_png(figure, path)

"""Claim 4: what skips do for the training of a deep net."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pipeline.config.lab import RestorationLab
from pipeline.figures.png import new_figure, save_png
from pipeline.hu import WATER_CENTRED
from pipeline.lab.bench import Bench, Trained
from pipeline.lab.depth import Net, nets, trained
from pipeline.lab.findings import Findings, Table
from pipeline.lab.restoring import first_step

LOSS = "denoiser_loss"
Key = tuple[Net, int]


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:
    """Train, count steps, look at the first layer's gradient."""
    done = trained(lab, bench)
    target = (lab.depth.noise_sd_hu / WATER_CENTRED.unit_hu) ** 2
    reached = {key: first_step(one.rows, LOSS, below=target) for key, one in done.items()}
    steps = {key: lab.depth.steps if step is None else step for key, step in reached.items()}
    gradient = {key: _early_gradient(one, lab.ease.gradient_steps) for key, one in done.items()}
    deepest = max(lab.depth.depths)
    eased, plain = Net(deepest, skips=True), Net(deepest, skips=False)
    rows: list[list[str | float]] = [
        [
            str(net),
            seed,
            f"> {lab.depth.steps}" if reached[net, seed] is None else steps[net, seed],
            gradient[net, seed],
            done[net, seed].rows[-1][LOSS] / target,
        ]
        for net in nets(lab)
        for seed in lab.seeds
    ]
    _draw(lab, figure, done, target)
    return Findings(
        effects={
            "steps": [math.log2(steps[plain, seed] / steps[eased, seed]) for seed in lab.seeds],
            "gradient": [math.log2(gradient[eased, seed] / gradient[plain, seed]) for seed in lab.seeds],
        },
        at_least={"steps": [reached[plain, seed] is None for seed in lab.seeds]},
        table=Table(
            (
                "network",
                "seed",
                "steps to the target loss",
                "first-layer gradient norm",
                "last loss / target",
            ),
            rows,
            note=f"Target: the noise variance, {target:.3g} in network units² (kHU²).",
        ),
        caption="Training loss over the noise variance (dashed: the target) and norm of the first layer's "
        f"gradient, {deepest} layers, all seeds.",
        numbers={
            "loss": {f"{net}, seed {s}": [row[LOSS] for row in one.rows] for (net, s), one in done.items()}
        },
    )


def _early_gradient(one: Trained, steps: int) -> float:
    """Geometric mean; a gradient of exactly 0 counts as the smallest normal float."""
    norms = np.maximum(one.first_layer_gradients[:steps], np.finfo(np.float32).tiny)
    return float(np.exp(np.log(norms).mean()))


def _draw(lab: RestorationLab, path: Path, done: dict[Key, Trained], target: float) -> None:
    figure = new_figure(9.6, 3.6, None)
    left, right = figure.subplots(1, 2)
    deepest, shallowest = max(lab.depth.depths), min(lab.depth.depths)
    styles = {
        Net(deepest, skips=True): ("C0", "-"),
        Net(deepest, skips=False): ("C1", "-"),
        Net(shallowest, skips=False): ("0.5", ":"),
    }
    for net, (colour, line) in styles.items():
        for seed in lab.seeds:
            label = str(net) if seed == lab.seeds[0] else None
            one = done[net, seed]
            x = [row["step"] for row in one.rows]
            left.plot(x, [row[LOSS] / target for row in one.rows], line, color=colour, label=label)
            right.plot(one.first_layer_gradients, line, color=colour, label=label, linewidth=0.8)
    left.axhline(1, linestyle="--", color="0.4", linewidth=1)
    left.set(xlabel="step", ylabel="training loss / noise variance", yscale="log")
    right.set(xlabel="step", ylabel="norm of the first layer's gradient", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_png(figure, path)

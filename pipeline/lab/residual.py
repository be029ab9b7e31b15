"""Claim 6: the same net, learning the corruption or learning the image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from pipeline.config.lab import RestorationLab
from pipeline.figures.png import new_figure, save_png
from pipeline.lab.bench import Bench, Run, Trained, first_network
from pipeline.lab.findings import Findings, Table
from pipeline.lab.phantoms import unscanned
from pipeline.lab.restoring import clean_patches, denoising

PSNR: Final = "validation_psnr_db"
GAIN: Final = "validation_gain_db"
MEASURES: Final = ("low", "middle", "high")
Key = tuple[float, bool, int]


def cost(lab: RestorationLab) -> float:
    """Of all trainings."""
    claim = lab.residual
    return float(2 * len(claim.noise_sd_hu) * len(lab.seeds) * claim.depth * claim.steps)


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:
    """Train both at every noise level, count steps."""
    claim = lab.residual
    done = _trained(lab, bench)
    reached = {key: _steps_to_gain(one, claim.gain_db) for key, one in done.items()}
    steps = {key: claim.steps if step is None else step for key, step in reached.items()}
    levels = sorted(claim.noise_sd_hu)
    rows: list[list[str | float]] = []
    for sd in levels:
        for residual in (True, False):
            for seed in lab.seeds:
                key = (sd, residual, seed)
                last = done[key].rows[-1]
                shown = f"> {claim.steps}" if reached[key] is None else steps[key]
                name = "residual" if residual else "direct"
                rows.append([sd, name, seed, shown, last[PSNR] - last[GAIN], last[PSNR]])
    _draw(lab, figure, done)
    return Findings(
        effects={
            name: [math.log2(steps[sd, False, seed] / steps[sd, True, seed]) for seed in lab.seeds]
            for name, sd in zip(MEASURES, levels, strict=True)
        },
        at_least={
            name: [reached[sd, False, seed] is None for seed in lab.seeds]
            for name, sd in zip(MEASURES, levels, strict=True)
        },
        table=Table(
            (
                "noise SD (HU)",
                "learning",
                "seed",
                f"steps to +{claim.gain_db:g} dB",
                "input PSNR (dB)",
                "PSNR after the last step (dB)",
            ),
            rows,
            note="Convention redcnn, against the noise-free truth of the validation patients.",
        ),
        caption=f"Validation PSNR by step, a line per seed; dashed: {claim.gain_db:g} dB above the input.",
        numbers={
            "psnr_db": {
                f"{sd:g} HU, {'residual' if residual else 'direct'}, seed {seed}": _curve(one)[1]
                for (sd, residual, seed), one in done.items()
            }
        },
    )


def _trained(lab: RestorationLab, bench: Bench) -> dict[Key, Trained]:
    claim, phantoms = lab.residual, lab.phantoms
    done: dict[Key, Trained] = {}
    for seed in lab.seeds:
        validation = unscanned(phantoms, "validation", seed)
        batches = clean_patches(unscanned(phantoms, "train", seed), claim, phantoms, seed)
        for sd in claim.noise_sd_hu:
            objective = denoising(validation, sd, slices_of_a_patient=phantoms.slices, seed=seed)
            start = first_network(_run(lab, sd, residual=True, seed=seed)).state_dict()
            for residual in (True, False):
                run_of_net = _run(lab, sd, residual=residual, seed=seed)
                done[sd, residual, seed] = bench.run(run_of_net, claim, objective, batches, start=start)
    return done


def _run(lab: RestorationLab, sd: float, *, residual: bool, seed: int) -> Run:
    claim = lab.residual
    return Run(
        name=f"{'residual' if residual else 'direct'}, {sd:g} HU, seed {seed}",
        model="rednet",
        arguments={
            "depth": claim.depth,
            "features": claim.features,
            "skip_every": claim.skip_every,
            "residual": residual,
        },
        seed=seed,
        facts={"phantoms": lab.phantoms.model_dump(), "noise_sd_hu": sd, "start": "of the residual net"},
        validate_every=claim.log_every,
        cost=claim.depth,
    )


def _steps_to_gain(one: Trained, gain_db: float) -> int | None:
    return next((int(row["step"]) for row in one.rows if row.get(GAIN, -math.inf) >= gain_db), None)


def _curve(one: Trained) -> tuple[list[float], list[float]]:
    scored = [row for row in one.rows if PSNR in row]
    return [row["step"] for row in scored], [row[PSNR] for row in scored]


def _draw(lab: RestorationLab, path: Path, done: dict[Key, Trained]) -> None:
    levels = sorted(lab.residual.noise_sd_hu)
    figure = new_figure(3.4 * len(levels), 3.2, None)
    for sd, axes in zip(levels, figure.subplots(1, len(levels)), strict=True):
        for residual, colour in ((True, "C0"), (False, "C1")):
            for seed in lab.seeds:
                name = "residual" if residual else "direct"
                label = name if seed == lab.seeds[0] else None
                axes.plot(*_curve(done[sd, residual, seed]), color=colour, label=label, linewidth=1.2)
        ends = [done[sd, True, seed].rows[-1] for seed in lab.seeds]
        before = sum(row[PSNR] - row[GAIN] for row in ends) / len(ends)
        gain_db = lab.residual.gain_db
        axes.axhline(
            before + gain_db, linestyle="--", color="0.4", linewidth=1, label=f"input + {gain_db:g} dB"
        )
        axes.set_title(f"noise {sd:g} HU", fontsize=9)
        axes.set(xlabel="step", ylabel="validation PSNR (dB)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_png(figure, path)

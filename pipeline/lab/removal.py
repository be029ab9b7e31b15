"""Claim 9: what a RED-CNN removes from low-dose scans, beside filters tuned for the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.config.lab import RestorationLab
from pipeline.dose.scanner import Scanner
from pipeline.errors import DataError
from pipeline.figures.png import new_figure, save_png
from pipeline.hu import ABDOMEN, WATER_CENTRED
from pipeline.lab.bench import Bench, Run
from pipeline.lab.findings import Findings, Table
from pipeline.lab.phantoms import Array, MemoryBatches, Slices, middle, patients_hu, scanned
from pipeline.lab.restoring import CONVENTION, mean_psnr, restored
from pipeline.metrics import mean_difference_hu, ssim, tissue_regions
from pipeline.metrics.nps import RadialNPS, radial_nps
from pipeline.models.baselines import BASELINES
from pipeline.objectives import Restoration, RestorationPair
from pipeline.projector import ParallelBeam

NET: Final = "RED-CNN"
INPUT: Final = "low dose"
TISSUE: Final = "soft_tissue"
_COST: Final = 40.0
"""Of a step, in layers of the RED-Nets of the other claims."""

Method = Callable[[Array], Array]


@dataclass(frozen=True)
class Scores:
    """One method on the test patients of one seed.

    Attributes:
        psnr_db: against the noise-free scan, mean over slices.
        ssim: likewise.
        bias_hu: mean error in soft tissue, mean over slices.
        nps: of what differs between repeated scans of one slice.
        noise_variance_hu2: of the same.
    """

    psnr_db: float
    ssim: float
    bias_hu: float
    nps: RadialNPS
    noise_variance_hu2: float


@dataclass(frozen=True)
class _Seed:
    """One seed's scores by method, the filters' tuned values, and one slice by method."""

    scores: Mapping[str, Scores]
    tuned: Mapping[str, float]
    images: Mapping[str, Array]


def cost(lab: RestorationLab) -> float:
    """Of all trainings."""
    return _COST * lab.removal.steps * len(lab.seeds)


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:
    """Train, tune, score on unseen patients and on repeated scans."""
    seeds = {seed: _one_seed(lab, bench, seed) for seed in lab.seeds}
    filters = list(BASELINES)
    rows: list[list[str | float]] = []
    for name in (INPUT, *filters, NET):
        for seed, one in seeds.items():
            s = one.scores[name]
            setting = one.tuned.get(name, "")
            noise_sd = s.noise_variance_hu2**0.5
            rows.append([name, seed, setting, s.psnr_db, s.ssim, s.bias_hu, noise_sd, s.nps.peak_per_mm])
    _draw(figure, seeds[lab.seeds[0]], seeds)
    scores = [one.scores for one in seeds.values()]
    return Findings(
        effects={
            "psnr": [s[NET].psnr_db - max(s[f].psnr_db for f in filters) for s in scores],
            "ssim": [s[NET].ssim - max(s[f].ssim for f in filters) for s in scores],
            "noise": [1 - s[NET].noise_variance_hu2 / s[INPUT].noise_variance_hu2 for s in scores],
            "bias": [1 - abs(s[NET].bias_hu) for s in scores],
        },
        table=Table(
            (
                "method",
                "seed",
                "tuned to",
                "PSNR (dB)",
                "SSIM",
                "bias in soft tissue (HU)",
                "noise SD (HU)",
                "NPS peak (1/mm)",
            ),
            rows,
            note="Convention redcnn, against the noise-free scan. Gaussian: sigma in pixels; NLM, TV: HU.",
        ),
        caption="A test slice in the abdomen window, and the noise power spectrum of repeated scans (mean "
        "over the seeds).",
        numbers={
            "nps": {
                f"{name}, seed {seed}": {
                    "frequency_per_mm": s.nps.frequency_per_mm.round(4).tolist(),
                    "power_hu2_mm2": s.nps.power_hu2_mm2.round(3).tolist(),
                }
                for seed, one in seeds.items()
                for name, s in one.scores.items()
            }
        },
    )


def _one_seed(lab: RestorationLab, bench: Bench, seed: int) -> _Seed:
    claim, phantoms = lab.removal, lab.phantoms
    beam = ParallelBeam(phantoms.matrix, phantoms.pixel_mm, claim.views)
    scanner = Scanner(beam, claim.photons_per_ray)
    of = partial(scanned, phantoms, scanner, seed=seed, dose_fraction=claim.dose_fraction)
    validation, test = of("validation"), of("test")
    tuned = {name: _tune(name, getattr(claim.grids, name), validation) for name in BASELINES}
    methods: dict[str, Method] = {INPUT: lambda images: images}
    methods |= {name: partial(_filtered, name, value) for name, value in tuned.items()}
    methods[NET] = _network(lab, bench, of("train"), validation, seed)
    repeats = _repeated_scans(lab, scanner, seed)
    images = {name: method(test.low_dose) for name, method in methods.items()}
    scores = {name: _score(lab, images[name], test, methods[name](repeats)) for name in methods}
    first = {name: image[0] for name, image in images.items()}
    return _Seed(scores, tuned, first | {"noise-free": test.truth[0]})


def _filtered(name: str, value: float, images: Array) -> Array:
    return np.stack([BASELINES[name](image, value) for image in images])


def _tune(name: str, grid: list[float], validation: Slices) -> float:
    """The value with the best PSNR against the normal dose: what the network learns from as well."""
    return max(
        grid, key=lambda value: mean_psnr(_filtered(name, value, validation.low_dose), validation.normal_dose)
    )


def _network(lab: RestorationLab, bench: Bench, train: Slices, validation: Slices, seed: int) -> Method:
    claim, phantoms = lab.removal, lab.phantoms
    pairs = [
        RestorationPair(low, normal.astype(np.int16))
        for low, normal in zip(validation.low_dose, validation.normal_dose, strict=True)
    ]
    facts = {name: getattr(claim, name) for name in ("photons_per_ray", "dose_fraction", "views")} | {
        "phantoms": phantoms.model_dump()
    }
    trained = bench.run(
        Run(
            name=f"{NET}, seed {seed}",
            model="redcnn",
            arguments={"features": claim.features},
            seed=seed,
            facts=facts,
            validate_every=claim.steps,
            cost=_COST,
        ),
        claim,
        Restoration(WATER_CENTRED, pairs),
        MemoryBatches(
            {"low_dose": train.low_dose, "normal_dose": train.normal_dose},
            pixel_mm=phantoms.pixel_mm,
            patch_size=claim.patch_size,
            batch_size=claim.batch_size,
            seed=seed,
        ),
    )
    return partial(restored, trained.network)


def _repeated_scans(lab: RestorationLab, scanner: Scanner, seed: int) -> Array:
    """`(N, side, side)` low-dose scans of one test slice."""
    claim = lab.removal
    integrals = scanner.measure(patients_hu(lab.phantoms, "test", seed)[:1])
    rng = np.random.default_rng([seed, 104])
    scans = [scanner.expose(integrals, claim.dose_fraction, rng) for _ in range(claim.realisations)]
    return middle(np.concatenate(scanner.reconstruct(scans)), lab.phantoms.side)


def _score(lab: RestorationLab, images: Array, test: Slices, repeats: Array) -> Scores:
    pairs = list(zip(images, test.truth, strict=True))
    noise = _noise_regions(repeats, lab.removal.region_side)
    return Scores(
        psnr_db=mean_psnr(images, test.truth),
        ssim=float(np.mean([ssim(image, truth, CONVENTION) for image, truth in pairs])),
        bias_hu=_bias_hu(images, test.truth),
        nps=radial_nps(noise, lab.phantoms.pixel_mm),
        noise_variance_hu2=float(noise.astype(np.float64).var()),
    )


def _bias_hu(images: Array, truth: Array) -> float:
    """Mean error in soft tissue, averaged over the slices that show some."""
    found = [
        mean_difference_hu(image, clean, tissue_regions(clean)[TISSUE])
        for image, clean in zip(images, truth, strict=True)
    ]
    biases = [bias for bias in found if bias is not None]
    if not biases:
        raise DataError("no test slice shows enough soft tissue: give phantoms more or finer pixels")
    return float(np.mean(biases))


def _noise_regions(repeats: Array, side: int) -> Array:
    """What repeats have not in common, in four squares around the middle: noise without structure."""
    noise = (repeats - repeats.mean(axis=0)) * (len(repeats) / (len(repeats) - 1)) ** 0.5
    block = middle(noise, 2 * side)
    return np.concatenate([block[:, r : r + side, c : c + side] for r in (0, side) for c in (0, side)])


def _draw(path: Path, shown: _Seed, seeds: Mapping[int, _Seed]) -> None:
    figure = new_figure(9.6, 10.0, None)
    cells = figure.add_gridspec(3, 6)
    for place, (name, image) in enumerate(shown.images.items()):
        row, column = divmod(place, 3)
        axes = figure.add_subplot(cells[row, 2 * column : 2 * column + 2])
        axes.imshow(image, cmap="gray", vmin=ABDOMEN.low, vmax=ABDOMEN.high)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    for half, scale in enumerate(("linear", "log")):
        axes = figure.add_subplot(cells[2, 3 * half : 3 * half + 3])
        for name in shown.scores:
            spectra = [one.scores[name].nps for one in seeds.values()]
            power = np.mean([nps.power_hu2_mm2 for nps in spectra], axis=0)
            axes.plot(spectra[0].frequency_per_mm[1:], power[1:], label=name, linewidth=1.2)
        axes.set(xlabel="frequency (1/mm)", ylabel="NPS (HU² mm²)", yscale=scale)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    save_png(figure, path)

"""Claim 3: what depth does to detail, as PSNR and as the TTF of a disc of stated contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.config.lab import RestorationLab
from pipeline.figures.png import new_figure, save_png
from pipeline.hu import ABDOMEN
from pipeline.lab.bench import Bench, Trained
from pipeline.lab.depth import Net, nets, trained
from pipeline.lab.findings import Findings, Table
from pipeline.lab.phantoms import Array, disc, unscanned
from pipeline.lab.restoring import mean_psnr, restored, with_noise
from pipeline.metrics import TTF, disc_ttf

CONTRAST_LEFT = 0.2
"""Below this share of its contrast a disc is gone, and f50 is 0."""

Key = tuple[Net, int]


def run(lab: RestorationLab, bench: Bench, figure: Path) -> Findings:
    """Train, score on unseen patients, measure the disc."""
    done = trained(lab, bench)
    decibels, input_db = _scores(lab, done)
    noisy, input_ttf = _noisy_disc(lab)
    discs = {key: restored(one.network, noisy[key[1]]) for key, one in done.items()}
    ttfs = {key: _ttf(lab, images) for key, images in discs.items()}
    f50 = {key: _f50(lab, ttf) for key, ttf in ttfs.items()}
    shallow, deep = (Net(end(lab.depth.depths), skips=False) for end in (min, max))
    rows: list[list[str | float]] = [
        ["input", seed, input_db[seed], lab.detail.contrast_hu, input_ttf.f50_per_mm] for seed in lab.seeds
    ]
    rows += [
        [str(net), seed, decibels[net, seed], ttfs[net, seed].contrast_hu, f50[net, seed]]
        for net in nets(lab)
        for seed in lab.seeds
    ]
    _draw(lab, figure, decibels, f50, {net: discs[net, lab.seeds[0]][0] for net in nets(lab)})
    return Findings(
        effects={
            "sharpness": [_share_lost(f50[shallow, seed], f50[deep, seed]) for seed in lab.seeds],
            "psnr": [decibels[shallow, seed] - decibels[deep, seed] for seed in lab.seeds],
        },
        table=Table(
            ("network", "seed", "PSNR (dB)", "contrast of the disc (HU)", "f50 (1/mm)"),
            rows,
            note=f"Nyquist frequency {1 / (2 * lab.phantoms.pixel_mm):.3g} 1/mm; the input's f50 is measured "
            "without noise. Both measures judge the rows without skips; the rows with skips are the control.",
        ),
        caption=f"PSNR on unseen patients and f50 of a {lab.detail.contrast_hu:g} HU disc by depth (dots: "
        f"seeds, lines: means); one noisy disc (SD {lab.depth.noise_sd_hu:g} HU) restored by each network.",
        numbers={
            "ttf": {
                f"{net}, seed {seed}": {
                    "frequency_per_mm": ttf.frequency_per_mm.round(4).tolist(),
                    "amplitude": ttf.amplitude.round(4).tolist(),
                }
                for (net, seed), ttf in ttfs.items()
            }
        },
    )


def _share_lost(before: float, after: float) -> float:
    """Nothing is lost where nothing was."""
    return 1 - after / before if before else 0.0


def _scores(lab: RestorationLab, done: dict[Key, Trained]) -> tuple[dict[Key, float], dict[int, float]]:
    decibels: dict[Key, float] = {}
    before: dict[int, float] = {}
    for seed in lab.seeds:
        truth = unscanned(lab.phantoms, "test", seed).truth
        noisy = with_noise(truth, lab.depth.noise_sd_hu, (seed, 102))
        before[seed] = mean_psnr(noisy, truth)
        for net in nets(lab):
            decibels[net, seed] = mean_psnr(restored(done[net, seed].network, noisy), truth)
    return decibels, before


def _noisy_disc(lab: RestorationLab) -> tuple[dict[int, Array], TTF]:
    """Realisations by seed, and the TTF of the disc itself."""
    clean = disc(lab.detail, lab.phantoms.pixel_mm)
    repeats = np.repeat(clean[None], lab.detail.realisations, axis=0)
    noisy = {seed: with_noise(repeats, lab.depth.noise_sd_hu, (seed, 103)) for seed in lab.seeds}
    return noisy, _ttf(lab, clean[None])


def _ttf(lab: RestorationLab, images: Array) -> TTF:
    """A network that gives one value everywhere has left no edge to measure."""
    if not np.ptp(images):
        return TTF(np.zeros(1), np.zeros(1), 0.0)
    middle = (images.shape[-1] - 1) / 2
    return disc_ttf(
        images,
        centre_pixels=(middle, middle),
        radius_mm=lab.detail.radius_mm,
        reach_mm=lab.detail.reach_mm,
        pixel_mm=lab.phantoms.pixel_mm,
    )


def _f50(lab: RestorationLab, ttf: TTF) -> float:
    return ttf.f50_per_mm if ttf.contrast_hu >= CONTRAST_LEFT * lab.detail.contrast_hu else 0.0


def _draw(
    lab: RestorationLab,
    path: Path,
    decibels: dict[Key, float],
    f50: dict[Key, float],
    discs: dict[Net, Array],
) -> None:
    depths = lab.depth.depths
    figure = new_figure(3.2 * len(depths), 8.4, None)
    cells = figure.add_gridspec(3, 2 * len(depths))
    for side, (values, label) in enumerate(((decibels, "PSNR (dB)"), (f50, "f50 (1/mm)"))):
        axes = figure.add_subplot(cells[0, side * len(depths) : (side + 1) * len(depths)])
        for skips, colour in ((True, "C0"), (False, "C1")):
            by_depth = [[values[Net(d, skips), seed] for seed in lab.seeds] for d in depths]
            axes.plot(
                depths, np.mean(by_depth, axis=1), color=colour, label="with skips" if skips else "without"
            )
            axes.plot(depths, by_depth, ".", color=colour)
        axes.set(xlabel="layers", ylabel=label, xticks=depths)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    for row, skips in ((1, True), (2, False)):
        for column, depth in enumerate(depths):
            axes = figure.add_subplot(cells[row, 2 * column : 2 * column + 2])
            axes.imshow(discs[Net(depth, skips)], cmap="gray", vmin=ABDOMEN.low, vmax=ABDOMEN.high)
            axes.set_title(str(Net(depth, skips)), fontsize=9)
            axes.set_axis_off()
    save_png(figure, path)

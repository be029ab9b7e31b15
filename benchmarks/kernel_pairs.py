"""The shipped denoiser on noise that it was not trained for, for the model card.

    LDCT_REAL_DATA=… python benchmarks/kernel_pairs.py [--bundle FILE]

One scan of a head phantom, reconstructed with a sharp (YA) and a smooth kernel (UB), goes through
`ldct predict` at strength 1, in torch and float32, so that machines agree to the digits that are written. The
Gaussian that brings the sharp image closest to the smooth one stands beside it. Squares of uniform tissue,
tissues and edges are found in the smooth kernel's image, for all images the same.

Prints the table and writes `metrics/reference/kernel_pairs.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from run import CHECKOUT, environment

from pipeline.dicom import CTSeries, discover, read_series
from pipeline.dose.regions import FEWEST_REGIONS, Regions, uniform_regions
from pipeline.metrics import convention, mean_difference_hu, rmse_hu, tissue_regions
from pipeline.metrics.nps import RadialNPS, detrended, radial_nps
from pipeline.models.baselines import gaussian
from pipeline.weights import shipped

SMOOTH, SHARP = "UB", "YA"
TISSUES = ("body", "soft_tissue")
SMOOTHING_PIXELS = 2.0
"""Of the image that tissues are cut from, as in the evaluation of real scans."""
EDGE_SHARE = 0.01
"""The steepest pixels of a slice: the phantom's skull."""
GAUSSIAN_SIGMAS_PIXELS = [tenths / 10 for tenths in range(5, 31)]
CONVENTION = convention("redcnn")
WRITTEN = Path("metrics", "reference", "kernel_pairs.json")
COLUMNS = (
    "image",
    "noise SD in uniform squares [HU]",
    "mean NPS frequency [1/mm]",
    "mean minus source, body [HU]",
    "the same, soft tissue [HU]",
    "steepness of edges, share of the source's",
    f"RMSE against the smooth kernel ({CONVENTION.name}) [HU]",
    "the same, soft tissue off its edges [HU]",
)

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def main() -> None:
    """Measure, print the table and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=shipped("plain"), help="the shipped one by default")
    bundle = parser.parse_args().bundle
    if bundle is None or "LDCT_REAL_DATA" not in os.environ:
        raise SystemExit("name a denoiser with --bundle, and in LDCT_REAL_DATA the folder of the real CT")
    found = measure(Path(os.environ["LDCT_REAL_DATA"], "ct", "philips_head_phantom_kernel_pairs"), bundle)
    (CHECKOUT / WRITTEN).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(found["text"], end="\n\n")
    for cells in (found["columns"], ["---"] * len(COLUMNS), *found["rows"]):
        print(f"| {' | '.join(str(cell) for cell in cells)} |")


def measure(pairs: Path, bundle: Path) -> dict[str, Any]:
    """Both series through the denoiser: what the model card tells of them.

    Args:
        pairs: folder with `UB_1mm` and `YA_1mm`.
        bundle: of the denoiser.
    """
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        sharp, smooth = (
            predict(pairs / f"{kernel}_1mm", Path(scratch, kernel), bundle) for kernel in (SHARP, SMOOTH)
        )
    check_paired(sharp.source, smooth.source)
    judge = Judge.of(smooth.source)
    sharp_hu, smooth_hu = sharp.source.hu, smooth.source.hu
    sigma = min(GAUSSIAN_SIGMAS_PIXELS, key=lambda tried: judge.rmse_hu(smoothed(sharp_hu, tried)))
    gaussian_hu = smoothed(sharp_hu, sigma)
    rows = {
        f"sharp kernel ({SHARP})": judge.cells(sharp_hu, sharp_hu),
        "sharp, restored": judge.cells(sharp.restored_hu, sharp_hu),
        f"sharp, Gaussian of {sigma:g} pixels": judge.cells(gaussian_hu, sharp_hu),
        f"smooth kernel ({SMOOTH})": judge.cells(smooth_hu, smooth_hu),
        "smooth, restored": judge.cells(smooth.restored_hu, smooth_hu),
    }
    return {
        "text": told(sharp, smooth, judge),
        "columns": list(COLUMNS),
        "rows": [[image, *cells] for image, cells in rows.items()],
        "model_hash": sharp.model_hash,
        "reason_codes": {SHARP: sharp.record["reason_codes"], SMOOTH: smooth.record["reason_codes"]},
    }


@dataclass(frozen=True)
class Predicted:
    """A series before and after `ldct predict`.

    Attributes:
        source: before.
        restored_hu: (slices, rows, columns) HU of the derived series.
        record: its `series.json`.
    """

    source: CTSeries
    restored_hu: Volume
    record: dict[str, Any]

    @property
    def model_hash(self) -> str:
        """Of the denoiser that ran."""
        return str(self.record["recipe"]["denoiser"]["model_hash"])

    @property
    def warning(self) -> str:
        """The reason codes, and the noise that the network was told."""
        codes = " ".join(self.record["reason_codes"]) or "none"
        return f"{codes} (noise {self.record['noise_sd_hu']['before']:.1f} HU)"


def predict(source: Path, target: Path, bundle: Path) -> Predicted:
    """The one series of a folder, denoised by the command."""
    command = [sys.executable, "-m", "pipeline", "predict", str(source), str(target)]
    command += ["--denoiser", str(bundle), "--strength", "1", "--engine", "torch", "--precision", "fp32"]
    subprocess.run(command, env=environment(), check=True, stdout=sys.stderr)
    (record,) = target.glob("*/*/series.json")
    before, after = (only_series(folder) for folder in (source, record.with_name("denoised")))
    return Predicted(before, after.hu, json.loads(record.read_text(encoding="utf-8")))


def only_series(folder: Path) -> CTSeries:
    """The pixels of a folder with one series."""
    (entry,) = discover(folder).series
    return read_series(entry)


def check_paired(sharp: CTSeries, smooth: CTSeries) -> None:
    """Refuse series whose slices do not show the same places of one scan.

    Raises:
        SystemExit: geometry or frame of reference differ.
    """
    one, other = sharp.entry, smooth.entry
    if one.geometry is None or one.geometry != other.geometry:
        raise SystemExit(f"the series differ in geometry: {one.geometry} and {other.geometry}")
    if one.frame_of_reference_uid != other.frame_of_reference_uid:
        raise SystemExit("the series differ in their frame of reference: they are not of one scan")


@dataclass(frozen=True)
class Judge:
    """Scores images of the scan, all in the same places, which the smooth kernel's image decides.

    Attributes:
        smooth_hu: (slices, rows, columns) HU of the smooth kernel.
        pixel_mm: pixel side.
        squares: of uniform tissue.
        tissues: masks of (slices, rows, columns), by name.
        edges: (slices, rows, columns).
    """

    smooth_hu: Volume
    pixel_mm: float
    squares: Regions
    tissues: dict[str, Mask]
    edges: Mask

    @classmethod
    def of(cls, series: CTSeries) -> Judge:
        """Finds squares, tissues and edges.

        Raises:
            SystemExit: the pixels have no size, or squares of uniform tissue are too few.
        """
        if series.entry.pixel_spacing_mm is None:
            raise SystemExit("the series does not tell its pixel spacing")
        pixel_mm, _ = series.entry.pixel_spacing_mm
        squares = uniform_regions(series.hu, series.padding, pixel_mm)
        if len(squares) < FEWEST_REGIONS:
            raise SystemExit(f"{len(squares)} squares of uniform tissue, {FEWEST_REGIONS} are needed")
        smooth = smoothed(series.hu, SMOOTHING_PIXELS)
        found = [tissue_regions(image) for image in smooth]
        tissues = {name: np.stack([one[name] for one in found]) for name in TISSUES}
        return cls(series.hu, pixel_mm, squares, tissues, steepest(smooth))

    def cells(self, hu: Volume, source_hu: Volume) -> list[float | None]:
        """All columns after the first, rounded.

        Args:
            hu: (slices, rows, columns) HU.
            source_hu: what it was made from, in the same shape.
        """
        squares = self.squares.cut(hu)
        soft = self.tissues["soft_tissue"]
        slope = steepness(hu)[self.edges].mean() / steepness(source_hu)[self.edges].mean()
        return [
            rounded(uniform_sd_hu(squares), 2),
            rounded(mean_per_mm(radial_nps(squares, self.pixel_mm)), 3),
            *(rounded(mean_difference_hu(hu, source_hu, self.tissues[name]), 2) for name in TISSUES),
            rounded(slope, 3),
            rounded(self.rmse_hu(hu), 2),
            rounded(np.sqrt(np.mean((hu[soft] - self.smooth_hu[soft]) ** 2)), 2),
        ]

    def rmse_hu(self, hu: Volume) -> float:
        """Against the smooth kernel, mean over slices."""
        pairs = zip(hu, self.smooth_hu, strict=True)
        return float(np.mean([rmse_hu(image, smooth, CONVENTION) for image, smooth in pairs]))


def smoothed(hu: Volume, sigma_pixels: float) -> Volume:
    """Each of (slices, rows, columns) through a Gaussian."""
    return np.stack([gaussian(image, sigma_pixels) for image in hu])


def steepness(hu: Volume) -> Volume:
    """(slices, rows, columns) HU per pixel: length of the gradient in each slice."""
    slope: Volume = np.hypot(*np.gradient(hu, axis=(1, 2)))
    return slope


def steepest(hu: Volume) -> Mask:
    """(slices, rows, columns): the `EDGE_SHARE` of each slice that is steepest."""
    slope = steepness(hu)
    return slope > np.quantile(slope, 1 - EDGE_SHARE, axis=(1, 2), keepdims=True)


def uniform_sd_hu(squares_hu: npt.NDArray[Any]) -> float:
    """Noise SD of (squares, side, side) HU, each less its second-order polynomial."""
    return float(np.sqrt(np.mean(detrended(squares_hu.astype(np.float64)) ** 2)))


def mean_per_mm(nps: RadialNPS) -> float:
    """Frequency averaged over the normalised spectrum: f_av of AAPM TG-233."""
    return float(nps.frequency_per_mm @ nps.normalised_mm) * nps.step_per_mm


def rounded(value: float | None, digits: int) -> float | None:
    """As it is written, never -0.0; None for what is not there, such as a tissue."""
    return None if value is None else round(float(value), digits) + 0.0


def told(sharp: Predicted, smooth: Predicted, judge: Judge) -> str:
    """What was measured, and how far it can be believed.

    Args:
        sharp: series.
        smooth: series.
        judge: of the images.
    """
    return (
        f"One scan of a head phantom, {len(sharp.restored_hu)} slices, reconstructed with a sharp ({SHARP}) "
        f"and a smooth kernel ({SMOOTH}), through `{sharp.model_hash[:12]}` at strength 1 (torch, fp32); it "
        f"is no training data. Noise: {len(judge.squares)} squares of uniform tissue; tissues are cut from "
        "the smoothed smooth image. The Gaussian's width was chosen on these very slices. RMSE against the "
        "smooth image is no score against a truth: that image has softer edges, so blur alone comes "
        "closer to it; its CT numbers and the profile of its slices are others, and noise of the same raw "
        "data is in part the same. Read it beside the steepness of the edges. Reason codes of `ldct "
        f"predict`: sharp {sharp.warning}; smooth {smooth.warning}."
    )


if __name__ == "__main__":
    main()

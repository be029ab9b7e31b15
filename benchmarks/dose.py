"""How quickly a quarter dose is made, beside scikit-image on the same task, and for a long series of DICOM.

    python benchmarks/dose.py [--batch 16] [--repeats 5] [--slices 1000]

The task: a 512² slice at a quarter of its dose. Ours adds the missing noise in the sinogram; the baseline
does what scripts do with scikit-image: `radon` the slice, add the noise, `iradon` it, in 720 parallel views.
Then `ldct simulate dose` runs on a synthetic series of `--slices` slices, peak memory watched. On a machine
with a GPU the first part runs there as well. Writes `benchmarks/results/dose.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from run import CHECKOUT, environment, machine, peak_memory
from skimage.transform import iradon, radon

from pipeline.dicom import Geometry, write_ct_series
from pipeline.dose.flux import Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.photons import WATER_PER_MM
from pipeline.projector import FanBeam, Kernel, ParallelBeam

SIZE, PIXEL_MM, PHOTONS, DOSE = 512, 0.7, 2e5, 0.25
VIEWS = 720


def main() -> None:
    """Measure, print the numbers and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, default=1000, help="0 leaves the DICOM series out")
    options = parser.parse_args()
    slices_hu = body(options.batch)
    baseline = median_s(lambda: quarter_dose_by_scikit_image(slices_hu[0]), options.repeats)
    result: dict[str, object] = {"machine": machine(), "slice": f"{SIZE}x{SIZE}", "dose_fraction": DOSE}
    result["scikit_image_ms_per_slice"] = round(1000 * baseline, 1)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for name, beam in (
            ("parallel", ParallelBeam(SIZE, PIXEL_MM, VIEWS)),
            ("fan", FanBeam(SIZE, PIXEL_MM)),
        ):
            ours = per_slice_s(slices_hu, beam, device, options.repeats)
            result[f"{device}_{name}_ms_per_slice"] = round(1000 * ours, 2)
            result[f"{device}_{name}_times_faster"] = round(baseline / ours, 1)
    if options.slices:
        result["series"] = long_series(options.slices)
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "dose.json").write_text(text, encoding="utf-8")
    print(text, end="")


def body(count: int) -> np.ndarray:
    """An ellipse of water with a bone and a little noise, `(count, 512, 512)` HU."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    hu = np.where((x / 220) ** 2 + (y / 150) ** 2 < 1, 40.0, -1000.0)
    hu[(x / 25) ** 2 + ((y - 90) / 25) ** 2 < 1] = 700
    noise = np.random.default_rng(0).normal(0, 10, (count, SIZE, SIZE))
    return np.where(hu > -1000, hu + noise, hu).astype(np.float32)


def quarter_dose_by_scikit_image(hu: np.ndarray) -> np.ndarray:
    """One slice through radon, Poisson counts at a quarter of the photons, and iradon, in HU."""
    theta = np.arange(VIEWS) * 180 / VIEWS
    line_integrals = radon((hu / 1000 + 1).clip(0) * WATER_PER_MM, theta, circle=True) * PIXEL_MM
    photons = PHOTONS * DOSE
    counts = np.random.default_rng(0).poisson(photons * np.exp(-line_integrals)).clip(1)
    image = iradon(np.log(photons / counts), theta, filter_name="hann", circle=True) / PIXEL_MM
    return (image / WATER_PER_MM - 1) * 1000


def per_slice_s(slices_hu: np.ndarray, beam: ParallelBeam | FanBeam, device: str, repeats: int) -> float:
    """Seconds per slice of the noise insertion, from HU to HU on one device."""
    acquisition = Acquisition(beam, Flux(PHOTONS), Kernel(cutoff_per_mm=1 / (2 * PIXEL_MM)))
    hu = torch.from_numpy(slices_hu).to(device)

    def work() -> None:
        insert_noise(hu, acquisition, dose_fractions=[DOSE], slice_index=0, seed=0)
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    return median_s(work, repeats) / len(slices_hu)


def long_series(count: int) -> dict[str, float]:
    """Slices per second and peak memory of `ldct simulate dose` on one long series."""
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        source = Path(scratch, "source")
        write_series(source, count)
        command = [sys.executable, "-m", "pipeline", "simulate", "dose", str(source), f"{scratch}/out"]
        began = time.perf_counter()
        with peak_memory() as peak_mib:
            subprocess.run([*command, "--dose", str(DOSE)], env=environment(), check=True)
        seconds = time.perf_counter() - began
    return {
        "slices": count,
        "seconds": round(seconds, 1),
        "ms_per_slice": round(1000 * seconds / count, 1),
        "peak_memory_mib": round(peak_mib[0]),
    }


def write_series(folder: Path, count: int) -> None:
    """A DICOM series whose slices repeat a few noisy ones."""
    few = body(8)
    geometry = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (1.0, PIXEL_MM, PIXEL_MM), (count, SIZE, SIZE))
    write_ct_series(
        np.broadcast_to(few[:, None], (8, -(-count // 8), SIZE, SIZE)).reshape(-1, SIZE, SIZE)[:count],
        geometry,
        folder,
        patient_id="benchmark",
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        frame_of_reference_uid="1.2.3.5",
        uid_seed="benchmark",
        series_number=1,
        series_description="benchmark",
        study_datetime=datetime(2025, 1, 1),
        body_part="ABDOMEN",
        kernel="HANN100",
        kvp=120.0,
        tube_current_ma=200.0,
        exposure_mas=100.0,
        slice_thickness_mm=1.0,
        comment="",
    )


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()

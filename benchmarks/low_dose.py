"""What a low dose drawn while training costs: per slice, per sample, and beside a training step.

OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/low_dose.py [--size 512], and again with 2: each run adds the
figures of its number of threads to `benchmarks/results/low_dose.json`. Times are processor time over threads,
which other work on the machine changes less than the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.run import machine
from pipeline.data import Case, write_volume
from pipeline.data.batches import Part
from pipeline.data.low_dose_batches import LowDoseBatches
from pipeline.data.scans import case_acquisition
from pipeline.dose.field_of_view import covering, field_of_view
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.realisations import NoiseRealisations
from pipeline.models import build_model
from pipeline.projector import FanBeam, Kernel, ParallelBeam

RESULTS = Path(__file__).parent / "results" / "low_dose.json"
PIXEL_MM, PATCH, BATCH, DOSE = 0.7, 64, 16, 0.25
KERNEL = Kernel(0.7)


def main() -> None:
    """Measure, print and keep the figures of this number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    size = parser.parse_args().size
    hu = slices_hu(size, 4)
    found = {f"slice_{name}": beam_ms(hu, beam) for name, beam in beams(hu).items()}
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(Path(folder), slices_hu(size, 8))
        found["batch"] = {str(each): batch_ms(case, each) for each in (1, 4, 8, 16)}
        found["reading_one_case_s"] = round(seconds(lambda: read(case), repeats=1), 2)
    found["training_step_ms"] = {str(features): step_ms(features) for features in (32, 96)}
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    threads = kept.get("threads", {}) | {str(torch.get_num_threads()): found}
    text = json.dumps(
        {"machine": machine(), "size": size, "patch": PATCH, "batch": BATCH, "threads": threads}, indent=2
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def beams(hu: torch.Tensor) -> dict[str, FanBeam | ParallelBeam]:
    """Both geometries, wide enough."""
    visible = field_of_view(hu, hu < -1024)
    size = hu.shape[-1]
    return {
        "fan": covering(FanBeam(size, PIXEL_MM), visible),
        "parallel": covering(ParallelBeam(size, PIXEL_MM), visible),
    }


def beam_ms(hu: torch.Tensor, beam: FanBeam | ParallelBeam) -> dict[str, float]:
    """Milliseconds per slice of each way to a low dose, and of its steps; KB kept of a slice."""
    scan = Acquisition(beam, Flux(2e5, BODY), KERNEL)
    visible, shape = field_of_view(hu, hu < -1024), (hu.shape[1], hu.shape[2])
    generator = torch.Generator().manual_seed(0)
    whole, patches = NoiseRealisations(scan, side=hu.shape[-1]), NoiseRealisations(scan, side=PATCH)
    all_rays, rays = whole.line_integrals(hu, visible), patches.line_integrals(hu[:1], visible[:1])
    drawn = patches.draw(rays, [DOSE], generator=generator)[0]
    views, corners = patches.filtered(drawn), torch.tensor([[100, 57], [224, 200], [300, 320], [150, 400]])
    doses = [DOSE] * len(hu)

    def inserted() -> None:
        insert_noise(hu, scan, dose_fractions=[DOSE], slice_index=0, seed=0, visible=visible)

    def cached() -> None:
        whole.slices_hu(whole.draw(all_rays, doses, generator=generator), shape)

    def fewer_views() -> None:
        patches.slices_hu(patches.draw(rays.expand(len(hu), -1, -1), doses, generator=generator), shape)

    return {
        "insert_noise": ms(inserted) / len(hu),
        "from_kept_rays_all_views": ms(cached) / len(hu),
        "from_kept_rays_fewer_views": ms(fewer_views) / len(hu),
        "keeping_rays": ms(lambda: patches.line_integrals(hu[:1], visible[:1])),
        "drawing_rays": ms(lambda: patches.draw(rays, [DOSE], generator=generator)),
        "filtering": ms(lambda: patches.filtered(drawn)),
        "per_patch": ms(lambda: patches.patches_hu(views, corners, PATCH, shape)) / len(corners),
        "views": patches.beam.views,
        "kept_kb": rays.numel() * rays.element_size() / 1e3,
    }


def batch_ms(case: Case, patches_per_slice: int) -> dict[str, float]:
    """Milliseconds of a batch's two halves, and per sample, once the slices' rays are kept."""
    batches = LowDoseBatches(
        [case],
        patch_size=PATCH,
        batch_size=BATCH,
        seed=0,
        patches_per_slice=patches_per_slice,
        dose_fractions=(0.1, 0.6),
        photons_per_ray=2e5,
        kernel_cutoff_per_mm=KERNEL.cutoff_per_mm,
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(case.shape[0] * patches_per_slice // BATCH + 1):
        batches.on_device(batches[Part(step)], Part(step), generator=generator)
    choosing = ms(lambda: batches[Part(0)])
    drawing = ms(lambda: batches.on_device(batches[Part(0)], Part(0), generator=generator)) - choosing
    return {"choosing": choosing, "drawing": drawing, "per_sample": (choosing + drawing) / BATCH}


def step_ms(features: int) -> float:
    """Milliseconds of a training step of RED-CNN: bf16, channels-last, forward and backward, Adam."""
    model = build_model("redcnn", features=features).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    image = torch.randn(BATCH, 1, PATCH, PATCH).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(image) - image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return ms(step)


def read(case: Case) -> None:
    """Photons and kernel from the case's own noise."""
    case_acquisition(case, photons_per_ray=None, kernel_cutoff_per_mm=None, device=torch.device("cpu"))


def slices_hu(size: int, count: int) -> torch.Tensor:
    """A trunk with two bones and the noise of a scan."""
    axis = (torch.arange(size) - (size - 1) / 2) * 512 / size
    y, x = axis[:, None], axis[None, :]
    hu = torch.where((x / 230) ** 2 + (y / 150) ** 2 < 1, 40.0, -1000.0)
    hu = torch.where((x.abs() - 150) ** 2 + y**2 < 900, 600.0, hu).repeat(count, 1, 1)
    visible = field_of_view(hu, hu < -1024)
    endless = Acquisition(covering(FanBeam(size, PIXEL_MM), visible), Flux(2e7, BODY), KERNEL)
    (noisy,) = insert_noise(hu, endless, dose_fractions=[0.01], slice_index=0, seed=0, visible=visible)
    return noisy.round().clip(min=-1024)


def case_of(folder: Path, hu: torch.Tensor) -> Case:
    """An ingested case of these slices."""
    write_volume(folder / "normal_dose.nii", hu.numpy(), np.eye(4), np.int16)
    return Case(
        case_id="benchmark",
        patient_id="benchmark",
        role="train",
        anatomy="abdomen",
        dose_fraction=1.0,
        noise="shared",
        spacing_mm=(3.0, PIXEL_MM, PIXEL_MM),
        shape=(len(hu), hu.shape[1], hu.shape[2]),
        folder=folder,
        has_mask=False,
        has_truth=False,
        has_low_dose=False,
    )


def ms(work: Callable[[], object]) -> float:
    """Least of several times, in milliseconds."""
    return round(1e3 * seconds(work), 2)


def seconds(work: Callable[[], object], repeats: int = 6) -> float:
    """Least of several times, after one to warm up where there are several."""
    if repeats > 1:
        work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) / torch.get_num_threads()


if __name__ == "__main__":
    main()

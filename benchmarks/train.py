"""How fast a denoiser trains, beside the straightforward way of public code.

    python benchmarks/train.py [--rounds 3] [--quality-data DIR]

1. Steps: batches of 16 patches of 64×64 from 512² slices, RED-CNN with 32 and with 96 features. The public
   way is what most repositories do: whole slices in `.npy` files, loaded, cropped and stacked one by one by a
   DataLoader (with the better of 0 and 2 workers), an eager float32 network in PyTorch's own layout, Adam.
   Ours is `pipeline.engine` as `ldct train` runs it. They take turns; the median of their ratios counts.
2. Waiting: the share of the time in which the device has no data.
3. Quality: seconds from the call of the engine until the demo denoiser is 4 dB above its input on the
   validation slices. `--quality-data` names the ingested cases of the preset `demo` (data/demo/cases);
   without it they are made.
4. On a GPU, where there is one: training steps of 64 patches of 128×128 against eager float32 with TF32 off
   and on, in samples per second, TFLOP/s and as a fraction of what its bfloat16 matrix products reach.

Writes `benchmarks/results/train.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from run import CHECKOUT, copy_checkout, environment, machine
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.train import load_train_settings
from pipeline.data import Case
from pipeline.data.patch_batches import PatchBatches
from pipeline.data.volumes import write_volume
from pipeline.engine import OptimizerPlan, Plan, Progress, ResumeStore, choose_hardware, train
from pipeline.hu import WATER_CENTRED
from pipeline.models import RedCNN
from pipeline.objectives import Restoration, RestorationPair
from pipeline.stages.families import build_plan, build_training

CASES, SLICES, MATRIX = 4, 16, 512
BATCH, PATCH = 16, 64
WARM_UP, STEPS = 10, 40
AIMS = {32: 1.7, 96: 2.2}
QUALITY_GAIN_DB = 4.0
QUALITY_EVERY = 20
GPU_BATCH, GPU_PATCH, GPU_STEPS = 64, 128, 60


def main() -> None:
    """Measure, print the numbers and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality-data", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "batch": f"{BATCH} patches of {PATCH}x{PATCH}"}
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        cases = write_cases(Path(scratch) / "cases")
        if torch.cuda.is_available():
            result["gpu"] = gpu_steps(cases)
        else:
            write_slices(Path(scratch) / "slices", cases)
            workers = better_workers(Path(scratch) / "slices")
            result["public_workers"] = workers
            result["steps"] = {
                f"{features} features": compare(
                    Path(scratch) / "slices", cases, features, workers, options.rounds
                )
                for features in AIMS
            }
            result["gpu"] = "not measured"
        result["quality"] = time_to_quality(options.quality_data or demo_cases(Path(scratch) / "project"))
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "train.json").write_text(text, encoding="utf-8")
    print(text, end="")


def write_cases(folder: Path) -> list[Case]:
    """Slices of noise: what they show does not matter for the speed."""
    generator = np.random.default_rng(0)
    cases = []
    for index in range(CASES):
        name = f"case{index}"
        (folder / name).mkdir(parents=True)
        for dose, sd_hu in (("normal_dose", 10), ("low_dose", 20)):
            volume = np.rint(generator.normal(0, sd_hu, (SLICES, MATRIX, MATRIX))).astype(np.int16)
            write_volume(folder / name / f"{dose}.nii", volume, np.eye(4), np.int16)
        cases.append(
            Case(
                case_id=name,
                patient_id=name,
                role="train",
                anatomy="chest",
                dose_fraction=0.25,
                noise="shared",
                spacing_mm=(1.0, 0.8, 0.8),
                shape=(SLICES, MATRIX, MATRIX),
                folder=folder / name,
                has_mask=False,
                has_truth=False,
                has_low_dose=True,
            )
        )
    return cases


def write_slices(folder: Path, cases: list[Case]) -> None:
    """The same slices as the public way stores them: a float32 file each, on the network's scale."""
    folder.mkdir()
    for case in cases:
        for index in range(SLICES):
            for dose, volume in (("low", case.low_dose()), ("normal", case.normal_dose())):
                np.save(
                    folder / f"{case.case_id}_{index:03}_{dose}.npy", volume[index].astype(np.float32) / 1000
                )


class PublicSlices(Dataset[tuple[Tensor, Tensor]]):
    """A patch per sample, cut from two whole slices that are loaded for it."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._low = sorted(folder.glob("*_low.npy"))
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self._low[np.random.randint(len(self._low))]  # noqa: NPY002 - as public code draws
        low = np.load(path)
        normal = np.load(path.with_name(path.name.replace("_low", "_normal")))
        top, left = np.random.randint(0, MATRIX - PATCH + 1, size=2)  # noqa: NPY002
        cut = (slice(top, top + PATCH), slice(left, left + PATCH))
        return torch.from_numpy(low[cut][None].copy()), torch.from_numpy(normal[cut][None].copy())


def public_samples_per_s(folder: Path, features: int, workers: int) -> float:
    """Samples per second of the public way, loading included."""
    torch.manual_seed(0)
    network = RedCNN(features=features)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    loader = DataLoader(
        PublicSlices(folder, BATCH * (WARM_UP + STEPS)), batch_size=BATCH, num_workers=workers
    )
    began = 0.0
    for step, (low, normal) in enumerate(loader):
        if step == WARM_UP:
            began = time.perf_counter()
        optimizer.zero_grad()
        mse_loss(network(low), normal).backward()
        optimizer.step()
    return BATCH * STEPS / (time.perf_counter() - began)


def better_workers(folder: Path) -> int:
    """0 or 2, whichever makes the public way faster here."""
    return max((0, 2), key=lambda workers: public_samples_per_s(folder, min(AIMS), workers))


class Stopwatch:
    """A log of a training that notes when each point of the curves came, and what was logged with it."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, dict[str, float]]] = []
        self.is_live = False

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Note them and the time."""
        self.points.append((step or 0, time.perf_counter(), dict(values)))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Pictures are not kept."""

    def at(self, step: int) -> float:
        """When the first value of a step was logged."""
        return next(when for logged, when, _ in self.points if logged == step)

    def mean(self, name: str) -> float:
        """Of all that was logged by a name after the warm-up."""
        values = [values[name] for step, _, values in self.points if step > WARM_UP and name in values]
        return statistics.fmean(values)


def our_run(cases: list[Case], features: int, steps: int, batch: int, patch: int) -> Stopwatch:
    """The engine for so many steps, from the warm-up on without a validation in between."""
    torch.manual_seed(0)
    hardware = choose_hardware("auto")
    pair = RestorationPair(cases[0].low_dose()[:1, :64, :64], cases[0].normal_dose()[0, :64, :64])
    plan = Plan(
        name="benchmark",
        steps=WARM_UP + steps,
        batch_size=batch,
        optimizers={"denoiser": OptimizerPlan(1e-4)},
        seed=0,
        validate_every=WARM_UP + steps,
        checkpoint_every=WARM_UP + steps,
        log_every=WARM_UP,
    )
    log = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train(
            Restoration(WATER_CENTRED, [pair]),
            {"denoiser": RedCNN(features=features)},
            PatchBatches(cases, patch_size=patch, batch_size=batch, seed=0, device=hardware.device),
            plan,
            hardware=hardware,
            store=ResumeStore(Path(folder), "benchmark"),
            log=log,
            progress=quiet(),
        )
    return log


def compare(folder: Path, cases: list[Case], features: int, workers: int, rounds: int) -> dict[str, float]:
    """Both ways in turn."""
    public, ours, waits = [], [], []
    for _ in range(rounds):
        public.append(public_samples_per_s(folder, features, workers))
        log = our_run(cases, features, STEPS, BATCH, PATCH)
        ours.append(BATCH * STEPS / (log.at(WARM_UP + STEPS) - log.at(WARM_UP)))
        waits.append(log.mean("data_wait_percent"))
    ratios = [mine / theirs for mine, theirs in zip(ours, public, strict=True)]
    return {
        "public_samples_per_s": round(statistics.median(public), 1),
        "our_samples_per_s": round(statistics.median(ours), 1),
        "times_faster": round(statistics.median(ratios), 2),
        "aim": AIMS[features],
        "waiting_for_data_percent": round(statistics.median(waits), 2),
    }


def demo_cases(project: Path) -> Path:
    """Make and ingest the phantoms of the preset `demo`."""
    project.mkdir()
    copy_checkout(project, "demo")
    for stage in ("simulate", "ingest"):
        command = [sys.executable, "-m", "pipeline", stage, "--preset", "demo"]
        subprocess.run(command, cwd=project, env=environment() | {"LDCT_TRACKING": "off"}, check=True)
    return project / "data" / "demo" / "cases"


def time_to_quality(cases: Path) -> dict[str, float | str | None]:
    """The demo training, validated every few steps; the validations are part of the time."""
    settings = load_train_settings(CHECKOUT / "configs" / "demo" / "redcnn.yaml")
    settings = settings.model_copy(update={"validate_every": QUALITY_EVERY})
    hardware = choose_hardware("auto")
    training = build_training(settings, cases, device=hardware.device)
    log = Stopwatch()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(
            training.objective,
            training.networks,
            training.batches,
            build_plan("redcnn", settings, training.objective.product),
            hardware=hardware,
            store=ResumeStore(Path(folder), "benchmark"),
            log=log,
            progress=quiet(),
        )
    gains = [
        (step, when - began, values["validation_gain_db"])
        for step, when, values in log.points
        if "validation_gain_db" in values
    ]
    reached = next(((step, s) for step, s, gain in gains if gain >= QUALITY_GAIN_DB), (None, None))
    return {
        "what": f"demo RED-CNN, +{QUALITY_GAIN_DB:g} dB PSNR (redcnn) over its input, validation slices",
        "step": reached[0],
        "seconds": None if reached[1] is None else round(reached[1], 1),
        "last_gain_db": round(gains[-1][2], 2),
        "all_steps_s": round(gains[-1][1], 1),
    }


def gpu_steps(cases: list[Case], features: int = 96) -> dict[str, Any]:
    """Ours and the eager network, on batches that fill a card."""
    flop = training_flop(features)
    peak = bf16_peak_tflops()
    rates = {
        "eager float32, TF32 off": eager_gpu_samples_per_s(features, tf32=False),
        "eager float32, TF32 on": eager_gpu_samples_per_s(features, tf32=True),
    }
    log = our_run(cases, features, GPU_STEPS, GPU_BATCH, GPU_PATCH)
    ours = GPU_BATCH * GPU_STEPS / (log.at(WARM_UP + GPU_STEPS) - log.at(WARM_UP))
    tflops = ours * flop / 1e12
    return {
        "device": torch.cuda.get_device_name(),
        "batch": f"{GPU_BATCH} patches of {GPU_PATCH}x{GPU_PATCH}, {features} features",
        "our_samples_per_s": round(ours, 1),
        **{f"times {name}": round(ours / rate, 2) for name, rate in rates.items()},
        "tflops": round(tflops, 1),
        "fraction_of_bf16_matrix_products": round(tflops / peak, 3),
        "waiting_for_data_percent": round(log.mean("data_wait_percent"), 2),
    }


def training_flop(features: int) -> float:
    """Of one sample: forward, and backward to weights and activations."""
    network, image = RedCNN(features=features), torch.zeros(1, 1, GPU_PATCH, GPU_PATCH)
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    return float(counter.get_total_flops())


def eager_gpu_samples_per_s(features: int, *, tf32: bool) -> float:
    """The network as public code trains it, on batches that are already on the card."""
    network = RedCNN(features=features).cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    low, normal = torch.randn(2, GPU_BATCH, 1, GPU_PATCH, GPU_PATCH, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        mse_loss(network(low), normal).backward()
        optimizer.step()

    with cuda_tf32(tf32):
        return GPU_BATCH / seconds_on_gpu(step)


def bf16_peak_tflops(side: int = 8192) -> float:
    """What the card reaches in products of large bfloat16 matrices."""
    left, right = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    return 2 * side**3 / seconds_on_gpu(lambda: left @ right) / 1e12


def seconds_on_gpu(work: Callable[[], object]) -> float:
    """Of one run, the device's own time."""
    for _ in range(WARM_UP):
        work()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(GPU_STEPS):
        work()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / GPU_STEPS


@contextmanager
def cuda_tf32(allowed: bool) -> Iterator[None]:
    """TF32 in convolutions and matrix products, or not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def quiet() -> Progress:
    """A training's progress that nobody sees."""
    return Progress("benchmark", Console(quiet=True))


if __name__ == "__main__":
    main()

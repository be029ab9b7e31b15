"""How much faster the engine trains RED-CNN than eager float32 code that loads sample by sample.

    python benchmarks/training.py [--features 32] [--steps 20]

Both train on the same synthetic 512×512 pairs, 16 patches of 64×64 per step, in one run on this machine. The
baseline is the widely copied pattern: float32, default memory layout, whole slices read and scaled before a
patch is cut from them. Prints milliseconds per step (median), the ratio, and the samples' share of a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import mse_loss

from pipeline.data import Case, write_volume
from pipeline.data.patches import PairedPatches
from pipeline.engine import OptimizerPlan, Plan, choose_hardware
from pipeline.engine.loop import lightning
from pipeline.engine.session import Session
from pipeline.hu import WATER_CENTRED
from pipeline.models import RedCNN
from pipeline.objectives import Restoration

BATCH, PATCH, SIDE, SLICES = 16, 64, 512, 8
WARM_UP = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        case = synthetic_case(Path(folder))
        baseline = median_ms(eager_step(case, options.features), options.steps)
        step, samples = engine_step(case, options.features)
        engine = median_ms(step, options.steps)
        preparing = median_ms(samples, options.steps)
    hardware = choose_hardware("auto")
    arithmetic = "bf16" if hardware.bf16 else "fp32"
    print(
        f"{hardware.device}, {torch.get_num_threads()} threads, {options.features} features, {BATCH} patches"
    )
    print(f"eager fp32, sample by sample  {baseline:8.1f} ms per step")
    print(f"engine, {arithmetic}, channels-last  {engine:8.1f} ms per step, {preparing:.1f} ms of it samples")
    print(f"ratio                         {baseline / engine:8.2f}")


def synthetic_case(folder: Path) -> Case:
    """One case of noise."""
    rng = np.random.default_rng(0)
    for name in ("normal_dose", "low_dose"):
        volume = rng.integers(-1000, 400, (SLICES, SIDE, SIDE))
        write_volume(folder / f"{name}.nii", volume, np.eye(4), np.int16)
    return Case(
        case_id="noise",
        patient_id="noise",
        role="train",
        anatomy="abdomen",
        dose_fraction=0.25,
        noise="independent",
        spacing_mm=(3.0, 0.7, 0.7),
        shape=(SLICES, SIDE, SIDE),
        folder=folder,
        has_mask=False,
        has_truth=False,
    )


def eager_step(case: Case, features: int) -> Callable[[int], None]:
    """A step of the baseline."""
    device = choose_hardware("auto").device
    network = RedCNN(features=features).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    rng = np.random.default_rng(0)

    def patch() -> tuple[np.ndarray, np.ndarray]:
        position, top, left = rng.integers((SLICES, SIDE - PATCH, SIDE - PATCH))
        low, normal = (
            (volume[position].astype(np.float32) + 1024) / 4096
            for volume in (case.low_dose(), case.normal_dose())
        )
        window = np.s_[top : top + PATCH, left : left + PATCH]
        return low[window], normal[window]

    def step(_: int) -> None:
        low, normal = (
            torch.from_numpy(np.stack(patches))[:, None].to(device)
            for patches in zip(*(patch() for _ in range(BATCH)), strict=True)
        )
        optimizer.zero_grad()
        loss = mse_loss(network(low), normal)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def engine_step(case: Case, features: int) -> tuple[Callable[[int], None], Callable[[int], object]]:
    """A step of the engine with its samples, and the samples alone."""
    plan = Plan(
        name="benchmark",
        steps=10_000,
        batch_size=BATCH,
        optimizers={Restoration.product: OptimizerPlan(1e-4)},
        seed=0,
        validate_every=10_000,
        checkpoint_every=10_000,
        log_every=10_000,
    )
    fabric = lightning(choose_hardware("auto"))
    session = Session({Restoration.product: RedCNN(features=features)}, Restoration.product, plan, fabric)
    objective = Restoration(WATER_CENTRED, [])
    patches = PairedPatches([case], patch_size=PATCH, seed=0)

    def samples(index: int) -> dict[str, torch.Tensor]:
        drawn = [patches[index * BATCH + offset] for offset in range(BATCH)]
        return {name: torch.stack([sample[name] for sample in drawn]) for name in drawn[0]}

    def step(index: int) -> None:
        batch = fabric.to_device(samples(index))
        for turn in objective.turns(session.wrapped, batch, step=index, generator=torch.Generator()):
            session.take(turn)
            turn.loss.item()
        session.finish_step()

    return step, samples


def median_ms(step: Callable[[int], object], steps: int) -> float:
    """Median duration of a call, after a warm-up."""
    durations = []
    for index in range(WARM_UP + steps):
        began = time.perf_counter()
        step(index)
        durations.append(time.perf_counter() - began)
    return 1000 * statistics.median(durations[WARM_UP:])


if __name__ == "__main__":
    main()

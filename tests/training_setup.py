"""Tiny trainings; also a program that a test kills: `python -m tests.training_setup FOLDER WAIT_S`."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from pipeline.bundle import tensors_sha256
from pipeline.data.patches import PairedPatches
from pipeline.engine import Hardware, OptimizerPlan, Plan, Progress, ResumeStore, train
from pipeline.hu import ABDOMEN, WATER_CENTRED
from pipeline.models import DCGANDiscriminator, DCGANGenerator, RedCNN
from pipeline.objectives import Adversarial, Restoration, RestorationPair
from tests.ct_cases import write_cases

STEPS = 24


class Recorder:
    """Keeps what is logged; may wait at each point, so that a test can kill the process."""

    def __init__(self, wait_s=0.0):
        self.values = []
        self.wait_s = wait_s

    def log_metrics(self, values, step=None):
        self.values.append((step, dict(values)))
        time.sleep(self.wait_s)


def quiet(name="tiny"):
    return Progress(name, Console(quiet=True))


def denoiser(cases):
    torch.manual_seed(0)
    pair = RestorationPair(cases[0].low_dose()[0], cases[0].normal_dose()[0])
    return (
        Restoration(WATER_CENTRED, [pair]),
        {"denoiser": RedCNN(features=4)},
        PairedPatches(cases, patch_size=24, seed=3),
        {"denoiser": OptimizerPlan(1e-3, warmup_steps=2, final_fraction=0.1)},
    )


class Squares(torch.utils.data.Dataset):
    """Bright squares in air, 8×8."""

    def __getitem__(self, index):
        image = torch.full((1, 8, 8), -160.0)
        image[:, 2 : 4 + index % 3, 2:6] = 200
        return {"image": image}


def gan():
    torch.manual_seed(0)
    squares = Squares()
    return (
        Adversarial(
            ABDOMEN, latent_dimensions=3, validation=torch.stack([squares[i]["image"] for i in range(6)])
        ),
        {
            "generator": DCGANGenerator(image_size=8, latent_dimensions=3, features=4),
            "discriminator": DCGANDiscriminator(image_size=8, features=4),
        },
        squares,
        {"generator": OptimizerPlan(1e-3, (0.0, 0.99)), "discriminator": OptimizerPlan(2e-3, (0.0, 0.99))},
    )


def run(parts, store, *, steps=STEPS, log=None, bf16=False, **changes):
    objective, networks, samples, optimizers = parts
    settings = {
        "name": "tiny",
        "steps": steps,
        "batch_size": 2,
        "optimizers": optimizers,
        "seed": 3,
        "validate_every": 6,
        "checkpoint_every": 4,
        "log_every": 2,
        "clip_norm": 1.0,
        "ema_decay": 0.9,
    }
    return train(
        objective,
        networks,
        samples,
        Plan(**settings | changes),
        hardware=Hardware(torch.device("cpu"), bf16=bf16),
        store=store,
        log=log or Recorder(),
        progress=quiet(),
    )


def digest(outcome):
    return tensors_sha256(outcome.last_tensors), tensors_sha256(outcome.best_tensors)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    np.seterr(all="raise")
    log = Recorder(wait_s=float(sys.argv[2]))
    outcome = run(
        denoiser(write_cases(folder / "cases")), ResumeStore(folder / "resume", "key"), log=log, bf16=True
    )
    (folder / "digest").write_text(" ".join(digest(outcome)))

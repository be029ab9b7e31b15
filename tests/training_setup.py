"""Tiny trainings, here or in processes that tests kill."""

import json
import multiprocessing
import os
import sys
import time

import numpy as np
import torch
from rich.console import Console

from pipeline.bundle import tensors_sha256
from pipeline.data import read_cases
from pipeline.data.batches import SampleBatches
from pipeline.data.patch_batches import PatchBatches
from pipeline.engine import Hardware, OptimizerPlan, Plan, Progress, ResumeStore, Team, join_team, train
from pipeline.errors import ConfigError, PipelineError
from pipeline.hu import ABDOMEN, WATER_CENTRED
from pipeline.models import DCGANDiscriminator, DCGANGenerator, RedCNN
from pipeline.objectives import Adversarial, Restoration, RestorationPair

STEPS = 24
BATCH = 2
ALONE = Team()


class Recorder:
    """Keeps what is logged; may wait at each point, so that a test can kill the process."""

    def __init__(self, wait_s=0.0, *, is_live=False):
        self.values = []
        self.pictures = []
        self.wait_s = wait_s
        self.is_live = is_live

    def log_metrics(self, values, step=None):
        self.values.append((step, dict(values)))
        time.sleep(self.wait_s)

    def log_artifact(self, path, folder=""):
        self.pictures.append((f"{folder}/{path.name}", path.read_bytes()))


def quiet(name="tiny"):
    return Progress(name, Console(quiet=True))


def denoiser(cases, batch_size=BATCH):
    torch.manual_seed(0)
    pair = RestorationPair(cases[0].low_dose()[0], cases[0].normal_dose()[0])
    return (
        Restoration(WATER_CENTRED, [pair]),
        {"denoiser": RedCNN(features=4)},
        PatchBatches(cases, patch_size=24, batch_size=batch_size, seed=3),
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


def run(
    parts, store, *, steps=STEPS, log=None, bf16=False, compiled=False, progress=None, team=ALONE, **changes
):
    objective, networks, batches, optimizers = parts
    if not hasattr(batches, "on_device"):
        batches = SampleBatches(batches, changes.get("batch_size", BATCH))
    settings = {
        "name": "tiny",
        "steps": steps,
        "batch_size": BATCH,
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
        batches,
        Plan(**settings | changes),
        hardware=Hardware(torch.device("cpu"), bf16=bf16, compile=compiled),
        store=store,
        log=log or Recorder(),
        progress=progress or quiet(),
        team=team,
    )


def digest(outcome):
    return tensors_sha256(outcome.last_tensors), tensors_sha256(outcome.best_tensors)


PROCESSES = multiprocessing.get_context("forkserver")
"""Starts processes that tests kill; all imports are done once."""
PROCESSES.set_forkserver_preload(["tests.training_setup"])


def train_with_loaders(folder, workers):
    """Train in this process with loading processes beside it, and leave the digest in the folder."""
    torch.set_num_threads(1)
    parts = denoiser(read_cases(folder / "cases", "train"))
    outcome = run(parts, ResumeStore(folder / f"resume {workers}", "key"), steps=4, workers=workers)
    (folder / f"digest {workers}").write_text(str(digest(outcome)))


def train_in_process(folder, kind, wait_s=0.0):
    """Train in this process from whatever is in the folder, and leave digest and curves there."""
    torch.set_num_threads(1)
    np.seterr(all="raise")
    parts = gan() if kind == "gan" else denoiser(read_cases(folder / "cases", "train"))
    accumulate = 2 if kind == "micro-batches" else 1
    log = Recorder(wait_s=wait_s)
    store = ResumeStore(folder / "resume", "key")
    outcome = run(parts, store, log=log, bf16=kind == "denoiser", accumulate=accumulate)
    (folder / "result").write_text(f"{digest(outcome)} {outcome.rows}")


def train_in_team(folder, kind, wait_s, rank, size, port):
    """Train in this process as torchrun would start it; leaves `<rank>.json`, or its error in `.txt`."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parts = gan() if kind == "gan" else denoiser(read_cases(folder / "cases", "train"))
    validated, score = [], parts[0].validate

    def validate(*values, **options):
        validated.append(1)
        if kind == "failing leader":
            raise OSError("no space left")
        return score(*values, **options)

    parts[0].validate = validate
    try:
        with join_team() as team:
            if kind == "common fault":
                raise ConfigError("steps: wrong")
            log = Recorder(wait_s, is_live=team.leads)
            store = CountingStore(folder / "resume", "key")
            changes = {"steps": 8, "validate_every": 4, "accumulate": 2 // size}
            outcome = run(parts, store, log=log, team=team, **changes)
    except (PipelineError, OSError) as error:
        (folder / f"{rank}.txt").write_text(str(error))
        sys.exit(1)
    facts = {
        "weights": digest(outcome),
        "rows": outcome.rows,
        "pictures": [name for name, _ in log.pictures],
        "validated": len(validated),
        "saved": CountingStore.saved,
    }
    (folder / f"{rank}.json").write_text(json.dumps(facts))


class CountingStore(ResumeStore):
    """Counts what this process saves."""

    saved = 0

    def save(self, state):
        CountingStore.saved += 1
        super().save(state)

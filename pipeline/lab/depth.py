"""The trainings behind claims 3 and 4: RED-Nets of growing depth, with and without skips."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.lab import RestorationLab
from pipeline.lab.bench import Bench, Run, Trained
from pipeline.lab.phantoms import unscanned
from pipeline.lab.restoring import clean_patches, denoising


@dataclass(frozen=True)
class Net:
    """One of the networks compared.

    Attributes:
        depth: layers.
        skips: with symmetric skips, or plain.
    """

    depth: int
    skips: bool

    def __str__(self) -> str:
        return f"RED{self.depth} {'with' if self.skips else 'without'} skips"


def nets(lab: RestorationLab) -> list[Net]:
    """All networks, with skips first."""
    return [Net(depth, skips) for skips in (True, False) for depth in lab.depth.depths]


def cost(lab: RestorationLab) -> float:
    """Of all trainings."""
    return float(sum(net.depth for net in nets(lab)) * lab.depth.steps * len(lab.seeds))


def trained(lab: RestorationLab, bench: Bench) -> dict[tuple[Net, int], Trained]:
    """Every network for every seed."""
    training, phantoms = lab.depth, lab.phantoms
    done: dict[tuple[Net, int], Trained] = {}
    for seed in lab.seeds:
        objective = denoising(
            unscanned(phantoms, "validation", seed),
            training.noise_sd_hu,
            slices_of_a_patient=phantoms.slices,
            seed=seed,
        )
        batches = clean_patches(unscanned(phantoms, "train", seed), training, phantoms, seed)
        for net in nets(lab):
            done[net, seed] = bench.run(_run(lab, net, seed), training, objective, batches)
    return done


def _run(lab: RestorationLab, net: Net, seed: int) -> Run:
    return Run(
        name=f"{net}, seed {seed}",
        model="rednet",
        arguments={
            "depth": net.depth,
            "features": lab.depth.features,
            "skip_every": lab.depth.skip_every if net.skips else None,
            "residual": False,
        },
        seed=seed,
        facts={"phantoms": lab.phantoms.model_dump(), "noise_sd_hu": lab.depth.noise_sd_hu},
        validate_every=lab.depth.steps,
        cost=net.depth,
    )

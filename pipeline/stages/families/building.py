"""The families of models: which settings make which training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

import torch

from pipeline.config.restoration import RestorationSettings
from pipeline.config.train import GANSettings, SegmentationSettings, TrainSettings, VAESettings
from pipeline.config.training import OptimSettings
from pipeline.data import Case, read_cases, read_fingerprint
from pipeline.engine import OptimizerPlan, Plan
from pipeline.errors import ConfigError
from pipeline.objectives import DISCRIMINATOR
from pipeline.stages.families.bundles import Training
from pipeline.stages.families.gan import build_gan
from pipeline.stages.families.restoration import build_restoration
from pipeline.stages.families.segmentation import build_segmentation
from pipeline.stages.families.vae import build_vae

ARCHITECTURES: Final[dict[str, tuple[str, ...]]] = {
    "restoration": ("redcnn", "rednet", "drunet", "residual_cnn", "cnn10"),
    "segmentation": ("unet",),
    "vae": ("vae",),
    "gan": ("dcgan",),
}
"""Models that a family can train: keys of `pipeline.models.MODELS`."""

_CPU: Final = torch.device("cpu")


def build_training(settings: TrainSettings, cases: Path, *, device: torch.device = _CPU) -> Training:
    """Build networks from the settings' seed, and batches and validation data from ingested cases.

    Args:
        settings: of the training.
        cases: folder that `ingest` wrote.
        device: where the training runs: volumes may lie there, and frozen networks do; the networks that are
            trained stay on the CPU until the engine takes them.

    Raises:
        ConfigError: the model is not of the family; the settings do not fit each other, or leave out every
            case or an unknown source; or a network or the classes cannot be built.
        DataError: the cases cannot be used for this family.
        BundleError: a feature loss names a bundle that is damaged, or no segmenter's.
    """
    _check_architecture(settings)
    training = _cases_of(cases, "train", settings.leave_out)
    validation = _cases_of(cases, "validation", settings.leave_out)
    fingerprint = read_fingerprint(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        match settings:
            case RestorationSettings():
                return build_restoration(settings, training, validation, fingerprint, device=device)
            case SegmentationSettings():
                return build_segmentation(settings, training, validation, fingerprint)
            case VAESettings():
                return build_vae(settings, training, validation, fingerprint)
            case GANSettings():
                return build_gan(settings, training, validation, fingerprint)
            case _:
                assert_never(settings)


def build_plan(name: str, settings: TrainSettings, product: str) -> Plan:
    """The engine's plan of a training whose main network is `product`."""
    optimizers = {product: _optimizer(settings.optim)}
    opponent = _opponent(settings)
    if opponent is not None:
        optimizers[DISCRIMINATOR] = _optimizer(opponent)
    return Plan(
        name=name,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizers=optimizers,
        seed=settings.seed,
        validate_every=settings.validate_every,
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        workers=settings.workers,
        accumulate=settings.accumulate,
    )


def _cases_of(cases: Path, role: str, leave_out: Sequence[str]) -> tuple[Case, ...]:
    """The cases of a role, without those of some sources."""
    sources = sorted({case.source for case in read_cases(cases)})
    listed = read_cases(cases, role)
    unknown = [source for source in leave_out if source not in sources]
    if unknown:
        raise ConfigError(
            f"leave_out: no case is of the source {', '.join(unknown)}; {cases} has {', '.join(sources)}"
        )
    kept = tuple(case for case in listed if case.source not in leave_out)
    if not kept:
        those = sorted({case.source for case in listed})
        raise ConfigError(f"leave_out: no {role} case is left; those of {cases} are of {', '.join(those)}")
    return kept


def _opponent(settings: TrainSettings) -> OptimSettings | None:
    """Of the discriminator, where there is one."""
    if isinstance(settings, GANSettings):
        return settings.discriminator_optim
    if isinstance(settings, RestorationSettings) and settings.adversarial is not None:
        return settings.adversarial.optim
    return None


def _check_architecture(settings: TrainSettings) -> None:
    fitting = ARCHITECTURES[settings.family]
    if settings.model.architecture not in fitting:
        raise ConfigError(
            f"model.architecture: {settings.model.architecture!r} is no model of the family "
            f"{settings.family}; it has {', '.join(fitting)}"
        )


def _optimizer(settings: OptimSettings) -> OptimizerPlan:
    return OptimizerPlan(
        learning_rate=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        final_fraction=settings.final_fraction,
    )

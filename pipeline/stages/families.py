"""From the settings of a family of models to its networks, samples, objective and bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, assert_never, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.bundle import Bundle
from pipeline.config.labels import LabelTable, load_labels
from pipeline.config.train import (
    GANSettings,
    OptimSettings,
    RestorationSettings,
    SegmentationSettings,
    SliceData,
    TrainSettings,
    VAESettings,
)
from pipeline.data import Case, read_cases, read_fingerprint
from pipeline.data.patches import (
    CentredSlices,
    LabelledSlices,
    PairedPatches,
    centred_slices,
    class_lookup,
    spread_slices,
)
from pipeline.degradations import Degradation, build_degradations
from pipeline.engine import OptimizerPlan, Plan
from pipeline.errors import ConfigError, DataError
from pipeline.hu import HUScale, HUWindow
from pipeline.models import DCGANDiscriminator, DCGANGenerator, build_model
from pipeline.objectives import (
    DISCRIMINATOR,
    ELBO,
    Adversarial,
    LabelledSlice,
    Objective,
    Restoration,
    RestorationPair,
    Segmentation,
)
from pipeline.transforms import generative_slices, labelled_slices

ARCHITECTURES: Final[dict[str, tuple[str, ...]]] = {
    "restoration": ("redcnn",),
    "segmentation": ("unet",),
    "vae": ("vae",),
    "gan": ("dcgan",),
}
"""Models that a family can train: keys of `pipeline.models.MODELS`."""

VALIDATION_SEED: Final = 0
"""Of the degradation of validation slices, whatever the seed of the training: its scores stay comparable."""


@dataclass(frozen=True)
class Training:
    """What the engine trains, and the bundle that its weights go into.

    Attributes:
        objective: losses and validation.
        networks: freshly built, by name.
        samples: sample `i` of the run at index `i`.
        bundle: complete but for weights, score, name and digests.
    """

    objective: Objective
    networks: Mapping[str, nn.Module]
    samples: Dataset[dict[str, Tensor]]
    bundle: Bundle


def build_training(settings: TrainSettings, cases: Path) -> Training:
    """Build networks from the settings' seed, and samples and validation data from ingested cases.

    Raises:
        ConfigError: the model is not of the family, or it or the classes cannot be built.
        DataError: the cases cannot be used for this family.
    """
    _check_architecture(settings)
    training, validation = read_cases(cases, "train"), read_cases(cases, "validation")
    fingerprint = read_fingerprint(cases)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        match settings:
            case RestorationSettings():
                return _restoration(settings, training, validation, fingerprint)
            case SegmentationSettings():
                return _segmentation(settings, training, validation, fingerprint)
            case VAESettings():
                return _vae(settings, training, validation, fingerprint)
            case GANSettings():
                return _gan(settings, training, validation, fingerprint)
            case _:
                assert_never(settings)


def build_plan(name: str, settings: TrainSettings, product: str) -> Plan:
    """The engine's plan of a training whose main network is `product`."""
    optimizers = {product: _optimizer(settings.optim)}
    if isinstance(settings, GANSettings):
        optimizers[DISCRIMINATOR] = _optimizer(settings.discriminator_optim)
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
    )


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


def _restoration(
    settings: RestorationSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    data = settings.data
    scale = HUScale(data.scale.zero_hu, data.scale.unit_hu)
    steps = [step.model_dump() for step in settings.degradation or ()]
    degradation = build_degradations(steps)
    return Training(
        objective=Restoration(
            scale, _pairs(validation, data.validation_slices, degradation), degradation=degradation
        ),
        networks={Restoration.product: build_model(settings.model.architecture, **settings.model.arguments)},
        samples=PairedPatches(training, patch_size=data.patch_size, seed=settings.seed),
        bundle=_blank(
            "denoiser",
            settings,
            settings.model.arguments,
            fingerprint,
            scale=scale,
            training={"degradation": steps} if steps else {},
        ),
    )


def _pairs(cases: Sequence[Case], slices: int, degradation: Sequence[Degradation]) -> list[RestorationPair]:
    """Whole slices of each case, at both doses or degraded."""
    chosen = [(case, position) for case in cases for position in spread_slices(case.shape[0], slices)]
    if not degradation:
        return [
            RestorationPair(case.low_dose()[position], case.normal_dose()[position])
            for case, position in chosen
        ]
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    return [
        RestorationPair.from_normal_dose(
            case.normal_dose()[position], degradation, pixel_mm=case.spacing_mm[1], generator=generator
        )
        for case, position in chosen
    ]


def _segmentation(
    settings: SegmentationSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    labels, class_of_label = _classes(data.classes, load_labels())
    slices = [
        LabelledSlice(
            case.normal_dose()[position],
            class_of_label[case.mask()[position]],
            (case.spacing_mm[1], case.spacing_mm[2]),
        )
        for case in _with_masks(validation)
        for position in spread_slices(case.shape[0], data.validation_slices)
    ]
    transform = labelled_slices(
        data.image_size,
        rotation_degrees=data.rotation_degrees,
        scale=data.scale,
        shift_hu=data.shift_hu,
        noise_hu=data.noise_hu,
    )
    arguments = {**settings.model.arguments, "classes": len(labels) + 1}
    return Training(
        objective=Segmentation(
            [label["name"] for label in labels],
            window=window,
            input_spacing_mm=data.input_spacing_mm,
            colours={label["value"]: label["rgb"] for label in labels},
            validation=slices,
        ),
        networks={Segmentation.product: build_model(settings.model.architecture, **arguments)},
        samples=LabelledSlices(
            _with_masks(training),
            transform,
            input_spacing_mm=data.input_spacing_mm,
            class_of_label=class_of_label,
            seed=settings.seed,
        ),
        bundle=_blank(
            "segmenter",
            settings,
            arguments,
            fingerprint,
            window=window,
            input_spacing_mm=data.input_spacing_mm,
            labels=tuple(labels),
        ),
    )


def _vae(
    settings: VAESettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    arguments = {**settings.model.arguments, "image_size": data.image_size}
    vae = build_model(settings.model.architecture, **arguments)
    objective = ELBO(
        window,
        noise_sd=settings.noise_sd,
        beta=settings.beta,
        warmup_steps=settings.beta_warmup_steps,
        validation=_centred(validation, data),
    )
    return Training(
        objective=objective,
        networks={ELBO.product: vae},
        samples=_centred_samples(training, data, settings.seed),
        bundle=_blank(
            "vae",
            settings,
            arguments,
            fingerprint,
            window=window,
            training={"field_of_view_mm": data.field_of_view_mm, "noise_sd": settings.noise_sd},
        ),
    )


def _gan(
    settings: GANSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    arguments = {**settings.model.arguments, "image_size": data.image_size}
    generator = cast(DCGANGenerator, build_model(settings.model.architecture, **arguments))
    objective = Adversarial(
        window, latent_dimensions=generator.latent_dimensions, validation=_centred(validation, data)
    )
    discriminator = DCGANDiscriminator(data.image_size, settings.discriminator_features)
    return Training(
        objective=objective,
        networks={Adversarial.product: generator, DISCRIMINATOR: discriminator},
        samples=_centred_samples(training, data, settings.seed),
        bundle=_blank(
            "gan",
            settings,
            arguments,
            fingerprint,
            window=window,
            training={"field_of_view_mm": data.field_of_view_mm},
        ),
    )


def _centred(cases: Sequence[Case], data: SliceData) -> Tensor:
    return torch.cat(
        [
            centred_slices(case, image_size=data.image_size, field_of_view_mm=data.field_of_view_mm)
            for case in cases
        ]
    )


def _centred_samples(cases: Sequence[Case], data: SliceData, seed: int) -> CentredSlices:
    transform = generative_slices(shift_pixels=data.shift_pixels, scale=data.scale)
    return CentredSlices(
        cases, transform, image_size=data.image_size, field_of_view_mm=data.field_of_view_mm, seed=seed
    )


def _with_masks(cases: Sequence[Case]) -> list[Case]:
    masked = [case for case in cases if case.has_mask]
    if not masked:
        raise DataError(f"no {cases[0].role} case has a mask; a segmenter needs labels: see the manifest")
    return masked


def _classes(names: Sequence[str], table: LabelTable) -> tuple[list[dict[str, Any]], npt.NDArray[np.uint8]]:
    """Bundle labels of classes 1 (the body), 2, … and the class of each mask value."""
    try:
        class_of_label = class_lookup(
            names, {label.name: label.value for label in table.labels}, table.outside
        )
    except ValueError as unknown:
        raise ConfigError(f"data.classes: {unknown}") from None
    by_name = {label.name: label for label in table.labels}
    chosen = [table.body, *(by_name[name] for name in names)]
    labels = [{**label.model_dump(), "value": value} for value, label in enumerate(chosen, start=1)]
    return labels, class_of_label


def _blank(
    kind: str,
    settings: TrainSettings,
    arguments: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    scale: HUScale | None = None,
    window: HUWindow | None = None,
    input_spacing_mm: float | None = None,
    training: Mapping[str, Any] = MappingProxyType({}),
    labels: tuple[Mapping[str, Any], ...] = (),
) -> Bundle:
    return Bundle(
        kind=kind,
        architecture=settings.model.architecture,
        arguments=arguments,
        name=kind,
        scale=scale,
        window=window,
        input_spacing_mm=input_spacing_mm,
        training=dict(training),
        labels=labels,
        fingerprint=fingerprint,
        score={},
        config_digest="",
        data_digest="",
        tensors={},
    )

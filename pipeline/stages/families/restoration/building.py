"""Settings and cases to a denoiser, its batches, its objective and its blank bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.config.restoration import Game, NonSaturatingGame, RestorationSettings
from pipeline.data import Case
from pipeline.data.batches import Batches
from pipeline.data.low_dose_batches import LowDoseBatches
from pipeline.data.patch_batches import PatchBatches
from pipeline.degradations import Degradation, build_degradations
from pipeline.hu import HUScale
from pipeline.losses import LossTerm, build_loss_terms
from pipeline.models import build_model
from pipeline.models.apply import neighbours_of, takes_noise_map
from pipeline.models.discriminator import patch_discriminator
from pipeline.objectives import (
    DISCRIMINATOR,
    AdversarialRestoration,
    NonSaturating,
    Objective,
    Restoration,
    RestorationPair,
    Wasserstein,
)
from pipeline.stages.bars import progress
from pipeline.stages.families.bundles import Training, blank_bundle
from pipeline.stages.families.restoration.checks import check_low_dose, check_network, check_patch_size
from pipeline.stages.families.restoration.encoders import load_encoders
from pipeline.stages.families.restoration.scans import scan_remarks
from pipeline.stages.families.restoration.start import load_start
from pipeline.stages.families.restoration.validation import (
    degraded_pairs,
    made_in_words,
    made_pairs,
    stored_pairs,
)
from pipeline.transforms.batch import TissueVariety


def build_restoration(
    settings: RestorationSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
    *,
    device: torch.device,
) -> Training:
    """A denoiser with its batches and validation slices, and its discriminator if it has one.

    Raises:
        ConfigError: the settings do not fit the network, or name an encoder or first weights that are not
            there or do not fit.
        DataError: the cases lack the low dose that the settings take, or do not fit patches or neighbours.
        BundleError: an encoder's bundle is damaged, or no segmenter's; or that of the first weights, or no
            denoiser's.
    """
    network = build_model(settings.model.architecture, **settings.model.arguments)
    scale = HUScale(settings.data.scale.zero_hu, settings.data.scale.unit_hu)
    check_network(network, settings, scale)
    check_low_dose(training, settings)
    check_low_dose(validation, settings)
    started_from = load_start(network, settings, scale)
    encoders = load_encoders(settings, scale, device)
    losses = build_loss_terms(
        settings.loss_terms(),
        zero_hu=scale.zero_hu,
        unit_hu=scale.unit_hu,
        encoders={path: encoder.features for path, encoder in encoders.items()},
    )
    networks = {Restoration.product: network}
    if settings.adversarial is not None:
        networks[DISCRIMINATOR] = _discriminator(settings.adversarial, settings.data.patch_size)
    batches = _batches(settings, network, training, device)
    pairs, assumed = _pairs(settings, network, validation)
    remarks: tuple[str, ...] = ()
    if settings.low_dose is not None and isinstance(batches, LowDoseBatches):
        remarks = scan_remarks((*training, *validation), (*batches.assumed, *assumed), settings.low_dose)
    return Training(
        objective=_objective(settings, scale, losses, pairs),
        networks=networks,
        batches=batches,
        bundle=blank_bundle(
            "denoiser",
            settings,
            settings.model.arguments,
            fingerprint,
            scale=scale,
            training=_record(
                settings,
                batches,
                encoders={path: encoder.model_hash for path, encoder in encoders.items()},
                start_from=started_from,
            ),
        ),
        remarks=remarks,
    )


def _objective(
    settings: RestorationSettings,
    scale: HUScale,
    losses: Sequence[LossTerm],
    validation: Sequence[RestorationPair],
) -> Objective:
    restoration = Restoration(
        scale,
        validation,
        losses=losses,
        degradation=_degradation(settings),
        input_words=None if settings.low_dose is None else made_in_words(settings.low_dose),
        per_noise=settings.error_unit == "noise_sd",
    )
    return restoration if settings.adversarial is None else _with_game(restoration, settings.adversarial)


def _degradation(settings: RestorationSettings) -> Sequence[Degradation]:
    return build_degradations(step.model_dump() for step in settings.degradation or ())


def _pairs(
    settings: RestorationSettings, network: nn.Module, cases: Sequence[Case]
) -> tuple[list[RestorationPair], list[Case]]:
    """Validation slices, and the cases whose scan is assumed for them."""
    slices, degradation = settings.data.validation_slices, _degradation(settings)
    if settings.low_dose is not None:
        return made_pairs(cases, slices, settings.low_dose, noise_levels=takes_noise_map(network))
    if degradation:
        return degraded_pairs(cases, slices, degradation), []
    return stored_pairs(cases, slices, network), []


def _batches(
    settings: RestorationSettings, network: nn.Module, cases: Sequence[Case], device: torch.device
) -> Batches:
    data = settings.data
    tissue = TissueVariety(data.shift_hu, data.contrast)
    if settings.low_dose is not None:
        return LowDoseBatches(
            cases,
            patch_size=data.patch_size,
            batch_size=settings.batch_size,
            seed=settings.seed,
            zooms=data.zooms,
            noise_levels=takes_noise_map(network),
            tissue=tissue,
            device=device,
            progress=lambda cases: progress(cases, "Scans and noise levels"),
            **settings.low_dose.model_dump(),
        )
    return PatchBatches(
        cases,
        patch_size=data.patch_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        neighbours=neighbours_of(network),
        zooms=data.zooms,
        with_low_dose=settings.degradation is None,
        noise_levels=takes_noise_map(network),
        tissue=tissue,
        device=device,
    )


def _with_game(restoration: Restoration, settings: Game) -> AdversarialRestoration:
    game = (
        NonSaturating(settings.r1_gamma)
        if isinstance(settings, NonSaturatingGame)
        else Wasserstein(settings.penalty_weight, settings.critic_steps)
    )
    return AdversarialRestoration(
        restoration,
        game=game,
        weight=settings.weight,
        start_step=settings.start_step,
        ramp_steps=settings.ramp_steps,
        keep=settings.keep,
    )


def _discriminator(settings: Game, patch_size: int) -> nn.Module:
    """Without spectral normalisation: the penalty of either game bounds the slope already."""
    discriminator = patch_discriminator(
        features=settings.discriminator.features,
        layers=settings.discriminator.layers,
        spectral_norm=False,
    )
    check_patch_size("adversarial.discriminator", discriminator, patch_size)
    return discriminator


def _record(
    settings: RestorationSettings, batches: Batches, *, encoders: Mapping[str, str], start_from: str | None
) -> dict[str, Any]:
    """What the bundle keeps: losses, how the input was made, its noise, the game, other bundles' hashes."""
    told = {"losses", "degradation", "low_dose", "adversarial"}
    if settings.error_unit != "hu":
        told.add("error_unit")
    kept = settings.model_dump(mode="json", include=told)
    if isinstance(batches, LowDoseBatches) and batches.noise_sd_hu is not None:
        kept["low_dose"]["noise_sd_hu"] = list(batches.noise_sd_hu)
    kept |= {"encoders": dict(encoders), "start_from": start_from}
    return {name: value for name, value in kept.items() if value}

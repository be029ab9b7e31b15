"""`ldct predict IN OUT`: denoise and segment a folder of DICOM series."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import torch

from pipeline import tracking
from pipeline.bundle import Bundle, load_bundle
from pipeline.config import load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.predict import PredictSettings
from pipeline.errors import BundleError, ConfigError
from pipeline.inference.folder import check_folders, run_folder
from pipeline.inference.networks import Network
from pipeline.inference.outcomes import exit_code
from pipeline.inference.pseudonyms import Pseudonyms, load_secret, secret_path
from pipeline.inference.restoration import Restoration
from pipeline.inference.terminal import Terminal
from pipeline.models.precision import Precision, preferred_device, preferred_precision


def run(
    source: Path,
    target: Path,
    *,
    denoiser: Path | None = None,
    segmenter: Path | None = None,
    settings: Path | None = None,
    strength: float | None = None,
) -> int:
    """Process every CT series below `source` into `target` and print a line per series.

    Args:
        source: folder with DICOM files.
        target: folder for derived series, segmentations and the journal.
        denoiser: bundle of a denoiser.
        segmenter: bundle of a segmenter. If neither is named, the registry's champions are taken.
        settings: `predict.yaml`; without it the defaults of `PredictSettings`.
        strength: overrides the settings.

    Returns:
        Exit code: 0 all done, 3 some series refused or failed, 1 nothing done.

    Raises:
        ConfigError: settings or strength cannot be used.
        BundleError: a bundle is missing, of another kind, or there is none at all.
        DataError: a folder cannot be used, holds no CT, or is in use by another run.
    """
    chosen = _settings(settings, strength)
    check_folders(source, target)
    secret = secret_path(os.environ, root=tracking.project_root(), apart_from=(source, target))
    restoration = _restoration(denoiser, segmenter, chosen)
    pseudonyms = Pseudonyms(load_secret(secret))
    with Terminal(restoration.command) as terminal:
        outcomes = run_folder(
            source,
            target,
            restoration,
            pseudonyms=pseudonyms,
            now=datetime.now(UTC),
            fixed_clock=fixed_clock(os.environ),
            observer=terminal,
        )
    return exit_code(outcomes)


def _settings(path: Path | None, strength: float | None) -> PredictSettings:
    chosen = PredictSettings() if path is None else load_settings(path, PredictSettings)
    if strength is None:
        return chosen
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(
            f"--strength {strength}: must lie between 0 (no change) and 1 (all of the correction)"
        )
    return chosen.model_copy(update={"strength": strength})


def _restoration(denoiser: Path | None, segmenter: Path | None, chosen: PredictSettings) -> Restoration:
    if denoiser is None and segmenter is None:
        denoiser, segmenter = tracking.champion("denoiser"), tracking.champion("segmenter")
    if denoiser is None and segmenter is None:
        raise BundleError(
            "no trained model yet: run `make repro`, or name one with --denoiser or --segmenter"
        )
    return Restoration(
        denoiser=None if denoiser is None else _network(denoiser, "denoiser", chosen),
        segmenter=None if segmenter is None else _network(segmenter, "segmenter", chosen),
        strength=chosen.strength,
        not_for_diagnosis=chosen.not_for_diagnosis,
    )


def _network(path: Path, kind: str, chosen: PredictSettings) -> Network:
    bundle, device = load_bundle(path, kind), preferred_device()
    precision = _precision(bundle, device) if chosen.precision == "auto" else chosen.precision
    return Network.load(bundle, device=device, precision=precision, batch_slices=chosen.batch_slices)


def _precision(bundle: Bundle, device: torch.device) -> Precision:
    """bf16 where the hardware has it and the bundle was trained in it: never coarser than that."""
    return preferred_precision(device) if bundle.precision == "bf16" else "fp32"

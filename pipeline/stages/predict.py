"""`ldct predict IN OUT`: denoise and segment a folder of DICOM series."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

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

_RANGES = {
    "strength": "a number from 0 (no change) to 1 (all of the correction)",
    "on_unfamiliar": "warn, pass or refuse",
}


def run(
    source: Path,
    target: Path,
    *,
    denoiser: Path | None = None,
    segmenter: Path | None = None,
    settings: Path | None = None,
    strength: float | None = None,
    on_unfamiliar: str | None = None,
    nifti: bool | None = None,
    verify: bool = False,
) -> int:
    """Process every CT series below `source` into `target` and print a line per series.

    Args:
        source: folder with DICOM files.
        target: folder for derived series, segmentations and the journal.
        denoiser: bundle of a denoiser.
        segmenter: bundle of a segmenter. If neither is named, the registry's champions are taken.
        settings: `predict.yaml`; without it the defaults of `PredictSettings`.
        strength: share of the denoiser's correction; overrides the settings.
        on_unfamiliar: `warn`, `pass` or `refuse`; overrides the settings.
        nifti: whether to write NIfTI too; overrides the settings.
        verify: read sources and outputs of finished series again, and redo what differs.

    Returns:
        Exit code: 0 all done, 3 some series refused or failed, 1 nothing done.

    Raises:
        ConfigError: the settings, or what overrides them, cannot be used.
        BundleError: a bundle is missing, of another kind, or there is none at all.
        DataError: a folder cannot be used or holds no CT.
    """
    given = {"strength": strength, "on_unfamiliar": on_unfamiliar, "nifti": nifti}
    chosen = _settings(settings, {name: value for name, value in given.items() if value is not None})
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
            verify=verify,
        )
    return exit_code(outcomes)


def _settings(path: Path | None, given: dict[str, Any]) -> PredictSettings:
    """The settings of a file, or their defaults, with what the command line gives in their place."""
    chosen = PredictSettings() if path is None else load_settings(path, PredictSettings)
    try:
        return PredictSettings(**(chosen.model_dump() | given))
    except ValidationError as invalid:
        name = str(invalid.errors()[0]["loc"][0])
        raise ConfigError(f"--{name.replace('_', '-')} {given[name]}: must be {_RANGES[name]}") from None


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
        on_unfamiliar=chosen.on_unfamiliar,
        nifti=chosen.nifti,
    )


def _network(path: Path, kind: str, chosen: PredictSettings) -> Network:
    bundle, device = load_bundle(path, kind), preferred_device()
    precision = _precision(bundle, device) if chosen.precision == "auto" else chosen.precision
    return Network.load(
        bundle,
        device=device,
        precision=precision,
        batch_slices=None if chosen.batch_slices == "auto" else chosen.batch_slices,
        tile_pixels=chosen.tile_pixels,
    )


def _precision(bundle: Bundle, device: torch.device) -> Precision:
    """bf16 where the hardware has it and the bundle was trained in it: never coarser than that."""
    return preferred_precision(device) if bundle.precision == "bf16" else "fp32"

"""`ldct predict IN OUT`: denoise and segment a folder of DICOM series."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import __version__, tracking
from pipeline.bundle import load_bundle
from pipeline.config import load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.predict import PredictSettings
from pipeline.errors import BundleError, ConfigError
from pipeline.inference.folder import check_folders, run_folder
from pipeline.inference.outcomes import exit_code
from pipeline.inference.output.pseudonyms import Pseudonyms, load_secret, secret_path
from pipeline.inference.restoration.engines import choose_engine
from pipeline.inference.restoration.memory import keep_freed_memory
from pipeline.inference.restoration.networks import Network
from pipeline.inference.restoration.treatment import Restoration
from pipeline.inference.terminal import Terminal
from pipeline.models.precision import preferred_device
from pipeline.weights import VARIANTS, Variant, shipped

_RANGES = {
    "strength": "a number from 0 (no change) to 1 (all of the correction)",
    "noise_sd_hu": "a number of HU, above 0 and at most 2000",
    "on_unfamiliar": "warn, pass or refuse",
    "engine": "auto, torch or openvino",
    "precision": "auto, fp32, bf16 or int8",
}


@dataclass(frozen=True)
class _Bundles:
    """The files of a run; a shipped denoiser is one that nobody named or trained here."""

    denoiser: Path | None
    segmenter: Path | None
    is_shipped: bool = False


def run(
    source: Path,
    target: Path,
    *,
    denoiser: Path | None = None,
    texture: bool | None = None,
    segmenter: Path | None = None,
    settings: Path | None = None,
    strength: float | None = None,
    noise_sd_hu: float | None = None,
    on_unfamiliar: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    nifti: bool | None = None,
    verify: bool = False,
) -> int:
    """Process every CT series below `source` into `target` and print a line per series.

    Args:
        source: folder with DICOM files.
        target: folder for derived series, segmentations and the journal.
        denoiser: bundle of a denoiser.
        texture: which of the shipped denoisers, where one of them is taken: true for the one whose noise is
            nearer to that of a normal dose; None where nobody said.
        segmenter: bundle of a segmenter. If neither is named, the registry's champions are taken, and without
            a champion the shipped denoiser.
        settings: `predict.yaml`; without it the defaults of `PredictSettings`.
        strength: share of the denoiser's correction; overrides the settings.
        noise_sd_hu: noise of every series, which the denoiser is told; overrides the settings.
        on_unfamiliar: `warn`, `pass` or `refuse`; overrides the settings.
        engine: `auto`, `torch` or `openvino`; overrides the settings.
        precision: `auto`, `fp32`, `bf16` or `int8`; overrides the settings.
        nifti: whether to write NIfTI too; overrides the settings.
        verify: read sources and outputs of finished series again, and redo what differs.

    Returns:
        Exit code: 0 all done, 3 some series refused or failed, 1 nothing done.

    Raises:
        ConfigError: the settings, or what overrides them, cannot be used.
        BundleError: a bundle is missing, of another kind, or there is none at all.
        DataError: a folder cannot be used or holds no CT.
    """
    given = {
        "strength": strength,
        "noise_sd_hu": noise_sd_hu,
        "on_unfamiliar": on_unfamiliar,
        "engine": engine,
        "precision": precision,
        "nifti": nifti,
    }
    chosen = _settings(settings, {name: value for name, value in given.items() if value is not None})
    check_folders(source, target)
    secret = secret_path(os.environ, root=tracking.project_root(), apart_from=(source, target))
    bundles = _bundles(denoiser, segmenter, texture)
    keep_freed_memory()
    restoration = _restoration(bundles, chosen)
    pseudonyms = Pseudonyms(load_secret(secret))
    with Terminal(restoration.command, tuple(_about(restoration, bundles))) as terminal:
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


def _bundles(denoiser: Path | None, segmenter: Path | None, texture: bool | None) -> _Bundles:
    """Those named; where none is, the champions, and for want of one the shipped denoiser.

    Where a denoiser ships, a champion that saw phantoms alone, such as the demo's, does not count.

    Raises:
        ConfigError: `texture` is given, and another denoiser than a shipped one is taken.
        BundleError: there is no bundle, or none of that texture.
    """
    if denoiser is not None or segmenter is not None:
        _check_shipped_is_meant(texture, "a network is named; leave one of the two options out")
        return _Bundles(denoiser, segmenter)
    ours = shipped("texture" if texture else "plain")
    champion = tracking.champion("denoiser", phantoms_alone=ours is None)
    segmenter = tracking.champion("segmenter", phantoms_alone=ours is None)
    if champion is not None:
        way_out = "leave the option out" if ours is None else f"to take the shipped one name {ours}"
        _check_shipped_is_meant(texture, f"the registry's champion goes first; {way_out}")
        return _Bundles(champion, segmenter)
    if ours is None and texture is not None:
        raise BundleError(_about_missing("texture" if texture else "plain"))
    if ours is None and segmenter is None:
        raise BundleError(
            "no trained model yet: run `make repro`, or name one with --denoiser or --segmenter"
        )
    return _Bundles(ours, segmenter, is_shipped=ours is not None)


def _check_shipped_is_meant(texture: bool | None, otherwise: str) -> None:
    if texture is not None:
        option = "--texture" if texture else "--no-texture"
        raise ConfigError(f"{option} chooses between the shipped denoisers, and {otherwise}")


def _about_missing(variant: Variant) -> str:
    without = "this copy of ldct-pipeline came without its"
    option, other, other_option = {
        "texture": ("--texture", "plain", "--no-texture"),
        "plain": ("--no-texture", "texture", "--texture"),
    }[variant]
    if all(shipped(one) is None for one in VARIANTS):
        return f"{without} denoisers; name one with --denoiser"
    return (
        f"{option}: {without} {variant} denoiser; take the {other} one with {other_option}, or name one "
        "with --denoiser"
    )


def _about(restoration: Restoration, bundles: _Bundles) -> Iterator[str]:
    """A line for each network: what it is, and what computes it."""
    networks = (
        ("denoiser", restoration.denoiser, bundles.denoiser),
        ("segmenter", restoration.segmenter, bundles.segmenter),
    )
    for kind, network, path in networks:
        if network is not None:
            bundle = network.bundle
            is_shipped = bundles.is_shipped and kind == "denoiser"
            origin = f"shipped with ldct-pipeline {__version__}, " if is_shipped else ""
            yield f"{kind}: {bundle.name} {bundle.model_hash[:12]} ({origin}{path}), {network.engine}"


def _restoration(bundles: _Bundles, chosen: PredictSettings) -> Restoration:
    denoiser, segmenter = bundles.denoiser, bundles.segmenter
    if denoiser is None:
        _check_engine_has_a_denoiser(chosen)
    network = None if denoiser is None else _network(denoiser, "denoiser", chosen)
    return Restoration(
        denoiser=network,
        segmenter=None if segmenter is None else _network(segmenter, "segmenter", chosen),
        strength=chosen.strength,
        told_noise_sd_hu=_told_noise_sd_hu(network, chosen),
        not_for_diagnosis=chosen.not_for_diagnosis,
        on_unfamiliar=chosen.on_unfamiliar,
        nifti=chosen.nifti,
    )


def _told_noise_sd_hu(denoiser: Network | None, chosen: PredictSettings) -> float | None:
    if chosen.noise_sd_hu == "auto":
        return None
    if denoiser is None or not denoiser.noise_map:
        why = "this run has no denoiser" if denoiser is None else f"{denoiser.bundle.name} is not told it"
        raise ConfigError(f"--noise-sd-hu: {why}; leave the option out")
    return chosen.noise_sd_hu


def _check_engine_has_a_denoiser(chosen: PredictSettings) -> None:
    if chosen.engine == "openvino" or chosen.precision == "int8":
        asked = "--engine openvino" if chosen.engine == "openvino" else "--precision int8"
        raise ConfigError(
            f"{asked}: OpenVINO computes denoisers only, and this run has none; name one with --denoiser, "
            "or leave the option out: segmenters run in torch"
        )


def _network(path: Path, kind: str, chosen: PredictSettings) -> Network:
    bundle, device = load_bundle(path, kind), preferred_device()
    engine, precision = choose_engine(chosen.engine, chosen.precision, bundle=bundle, device=device)
    return Network.load(
        bundle,
        device=device,
        precision=precision,
        engine=engine,
        batch_slices=None if chosen.batch_slices == "auto" else chosen.batch_slices,
        tile_pixels=chosen.tile_pixels,
    )

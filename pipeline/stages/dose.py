"""`ldct simulate dose IN OUT`: low-dose partners for a folder of normal-dose CT series."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, get_args

from pipeline import tracking
from pipeline.config.clock import fixed_clock
from pipeline.dose.texture import parse_kernel
from pipeline.errors import ConfigError, DataError
from pipeline.inference.folder import check_folders, run_folder
from pipeline.inference.low_dose.method import BowtieChoice, FluxChoice, GeometryChoice, Method
from pipeline.inference.low_dose.pairs import MANIFEST, SPLIT, dose_folder
from pipeline.inference.low_dose.treatment import LowDose
from pipeline.inference.outcomes import FINISHED, exit_code
from pipeline.inference.output.journal import finished
from pipeline.inference.output.pseudonyms import Pseudonyms, load_secret, secret_path
from pipeline.inference.terminal import Terminal
from pipeline.models.precision import preferred_device

_CORES_PER_WORKER: Final = 2
_BYTES_PER_WORKER: Final = 1_500_000_000
"""Peak of one worker at 512²; workers together get half of the machine's memory."""

_MOST_PHOTONS: Final = 1e9
"""Per ray, a hundred times what any scan has: surely a slip."""

Choice = TypeVar("Choice", bound=str)


def run(
    source: Path,
    target: Path,
    *,
    doses: Sequence[float],
    flux: str = "image",
    kernel: str = "image",
    geometry: str = "fan",
    bowtie: str = "auto",
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Give every CT series below `source` a partner per dose in `target`, and print a line per series.

    Args:
        source: folder with normal-dose DICOM files.
        target: folder for the pairs, their manifest and the journal.
        doses: shares of the dose to keep, each above 0 and below 1.
        flux: `image`, `tags`, or photons per ray at normal dose.
        kernel: `image`, `ramp`, `hann`, or `hann:` and its cut-off in shares of the Nyquist frequency.
        geometry: `fan` or `parallel`.
        bowtie: `auto`, `body`, `head` or `none`.
        seed: of the noise and of the hold-out split.
        workers: series worked on side by side; None is one on a GPU, else one per two cores, fewer where
            memory is short.

    Returns:
        Exit code: 0 all done, 3 some series refused or failed, 1 nothing done.

    Raises:
        ConfigError: an option cannot be used.
        DataError: a folder cannot be used, holds no CT, or holds pairs of other options.
    """
    method = Method(
        dose_fractions=_dose_fractions(doses),
        flux=_flux(flux),
        kernel=_kernel(kernel),
        geometry=_choice("--geometry", geometry, get_args(GeometryChoice)),
        bowtie=_choice("--bowtie", bowtie, get_args(BowtieChoice)),
        seed=seed,
    )
    check_folders(source, target)
    _check_options(target, method)
    secret = secret_path(os.environ, root=tracking.project_root(), apart_from=(source, target))
    pseudonyms, device = Pseudonyms(load_secret(secret)), preferred_device()
    treatment = LowDose(method=method, pseudonyms=pseudonyms, device=device)
    with Terminal(treatment.command) as terminal:
        outcomes = run_folder(
            source,
            target,
            treatment,
            pseudonyms=pseudonyms,
            now=datetime.now(UTC),
            fixed_clock=fixed_clock(os.environ),
            observer=terminal,
            workers=workers
            or default_workers(
                device.type,
                cores=os.cpu_count() or 1,
                memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            ),
        )
    if any(outcome.verdict in FINISHED for outcome in outcomes):
        terminal.say(_next_step(target))
    return exit_code(outcomes)


def _check_options(target: Path, method: Method) -> None:
    """Refuse to replace pairs that were made with other options; those of one folder are all alike."""
    earlier = next((record for _, record in finished(target) if record.simulated is not None), None)
    if earlier is None:
        return
    made_with = Method.from_recipe(earlier.recipe)
    if made_with != method:
        raise DataError(
            f"{target}: made with {made_with.command_line()}; name another folder, or repeat those options"
        )


def _next_step(target: Path) -> str:
    manifest = target / MANIFEST
    if not (manifest / "cases.csv").exists():
        return "no manifest: no series is a regular volume; ingest stores volumes"
    return (
        f"next: `- {{manifest: {manifest}, split: {SPLIT}, root: {target}}}` below `sources:` in "
        "configs/<preset>/ingest.yaml"
    )


def default_workers(device_type: str, *, cores: int, memory_bytes: int) -> int:
    """Workers that share a machine well: on a GPU one, which keeps it busy and fits its memory.

    Args:
        device_type: `cpu`, `cuda` or another of torch.
        cores: of the machine.
        memory_bytes: of the machine.
    """
    if device_type != "cpu":
        return 1
    return max(1, min(cores // _CORES_PER_WORKER, memory_bytes // 2 // _BYTES_PER_WORKER))


def _dose_fractions(doses: Sequence[float]) -> tuple[float, ...]:
    if not doses:
        raise ConfigError("no --dose: name at least one, e.g. --dose 0.25")
    for dose in doses:
        if not 0 < dose < 1:
            raise ConfigError(
                f"--dose {dose:g}: must lie between 0 and 1 (the share of the dose to keep), both excluded"
            )
    folders = [dose_folder(dose) for dose in doses]
    twice = next((dose for dose, name in zip(doses, folders, strict=True) if folders.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--dose {twice:g} is named twice; name each dose once")
    return tuple(doses)


def _flux(text: str) -> FluxChoice:
    if text in ("image", "tags"):
        return text  # type: ignore[return-value]  # the literal is one of the two
    try:
        photons = float(text)
    except ValueError:
        photons = math.nan
    if not 0 < photons <= _MOST_PHOTONS:
        raise ConfigError(
            f"--flux {text}: must be image, tags or a number of photons per ray such as 2e5, "
            f"at most {_MOST_PHOTONS:.0e}"
        )
    return photons


def _kernel(text: str) -> str:
    if text != "image":
        parse_kernel(text, pixel_mm=1.0)
    return text


def _choice(option: str, text: str, known: tuple[Choice, ...]) -> Choice:
    for one in known:
        if one == text:
            return one
    raise ConfigError(f"{option} {text}: must be one of {', '.join(known)}")

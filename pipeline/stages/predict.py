"""`ldct predict IN OUT`: denoise and segment a folder of DICOM series."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline import tracking
from pipeline.bundle import Bundle, load_bundle
from pipeline.config import load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.predict import PredictSettings
from pipeline.dicom import Verdict
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.inference.folder import check_folders, run_folder
from pipeline.inference.networks import Network
from pipeline.inference.outcomes import Outcome, exit_code
from pipeline.inference.pseudonyms import Pseudonyms, load_secret
from pipeline.inference.treatment import Treatment
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
    secret_path = _secret_path(os.environ, apart_from=(source, target))
    treatment = _treatment(denoiser, segmenter, chosen)
    secret = load_secret(secret_path)
    with _Terminal() as terminal:
        outcomes = run_folder(
            source,
            target,
            treatment,
            pseudonyms=Pseudonyms(secret),
            now=datetime.now(UTC),
            fixed_clock=fixed_clock(os.environ),
            observer=terminal,
        )
    return exit_code(outcomes)


def _secret_path(environment: Mapping[str, str], *, apart_from: Sequence[Path]) -> Path:
    """Where the pseudonym secret lies: in the project, or outside of one among the user's own state.

    Raises:
        DataError: that is inside one of the folders `apart_from`, which get handed on.
    """
    root = tracking.project_root()
    in_project = environment.get("DVC_ROOT") or (root / "dvc.yaml").is_file()
    secret = (root / ".ldct" if in_project else _state_home(environment) / "ldct").resolve() / "secret"
    for folder in apart_from:
        if secret.is_relative_to(folder.resolve()):
            raise DataError(f"{folder}: holds the pseudonym secret {secret}; name a folder without it")
    return secret


def _state_home(environment: Mapping[str, str]) -> Path:
    """The user's folder for state; a relative XDG_STATE_HOME is to be ignored (XDG Base Directory 0.8)."""
    named = Path(environment.get("XDG_STATE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".local" / "state"


def _settings(path: Path | None, strength: float | None) -> PredictSettings:
    chosen = PredictSettings() if path is None else load_settings(path, PredictSettings)
    if strength is None:
        return chosen
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(
            f"--strength {strength}: must lie between 0 (no change) and 1 (all of the correction)"
        )
    return chosen.model_copy(update={"strength": strength})


def _treatment(denoiser: Path | None, segmenter: Path | None, chosen: PredictSettings) -> Treatment:
    if denoiser is None and segmenter is None:
        denoiser, segmenter = tracking.champion("denoiser"), tracking.champion("segmenter")
    if denoiser is None and segmenter is None:
        raise BundleError(
            "no trained model yet: run `make repro`, or name one with --denoiser or --segmenter"
        )
    return Treatment(
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


class _Terminal:
    """A line per series, and below them a bar of all slices where the output is a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("files", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._counts:
            total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self._counts.items()))
            self._console.print(f"predict: {total}")

    def looked_at(self, files: int) -> None:
        self._show(completed=files)

    def planned(self, slices: int) -> None:
        self._show(description="slices", completed=0, total=slices)

    def advanced(self, slices: int) -> None:
        self._show(advance=slices)

    def settled(self, outcome: Outcome) -> None:
        verdict = str(outcome.verdict)
        self._counts[verdict] += 1
        if outcome.series is None and outcome.verdict == Verdict.SKIPPED:
            return
        where = outcome.series or "file"
        reason = " ".join([*outcome.reason_codes, outcome.message]).strip()
        again = " (already done)" if outcome.reused else ""
        line = f"{verdict:9} {where}  files: {outcome.files}{again}"
        self._console.print(f"{line}  {reason}" if reason else line, markup=False)

    def _show(self, **changes: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **changes)

"""Ingest: the pairs that a manifest lists, read, checked and stored in HU, with a picture per case."""

from __future__ import annotations

import colorsys
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from pipeline.config import Layout, load_settings
from pipeline.config.ingest import IngestSettings
from pipeline.data.cases import INDEX, Case, write_index
from pipeline.data.fingerprint import CaseStatistics, count_hu, describe, write_fingerprint
from pipeline.data.ingestion import IngestedCase, ingest_case
from pipeline.errors import ConfigError, DataError
from pipeline.figures import Panel, save_panels
from pipeline.hu import ABDOMEN, HEAD, HUWindow
from pipeline.inference.noise import global_noise_sd_hu
from pipeline.manifest import ROLES, ManifestCase, digest_of, file_sha256, read_manifest, read_split

_WINDOWS: Final[Mapping[str, HUWindow]] = {"head": HEAD}
_GOLDEN_RATIO: Final = 0.618034

Result = tuple[IngestedCase, CaseStatistics]


def run(preset: str) -> None:
    """Ingest the manifest of a preset into `data/<preset>/cases`, all of it or nothing.

    Raises:
        ConfigError: a setting is unknown or invalid, or names an environment variable that is not set.
        DataError: the manifest or the split is invalid, or a case cannot be used.
    """
    layout = Layout(preset)
    config = layout.config("ingest")
    settings = load_settings(config, IngestSettings)
    root = _resolve_root(config, settings.root)
    cases = read_manifest(settings.manifest)
    roles = read_split(settings.manifest, settings.split, cases)
    console = Console(stderr=True)
    with _staged(layout.cases) as folder:
        job = partial(_ingest, root=root, folder=folder)
        done = _run_all(job, cases, roles, workers=settings.workers, console=console)
        if len(done) < len(cases):
            raise DataError(
                f"{settings.manifest / 'cases.csv'}: {len(cases) - len(done)} of {len(cases)} cases cannot be used "
                "(see above), so nothing was written; repair or remove them"
            )
        _write_summary(folder, [done[case.case_id] for case in cases])
    console.print(f"ingest: {len(cases)} cases in {layout.cases}", highlight=False)


def _resolve_root(config: Path, root: str) -> Path:
    if root.startswith("$"):
        value = os.environ.get(root[1:], "")
        if not value:
            raise ConfigError(f"{config}: root: {root} is not set; export {root[1:]}=<folder of the images>")
        root = value
    if not Path(root).is_dir():
        raise ConfigError(f"{config}: root: {root} is no folder; name the folder of the manifest's images")
    return Path(root)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` only when everything in it is complete."""
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_all(
    job: Callable[[ManifestCase, str], Result],
    cases: Sequence[ManifestCase],
    roles: Mapping[str, str],
    *,
    workers: int,
    console: Console,
) -> dict[str, Result]:
    """The results by case; a case that cannot be used costs one line, and the others go on."""
    done: dict[str, Result] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(job, case, roles[case.case_id]): case.case_id for case in cases}
        try:
            for future in _progress(as_completed(futures), len(futures), console):
                try:
                    done[futures[future]] = future.result()
                except DataError as bad:
                    console.print(f"{futures[future]}: {bad}", style="red", highlight=False, soft_wrap=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def _progress(futures: Iterable[Future[Result]], total: int, console: Console) -> Iterable[Future[Result]]:
    return track(futures, "ingest", total=total, console=console, disable=not console.is_terminal)


def _ingest(listed: ManifestCase, role: str, *, root: Path, folder: Path) -> Result:
    """Store one case and look at it; runs in a worker process."""
    found = ingest_case(listed, role, root, folder)
    _save_picture(folder / "qc" / f"{listed.case_id}.png", found.case)
    normal_dose, low_dose = (
        volume.astype(np.float32) for volume in (found.case.normal_dose(), found.case.low_dose())
    )
    statistics = CaseStatistics(
        kernels=found.kernels,
        slice_thickness_mm=found.slice_thickness_mm,
        noise_sd_hu={
            "normal_dose": global_noise_sd_hu(normal_dose, normal_dose),
            "low_dose": global_noise_sd_hu(normal_dose, low_dose),
        },
        hu_counts=count_hu(found.case.normal_dose()),
    )
    return found, statistics


def _write_summary(folder: Path, results: Sequence[Result]) -> None:
    write_index(folder, [found.case for found, _ in results])
    digests = {name: digest for found, _ in results for name, digest in found.digests.items()}
    sha256 = digest_of({**digests, INDEX: file_sha256(folder / INDEX)})
    by_role = {
        role: [(found.case, statistics) for found, statistics in results if found.case.role == role]
        for role in ROLES
    }
    write_fingerprint(folder, sha256, {role: describe(cases) for role, cases in by_role.items() if cases})


def _save_picture(path: Path, case: Case) -> None:
    """The middle slice: normal dose, low dose, their difference, and the mask where there is one."""
    middle = case.shape[0] // 2
    window = _WINDOWS.get(case.anatomy, ABDOMEN)
    normal_dose, low_dose = case.normal_dose()[middle], case.low_dose()[middle]
    difference = low_dose.astype(np.float32) - normal_dose
    limit = max(10.0, float(np.percentile(np.abs(difference), 99)))
    panels = [
        Panel(normal_dose, window, "normal dose"),
        Panel(low_dose, window, f"low dose ({case.dose_fraction:.0%})"),
        Panel(difference, HUWindow(-limit, limit), "low - normal dose", diverging=True),
    ]
    if case.has_mask:
        labels = case.mask()[middle]
        colours = {int(value): _colour(int(value)) for value in np.unique(labels) if value}
        panels.append(Panel(normal_dose, window, "mask", labels=labels, colours=colours))
    path.parent.mkdir(exist_ok=True)
    save_panels(
        path, [panels], title=f"{case.case_id}: {case.anatomy}, slice {middle + 1} of {case.shape[0]}"
    )


def _colour(value: int) -> tuple[int, int, int]:
    """Neighbouring label values get far-apart hues."""
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN_RATIO % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)

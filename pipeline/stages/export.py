"""`ldct export BUNDLE FILE`: a denoiser as ONNX or OpenVINO, compared with torch before it stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console
from torch import Tensor, nn

from pipeline.bundle import load_bundle
from pipeline.dicom import SeriesEntry, Task, Verdict, check_is_folder, discover, read_slices
from pipeline.errors import ConfigError, DataError
from pipeline.export import export_onnx, export_openvino, network_inputs, phantom_inputs
from pipeline.hu import HUScale
from pipeline.inference.output.journal import cannot_write
from pipeline.inference.output.staging import probe
from pipeline.inference.restoration.engines import Precision
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models.apply import neighbours_of, takes_noise_map

_MOST_SLICES: Final = 16
"""Of a folder: half to calibrate int8, half to compare on."""
_FEWEST_SLICES: Final = 2
"""For int8: what it is calibrated on says nothing of how close it is elsewhere."""
_PHANTOM_PIXELS: Final = 256
"""Side of the phantom slices that an export is compared on."""
_PHANTOM_SEED: Final = 61
"""Of their patients and noise, which are not those that int8 is calibrated on."""
_TREATED: Final = frozenset({Verdict.DONE, Verdict.SLICEWISE})


def run(bundle: Path, target: Path, *, precision: str = "fp32", calibrate: Path | None = None) -> None:
    """Write the denoiser of `bundle` to `target` and print how far it is from torch.

    Args:
        bundle: of a denoiser.
        target: ends in `.onnx`, or in `.xml` for OpenVINO, whose weights go beside it.
        precision: `fp32`, `bf16` or `int8`; ONNX is written in fp32 only.
        calibrate: folder of DICOM: every other of up to 16 slices calibrates int8, the others are what the
            file is compared on. Without it both happen on phantoms.

    Raises:
        BundleError: the bundle is missing or no denoiser's.
        ConfigError: the ending or the precision is none of those, the file cannot be written, a library is
            missing, or the file is too far from torch; then none is left.
        DataError: `calibrate` holds no slice that the denoiser takes, or for int8 one only.
    """
    chosen = _precision(target, precision)
    _check_writable(target)
    denoiser = load_bundle(bundle, "denoiser")
    model, scale = denoiser.model(), cast(HUScale, denoiser.scale)  # a denoiser's bundle has one
    if calibrate is None:
        calibration = phantom_inputs(model, scale) if chosen == "int8" else ()
        check_on = phantom_inputs(model, scale, pixels=_PHANTOM_PIXELS, seed=_PHANTOM_SEED)
        source = "phantom slices"
    else:
        slices = _slices(calibrate, model, scale)
        if chosen == "int8" and len(slices) < _FEWEST_SLICES:
            raise DataError(
                f"{calibrate}: one slice only, and int8 needs one to calibrate on and another to compare; "
                "name a folder with more, or leave --calibrate out"
            )
        calibration, check_on = slices[1::2], slices[::2]
        source = f"slices of {calibrate}"
    try:
        if target.suffix == ".onnx":
            agreement = export_onnx(denoiser, target, check_on=check_on)
        else:
            agreement = export_openvino(
                denoiser, target, precision=chosen, check_on=check_on, calibration=calibration
            )
    except OSError as error:
        raise ConfigError(f"{target}: {cannot_write(error)}; name another folder") from None
    line = f"export: {target}, {chosen}; beside torch on {len(check_on)} {source}: {agreement}"
    Console(highlight=False, soft_wrap=True).print(line, markup=False)


def _precision(target: Path, precision: str) -> Precision:
    if target.suffix not in (".onnx", ".xml"):
        raise ConfigError(f"{target}: name a file that ends in .onnx, or in .xml for OpenVINO")
    if precision not in get_args(Precision):
        raise ConfigError(f"--precision {precision}: must be one of {', '.join(get_args(Precision))}")
    if target.suffix == ".onnx" and precision != "fp32":
        raise ConfigError(f"--precision {precision}: ONNX is written in fp32; name a .xml for OpenVINO")
    return cast(Precision, precision)


def _check_writable(target: Path) -> None:
    """Try a nameless file in its folder, or in the nearest one above it that exists; nothing stays."""
    try:
        for written in (target, target.with_suffix(".bin")) if target.suffix == ".xml" else (target,):
            if written.is_dir():
                raise ConfigError(f"{written}: a folder; name a file to write")
        probe(next(folder for folder in target.absolute().parents if folder.exists()))
    except OSError as error:
        raise ConfigError(f"{target}: {cannot_write(error)}; name another folder") from None


def _slices(folder: Path, model: nn.Module, scale: HUScale) -> tuple[Tensor, ...]:
    """Up to 16 inputs, evenly over the series of a folder, one of each before two, and over their slices."""
    check_is_folder(folder)
    usable = [entry for entry in discover(folder).series if _is_usable(entry, model)]
    series = [usable[index] for index in _spread(len(usable), _MOST_SLICES)]
    counts = _shares([len(entry.files) for entry in series])
    inputs = [
        image
        for entry, count in zip(series, counts, strict=True)
        for image in _inputs(entry, count, model, scale)
    ]
    if not inputs:
        raise DataError(
            f"{folder}: no CT slice here that this denoiser takes; ldct inspect {folder} says more"
        )
    return tuple(inputs)


def _shares(lengths: Sequence[int]) -> list[int]:
    """How many of 16 slices each of up to 16 series gives: one, then one more, as long as it has any."""
    counts = [0] * len(lengths)
    for _ in range(_MOST_SLICES):
        unspent = [index for index, length in enumerate(lengths) if counts[index] < length]
        if unspent:
            counts[min(unspent, key=counts.__getitem__)] += 1
    return counts


def _is_usable(entry: SeriesEntry, model: nn.Module) -> bool:
    finding = entry.finding(Task.DENOISE)
    fits = min(entry.rows, entry.columns) >= int(getattr(model, "smallest_side", 1))
    return fits and (finding is None or finding.verdict in _TREATED)


def _inputs(entry: SeriesEntry, count: int, model: nn.Module, scale: HUScale) -> Iterator[Tensor]:
    """Of `count` slices; of none if their noise cannot be measured and the network has to be told it."""
    reach = neighbours_of(model)
    positions = _spread(len(entry.files), count)
    images_hu = np.stack([_between_neighbours(entry, position, reach) for position in positions])
    middle_hu = images_hu[:, reach]
    noise_sd_hu = global_noise_sd_hu(middle_hu, middle_hu) if takes_noise_map(model) else None
    if noise_sd_hu is not None or not takes_noise_map(model):
        yield from network_inputs(model, scale, images_hu, noise_sd_hu=noise_sd_hu)


def _between_neighbours(entry: SeriesEntry, position: int, reach: int) -> npt.NDArray[np.float32]:
    """(2 reach + 1, rows, columns) HU; beyond the ends the last slice is repeated."""
    around = np.arange(position - reach, position + reach + 1).clip(0, len(entry.files) - 1)
    with closing(read_slices(entry, around.tolist())) as slices:
        return np.stack([one.hu for one in slices])


def _spread(length: int, count: int) -> Sequence[int]:
    """At most `count` positions of `length`, each in the middle of its share: a scan's ends tell least."""
    count = min(length, count)
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]

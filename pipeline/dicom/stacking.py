"""Order slices along their normal and find the regular grid, or say exactly why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.dicom.geometry import Geometry, Vector, as_vector, slice_normal
from pipeline.dicom.headers import SliceHeader, files_of, repeated_images
from pipeline.dicom.verdicts import Code, Observation

ORIENTATION_TOLERANCE: Final = 1e-3
"""Largest difference of a direction cosine within one stack (0.06 degrees)."""

_STEP_TOLERANCE: Final = 0.01
"""Largest difference of a slice step from the others, as a fraction of the step (highdicom's default)."""

_POSITION_ROUNDING_MM: Final = 0.02
"""Positions written with two decimals make steps differ by this much."""

_DRIFT_TOLERANCE: Final = 0.1
"""Largest sideways shift between slices of a regular grid, as a fraction of a pixel."""

_NAMED_PLACES: Final = 3


@dataclass(frozen=True)
class Stack:
    """Slices in order along the normal; `geometry` only where they fill a regular grid."""

    slices: tuple[SliceHeader, ...]
    geometry: Geometry | None
    observations: tuple[Observation, ...]


def stack_slices(slices: Sequence[SliceHeader]) -> Stack:
    """Sort by ImagePositionPatient along the slice normal (PS3.3 C.7.6.2.1.1), never by number or file name.

    Slices that cannot be placed stay in order of their paths, and frames of a file in theirs.
    """
    slices = sorted(slices, key=lambda header: header.path)
    unplaced = [header for header in slices if _plane(header) is None or header.position_mm is None]
    if unplaced:
        return _unordered(
            slices,
            unplaced,
            Code.NO_GEOMETRY,
            f"{len(unplaced)} of {len(slices)} slices lack a valid position, orientation or pixel spacing; "
            "export the series again with its geometry",
        )
    if not all(same_orientation(header, slices[0]) for header in slices):
        return _unordered(
            slices,
            slices,
            Code.IMAGE_ORIENTATION_INCONSISTENT,
            f"{len(slices)} slices do not share one orientation; reformat them to parallel slices",
        )
    return _stack_parallel(slices)


def same_orientation(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices are parallel with equal row and column directions; unknown equals unknown."""
    planes = _plane(one), _plane(other)
    if planes[0] is None or planes[1] is None:
        return planes[0] is planes[1]
    return bool(np.allclose(planes[0], planes[1], rtol=0, atol=ORIENTATION_TOLERANCE))


def has_duplicate_positions(slices: Sequence[SliceHeader]) -> bool:
    """Whether two of these parallel slices lie in the same plane."""
    plane = _plane(slices[0])
    positions = [header.position_mm for header in slices if header.position_mm is not None]
    if plane is None or len(positions) < len(slices):
        return False
    distances = np.sort(np.array(positions) @ slice_normal(*plane))
    return bool(np.any(np.diff(distances) <= _POSITION_ROUNDING_MM))


def _plane(header: SliceHeader) -> tuple[Vector, Vector] | None:
    if header.row_cosines is None or header.column_cosines is None or header.pixel_spacing_mm is None:
        return None
    return header.row_cosines, header.column_cosines


def _unordered(
    slices: Sequence[SliceHeader], culprits: Sequence[SliceHeader], code: Code, message: str
) -> Stack:
    observation = Observation(code, message, files_of(culprits))
    return Stack(tuple(slices), None, (observation,))


def _stack_parallel(slices: Sequence[SliceHeader]) -> Stack:
    plane = _plane(slices[0])
    assert plane is not None  # noqa: S101  checked by stack_slices
    positions = np.array([header.position_mm for header in slices], dtype=np.float64)
    normal = np.array(slice_normal(*plane))
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(slices[index] for index in order)
    positions = positions[order]
    observation = (
        _too_few(ordered)
        or _duplicates(ordered, positions @ normal)
        or _sideways(ordered, positions, normal)
        or _uneven(ordered, positions @ normal)
    )
    if observation is not None:
        return Stack(ordered, None, (observation,))
    return Stack(ordered, _grid(ordered, positions, normal), ())


def _grid(
    ordered: Sequence[SliceHeader], positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> Geometry:
    first = ordered[0]
    assert first.row_cosines and first.column_cosines and first.pixel_spacing_mm  # noqa: PT018, S101
    step_mm = float((positions[-1] - positions[0]) @ normal) / (len(ordered) - 1)
    return Geometry(
        origin_mm=as_vector(positions[0]),
        row_cosines=first.row_cosines,
        column_cosines=first.column_cosines,
        spacing_mm=(step_mm, *first.pixel_spacing_mm),
        shape=(len(ordered), first.rows, first.columns),
    )


def _too_few(ordered: Sequence[SliceHeader]) -> Observation | None:
    if len(ordered) > 1:
        return None
    message = "1 slice, and a volume needs 2 or more; add the other slices of the series"
    return Observation(Code.TOO_FEW_SLICES, message, (ordered[0].path,))


def _duplicates(ordered: Sequence[SliceHeader], distances: npt.NDArray[np.float64]) -> Observation | None:
    repeats = np.flatnonzero(np.diff(distances) <= _POSITION_ROUNDING_MM)
    if not repeats.size:
        return None
    culprits = [ordered[index] for index in sorted({*repeats.tolist(), *(repeats + 1).tolist()})]
    copies = repeated_images(culprits)
    way_out = "keep one phase or copy per series"
    if copies:
        which = "these" if len(copies) == len(culprits) else f"{len(copies)} of these"
        way_out = f"{which} are copies of the same images, keep one of each"
    return Observation(
        Code.DUPLICATE_POSITION,
        f"{len(culprits)} of {len(ordered)} slices share a position, first at {distances[repeats[0]]:.2f} mm "
        f"along the normal; {way_out}",
        files_of(culprits),
    )


def _sideways(
    ordered: Sequence[SliceHeader], positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> Observation | None:
    """A sideways shift that grows with the distance is a tilted gantry; any other one is irregular."""
    assert ordered[0].pixel_spacing_mm is not None  # noqa: S101
    tolerance_mm = _DRIFT_TOLERANCE * min(ordered[0].pixel_spacing_mm)
    steps = positions - positions[0]
    along_mm = steps @ normal
    sideways = steps - np.outer(along_mm, normal)
    if np.linalg.norm(sideways, axis=1).max() <= tolerance_mm:
        return None
    shear = along_mm @ sideways / (along_mm @ along_mm)
    files = files_of(ordered)
    jumps_mm = np.linalg.norm(sideways - np.outer(along_mm, shear), axis=1)
    if jumps_mm.max() <= tolerance_mm:
        angle = np.degrees(np.arctan(np.linalg.norm(shear)))
        return Observation(
            Code.GANTRY_TILT,
            f"slices are stacked {angle:.1f} degrees off their normal (gantry tilt); "
            "resample to a straight grid where a volume is needed",
            files,
        )
    return Observation(
        Code.SLICE_INCREMENT_INCONSISTENT,
        f"slices jump sideways by up to {jumps_mm.max():.2f} mm; resample to a regular grid",
        files,
    )


def _uneven(ordered: Sequence[SliceHeader], distances: npt.NDArray[np.float64]) -> Observation | None:
    steps = np.diff(distances)
    step_mm = float(np.quantile(steps, 0.5, method="lower"))  # one gap among two steps is still a gap
    tolerance_mm = max(_STEP_TOLERANCE * step_mm, _POSITION_ROUNDING_MM)
    off = np.flatnonzero(np.abs(steps - step_mm) > tolerance_mm)
    if not off.size:
        return None
    files = files_of(ordered[index] for index in sorted({*off.tolist(), *(off + 1).tolist()}))
    multiples = np.round(steps[off] / step_mm)
    if np.all(multiples >= 2) and np.all(
        np.abs(steps[off] - multiples * step_mm) <= multiples * tolerance_mm
    ):
        places = ", ".join(f"{distances[index] + step_mm:.2f}" for index in off[:_NAMED_PLACES])
        more = ", ..." if off.size > _NAMED_PLACES else ""
        return Observation(
            Code.MISSING_SLICE,
            f"{int(np.sum(multiples - 1))} of {len(ordered) + int(np.sum(multiples - 1))} slices missing, "
            f"after a step of {step_mm:.2f} mm expected at {places}{more} mm along the normal; add the files",
            files,
        )
    return Observation(
        Code.SLICE_INCREMENT_INCONSISTENT,
        f"slice steps vary from {steps.min():.2f} to {steps.max():.2f} mm; resample to a regular grid",
        files,
    )

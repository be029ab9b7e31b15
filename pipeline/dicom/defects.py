"""Defects of CT slices that show in each header by itself: kind, encoding, units, pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipeline.dicom.encoding import can_decode
from pipeline.dicom.geometry import slice_normal
from pipeline.dicom.headers import CT_CLASSES, SliceHeader, files_of, repeated_images
from pipeline.dicom.multiframe import MAX_FRAMES, MULTI_FRAME_CLASSES
from pipeline.dicom.verdicts import Code, Observation

MAX_SLICE_PIXELS: Final = 4096 * 4096
MAX_SERIES_VOXELS: Final = 2**31

_HOUNSFIELD_TYPES: Final = ("", "HU", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "HOUNDSFIELD UNIT")
"""Rescale types that mean HU; CT without one is HU (PS3.3 C.11.1.1.2), and scanners misspell it."""

_LARGEST_TILT_DEGREES: Final = 31
"""CT gantries tilt by up to 30 degrees; slices at a steeper angle are reformatted."""

_SQUARE_TOLERANCE: Final = 1e-3
_ALLOCATED_BITS: Final = (8, 16, 32)
_DISPLAY_BITS: Final = 8
"""So few bits hold a display window, or HU in steps coarser than noise."""

_PROJECTIONS: Final = frozenset({"MIP", "MINIP", "MAX_IP", "MIN_IP"})
"""Image types (value 3 and further, PS3.3 C.8.2.1.1.1 and C.8.16.1.3) of extremes along rays."""


def is_localizer(header: SliceHeader) -> bool:
    """Whether ImageType says that this is a localizer (PS3.3 C.8.2.1.1.1)."""
    return "LOCALIZER" in header.image_type


def format_defects(slices: Sequence[SliceHeader]) -> tuple[Observation, ...]:
    """What is wrong with the slices of one stack, whatever their positions."""
    first = slices[0]
    everything = files_of(slices)
    if first.modality != "CT":
        return (Observation(Code.NOT_CT, f"modality {first.modality}, not CT", everything),)
    if first.sop_class_uid and first.sop_class_uid not in CT_CLASSES:
        return (Observation(Code.NOT_CT, "a CT report or capture, not CT Image Storage", everything),)
    if is_localizer(first):
        return (Observation(Code.LOCALIZER, "a localizer, not a scan", everything),)
    found: list[Observation] = []
    for code, message, is_bad in (
        (
            Code.MULTI_FRAME,
            "several frames that cannot be told apart; convert them to single-frame CT",
            _is_multi_frame,
        ),
        (
            Code.ENHANCED,
            "enhanced multi-frame CT; convert it to single-frame CT for anything but denoising",
            _is_enhanced,
        ),
        (Code.MISSING_UID, "no SOPInstanceUID or SeriesInstanceUID; assign UIDs first", _lacks_uid),
        (Code.NOT_HU, "pixels are not rescaled to HU (slope, intercept, type or colour)", _is_not_hu),
        (
            Code.INEXACT_HU,
            "more bits or a finer slope than HU in float32 can hold; store it with 16 bits",
            _is_inexact,
        ),
        (
            Code.UNUSUAL_BITS,
            "HighBit is not BitsStored - 1, or too many bits stored or allocated; store its pixels anew",
            _has_unusual_bits,
        ),
        (Code.TOO_LARGE, f"over {MAX_SLICE_PIXELS} pixels in a slice; check Rows and Columns", _is_too_large),
        (Code.TOO_LARGE, f"over {MAX_FRAMES} frames; split the image", _has_too_many_frames),
        (Code.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder; store it uncompressed first", _is_undecodable),
        (Code.DENOISED, "already denoised; use the series it was made from", _is_denoised),
        (Code.PROCESSED, "a simulated dose or a projection; use the scanner's series", _is_processed),
        (Code.LOSSY, "lossy compression or 8-bit pixels changed its noise; use the original", _is_lossy),
    ):
        bad = files_of(header for header in slices if is_bad(header))
        if bad:
            more = f" and {len(bad) - 1} more" if bad[1:] else ""
            found.append(Observation(code, f"{bad[0].name}{more}: {message}", bad))
    repeated = repeated_images(slices)
    if repeated:
        message = (
            f"{len(repeated)} of {len(slices)} slices share their SOPInstanceUID with another; "
            "keep one copy of each image, or give each its own UID"
        )
        found.append(Observation(Code.DUPLICATE_UID, message, files_of(repeated)))
    for code, unfit in (
        (Code.TOO_LARGE, _excess(slices)),
        (Code.NOT_AXIAL, _steep(first)),
        (Code.NON_SQUARE_PIXELS, _oblong(first)),
    ):
        if unfit is not None:
            found.append(Observation(code, unfit, everything))
    return tuple(found)


def _excess(slices: Sequence[SliceHeader]) -> str | None:
    """More voxels than a series may have, where each slice by itself is small enough."""
    rows, columns = slices[0].rows, slices[0].columns
    if _is_too_large(slices[0]) or rows * columns * len(slices) <= MAX_SERIES_VOXELS:
        return None
    return f"{len(slices)} slices of {rows} x {columns} exceed {MAX_SERIES_VOXELS} voxels; split the series"


def _steep(header: SliceHeader) -> str | None:
    if header.row_cosines is None or header.column_cosines is None:
        return None
    cosine = abs(slice_normal(header.row_cosines, header.column_cosines)[2])
    degrees = math.degrees(math.acos(min(1.0, cosine)))
    if degrees <= _LARGEST_TILT_DEGREES:
        return None
    return (
        f"slices {degrees:.0f} degrees off the scan plane are reformatted; use the series they were made from"
    )


def _oblong(header: SliceHeader) -> str | None:
    if header.pixel_spacing_mm is None:
        return None
    row_mm, column_mm = header.pixel_spacing_mm
    if math.isclose(row_mm, column_mm, rel_tol=_SQUARE_TOLERANCE):
        return None
    return f"pixels of {row_mm:g} x {column_mm:g} mm are not square; resample the slices to square pixels"


def _is_denoised(header: SliceHeader) -> bool:
    return header.is_denoised


def _is_processed(header: SliceHeader) -> bool:
    return header.is_simulated or not _PROJECTIONS.isdisjoint(header.image_type)


def _is_lossy(header: SliceHeader) -> bool:
    return header.is_lossy or header.bits_stored <= _DISPLAY_BITS


def _is_multi_frame(header: SliceHeader) -> bool:
    """CT Image Storage has one frame, and each frame of an enhanced image has functional groups."""
    has_frames = header.frames > 1 or header.sop_class_uid in MULTI_FRAME_CLASSES
    return has_frames and header.frame is None and not _has_too_many_frames(header)


def _is_enhanced(header: SliceHeader) -> bool:
    return header.frame is not None


def _lacks_uid(header: SliceHeader) -> bool:
    return not (header.sop_instance_uid and header.series_uid)


def _is_not_hu(header: SliceHeader) -> bool:
    return (
        header.samples != 1
        or header.rescale is None
        or header.rescale.slope <= 0
        or header.rescale_type not in _HOUNSFIELD_TYPES
    )


def _is_inexact(header: SliceHeader) -> bool:
    """Pixels that are not to change would, without anyone noticing."""
    if header.rescale is None or _is_not_hu(header):
        return False
    return not header.rescale.is_reversible(header.bits_stored)


def _has_unusual_bits(header: SliceHeader) -> bool:
    """Pixels that lie elsewhere in their cells than PS3.5 8.1.1 has it would be read as other numbers.

    What is missing is no contradiction: the decoder says what it cannot do without.
    """
    allocated, stored = header.bits_allocated, header.bits_stored
    return (
        (allocated != 0 and (allocated not in _ALLOCATED_BITS or stored > allocated))
        or stored < 0
        or (stored != 0 and header.high_bit not in (None, stored - 1))
    )


def _is_too_large(header: SliceHeader) -> bool:
    return header.rows * header.columns > MAX_SLICE_PIXELS


def _has_too_many_frames(header: SliceHeader) -> bool:
    return header.frames > MAX_FRAMES


def _is_undecodable(header: SliceHeader) -> bool:
    return not can_decode(header.transfer_syntax_uid, header.bits_stored)

"""One frame of a multi-frame file as a single-frame image, without reading the others."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from io import SEEK_CUR
from pathlib import Path
from typing import BinaryIO, Final

import pydicom
from pydicom.encaps import encapsulate, get_frame, parse_basic_offsets, parse_fragments
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from pipeline.dicom.encoding import transfer_syntax
from pipeline.dicom.multiframe import frame_count, is_multi_frame, single_frame_header

_PIXEL_DATA: Final = 0x7FE00010
_ITEM_HEADER_BYTES: Final = 8
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF

_OffsetTable = tuple[bytes, bytes] | tuple[list[int], list[int]]
"""Where each frame begins and how long it is; bytes are as PS3.3 C.7.6.3.1.8 has them."""


def frame_as_image(path: Path, frame: int) -> pydicom.Dataset:
    """One frame with its header flattened, and with its pixels, still encoded, if the file has any.

    What the last file says of all its frames is kept until it changes: parsed again for each frame, it would
    take quadratic time. The file does not stay open.

    Args:
        path: an enhanced multi-frame image.
        frame: counted from 0.

    Raises:
        Exception: of any type, where the file is damaged.
    """
    stat = path.stat()
    return _known(path, stat.st_size, stat.st_mtime_ns).image(frame)


@lru_cache(maxsize=1)
def _known(path: Path, _size_bytes: int, _mtime_ns: int) -> _MultiFrameFile:
    return _MultiFrameFile(path)


class _MultiFrameFile:
    """Its header, and where its pixels are; a deflated file stays in memory, for in it they have no place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: _OffsetTable | None = None
        with path.open("rb") as file:
            self._dataset, self._pixel_bytes = _parse(file)
            if not is_multi_frame(self._dataset):
                raise ValueError("no multi-frame image")
            self._is_encapsulated = transfer_syntax(self._dataset).is_encapsulated
            if self._pixel_bytes is None:
                return
            if self._pixel_bytes == _UNDEFINED_LENGTH and not self._is_encapsulated:
                raise ValueError("encapsulated pixels in a transfer syntax that has none")
            at_pixels = file if self._dataset.buffer is None else self._dataset.buffer
            self._start = at_pixels.tell() + (8 if self._dataset.original_encoding[0] else 12)
            if self._is_encapsulated:
                file.seek(self._start)
                self._table = self._offset_table(file)

    def image(self, frame: int) -> pydicom.Dataset:
        image = single_frame_header(self._dataset, frame)
        if self._pixel_bytes is None:
            return image
        with nullcontext(self._dataset.buffer) if self._dataset.buffer else self._path.open("rb") as file:
            file.seek(self._start)
            if self._is_encapsulated:
                image.PixelData, vr = self._encoded(file, frame), "OB"
            else:
                image.PixelData, vr = self._raw(file, frame, self._pixel_bytes), "OW"
        image["PixelData"].VR = vr
        return image

    def _raw(self, file: BinaryIO, frame: int, pixel_bytes: int) -> bytes:
        dataset = self._dataset
        size_bytes = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if (frame + 1) * size_bytes > pixel_bytes:
            raise EOFError
        file.seek(frame * size_bytes, SEEK_CUR)
        return file.read(size_bytes)

    def _encoded(self, file: BinaryIO, frame: int) -> bytes:
        count = frame_count(self._dataset)
        stream = get_frame(file, frame, number_of_frames=count, extended_offsets=self._table)
        return encapsulate([stream])

    def _offset_table(self, file: BinaryIO) -> _OffsetTable | None:
        """None where only the basic offset table tells.

        A file without any table would have its fragments counted again for each frame.
        """
        if "ExtendedOffsetTable" in self._dataset:
            return self._dataset.ExtendedOffsetTable, self._dataset.ExtendedOffsetTableLengths
        if parse_basic_offsets(file):
            return None
        first = file.tell()
        fragments, places = parse_fragments(file)
        if fragments != frame_count(self._dataset):
            return None
        return [place - first for place in places], [_item_length(file, place) for place in places]


def _item_length(file: BinaryIO, place: int) -> int:
    file.seek(place + _ITEM_HEADER_BYTES // 2)
    return int.from_bytes(file.read(_ITEM_HEADER_BYTES // 2), "little")


def _parse(file: BinaryIO) -> tuple[pydicom.Dataset, int | None]:
    """The header, and the length of the pixel data, if there are any; the file is left at their tag."""
    pixel_bytes: list[int] = []

    def are_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA:
            pixel_bytes.append(length)
        return int(tag) >= _PIXEL_DATA

    dataset = read_partial(file, stop_when=are_pixels, force=True)
    return dataset, pixel_bytes[-1] if pixel_bytes else None

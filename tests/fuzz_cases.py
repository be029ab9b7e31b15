"""Damaged DICOM files: small images in every encoding, and what may befall their bytes."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from tests.dicom_factory import make_slice
from tests.enhanced_factory import make_enhanced

SERIES = "2.25.111111111111111111111111111111111111111"
INSTANCE = "2.25.222222222222222222222222222222222222222"
"""Stand-ins: each file gets UIDs of its own, of the same length."""

_LONG_VRS = {str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_VRS = [b"AE", b"DS", b"FD", b"IS", b"OB", b"OW", b"SQ", b"UI", b"UN", b"US", b"UT", b"PN", b"xx", b"\0\0"]
_LENGTHS = [0, 1, 3, 255, 0xFFFE, 0xFFFF]
_CLAIMS = [0, 1, 2, 7, 8, 12, 32, 255, 4097, 60_000, 65_535]
_TEXTS = [
    b"../../../../etc/passwd",
    b"/",
    b"\0\0\0\0",
    b"nan\\inf\\-inf",
    b"1e999",
    b"-0",
    b"9" * 64,
    b"\\\\\\\\\\\\",
    b"\xff\xfe\x1b$B",
    b"",
]
_CLAIMING = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
)


@dataclass(frozen=True)
class Element:
    """Where a top-level element lies in a file."""

    tag: int
    start: int
    value: int
    end: int
    length_bytes: int


@dataclass(frozen=True)
class Base:
    """An intact file, where its elements lie, and where its first codestream begins."""

    name: str
    data: bytes
    elements: tuple[Element, ...]
    byte_order: str
    is_explicit: bool
    codestream: int
    deflate_from: int | None = None

    def element(self, keyword: str) -> Element | None:
        """One element by name."""
        return next((one for one in self.elements if one.tag == Tag(keyword)), None)


def bases(folder: Path) -> list[Base]:
    """An intact file in every encoding."""
    rng = np.random.default_rng(0)
    image = make_slice(rng.integers(-1000, 1000, (24, 20)).astype(np.int16), **_OWN)
    larger = make_slice(rng.integers(0, 4000, (32, 32)).astype(np.uint16), BitsStored=12, HighBit=11, **_OWN)
    enhanced = make_enhanced(
        rng.integers(-1000, 1000, (3, 16, 16)).astype(np.int16),
        [(0, 0, 0), (0, 0, 1), (0, 0, 2)],
        [(1, 0), (2, -1000), (1, 0)],
        **_OWN,
    )
    report = make_slice(
        SOPClassUID=BasicTextSRStorage, Modality="SR", Rows=None, Columns=None, PixelData=None, **_OWN
    )
    explicit = _encoded(image, ExplicitVRLittleEndian)
    return [
        _base("explicit", explicit),
        _base("implicit", _encoded(image, ImplicitVRLittleEndian)),
        _base("big endian", _encoded(image, ExplicitVRBigEndian)),
        _base("deflated", explicit, deflate=True),
        _base("RLE", _encoded(image, RLELossless)),
        _base("JPEG-LS", _encoded(larger, JPEGLSLossless)),
        _base("JPEG 2000", _encoded(larger, JPEG2000Lossless)),
        _base("JPEG lossless", _jpeg_lossless(_encoded(larger, ExplicitVRLittleEndian), folder)),
        _base("enhanced", _encoded(enhanced, ExplicitVRLittleEndian)),
        _base("enhanced RLE", _encoded(enhanced, RLELossless)),
        _base("report", _encoded(report, ExplicitVRLittleEndian)),
    ]


_OWN = {"SeriesInstanceUID": SERIES, "SOPInstanceUID": INSTANCE}


def _encoded(dataset: pydicom.Dataset, syntax: pydicom.uid.UID) -> bytes:
    image = pydicom.dcmread(BytesIO(_saved(dataset, ExplicitVRLittleEndian)))
    if syntax.is_encapsulated:
        image.compress(syntax, generate_instance_uid=False)
        return _saved(image, syntax)
    if not syntax.is_little_endian:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
    fresh = pydicom.Dataset()
    fresh.update({element.tag: element for element in image})
    return _saved(fresh, syntax)


def _saved(dataset: pydicom.Dataset, syntax: pydicom.uid.UID) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _jpeg_lossless(explicit: bytes, folder: Path) -> bytes:
    """Through gdcm: pydicom has no encoder for it."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(explicit)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target.read_bytes()


def _base(name: str, data: bytes, *, deflate: bool = False) -> Base:
    dataset = pydicom.dcmread(BytesIO(data))
    syntax = dataset.file_meta.TransferSyntaxUID
    codestream = len(data)
    if syntax.is_encapsulated:
        codestream = data.index(get_frame(dataset.PixelData, 0, number_of_frames=1)[:16])
    return Base(
        name,
        data,
        tuple(_elements(dataset, data, is_explicit=not syntax.is_implicit_VR)),
        "<" if syntax.is_little_endian else ">",
        not syntax.is_implicit_VR,
        codestream,
        min(element.start for element in _elements(dataset, data, is_explicit=True)) if deflate else None,
    )


def _elements(dataset: pydicom.Dataset, data: bytes, *, is_explicit: bool) -> list[Element]:
    """Where the elements after the file meta group lie; each ends where the next one starts."""
    raw = pydicom.dcmread(BytesIO(data))
    found = []
    for tag in list(raw.keys()):
        item = raw.get_item(tag)
        vr = raw[tag].VR if item.VR is None else item.VR
        is_long = is_explicit and str(vr) in _LONG_VRS
        place = item.value_tell if hasattr(item, "value_tell") else item.file_tell
        found.append(
            (int(tag), place - (12 if is_long else 8), place, 4 if is_long or not is_explicit else 2)
        )
    ends = [start for _, start, _, _ in found[1:]] + [len(data)]
    return [
        Element(tag, start, value, end, length_bytes)
        for (tag, start, value, length_bytes), end in zip(found, ends, strict=True)
    ]


Mutation = Callable[[random.Random, Base, bytearray], bytes]


def flip_bits(rng: random.Random, base: Base, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(132, len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_bits_of_pixels(rng: random.Random, base: Base, data: bytearray) -> bytes:
    start = base.elements[-1].value
    for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(min(start, len(data) - 1), len(data))] ^= 1 << rng.randrange(8)
    return data


def truncate(rng: random.Random, base: Base, data: bytearray) -> bytes:
    return data[: rng.randrange(len(data))]


def append_garbage(rng: random.Random, base: Base, data: bytearray) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 200))


def overwrite_a_run(rng: random.Random, base: Base, data: bytearray) -> bytes:
    length = rng.choice((2, 8, 64, 256))
    place = rng.randrange(max(1, len(data) - length))
    data[place : place + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data


def change_a_length(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element = rng.choice(base.elements)
    actual = element.end - element.value
    length = rng.choice([*_LENGTHS, actual + 1, max(0, actual - 1), actual + 2, 2 * actual])
    if element.length_bytes == 4:
        length = rng.choice([length, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF])
    form = base.byte_order + ("L" if element.length_bytes == 4 else "H")
    limit = 2 ** (8 * element.length_bytes) - 1
    data[element.value - element.length_bytes : element.value] = struct.pack(form, min(length, limit))
    return data


def change_a_vr(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element = rng.choice(base.elements)
    data[element.start + 4 : element.start + 6] = rng.choice(_VRS)
    return data


def change_a_tag(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element, other = rng.choice(base.elements), rng.choice(base.elements)
    data[element.start : element.start + 4] = data[other.start : other.start + 4]
    return data


def delete_an_element(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element = rng.choice(base.elements)
    return data[: element.start] + data[element.end :]


def repeat_an_element(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element, place = rng.choice(base.elements[:-1]), rng.choice(base.elements).start
    return data[:place] + data[element.start : element.end] * rng.choice((1, 2, 50)) + data[place:]


def write_nonsense_into_a_value(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element = rng.choice([one for one in base.elements if one.end > one.value])
    length = min(element.end - element.value, 64)
    text = rng.choice([*_TEXTS, rng.randbytes(length)])
    data[element.value : element.value + length] = text[:length].ljust(length, b" ")
    return data


def put_in_a_longer_value(rng: random.Random, base: Base, data: bytearray) -> bytes:
    element = rng.choice(base.elements[:-1])
    value = rng.choice(_TEXTS) * rng.choice((1, 3, 500))
    value += b" " * (len(value) % 2)
    form = base.byte_order + ("L" if element.length_bytes == 4 else "H")
    length = struct.pack(form, min(len(value), 2 ** (8 * element.length_bytes) - 2))
    return data[: element.value - element.length_bytes] + length + value + data[element.end :]


def claim(rng: random.Random, base: Base, data: bytearray) -> bytes:
    for keyword in rng.sample(_CLAIMING, 2):
        element = base.element(keyword)
        if element is not None:
            data[element.value : element.value + 2] = struct.pack(f"{base.byte_order}H", rng.choice(_CLAIMS))
    return data


def damage_the_codestream_header(rng: random.Random, base: Base, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 2, 4))):
        place = min(base.codestream + rng.randrange(100), len(data) - 1)
        data[place] = rng.choice((0, 255, data[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return data


def damage_the_meta_group(rng: random.Random, base: Base, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(132, base.elements[0].start)] = rng.randrange(256)
    return data


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits_of_pixels,
    truncate,
    append_garbage,
    overwrite_a_run,
    change_a_length,
    change_a_vr,
    change_a_tag,
    delete_an_element,
    repeat_an_element,
    write_nonsense_into_a_value,
    put_in_a_longer_value,
    claim,
    damage_the_codestream_header,
    damage_the_meta_group,
)


def damaged(rng: random.Random, base: Base, number: int, *, series: int, kinds: Sequence[Mutation]) -> bytes:
    """One file with its own instance UID, a series UID for `series`, and some kinds of damage."""
    data = base.data.replace(INSTANCE.encode(), f"2.25.2{number:038d}".encode())
    data = bytearray(data.replace(SERIES.encode(), f"2.25.1{series:038d}".encode()))
    for mutation in kinds:
        if len(data) > base.elements[-1].start:
            data = bytearray(mutation(rng, base, data))
    if base.deflate_from is None:
        return bytes(data)
    return _deflated(rng, bytes(data), base.deflate_from, is_damaged=bool(kinds) and rng.random() < 0.3)


def _deflated(rng: random.Random, data: bytes, start: int, *, is_damaged: bool) -> bytes:
    """Say so in the meta group, deflate the rest, and perhaps damage that too."""
    meta, body = data[:start], data[start:]
    packer = zlib.compressobj(wbits=-15)
    packed = bytearray(packer.compress(body) + packer.flush())
    if is_damaged:
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    old, new = (f"{uid}\0".encode() for uid in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian))
    longer = len(new) + len(new) % 2 - len(old) - len(old) % 2
    place = meta.find(old)
    if place < 0:
        return meta + bytes(packed)
    length = struct.pack("<H", len(new) + len(new) % 2)
    group_length = struct.unpack("<L", meta[140:144])[0] + longer
    meta = meta[: place - 2] + length + new + b"\0" * (len(new) % 2) + meta[place + len(old) + len(old) % 2 :]
    return meta[:140] + struct.pack("<L", group_length & 0xFFFFFFFF) + meta[144:] + bytes(packed)

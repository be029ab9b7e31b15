import gc
import os
import struct
import time
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.dicom import (
    Code,
    SeriesEntry,
    SeriesError,
    Task,
    Verdict,
    discover,
    read_series,
    read_slices,
    reading,
)
from pipeline.dicom.digests import content_digest
from pipeline.dicom.frames import frame_as_image
from pipeline.dicom.reading import read_slice
from pipeline.dicom.sandbox import Limits, sandbox
from pipeline.hu import AIR_HU
from tests.dicom_factory import make_slice, read_only_series, save, save_stack
from tests.enhanced_factory import make_enhanced

REAL = os.environ.get("LDCT_REAL_DATA")
real = pytest.mark.real
needs_real = pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")


def test_each_slice_has_its_own_rescale(tmp_path):
    stored = np.full((4, 4), 100, np.int16)
    for z, slope, intercept in ((0, 1, -1024), (1, 2, -1000), (2, 1.000244, 0)):
        dataset = make_slice(stored, position=(0, 0, z), RescaleSlope=slope, RescaleIntercept=intercept)
        save(dataset, tmp_path / str(9 - z))
    series = read_only_series(tmp_path)
    assert series.hu.dtype == np.float32
    np.testing.assert_allclose(series.hu[:, 0, 0], [-924, -800, 100.0244], rtol=1e-6)


def test_declared_padding_and_values_below_the_lowest_hu_become_air(tmp_path):
    stored = np.array([[0, -2000, -1500], [-1024, 40, 3000]], np.int16)
    save(make_slice(stored, PixelPaddingValue=-2000), tmp_path / "a")
    series = read_only_series(tmp_path)
    np.testing.assert_array_equal(series.padding[0], [[False, True, True], [False, False, False]])
    np.testing.assert_array_equal(series.hu[0], [[0, AIR_HU, AIR_HU], [-1024, 40, 3000]])
    np.testing.assert_array_equal(series.padding_stored[0], [-2000, -1500])


def test_padding_range_is_inclusive(tmp_path):
    stored = np.array([[0, 1, 2, 3, 1000]], np.uint16)
    dataset = make_slice(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=2, RescaleIntercept=-1024)
    save(dataset, tmp_path / "a")
    np.testing.assert_array_equal(read_only_series(tmp_path).padding[0], [[True, True, True, False, False]])


def test_padding_written_as_unsigned_bits_of_a_signed_image_is_understood(tmp_path):
    dataset = make_slice(np.array([[-900, 0]], np.int16), RescaleIntercept=-100)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 900)
    save(dataset, tmp_path / "a")
    np.testing.assert_array_equal(read_only_series(tmp_path).padding[0], [[True, False]])


def test_padding_value_of_water_is_not_believed(tmp_path):
    save(make_slice(np.array([[0, 50]], np.int16), PixelPaddingValue=0), tmp_path / "a")
    assert not read_only_series(tmp_path).padding.any()


def test_signed_twelve_bits_in_sixteen_keep_their_sign(tmp_path):
    wanted = np.array([[-2048, -1, 0, 2047]], np.int16)
    in_low_bits = (wanted & 0x0FFF).astype(np.int16)
    dataset = make_slice(in_low_bits, BitsStored=12, HighBit=11, RescaleIntercept=1024)
    save(dataset, tmp_path / "a")
    np.testing.assert_array_equal(read_only_series(tmp_path).hu[0], wanted + 1024)


def test_truncated_pixels_fail_and_name_the_file_only(tmp_path):
    (path,) = save_stack(tmp_path, [(0, 0, 0)])
    path.write_bytes(path.read_bytes()[:-100])
    (entry,) = discover(tmp_path).series
    with pytest.raises(SeriesError) as caught:
        read_series(entry)
    finding = caught.value.finding
    assert (finding.code, finding.verdict) == (Code.CORRUPT_PIXEL_DATA, Verdict.FAILED)
    assert finding.message.startswith("001: ")
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["gone", "no pixels", "another size", "another rescale", "no rescale"])
def test_file_that_changed_since_it_was_found_fails(tmp_path, change):
    (path,) = save_stack(tmp_path, [(0, 0, 0)])
    (entry,) = discover(tmp_path).series
    if change == "gone":
        path.unlink()
    elif change == "no pixels":
        save(make_slice(PixelData=None), path)
    elif change == "another rescale":
        save(make_slice(RescaleIntercept=-1024), path)
    elif change == "no rescale":
        save(make_slice(RescaleSlope=None), path)
    else:
        save(make_slice(np.zeros((8, 8), np.int16)), path)
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA"):
        read_series(entry)


def test_headers_of_a_read_series_hold_no_pixels(tmp_path):
    save_stack(tmp_path, [(0, 0, 0), (0, 0, 1)])
    assert all("PixelData" not in header for header in read_only_series(tmp_path).headers)


def test_every_kind_of_element_arrives_as_it_is_in_the_file(tmp_path):
    item = make_slice(PixelData=None, OperatorsName=["A^B", "C^D"])
    dataset = make_slice(
        OperatorsName=["A^B", "C^D=E"],
        PhysiciansOfRecord="F^G",
        SpecificCharacterSet="ISO_IR 100",
        InstitutionName="Universität",
        ReferencedImageSequence=[item, pydicom.Dataset()],
        WindowCenter=[40, 300.5],
        FrameIncrementPointer=[0x00100010, 0x00100020],
        AcquisitionDateTime="20260102030405.6+0100",
    )
    path = save(dataset, tmp_path / "a")
    wanted = pydicom.dcmread(path)
    del wanted.PixelData
    assert read_slice(path, rows=24, columns=20).header == wanted


@pytest.mark.parametrize("indices", [None, [3, 0, 3], []])
def test_slices_come_in_the_order_asked_for(tmp_path, indices):
    save_stack(tmp_path, [(0, 0, z) for z in range(12)])
    (entry,) = discover(tmp_path).series
    heights = [one.header.ImagePositionPatient[2] for one in read_slices(entry, indices)]
    assert heights == (list(range(12)) if indices is None else indices)


def test_a_slice_is_not_kept_once_the_next_is_read(tmp_path):
    save_stack(tmp_path, [(0, 0, z) for z in range(12)])
    (entry,) = discover(tmp_path).series
    slices = read_slices(entry)
    before = weakref.ref(next(slices).hu)
    for _ in range(5):
        now = weakref.ref(next(slices).hu)
        gc.collect()
        assert before() is None
        before = now
    slices.close()


def test_reading_may_stop_early(tmp_path):
    save_stack(tmp_path, [(0, 0, z) for z in range(30)])
    (entry,) = discover(tmp_path).series
    slices = read_slices(entry)
    next(slices)
    slices.close()
    assert read_series(entry).hu.shape == (30, 24, 20)


def test_relative_paths_are_read_after_a_change_of_folder(tmp_path, monkeypatch):
    for name in ("a", "b"):
        save(make_slice(RescaleIntercept=ord(name)), tmp_path / name / "CT" / "1")
        monkeypatch.chdir(tmp_path / name)
        assert read_only_series(Path("CT")).hu[0, 0, 0] == ord(name)


def crash(*_):
    os.abort()


def test_a_file_that_crashes_its_decoder_fails_alone(tmp_path, monkeypatch):
    save_stack(tmp_path, [(0, 0, z) for z in range(3)])
    (entry,) = discover(tmp_path).series
    with monkeypatch.context() as patched:
        patched.setattr(reading, "decode_slice", crash)
        with pytest.raises(SeriesError) as caught:
            read_series(entry)
    assert str(caught.value).startswith("CORRUPT_PIXEL_DATA: 003: its decoder crashed")
    assert read_series(entry).hu.shape == (3, 24, 20)


def test_a_sequence_that_unpacks_to_gigabytes_is_a_named_error(tmp_path, monkeypatch):
    dataset = make_slice()
    dataset.add_new("ReferencedImageSequence", "OB", b"\xfe\xff\x00\xe0\0\0\0\0" * 2_000_000)
    path = save(dataset, tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x40\x11OB", b"\x08\x00\x40\x11SQ"))
    (entry,) = discover(tmp_path).series
    hurried = partial(sandbox().ordered, limits=Limits(cpu_s=1, wall_s=60))
    monkeypatch.setattr(reading, "sandbox", lambda: SimpleNamespace(ordered=hurried))
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA: a: its decoder took more than 1 s"):
        read_series(entry)


def test_bits_that_moved_since_the_file_was_found_are_refused(tmp_path):
    stored = np.arange(480, dtype=np.int16).reshape(24, 20)
    path = save(make_slice(stored, BitsStored=12, HighBit=11), tmp_path / "a")
    (entry,) = discover(tmp_path).series
    save(make_slice(stored, BitsStored=12, HighBit=15), path)
    with pytest.raises(SeriesError) as caught:
        read_series(entry)
    reason = "its bits are not where its header said when found"
    assert str(caught.value) == f"CORRUPT_PIXEL_DATA: a: {reason}; copy the file again"


@pytest.mark.parametrize("kind", ["single-frame", "multi-frame"])
def test_encapsulated_pixels_without_a_transfer_syntax_are_not_read_as_raw(tmp_path, kind):
    if kind == "single-frame":
        path = tmp_path / "a"
        encode(RLELossless, STORED[0]).save_as(path)
    else:
        path = save_enhanced(tmp_path / "a", "RLE")
    declared = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.5\0"
    content = path.read_bytes()
    assert declared in content
    path.write_bytes(content.replace(declared, struct.pack("<HH2sH", 2, 0x10, b"UI", 0)))
    (entry,) = discover(tmp_path).series
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA: a: "):
        read_series(entry)


def encode(syntax, stored=None, **attributes):
    """A slice in `syntax`."""
    dataset = make_slice(stored, **attributes)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def codestream(dataset):
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def with_codestream(dataset, stream):
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    return dataset


def jpeg_2000_of(side):
    """Its SIZ marker claims `side` × `side` pixels in one tile (ISO 15444-1 A.5.1)."""
    dataset = encode(JPEG2000Lossless, STORED[0])
    stream = bytearray(codestream(dataset))
    place = stream.index(b"\xff\x51") + 6
    stream[place : place + 8] = struct.pack(">2L", side, side)
    stream[place + 16 : place + 24] = struct.pack(">2L", side, side)
    return with_codestream(dataset, bytes(stream))


def jpeg_ls_of(side):
    """Its frame header claims `side` × `side` pixels (ISO 14495-1 C.2.2)."""
    dataset = encode(JPEGLSLossless)
    stream = bytearray(codestream(dataset))
    place = stream.index(b"\xff\xf7") + 5
    stream[place : place + 4] = struct.pack(">2H", side, side)
    return with_codestream(dataset, bytes(stream))


def rle_of(repeats):
    """Its first segment unpacks to 128 bytes for each of `repeats` pairs (PS3.5 G.3)."""
    segment = b"\x81\x00" * repeats
    header = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13)
    return with_codestream(encode(RLELossless), header + segment + segment)


BOMBS = {
    "J2K 60000": lambda: jpeg_2000_of(60_000),
    "J2K 20000": lambda: jpeg_2000_of(20_000),
    "JPEG-LS 60000": lambda: jpeg_ls_of(60_000),
    "RLE": lambda: rle_of(5_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_decompression_bomb_is_a_named_error(tmp_path, bomb):
    dataset = BOMBS[bomb]()
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    save(make_slice(position=(0, 0, 1), series="other"), tmp_path / "b")
    bad, good = discover(tmp_path).series
    with pytest.raises(SeriesError) as caught:
        read_series(bad)
    assert caught.value.finding.code == Code.CORRUPT_PIXEL_DATA
    assert read_series(good).hu.shape == (1, 24, 20)


def test_a_claim_of_60000_by_60000_pixels_is_not_believed(tmp_path):
    path = save(make_slice(), tmp_path / "a")
    save(make_slice(Rows=60_000, Columns=60_000), path)
    with pytest.raises(SeriesError, match="60000 x 60000 pixels now, 24 x 20 when found"):
        read_slice(path, rows=24, columns=20)
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA"):
        read_slice(path, rows=60_000, columns=60_000)


ENCODINGS = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
}
STORED = np.random.default_rng(0).integers(-1000, 1000, (5, 32, 36)).astype(np.int16)


def save_enhanced(path, encoding="explicit", table="basic", **attributes):
    """Five frames, whose positions run against their numbers."""
    dataset = make_enhanced(
        STORED, [(0, 0, 8.0 - 2 * frame) for frame in range(5)], [(1 + frame, -frame) for frame in range(5)]
    )
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if ENCODINGS[encoding].is_encapsulated:
        dataset.compress(
            ENCODINGS[encoding], encapsulate_ext=table == "extended", generate_instance_uid=False
        )
        if table == "none":
            frames = list(generate_frames(dataset.PixelData, number_of_frames=5))
            dataset.PixelData = encapsulate(frames, has_bot=False)
    elif encoding == "big endian":
        dataset.PixelData = STORED.astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ENCODINGS[encoding]
    dataset.set_original_encoding(
        ENCODINGS[encoding].is_implicit_VR, ENCODINGS[encoding].is_little_endian, "ISO_IR 6"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("encoding", "table"),
    [*((encoding, "basic") for encoding in ENCODINGS), ("JPEG-LS", "none"), ("RLE", "extended")],
)
def test_frames_of_a_multi_frame_file_are_read_one_by_one(tmp_path, encoding, table):
    path = save_enhanced(tmp_path / "a", encoding, table)
    (entry,) = discover(tmp_path).series
    assert entry.files == (path,) * 5
    assert entry.frames == (4, 3, 2, 1, 0)
    assert entry.is_multi_frame
    series = read_series(entry)
    wanted = np.stack([STORED[frame] * np.float32(1 + frame) - frame for frame in entry.frames])
    np.testing.assert_array_equal(series.hu[~series.padding], wanted[~series.padding])
    assert [header.InstanceNumber for header in series.headers] == [5, 4, 3, 2, 1]
    assert all("PixelData" not in header for header in series.headers)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_file_stays_open(tmp_path, encoding):
    path = save_enhanced(tmp_path / "a", encoding)
    for frame in (3, 1):
        frame_as_image(path, frame)
    assert path not in [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.exists()]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_digest_of_a_slice_does_not_depend_on_its_encoding(tmp_path, encoding):
    item = make_slice(PixelData=None)
    one, other = (
        make_slice(
            STORED[0],
            PixelPaddingValue=-2000,
            OperatorsName=["A^B", "C^D"],
            InstitutionName="Universität",
            SpecificCharacterSet="ISO_IR 100",
            ReferencedImageSequence=[item, pydicom.Dataset()],
            CTDIvol=5.5,
            FrameIncrementPointer=[0x00100010, 0x00100020],
        )
        for _ in range(2)
    )
    save(one, tmp_path / "a")
    syntax = ENCODINGS[encoding]
    other.file_meta = FileMetaDataset()
    other.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax.is_encapsulated:
        other.compress(syntax, generate_instance_uid=False)
    elif encoding == "big endian":
        other.PixelData = STORED[0].astype(">i2").tobytes()
    other.file_meta.TransferSyntaxUID = syntax
    other.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, "ISO_IR 100")
    other.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x10, "LO", "private")
    other.save_as(tmp_path / "b", enforce_file_format=True)
    first, second = (read_slice(tmp_path / name, rows=32, columns=36).content_digest for name in "ab")
    assert first == second


def test_the_digest_of_a_slice_does_not_depend_on_the_order_of_its_elements(tmp_path):
    one = read_slice(save(make_slice(), tmp_path / "a"), rows=24, columns=20)
    header, pixels = one.header, one.pixel_digest
    turned = pydicom.Dataset()
    for tag in reversed(list(header.keys())):
        turned[tag] = header[tag]
    turned.file_meta = header.file_meta
    assert list(turned.keys()) != list(header.keys())
    assert content_digest(turned, pixels) == content_digest(header, pixels)


def test_malformed_elements_count_with_their_bytes(tmp_path):
    digests = set()
    for text in ("abcd", "abce", "abcd"):
        path = save(make_slice(StudyID=text), tmp_path / "a")
        path.write_bytes(path.read_bytes().replace(b"\x20\0\x10\0SH", b"\x20\0\x10\0FD"))
        digests.add(read_slice(path, rows=24, columns=20).content_digest)
    assert len(digests) == 2


def test_frames_of_several_files_are_one_stack(tmp_path):
    for part in range(3):
        shifted = make_enhanced(
            STORED[:2], [(0, 0, 4 * part), (0, 0, 4 * part + 2)], [(1, 0)] * 2, SOPInstanceUID=f"1.2.{part}"
        )
        save(shifted, tmp_path / str(part))
    (entry,) = discover(tmp_path).series
    assert [path.name for path in entry.files] == ["0", "0", "1", "1", "2", "2"]
    assert entry.frames == (0, 1) * 3
    assert read_series(entry).hu.shape == (6, 32, 36)


@pytest.mark.parametrize("cut_bytes", [10, 32 * 36 * 2 + 10])
def test_a_frame_that_is_cut_off_fails_and_the_others_do_not(tmp_path, cut_bytes):
    path = save_enhanced(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:-cut_bytes])
    (entry,) = discover(tmp_path).series
    assert read_slice(path, rows=32, columns=36, frame=0).hu.shape == (32, 36)
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA"):
        read_series(entry)


def test_frames_beyond_the_declared_length_of_the_pixels_are_not_made_of_what_follows_them(tmp_path):
    dataset = make_enhanced(STORED, [(0, 0, z) for z in range(5)], [(1, 0)] * 5)
    dataset.PixelData = STORED[:4].tobytes()
    dataset.add_new(0xFFFCFFFC, "OB", bytes(STORED[4].nbytes))
    path = save(dataset, tmp_path / "a")
    assert read_slice(path, rows=32, columns=36, frame=3).hu.shape == (32, 36)
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA"):
        read_slice(path, rows=32, columns=36, frame=4)


@pytest.mark.parametrize("change", ["single frame", "fewer frames", "no pixels"])
def test_a_multi_frame_file_that_changed_fails(tmp_path, change):
    path = save_enhanced(tmp_path / "a")
    (entry,) = discover(tmp_path).series
    read_series(entry)
    if change == "single frame":
        save(make_slice(), path)
    elif change == "fewer frames":
        save(make_enhanced(STORED[:2], [(0, 0, 0), (0, 0, 1)], [(1, 0)] * 2), path)
    else:
        save(make_enhanced(STORED, [(0, 0, z) for z in range(5)], [(1, 0)] * 5, PixelData=None), path)
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA"):
        read_series(entry)


def test_a_thousand_frames_are_read_in_linear_time(tmp_path):
    seconds = []
    for count in (200, 800):
        stored = np.zeros((count, 16, 16), np.int16)
        frames = make_enhanced(stored, [(0, 0, z) for z in range(count)], [(1, 0)] * count)
        path = save(frames, tmp_path / str(count) / "a")
        read_slice(path, rows=16, columns=16, frame=0)
        started = time.perf_counter()
        for frame in range(0, count, count // 100):
            read_slice(path, rows=16, columns=16, frame=frame)
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < 3 * seconds[0] + 0.5


@pytest.fixture
def real_data() -> Path:
    return Path(str(REAL))


def one_file(path: Path, folder: Path) -> SeriesEntry:
    folder.mkdir()
    (folder / path.name).symlink_to(path)
    (entry,) = discover(folder).series
    return entry


@real
@needs_real
def test_every_lossless_encoding_of_a_slice_reads_alike(real_data, tmp_path):
    files = {
        path.stem.rpartition(".4.")[2] if ".4." in path.stem else path.stem: path
        for path in (real_data / "nasty/transfer_syntaxes_same_slice").iterdir()
    }
    reference = read_series(one_file(files["CTImage"], tmp_path / "reference"))
    difference_hu: dict[str, float] = {}
    undecodable: set[str] = set()
    identical = 0
    for name, path in files.items():
        entry = one_file(path, tmp_path / name)
        finding = entry.finding(Task.DENOISE)
        if finding.code == Code.UNSUPPORTED_TRANSFER_SYNTAX:
            assert path.name in finding.message
            undecodable.add(name)
        else:
            series = read_series(entry)
            image = ~(series.padding | reference.padding)
            difference_hu[name] = float(np.abs(series.hu - reference.hu)[image].max())
            identical += np.array_equal(series.hu, reference.hu)
    assert len(files) == 16
    assert undecodable == {"51", "53", "55"}
    assert difference_hu.pop("81") <= 1
    assert difference_hu.pop("91") <= 5
    assert np.isfinite(difference_hu.pop("50"))
    assert set(difference_hu.values()) == {0.0}
    assert len(difference_hu) == identical == 10


@real
@needs_real
def test_hostile_folder_ends_in_verdicts(real_data, capfd):
    found = discover(real_data / "nasty")
    codes = {entry.files[0].parent.name: entry.finding(Task.INGEST).code for entry in found.series}
    assert codes["transfer_syntaxes_same_slice"] == Code.DUPLICATE_POSITION
    assert codes["derived_missing_slice"] == Code.MISSING_SLICE
    assert codes["001"] == Code.GANTRY_TILT
    for entry in found.series:
        finding = entry.finding(Task.DENOISE)
        assert "\n" not in finding.message
        if finding.verdict == Verdict.SLICEWISE:
            assert np.isfinite(read_series(entry).hu).all()
    assert "".join(capfd.readouterr()) == ""


@real
@needs_real
def test_organs_of_a_jpeg2000_scan_have_their_published_hu(real_data):
    import nibabel

    series = read_only_series(real_data / "ct/totalseg_dicom_j2k/ct")
    path = real_data / "ct/totalseg_dicom_j2k/example_seg_dicom.nii.gz"
    labels = np.asarray(nibabel.load(path).dataobj)
    masks = np.stack([labels[:, :, z].T[::-1] for z in range(labels.shape[2])])
    for value, expected in ((5, 89), (1, 80)):
        inside = series.hu[masks == value]
        assert inside.size > 1000
        assert inside.mean() == pytest.approx(expected, abs=5)


@real
@needs_real
def test_headers_of_a_chest_are_read_in_z_order(real_data):
    (entry,) = discover(real_data / "ct/lidc_0314_chest_1mm").series
    heights = [
        float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in entry.files
    ]
    assert heights == sorted(heights)
    assert entry.geometry.spacing_mm == pytest.approx((1, 0.78125, 0.78125), abs=1e-6)

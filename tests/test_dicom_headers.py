import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.dicom import Code, Finding, discover, headers
from pipeline.dicom.elements import values_of
from pipeline.dicom.headers import read_header
from pipeline.dicom.quiet import quiet_pydicom
from tests.dicom_factory import make_slice, read_only_series, save

STORED = np.arange(24 * 20, dtype=np.int16).reshape(24, 20) - 100
PREAMBLE_BYTES = 132


def encoded(folder, syntax, *, keep=lambda whole: whole, **attributes):
    """A slice in a transfer syntax; `keep` says what of its bytes is left."""
    big_endian = syntax == ExplicitVRBigEndian
    dataset = make_slice(STORED.astype(">i2") if big_endian else STORED, **attributes)
    save(dataset, folder / "a")
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(
        folder / "a",
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=not big_endian,
        enforce_file_format=True,
    )
    whole = (folder / "a").read_bytes()
    (folder / "a").write_bytes(keep(whole))
    return folder / "a"


def without_preamble(whole):
    return whole[PREAMBLE_BYTES:]


def without_meta(whole):
    """The data set alone: group length says where it begins (PS3.10 7.1)."""
    assert whole[PREAMBLE_BYTES : PREAMBLE_BYTES + 6] == b"\x02\x00\x00\x00UL"
    length = int.from_bytes(whole[PREAMBLE_BYTES + 8 : PREAMBLE_BYTES + 12], "little")
    return whole[PREAMBLE_BYTES + 12 + length :]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("keep", [lambda whole: whole, without_preamble, without_meta])
def test_what_is_missing_before_the_data_set_is_not_missed(tmp_path, syntax, keep):
    encoded(tmp_path, syntax, keep=keep)
    series = read_only_series(tmp_path)
    np.testing.assert_array_equal(series.hu[0], STORED)
    assert series.entry.transfer_syntax_uid == syntax
    assert series.entry.slice_thickness_mm == 2


def test_meta_group_without_transfer_syntax_is_read(tmp_path):
    path = encoded(tmp_path, ImplicitVRLittleEndian)
    whole = path.read_bytes()
    element = b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00"
    assert element in whole
    path.write_bytes(whole.replace(element, b""))
    np.testing.assert_array_equal(read_only_series(tmp_path).hu[0], STORED)


@pytest.mark.parametrize("vr", [b"UN", b"XX", b"OX"])
def test_a_wrong_value_representation_costs_one_element_at_most(tmp_path, vr):
    """Of a standard element: its VR is in the dictionary. What is not positions or pixels stays as it is."""
    path = encoded(tmp_path, ExplicitVRLittleEndian, ConvolutionKernel="B30f")
    whole = path.read_bytes()
    kernel = b"\x18\x00\x10\x12SH\x04\x00B30f"
    assert kernel in whole
    length = b"\x00\x00\x04\x00\x00\x00" if vr == b"UN" else b"\x04\x00"
    path.write_bytes(whole.replace(kernel, kernel[:4] + vr + length + b"B30f"))
    (header,) = read_header(path)
    assert header.position_mm == (0, 0, 0)
    assert header.kernel in ("B30f", None)
    np.testing.assert_array_equal(read_only_series(tmp_path).hu[0], STORED)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\0" * 200, "first bytes are not"),
        (b"\0" * 128 + b"DICM", "no modality in its header"),
        (b" " + b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "first bytes are not"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    finding = read_header(path)
    assert isinstance(finding, Finding)
    assert finding.code == Code.UNREADABLE
    assert words in finding.message


@pytest.mark.parametrize("place", ["_parse", "text_of"])
def test_a_lack_of_memory_is_not_blamed_on_the_header(tmp_path, monkeypatch, place):
    path = save(make_slice(), tmp_path / "a")

    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(headers, place, exhaust)
    with pytest.raises(MemoryError):
        read_header(path)


def test_a_lack_of_memory_is_not_taken_for_a_missing_value():
    class Exhausted(pydicom.Dataset):
        def get(self, *_):
            raise MemoryError

    with pytest.raises(MemoryError):
        values_of(Exhausted(), "Modality")


@pytest.mark.parametrize("cut", [140, 300, 500])
def test_a_header_cut_short_is_a_finding(tmp_path, cut):
    path = encoded(tmp_path, ExplicitVRLittleEndian, keep=lambda whole: whole[:cut])
    assert isinstance(read_header(path), Finding)


@pytest.mark.real
def test_no_meta_is_one_stray_byte_before_a_sound_data_set(tmp_path, real_data):
    """Where a data set begins is not searched for: dcmdump refuses such a file too."""
    whole = (real_data / "nasty" / "odd_headers" / "no_meta.dcm").read_bytes()
    assert whole[:5] == b"\x20\x08\x00\x05\x00"
    (tmp_path / "shifted.dcm").write_bytes(whole)
    (finding,) = discover(tmp_path).findings
    assert finding.code == Code.UNREADABLE
    (tmp_path / "shifted.dcm").write_bytes(whole[1:])
    sound = read_only_series(tmp_path)
    with quiet_pydicom():
        same = pydicom.dcmread(real_data / "nasty" / "odd_headers" / "CT_small.dcm")
    seen = ~sound.padding[0]
    np.testing.assert_array_equal(sound.hu[0][seen], same.pixel_array[seen] - 1024)


@pytest.mark.real
@pytest.mark.parametrize("name", ["empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm"])
def test_files_without_an_image_class_are_not_taken_for_one(real_data, name):
    """A few hundred bytes that hold neither matrix nor modality: there is nothing else to read in them."""
    finding = read_header(real_data / "nasty" / "odd_headers" / name)
    assert finding.code == Code.UNREADABLE
    assert "no modality in its header" in finding.message


@pytest.mark.parametrize(
    ("modality", "expected"),
    [("CT", "CT"), ("MR", "MR"), ("SMITH", "unknown"), ("ct", "unknown"), ("", "unknown")],
)
def test_only_defined_terms_are_shown_as_modality(tmp_path, modality, expected):
    with quiet_pydicom():
        path = save(make_slice(Modality=modality), tmp_path / "a")
    (header,) = read_header(path)
    assert header.modality == expected


def test_texts_that_repeat_the_identity_are_kept_back(tmp_path):
    """An operator typed the patient's name into fields that tables and log lines show."""
    path = save(
        make_slice(
            ConvolutionKernel="B30f",
            Manufacturer="Name Scanners",
            SeriesDescription="abdomen SECRET",
            BodyPartExamined="ABDOMEN",
        ),
        tmp_path / "a",
    )
    (header,) = read_header(path)
    assert (header.manufacturer, header.series_description) == (None, None)
    assert (header.kernel, header.body_part) == ("B30f", "ABDOMEN")

"""Hostile files and nasty cases: what becomes of each when it is to be denoised.

The first half is one table of every hostile file at hand; the second half is the 18 nasty cases, in order.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments, get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from pipeline.dicom import (
    Derivation,
    SeriesEntry,
    SeriesError,
    Task,
    Verdict,
    discover,
    read_series,
    write_derived_series,
)
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.hu import AIR_HU
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack
from tests.enhanced_factory import make_enhanced

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
HEIGHTS = [(-10.0, -20.0, z) for z in (0.0, 2.5, 5.0, 7.5)]
DERIVATION = Derivation("redcnn", "3", "ab" * 32, {"strength": 0.8}, "0.1.0")

CT_CLASS = CTImageStorage.encode() + b"\0"
ALONE = "slicewise TOO_FEW_SLICES"
NO_CODEC = "refused UNSUPPORTED_TRANSFER_SYNTAX"
DAMAGED = "failed UNREADABLE"
NO_IMAGE = "skipped NOT_AN_IMAGE"
NO_CT = "skipped NOT_CT"
SCOUT = "skipped LOCALIZER"
IGNORED = "ignored"

NASTY_FILES = {
    "transfer_syntaxes_same_slice": {
        "CTImage.dcm": ALONE,
        "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm": ALONE,
        "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm": ALONE,
        "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm": ALONE,
        "JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm": ALONE,
        "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm": ALONE,
        "JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm": ALONE,
        "JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": NO_CODEC,
        "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm": ALONE,
        "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57.dcm": ALONE,
        "JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm": ALONE,
        "JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm": NO_CODEC,
        "JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": NO_CODEC,
        "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm": ALONE,
        "LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm": ALONE,
        "RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm": ALONE,
    },
    "odd_headers": {
        "CT_small.dcm": ALONE,
        "J2K_pixelrep_mismatch.dcm": ALONE,
        "bad_sequence.dcm": ALONE,
        "explicit_VR-UN.dcm": ALONE,
        "empty_charset_LEI.dcm": DAMAGED,  # two elements: neither class, modality nor matrix
        "meta_missing_tsyntax.dcm": DAMAGED,  # private elements only
        "no_meta.dcm": DAMAGED,  # a stray byte before the first element
    },
    "not_an_image": {
        "liver_1frame.dcm": NO_CT,
        "no-pixel-data.dcm": NO_IMAGE,
        "no-pixel-spacing.dcm": NO_CT,
        "reportsi.dcm": NO_IMAGE,
        "rtdose.dcm": NO_CT,
        "rtplan.dcm": NO_IMAGE,
        "rtplan_truncated.dcm": NO_IMAGE,
        "rtstruct.dcm": NO_IMAGE,
    },
    "other_modality": {"MR_small.dcm": NO_CT, "MR_truncated.dcm": NO_CT},
}
"""Each hostile file in a folder of its own; a file name may lack its beginning."""

NASTY_FOLDERS = {
    "transfer_syntaxes_same_slice": {"refused DUPLICATE_POSITION": 16},
    "odd_headers": {ALONE: 4, DAMAGED: 3},
    "not_an_image": {NO_CT: 3, NO_IMAGE: 5},
    "other_modality": {NO_CT: 2},
    "d2n_gantrytilting": {"slicewise GANTRY_TILT": 4},
    "derived_missing_slice": {"slicewise MISSING_SLICE": 7},
}
"""Files by outcome when a folder is searched whole."""

SHIPPED_FILES = {
    "693_J2KI.dcm": ALONE,
    "CT_small.dcm": ALONE,
    "J2K_pixelrep_mismatch.dcm": ALONE,
    "UN_sequence.dcm": DAMAGED,  # CT by its meta group, without a matrix
    "no_meta.dcm": DAMAGED,
    "liver_1frame.dcm": NO_CT,  # segmentations, which refer to CT
    "liver_expb_1frame.dcm": NO_CT,
    "dicomdirtests/77654033/CT2": ALONE,
    "dicomdirtests/98892001/CT2N": SCOUT,
    "dicomdirtests/98892001/CT5N": ALONE,
    "dicomdirtests/TINY_ALPHA/PT000000": DAMAGED,  # no matrix
    "dicomdirtests/TINY_ALPHA/DICOMDIR": IGNORED,
    "dicomdirtests/DICOMDIR": IGNORED,
    "dicomdirtests/DICOMDIR-bigEnd": IGNORED,
    "dicomdirtests/DICOMDIR-implicit": IGNORED,
    "dicomdirtests/DICOMDIR-nooffset": IGNORED,
    "dicomdirtests/DICOMDIR-nopatient": IGNORED,
    "dicomdirtests/DICOMDIR-reordered": IGNORED,
}
"""Each file that pydicom installs and that begins as CT, in a folder of its own; a folder: all its files."""

SHIPPED_FOLDERS = {
    "dicomdirtests/77654033/CT2": {"slicewise MISSING_SLICE": 4},
    "dicomdirtests/98892001/CT2N": {SCOUT: 2},
    "dicomdirtests/98892001/CT5N": {"done": 5},
    "dicomdirtests/TINY_ALPHA": {DAMAGED: 50, "skipped NOT_DICOM": 1},
}
"""Files by outcome when a folder is searched whole."""

CASES = {
    1: [
        "test_dicom_discovery.py::test_gantry_tilt_is_found_from_positions_and_named_in_degrees",
        "test_nasty_case_01_a_tilt_angle_that_is_no_number_changes_nothing",
    ],
    2: [
        "test_dicom_discovery.py::test_missing_slice_is_named_by_its_position",
        "test_dicom_discovery.py::test_uneven_steps_name_both_extremes",
        "test_nasty_case_02_slices_of_several_thicknesses_keep_theirs",
    ],
    3: ["test_dicom_discovery.py::test_a_localizer_within_the_series_is_split_off"],
    4: [
        "test_dicom_discovery.py::test_duplicate_positions_without_acquisition_numbers_are_refused",
        "test_dicom_discovery.py::test_phases_are_told_apart_by_acquisition_number",
    ],
    5: ["test_nasty_case_05_each_slice_keeps_its_own_exposure"],
    6: [
        "test_dicom_reading.py::test_each_slice_has_its_own_rescale",
        "test_dicom_derived.py::test_unchanged_hu_give_the_stored_pixels_back",
    ],
    7: ["test_nasty_case_07_padding_is_air_for_the_network_and_kept_in_the_file"],
    8: ["test_nasty_case_08_instance_numbers_decide_nothing"],
    9: [
        "test_dicom_reading.py::test_signed_twelve_bits_in_sixteen_keep_their_sign",
        "test_nasty_case_09_a_codestream_that_contradicts_the_header_about_sign_reads_as_in_simpleitk",
    ],
    10: [
        "test_dicom_reading.py::test_every_lossless_encoding_of_a_slice_reads_alike",
        "test_nasty_case_10_a_frame_in_many_fragments_reads_like_one_in_a_piece",
    ],
    11: [
        "test_nasty_case_11_files_without_preamble_or_meta_are_read_in_every_byte_order",
        "test_nasty_case_11_a_truncated_file_is_never_done_nor_skipped",
        "test_nasty_case_11_a_bad_value_representation_harms_no_pixel",
        "test_dicom_discovery.py::test_bad_files_are_reported_and_do_not_stop_the_folder",
    ],
    12: [
        "test_nasty_case_12_ct_of_many_frames_is_split_or_refused_but_never_guessed",
        "test_judges.py::test_every_judge_accepts_the_slices_of_a_multi_frame_image",
    ],
    13: ["test_nasty_case_13_what_is_no_ct_image_is_skipped_beside_the_scan"],
    14: ["test_dicom_discovery.py::test_one_slice_is_denoised_slicewise_but_is_no_volume"],
    15: [
        "test_judges.py::test_simpleitk_reads_the_geometry_and_hu_that_were_meant",
        "test_judges.py::test_dcm2niix_reads_the_geometry_and_hu_that_were_meant",
        "test_judges.py::test_segments_have_a_dice_of_1_in_dcmqi",
    ],
    16: ["test_nasty_case_16_slices_without_a_place_are_denoised_one_by_one"],
    17: ["test_nasty_case_17_empty_identities_and_any_character_set_come_through_as_they_were"],
    18: [
        "test_dicom_simulated_dose.py::test_streaming_holds_few_slices_however_long_the_series",
        "test_inference.py::test_one_failing_series_never_stops_the_batch",
        "test_inference.py::test_what_a_killed_run_left_behind_is_not_taken_for_done",
        "test_restart.py::test_killed_at_any_moment_a_run_is_brought_to_its_end_by_the_next",
        "test_restart.py::test_two_runs_at_once_do_every_series_once",
        "test_restart.py::test_a_disk_that_is_full_or_read_only",
        "test_restoration.py::test_memory_does_not_grow_with_the_number_of_slices",
    ],
}
"""The nasty cases by number: the tests that prove each, those of this file without its name."""


@pytest.mark.real
@pytest.mark.parametrize("group", NASTY_FILES)
def test_every_hostile_file_has_its_verdict(real_data, group, tmp_path):
    files = sorted((real_data / "nasty" / group).iterdir())
    found = {path.name.removeprefix("CTImage.dcm_"): outcome_of_one(path, tmp_path) for path in files}
    assert found == NASTY_FILES[group]


@pytest.mark.real
def test_every_hostile_folder_has_its_verdicts(real_data, tmp_path):
    folders = sorted((real_data / "nasty").iterdir())
    assert {folder.name: outcomes(folder) for folder in folders} == NASTY_FOLDERS


def test_every_ct_file_that_pydicom_ships_has_its_verdict(tmp_path):
    files = [path for path in sorted(SHIPPED.rglob("*")) if path.is_file()]
    expected = {path: SHIPPED_FILES.get(row_of(path)) for path in files}
    for path, verdict in expected.items():
        found = outcome_of_one(path, tmp_path)
        if verdict is None:
            assert CT_CLASS not in path.read_bytes()[:4096], f"{path.name} is in no table"
            assert found == IGNORED or found.startswith(("skipped", "failed")), path.name
        else:
            assert found == verdict, path.name
    assert {row_of(path) for path in files} >= SHIPPED_FILES.keys()


def test_every_folder_of_ct_that_pydicom_ships_has_its_verdicts(tmp_path):
    assert {name: outcomes(SHIPPED / name) for name in SHIPPED_FOLDERS} == SHIPPED_FOLDERS


@pytest.mark.parametrize("number", range(1, 19))
def test_every_nasty_case_has_a_test(number):
    for test in CASES[number]:
        file, _, name = test.rpartition("::")
        path = Path(__file__).with_name(file) if file else Path(__file__)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize("angle", ["NaN", "inf", "-14.5", ""])
@pytest.mark.parametrize(("degrees", "verdict"), [(0, "done"), (14, "slicewise GANTRY_TILT")])
def test_nasty_case_01_a_tilt_angle_that_is_no_number_changes_nothing(tmp_path, angle, degrees, verdict):
    tilt = math.radians(degrees)
    orientation = (1, 0, 0, 0, math.cos(tilt), -math.sin(tilt))
    for number, position in enumerate(HEIGHTS):
        dataset = make_slice(position=position, orientation=orientation)
        dataset.add(DataElement("GantryDetectorTilt", "DS", angle, validation_mode=pydicom.config.IGNORE))
        save(dataset, tmp_path / "in" / str(number))
    assert outcomes(tmp_path / "in") == {verdict: 4}
    denoised(tmp_path)
    for path in (tmp_path / "out").iterdir():
        assert element(b"\x18\x00\x20\x11DS", angle.encode()) in path.read_bytes()


def test_nasty_case_02_slices_of_several_thicknesses_keep_theirs(tmp_path):
    thicknesses_mm = [1.0, 2.5, 2.5, 5.0]
    for position, thickness_mm in zip(HEIGHTS, thicknesses_mm, strict=True):
        save(make_slice(position=position, SliceThickness=thickness_mm), tmp_path / "in" / str(position[2]))
    assert outcomes(tmp_path / "in") == {"done": 4}
    assert [dataset.SliceThickness for dataset in denoised(tmp_path)] == thicknesses_mm


def test_nasty_case_05_each_slice_keeps_its_own_exposure(tmp_path):
    exposures_mas = [10, 40, 20, 80]
    for position, mas in zip(HEIGHTS, exposures_mas, strict=True):
        dataset = make_slice(position=position, Exposure=mas, XRayTubeCurrent=2 * mas)
        save(dataset, tmp_path / "in" / str(-position[2]))
    written = denoised(tmp_path)
    assert [(dataset.Exposure, dataset.XRayTubeCurrent) for dataset in written] == [
        (mas, 2 * mas) for mas in exposures_mas
    ]


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("padding", [-1500, -2000, -3024])
def test_nasty_case_07_padding_is_air_for_the_network_and_kept_in_the_file(tmp_path, padding, is_declared):
    stored = np.arange(-200, 280, dtype=np.int16).reshape(24, 20)
    stored[:6, :5] = padding
    attributes = {"PixelPaddingValue": padding} if is_declared else {}
    save(make_slice(stored, **attributes), tmp_path / "in" / "a")
    series = read_only_series(tmp_path / "in")
    np.testing.assert_array_equal(series.padding[0], stored == padding)
    assert set(series.hu[series.padding]) == {AIR_HU}
    (written,) = denoised(tmp_path, shift_hu=5)
    np.testing.assert_array_equal(written.pixel_array, np.where(stored == padding, padding, stored + 5))


@pytest.mark.parametrize("numbers", [(None,) * 4, (7, 7, 7, 7), (3, 1, 4, 2)])
def test_nasty_case_08_instance_numbers_decide_nothing(tmp_path, numbers):
    for position, number in zip(HEIGHTS, numbers, strict=True):
        dataset = make_slice(position=position, **({} if number is None else {"InstanceNumber": number}))
        save(dataset, tmp_path / "in" / str(-position[2]))
    assert outcomes(tmp_path / "in") == {"done": 4}
    assert read_only_series(tmp_path / "in").entry.geometry.spacing_mm == (2.5, 0.8, 0.7)
    written = denoised(tmp_path)
    assert [tuple(dataset.ImagePositionPatient) for dataset in written] == HEIGHTS
    assert tuple(dataset.get("InstanceNumber") for dataset in written) == numbers


def test_nasty_case_09_a_codestream_that_contradicts_the_header_about_sign_reads_as_in_simpleitk(tmp_path):
    path = SHIPPED / "J2K_pixelrep_mismatch.dcm"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / path.name).symlink_to(path)
    series = read_only_series(tmp_path / "in")
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert (expected.min(), expected.max()) == (-2000, 1896)
    np.testing.assert_array_equal(series.padding, expected < -1024)
    np.testing.assert_array_equal(series.hu[~series.padding], expected[~series.padding])
    (written,) = denoised(tmp_path)
    np.testing.assert_array_equal(written.pixel_array, expected[0])


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_nasty_case_10_a_frame_in_many_fragments_reads_like_one_in_a_piece(tmp_path, syntax):
    stored = np.random.default_rng(3).integers(0, 4000, (64, 48)).astype(np.uint16)
    path = save(make_slice(stored), tmp_path / "in" / "a")
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=5)
    dataset.save_as(path)
    assert len(list(generate_fragments(dataset.PixelData))) == 6  # the offset table comes first
    np.testing.assert_array_equal(read_only_series(tmp_path / "in").hu[0], stored)


@pytest.mark.parametrize("keeps_meta", [True, False])
@pytest.mark.parametrize(
    ("syntax", "is_implicit", "is_little_endian"),
    [
        (ImplicitVRLittleEndian, True, True),
        (ExplicitVRLittleEndian, False, True),
        (ExplicitVRBigEndian, False, False),
    ],
)
def test_nasty_case_11_files_without_preamble_or_meta_are_read_in_every_byte_order(
    tmp_path, syntax, is_implicit, is_little_endian, keeps_meta
):
    expected = np.arange(480, dtype=np.int16).reshape(24, 20)
    dataset = make_slice(expected)
    if not is_little_endian:
        dataset.PixelData = expected.astype(">i2").tobytes()
    (tmp_path / "in").mkdir()
    buffer = DicomBytesIO()
    if keeps_meta:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_file_meta_info(buffer, meta, enforce_standard=False)
    buffer.is_little_endian, buffer.is_implicit_VR = is_little_endian, is_implicit
    write_dataset(buffer, dataset)
    (tmp_path / "in" / "scan").write_bytes(buffer.getvalue())
    assert outcomes(tmp_path / "in") == {ALONE: 1}
    np.testing.assert_array_equal(read_only_series(tmp_path / "in").hu[0], expected)


def test_nasty_case_11_a_truncated_file_is_never_done_nor_skipped(tmp_path):
    whole = save(make_slice(), tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 37):
        path = tmp_path / f"{length}.dcm"
        path.write_bytes(whole[:length])
        assert outcome_of_one(path, tmp_path).startswith(("failed", "refused")), length


@pytest.mark.parametrize("vr", [b"ZZ", b"??", b"\0\0"])
def test_nasty_case_11_a_bad_value_representation_harms_no_pixel(tmp_path, vr):
    """Its own element may be lost, and the file may fail; a wrong pixel may not come out."""
    path = save(make_slice(), tmp_path / "in" / "a.dcm")
    content = path.read_bytes()
    known = b"\x08\x00\x3e\x10LO"
    assert content.count(known) == 1
    path.write_bytes(content.replace(known, known[:4] + vr))
    if outcome_of_one(path, tmp_path) == ALONE:
        np.testing.assert_array_equal(read_only_series(tmp_path / "in").hu.ravel(), np.arange(480))
    else:
        assert outcome_of_one(path, tmp_path).startswith("failed")


def test_nasty_case_12_ct_of_many_frames_is_split_or_refused_but_never_guessed(tmp_path):
    stored = np.random.default_rng(4).integers(0, 2000, (4, 24, 20)).astype(np.int16)
    rescales = [(1.0, -1000.0), (1.0, -1024.0), (2.0, -1000.0), (0.5, -1000.0)]
    save(make_enhanced(stored, HEIGHTS, rescales), tmp_path / "in" / "enhanced")
    save(make_slice(stored.reshape(96, 20), NumberOfFrames=4, Rows=24), tmp_path / "several" / "a")
    slopes, intercepts = np.array(rescales).T[:, :, None, None]
    np.testing.assert_array_equal(read_only_series(tmp_path / "in").hu, stored * slopes + intercepts)
    assert outcomes(tmp_path / "in") == {"done": 4}
    written = denoised(tmp_path)
    assert [dataset.SourceImageSequence[0].ReferencedFrameNumber for dataset in written] == [1, 2, 3, 4]
    assert outcomes(tmp_path / "several") == {"refused MULTI_FRAME": 1}


def test_nasty_case_13_what_is_no_ct_image_is_skipped_beside_the_scan(tmp_path):
    save_stack(tmp_path / "in", HEIGHTS)
    nothing = {"Rows": None, "Columns": None, "PixelData": None}
    colour = np.zeros((24, 60), np.uint8)
    others = {
        "dose": make_slice(SOPClassUID=RTDoseStorage, Modality="RTDOSE", NumberOfFrames=1),
        "structures": make_slice(SOPClassUID=RTStructureSetStorage, Modality="RTSTRUCT", **nothing),
        "report": make_slice(SOPClassUID=XRayRadiationDoseSRStorage, Modality="SR", **nothing),
        "segments": make_slice(SOPClassUID=SegmentationStorage, Modality="SEG"),
        "mr": make_slice(SOPClassUID=MRImageStorage, Modality="MR"),
        "dose page": make_slice(
            colour,
            SOPClassUID=SecondaryCaptureImageStorage,
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
            Columns=20,
        ),
    }
    for name, dataset in others.items():
        save(dataset, tmp_path / "in" / name)
    found = outcomes(tmp_path / "in")
    assert found == {"done": 4, NO_CT: 4, NO_IMAGE: 2}


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_nasty_case_16_slices_without_a_place_are_denoised_one_by_one(tmp_path, missing):
    for number, position in enumerate(HEIGHTS):
        dataset = make_slice(np.full((24, 20), number, np.int16), position=position)
        delattr(dataset, missing)
        save(dataset, tmp_path / "in" / str(number))
    assert outcomes(tmp_path / "in") == {"slicewise NO_GEOMETRY": 4}
    written = denoised(tmp_path, shift_hu=5)
    assert [dataset.pixel_array[0, 0] for dataset in written] == [5, 6, 7, 8]
    assert all(missing not in dataset for dataset in written)


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (b"", b""),
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1")),
        (b"ISO_IR 192", "Müller^Jörg=山田^太郎".encode()),
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (b"NO SUCH SET", b"Doe^\xff\xfe"),
    ],
)
def test_nasty_case_17_empty_identities_and_any_character_set_come_through_as_they_were(
    tmp_path, character_set, name
):
    for number, position in enumerate(HEIGHTS):
        dataset = make_slice(position=position, PatientID="", SpecificCharacterSet="ISO_IR 100", StudyID="")
        dataset.PatientName = "NAME"
        path = save(dataset, tmp_path / "in" / str(number))
        content = replaced(path.read_bytes(), b"ISO_IR 100", character_set)
        path.write_bytes(replaced(content, b"NAME", name))
    assert outcomes(tmp_path / "in") == {"done": 4}
    denoised(tmp_path)
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert element(b"\x10\x00\x10\x00PN", name) in content
        assert element(b"\x10\x00\x20\x00LO", b"") in content
        assert element(b"\x08\x00\x05\x00CS", character_set) in content


def outcome_of_one(path: Path, scratch: Path) -> str:
    """What becomes of a file that lies in a folder of its own."""
    folder = scratch / f"alone-{path.name}"
    folder.mkdir(exist_ok=True)
    link = folder / path.name
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    (found,) = outcomes(folder) or {IGNORED}
    return found


def outcomes(folder: Path) -> dict[str, int]:
    """How many files of a folder come to which verdict and code, decoding included."""
    found = discover(folder)
    counts = Counter(f"{finding.verdict} {finding.code}" for finding in found.findings)
    for entry in found.series:
        counts[outcome(entry)] += len(entry.files)
    return dict(counts)


def outcome(entry: SeriesEntry) -> str:
    """The verdict of denoising a series and its code, as a run would find them."""
    finding = entry.finding(Task.DENOISE)
    if finding is None or finding.verdict == Verdict.SLICEWISE:
        try:
            assert np.isfinite(read_series(entry).hu).all()
        except SeriesError as error:
            finding = error.finding
    return f"{finding.verdict} {finding.code}" if finding else "done"


def row_of(path: Path) -> str:
    """The row of `SHIPPED_FILES` that speaks of a file: its own, or that of a folder above it."""
    place = path.relative_to(SHIPPED)
    rows = (str(one) for one in (place, *place.parents))
    return next((row for row in rows if row in SHIPPED_FILES), str(place))


def denoised(folder: Path, *, shift_hu: float = 0) -> list[pydicom.Dataset]:
    """The derived series of the one series in `folder/in`, written to `folder/out`, in slice order."""
    series = read_only_series(folder / "in")
    hu = series.hu + np.float32(shift_hu)
    files = write_derived_series(series, hu, folder / "out", derivation=DERIVATION, now=NOON)
    with quiet_pydicom():
        return [pydicom.dcmread(path) for path in files]


def replaced(content: bytes, placeholder: bytes, value: bytes) -> bytes:
    """The bytes of a file with another value in an explicit element of 16-bit length."""
    before = len(placeholder).to_bytes(2, "little") + placeholder
    assert content.count(before) == 1
    padded = value + b" " * (len(value) % 2)
    return content.replace(before, len(padded).to_bytes(2, "little") + padded)


def element(tag_and_vr: bytes, value: bytes) -> bytes:
    """The bytes of an explicit element of 16-bit length."""
    padded = value + b" " * (len(value) % 2)
    return tag_and_vr + len(padded).to_bytes(2, "little") + padded

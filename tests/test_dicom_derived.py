import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipeline.dicom import Derivation, SeriesError, Task, discover, read_series, write_derived_series
from pipeline.dicom.derivation import source_identity
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack, write_phantom
from tests.judges import conformance_errors

DERIVATION = Derivation("redcnn", "3", "ab" * 32, {"strength": 0.8, "engine": "cpu"}, "0.1.0")
REAL = os.environ.get("LDCT_REAL_DATA")
POSITIONS = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 4.0)]


def derive(series, folder, hu=None, **changes):
    arguments = {"derivation": DERIVATION, "now": NOON, **changes}
    return write_derived_series(series, series.hu if hu is None else hu, folder, **arguments)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st_numpy.arrays(np.int16, (6, 5), elements=st.integers(-2048, 2047)),
    slope=st.sampled_from([1, 1.000244, 0.5, 2.0002442, 0.1]),
    intercept=st.sampled_from([0, -1000, -1024, -1024.4]),
    padding=st.sampled_from([None, -2000, -2048]),
)
def test_unchanged_hu_give_the_stored_pixels_back(tmp_path, stored, slope, intercept, padding):
    shutil.rmtree(tmp_path)
    attributes = {"PixelPaddingValue": padding} if padding is not None else {}
    dataset = make_slice(
        stored, BitsStored=12, HighBit=11, RescaleSlope=slope, RescaleIntercept=intercept, **attributes
    )
    save(dataset, tmp_path / "in" / "a")
    (path,) = derive(read_only_series(tmp_path / "in"), tmp_path / "out")
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, stored)


def test_hu_are_rounded_clipped_and_kept_off_the_padding_value(tmp_path):
    stored = np.array([[0, 0, 0, 0, 100, 100]], np.uint16)
    save(
        make_slice(
            stored, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-1000, PixelPaddingValue=0
        ),
        tmp_path / "in" / "a",
    )
    series = read_only_series(tmp_path / "in")
    wanted = np.array([[[0, 0, 0, 0, -1000, 1e6]]], np.float32)
    (path,) = derive(series, tmp_path / "out", hu=wanted)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, [[0, 0, 0, 0, 1, 4095]])


def test_derived_slices_say_what_they_are(tmp_path):
    save_stack(
        tmp_path / "in",
        POSITIONS,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"],
        DerivationDescription="earlier step",
        LossyImageCompression="01",
        SmallestImagePixelValue=0,
        BurnedInAnnotation="NO",
    )
    series = read_only_series(tmp_path / "in")
    dataset = pydicom.dcmread(derive(series, tmp_path / "out", hu=series.hu + 5)[1])
    source = series.headers[1]
    assert dataset.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "HELIX"]
    assert dataset.SeriesDescription == "abdomen (denoised)"
    assert dataset.SeriesNumber == 9003
    assert dataset.ImageComments == "Not for diagnostic use."
    assert dataset.DerivationDescription.endswith("engine cpu, strength 0.8 earlier step")
    assert dataset.DerivationCodeSequence[0].CodeValue == "113087"
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert dataset.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert dataset.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (dataset.ContentDate, dataset.ContentTime) == ("20260102", "120000")
    assert (dataset.LossyImageCompression, dataset.BurnedInAnnotation) == ("01", "NO")
    assert dataset.SmallestImagePixelValue == 5
    for keyword in (
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "PixelSpacing",
        "PatientID",
    ):
        assert dataset[keyword].value == source[keyword].value
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


@pytest.mark.parametrize(
    ("offset", "written"),
    [
        ("+0530", ("20260103", "043000")),
        ("-0300", ("20260102", "200000")),
        (None, ("20260102", "230000")),
        ("+99", ("20260102", "230000")),
    ],
)
def test_dates_stand_in_the_time_zone_of_the_source(tmp_path, offset, written):
    zone = {} if offset is None else {"TimezoneOffsetFromUTC": offset}
    save_stack(tmp_path / "in", POSITIONS, **zone)
    now = datetime(2026, 1, 2, 23, tzinfo=UTC)
    dataset = pydicom.dcmread(derive(read_only_series(tmp_path / "in"), tmp_path / "out", now=now)[0])
    for moment in ("InstanceCreation", "Series", "Content"):
        assert (dataset[f"{moment}Date"].value, dataset[f"{moment}Time"].value) == written
    assert dataset.ContributingEquipmentSequence[-1].ContributionDateTime == "".join(written)
    assert dataset.get("TimezoneOffsetFromUTC") == offset


@pytest.mark.parametrize(
    ("syntax", "declared", "written"),
    [("JPEG2000", None, "01"), ("JPEG2000", "00", "00"), ("JPEG2000Lossless", None, None)],
)
def test_lossy_compression_of_the_source_is_declared(tmp_path, syntax, declared, written):
    dataset = make_slice() if declared is None else make_slice(LossyImageCompression=declared)
    save(dataset, tmp_path / "in" / "a")
    series = read_only_series(tmp_path / "in")
    series.headers[0].file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    (path,) = derive(series, tmp_path / "out")
    assert pydicom.dcmread(path).get("LossyImageCompression") == written


def test_private_and_stale_elements_are_dropped(tmp_path):
    dataset = make_slice(IconImageSequence=[pydicom.Dataset()], LargestPixelValueInSeries=7)
    dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x10, "LO", "secret")
    save(dataset, tmp_path / "in" / "a")
    (path,) = derive(read_only_series(tmp_path / "in"), tmp_path / "out")
    written = pydicom.dcmread(path)
    assert not [element for element in written if element.tag.is_private]
    assert "IconImageSequence" not in written
    assert "LargestPixelValueInSeries" not in written


def test_diagnosis_warning_can_be_switched_off(tmp_path):
    save_stack(tmp_path / "in", POSITIONS)
    derivation = replace(DERIVATION, not_for_diagnosis=False)
    paths = derive(read_only_series(tmp_path / "in"), tmp_path / "out", derivation=derivation)
    assert "ImageComments" not in pydicom.dcmread(paths[0])


def test_rerun_gives_the_same_bytes_and_leaves_the_source_series_as_it_was(tmp_path):
    save_stack(tmp_path / "in", POSITIONS)
    series = read_only_series(tmp_path / "in")
    before = [str(header) for header in series.headers]
    one, other = (derive(series, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert [str(header) for header in series.headers] == before


@pytest.mark.parametrize(
    "change",
    [{"model_hash": "cd" * 32}, {"settings": {"strength": 0.5}}, {"product_version": "0.2.0"}],
)
def test_another_method_gives_other_uids(tmp_path, change):
    save_stack(tmp_path / "in", POSITIONS)
    series = read_only_series(tmp_path / "in")
    derive(series, tmp_path / "a")
    derive(series, tmp_path / "b", derivation=replace(DERIVATION, **change))
    (one,), (other,) = discover(tmp_path / "a").series, discover(tmp_path / "b").series
    assert one.series_uid != other.series_uid
    assert not set(one.sop_instance_uids) & set(other.sop_instance_uids)


def test_another_clock_gives_other_uids(tmp_path):
    """Dates and times are content: one UID never names two contents."""
    save_stack(tmp_path / "in", POSITIONS)
    series = read_only_series(tmp_path / "in")
    derive(series, tmp_path / "a", now=NOON)
    derive(series, tmp_path / "b", now=NOON + timedelta(seconds=1))
    (one,), (other,) = discover(tmp_path / "a").series, discover(tmp_path / "b").series
    assert one.series_uid != other.series_uid
    assert not set(one.sop_instance_uids) & set(other.sop_instance_uids)


def test_tilted_series_is_written_back_in_its_own_slices(tmp_path):
    save_stack(tmp_path / "in", POSITIONS, orientation=(1, 0, 0, 0, 0.96, -0.28))
    series = read_only_series(tmp_path / "in")
    derive(series, tmp_path / "out")
    again = read_only_series(tmp_path / "out")
    assert again.entry.finding(Task.INGEST).code == "GANTRY_TILT"
    np.testing.assert_array_equal(again.hu, series.hu)


def test_wrong_shape_and_nan_are_caller_mistakes(tmp_path):
    save_stack(tmp_path / "in", POSITIONS)
    series = read_only_series(tmp_path / "in")
    with pytest.raises(ValueError, match="shape"):
        derive(series, tmp_path / "out", hu=series.hu[1:])
    with pytest.raises(ValueError, match="finite"):
        derive(series, tmp_path / "out", hu=series.hu * np.nan)


@pytest.mark.parametrize(
    "change",
    [
        {"RescaleIntercept": -1024},
        {"position": (0.0, 0.0, 2.5), "instance": "one"},
        {"PatientName": "OTHER^NAME"},
        {"PatientID": "OTHER-ID"},
        {"StudyInstanceUID": "1.2.3"},
        {"ReferencedImageSequence": [make_slice(PixelData=None)]},
        {"OperatorsName": ["A^B", "C^D"]},
        {"LossyImageCompression": "01"},
    ],
)
def test_another_header_gives_other_uids_to_the_same_pixels(tmp_path, change):
    uids = set()
    for name, attributes in (("a", {}), ("b", change)):
        save(make_slice(**{"instance": "one", **attributes}), tmp_path / name / "a")
        (path,) = derive(read_only_series(tmp_path / name), tmp_path / f"{name} derived")
        dataset = pydicom.dcmread(path)
        uids |= {dataset.SeriesInstanceUID, dataset.SOPInstanceUID}
    assert len(uids) == 4


@pytest.mark.parametrize(
    "field", [{"study_uid": "1.2.3"}, {"patient_key": "other"}, {"sop_instance_uids": ("1.2.3",)}]
)
def test_another_patient_study_or_image_is_another_source(tmp_path, field):
    save(make_slice(), tmp_path / "a")
    (entry,) = discover(tmp_path).series
    assert source_identity(entry, ["ab"]) != source_identity(replace(entry, **field), ["ab"])


def test_elements_true_of_the_source_alone_are_dropped(tmp_path):
    stale = {
        "SOPInstanceStatus": "AO",
        "SOPAuthorizationDateTime": "20260101100000",
        "SOPAuthorizationComment": "approved",
        "AuthorizationEquipmentCertificationNumber": "7",
        "InstanceCreatorUID": "1.2.3",
        "InstanceCoercionDateTime": "20260101100000",
        "PixelDataProviderURL": "https://example.org/pixels",
        "ContentQualification": "PRODUCT",
        "ExtendedOffsetTable": bytes(8),
        "ExtendedOffsetTableLengths": bytes(8),
    }
    save(make_slice(**stale), tmp_path / "in" / "a")
    (path,) = derive(read_only_series(tmp_path / "in"), tmp_path / "out")
    written = pydicom.dcmread(path)
    assert [keyword for keyword in stale if keyword in written] == []


def test_a_number_of_too_few_bytes_is_one_line(tmp_path):
    """pydicom's error for it is no ValueError."""
    path = save(make_slice(StudyID="abcd"), tmp_path / "in" / "a")
    path.write_bytes(path.read_bytes().replace(b"\x20\0\x10\0SH", b"\x20\0\x10\0FD"))
    with pytest.raises(SeriesError, match="UNREADABLE: a: its header cannot be copied"):
        derive(read_only_series(tmp_path / "in"), tmp_path / "out")


def test_header_that_cannot_be_copied_is_one_line(tmp_path):
    dataset = make_slice()
    dataset.add_new("SeriesNumber", "LO", "three")
    save(dataset, tmp_path / "in" / "a")
    with pytest.raises(SeriesError, match="UNREADABLE: a: its header cannot be copied"):
        derive(read_only_series(tmp_path / "in"), tmp_path / "out")


def test_simpleitk_reads_the_same_geometry_and_hu(tmp_path):
    hu = np.random.default_rng(1).integers(-1000, 2000, (4, 24, 20)).astype(np.float32)
    source = write_phantom(hu, tmp_path / "in")
    paths = derive(read_only_series(tmp_path / "in"), tmp_path / "out", hu=hu + 3)
    assert_same_image(source, paths, shift_hu=3)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
@pytest.mark.parametrize("folder", ["ct/lidc_0314_chest_1mm", "ct/lungdx_a0002_chest_8mm"])
def test_derived_series_has_no_error_that_its_source_has_not(tmp_path, folder):
    (entry,) = discover(Path(str(REAL)) / folder).series
    series = read_series(entry)
    paths = derive(series, tmp_path / "out")
    assert_same_image(entry.files, paths, shift_hu=0)
    for path, source in zip(paths, entry.files, strict=True):
        assert conformance_errors(path) <= conformance_errors(source)


def assert_same_image(source_files, derived_files, *, shift_hu):
    source, derived = (
        SimpleITK.ReadImage([str(path) for path in files]) for files in (source_files, derived_files)
    )
    for measure in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(derived, measure)(), getattr(source, measure)(), atol=1e-3)
    source_hu, derived_hu = (SimpleITK.GetArrayFromImage(image) for image in (source, derived))
    np.testing.assert_array_equal(derived_hu, source_hu + shift_hu)

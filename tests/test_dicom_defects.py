import math
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom import Code, Derivation, Task, Verdict, discover, simulated_dose, write_derived_series
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack

REAL = os.environ.get("LDCT_REAL_DATA")
SQUARE = [0.7, 0.7]
DERIVATION = Derivation("dose simulation", "", "", {"seed": 1}, "0.1.0")
ELSEWHERE = (Task.DENOISE, Task.SEGMENT, Task.INGEST)


def turned(degrees):
    """Slices turned about the x axis, which a tilted gantry does too."""
    turn = math.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, math.cos(turn), -math.sin(turn))


def stack(folder, *, degrees=0, **attributes):
    orientation = turned(degrees)
    normal = np.cross(orientation[:3], orientation[3:])
    save_stack(
        folder,
        [tuple(z * normal) for z in (0.0, 2.5, 5.0)],
        orientation=orientation,
        **{"PixelSpacing": SQUARE, **attributes},
    )
    (entry,) = discover(folder).series
    return entry


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        ({"PixelSpacing": [0.8, 0.7]}, Code.NON_SQUARE_PIXELS, "0.8 x 0.7 mm"),
        ({"LossyImageCompression": "01"}, Code.LOSSY, "and 2 more: lossy"),
        ({"stored": np.zeros((24, 20), np.uint8)}, Code.LOSSY, "8-bit"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, Code.PROCESSED, "projection"),
        ({"degrees": 90}, Code.NOT_AXIAL, "90 degrees"),
    ],
)
def test_what_has_no_scan_noise_is_refused_for_simulation_only(tmp_path, attributes, code, words):
    entry = stack(tmp_path, **attributes)
    finding = entry.finding(Task.SIMULATE)
    assert (finding.code, finding.verdict) == (code, Verdict.REFUSED)
    assert words in finding.message
    assert [entry.finding(task) for task in ELSEWHERE] == [None] * 3


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PixelSpacing": [0.7031, 0.7032]},
        {"LossyImageCompression": "00"},
        {"degrees": 30},
        {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]},
    ],
)
def test_an_axial_series_is_fit_for_simulation(tmp_path, attributes):
    assert stack(tmp_path, **attributes).finding(Task.SIMULATE) is None


@pytest.mark.parametrize(
    ("syntax", "declared", "is_lossy"),
    [
        ("JPEGLSNearLossless", "00", True),
        ("JPEG2000", None, True),
        ("JPEG2000", "00", False),
        ("JPEG2000Lossless", None, False),
        ("JPEGLSLossless", "01", True),
    ],
)
def test_lossy_encodings_are_known_whatever_they_declare(tmp_path, syntax, declared, is_lossy):
    attributes = {} if declared is None else {"LossyImageCompression": declared}
    dataset = make_slice(PixelSpacing=SQUARE, **attributes)
    save(dataset, tmp_path / "a")
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a")
    (entry,) = discover(tmp_path).series
    assert (entry.finding(Task.SIMULATE).code == Code.LOSSY) == is_lossy


SIMULATED = {"purpose": simulated_dose(0.25)}


@pytest.mark.parametrize(
    ("steps", "seen", "unfit"),
    [
        ([{}], {Code.DENOISED}, [Task.DENOISE, Task.INGEST, Task.SIMULATE]),
        ([SIMULATED], {Code.PROCESSED}, [Task.SIMULATE]),
        (
            [SIMULATED, {}],
            {Code.DENOISED, Code.PROCESSED},
            [Task.DENOISE, Task.INGEST, Task.SIMULATE],
        ),
    ],
)
def test_our_own_results_are_known_for_what_was_done_to_them(tmp_path, steps, seen, unfit):
    stack(tmp_path / "0")
    for number, purpose in enumerate(steps):
        series = read_only_series(tmp_path / str(number))
        folder = tmp_path / str(number + 1)
        write_derived_series(series, series.hu, folder, derivation=DERIVATION, now=NOON, **purpose)
    (entry,) = discover(folder).series
    assert {one.code for one in entry.observations} == seen
    findings = {task: entry.finding(task) for task in Task}
    assert [task for task, finding in findings.items() if finding is not None] == unfit
    assert {findings[task].verdict for task in unfit} == {Verdict.REFUSED}


def test_what_another_product_denoised_is_denoised(tmp_path):
    item = pydicom.Dataset()
    item.Manufacturer, item.ContributionDescription = "another", "Denoised"
    assert stack(tmp_path, ContributingEquipmentSequence=[item]).finding(Task.DENOISE) is None


@pytest.mark.parametrize(
    "bits",
    [
        {"BitsStored": 12, "HighBit": 15},
        {"BitsStored": 12, "HighBit": 12},
        {"BitsStored": 12, "HighBit": 10},
        {"BitsStored": 20, "HighBit": 19},
        {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
        {"BitsAllocated": 64, "BitsStored": 12, "HighBit": 11},
    ],
)
def test_pixels_at_an_unusual_place_in_their_cells_are_refused(tmp_path, bits):
    entry = stack(tmp_path, **bits)
    assert {(entry.finding(task).code, entry.finding(task).verdict) for task in Task} == {
        (Code.UNUSUAL_BITS, Verdict.REFUSED)
    }


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (np.int16, {"BitsStored": 12, "HighBit": 11}),
        (np.int16, {"BitsStored": 12, "HighBit": None}),
        (np.uint16, {}),
        (np.uint8, {}),
        (np.int32, {"BitsStored": 20, "HighBit": 19}),
    ],
)
def test_usual_bits_are_taken(tmp_path, dtype, bits):
    assert stack(tmp_path, stored=np.zeros((24, 20), dtype), **bits).finding(Task.DENOISE) is None


def test_a_slice_that_is_too_large_is_told_once(tmp_path):
    entry = stack(tmp_path, Rows=60000, Columns=60000)
    told = [one.message for one in entry.observations if one.code == Code.TOO_LARGE]
    assert len(told) == 1
    assert "pixels in a slice" in told[0]


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        ([0.0], Code.TOO_FEW_SLICES),
        ([0.0, 1.0, 3.0, 4.0], Code.MISSING_SLICE),
        ([0.0, 1.0, 2.4], Code.SLICE_INCREMENT_INCONSISTENT),
    ],
)
def test_simulation_goes_slice_by_slice_where_there_is_no_grid(tmp_path, heights, code):
    save_stack(tmp_path, [(0, 0, height) for height in heights], PixelSpacing=SQUARE)
    (entry,) = discover(tmp_path).series
    finding = entry.finding(Task.SIMULATE)
    assert (finding.code, finding.verdict) == (code, Verdict.SLICEWISE)
    assert entry.pixel_spacing_mm == (0.7, 0.7)


@pytest.mark.parametrize(
    ("tags", "mas"),
    [
        ({"Exposure": "15", "XRayTubeCurrent": "499", "ExposureTime": "500"}, 249.5),
        ({"Exposure": "32", "XRayTubeCurrent": "639", "ExposureTime": "800"}, 511.2),
        ({"Exposure": "300", "XRayTubeCurrent": "360"}, 300.0),
        ({"Exposure": "120", "XRayTubeCurrent": "0", "ExposureTime": "500"}, 120.0),
        ({"Exposure": "-1", "XRayTubeCurrent": "400", "ExposureInuAs": "90000"}, 90.0),
        ({"XRayTubeCurrent": "-400", "ExposureTime": "-500"}, None),
        ({"XRayTubeCurrent": "400"}, None),
    ],
)
def test_exposure_is_tube_current_by_time_and_else_what_another_tag_says(tmp_path, tags, mas):
    assert stack(tmp_path, **tags).exposure_mas == (mas,) * 3


def test_exposure_follows_the_order_of_the_slices(tmp_path):
    for height, mas in ((5.0, "30"), (0.0, "10"), (2.5, "20")):
        save(make_slice(position=(0, 0, height), Exposure=mas), tmp_path / mas[::-1])
    (entry,) = discover(tmp_path).series
    assert entry.exposure_mas == (10.0, 20.0, 30.0)


def test_patients_can_be_told_apart_but_are_not_shown(tmp_path):
    entry = stack(tmp_path)
    assert entry.patient_key == "SECRET-ID"
    assert "SECRET" not in repr(entry)
    assert entry.series_description == "abdomen"


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
def test_real_ge_scans_have_the_exposure_of_a_rotation():
    ct = Path(str(REAL)) / "ct"
    found = [*discover(ct / "tcga_single_slices").series, *discover(ct / "covid_sbu_single_slices").series]
    known = {entry.exposure_mas[0] for entry in found if (entry.manufacturer or "").startswith("GE")}
    assert {249.5, 131.0, 511.2} <= known


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
def test_every_real_scan_gets_a_partner_unless_it_is_lossy():
    found = discover(Path(str(REAL)) / "ct").series
    assert len(found) > 20
    findings = [entry.finding(Task.SIMULATE) for entry in found]
    refused = [finding.code for finding in findings if finding and finding.verdict != Verdict.SLICEWISE]
    assert refused == [Code.LOSSY]

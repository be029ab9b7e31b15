import numpy as np
import pydicom
import pytest

from pipeline.dicom import Geometry, Task
from tests.dicom_factory import HEAD_FIRST_GRID, read_only_series, write_phantom
from tests.judges import conformance_errors


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 3072, HEAD_FIRST_GRID.shape).astype(np.int16)


@pytest.mark.parametrize(
    "geometry",
    [
        HEAD_FIRST_GRID,
        Geometry((1 / 3, -200.123456789, 0.1), (-1, 0, 0), (0, -1, 0), (1 / 3, 0.7, 0.9), (4, 24, 20)),
    ],
)
def test_phantom_is_read_back_as_it_was_written(tmp_path, hu, geometry):
    write_phantom(hu, tmp_path / "out", geometry)
    series = read_only_series(tmp_path / "out")
    np.testing.assert_array_equal(series.hu, hu)
    assert not series.padding.any()
    assert series.entry.finding(Task.INGEST) is None
    np.testing.assert_allclose(series.entry.geometry.affine_ras, geometry.affine_ras, atol=1e-6)
    assert (series.entry.kernel, series.entry.kvp, series.entry.body_part) == ("RAMP", 120, "CHEST")


def test_hu_are_rounded_to_nearest_and_clipped_to_image_values(tmp_path):
    hu = np.zeros(HEAD_FIRST_GRID.shape, np.float32)
    hu[0, 0, :4] = [0.6, -0.6, -5000, 1e6]
    write_phantom(hu, tmp_path / "out")
    np.testing.assert_array_equal(read_only_series(tmp_path / "out").hu[0, 0, :4], [1, -1, -1024, 32767])


def test_same_arguments_give_the_same_bytes(tmp_path, hu):
    one, other = (write_phantom(hu, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_phantom_cannot_be_mistaken_for_a_patient(tmp_path, hu):
    dataset = pydicom.dcmread(write_phantom(hu, tmp_path / "out")[0])
    assert dataset.PatientName == "PHANTOM^phantom-01"
    assert dataset.ImageComments == "SIMULATED PHANTOM. seed 7"
    assert dataset.SeriesDescription == "SIMULATED normal dose"
    assert dataset.QualityControlImage == dataset.QualityControlSubject == "YES"


def test_a_long_series_description_is_cut_to_what_dicom_allows(tmp_path, hu):
    dataset = pydicom.dcmread(write_phantom(hu, tmp_path / "out", series_description=70 * "x")[0])
    assert dataset.SeriesDescription == "SIMULATED " + 54 * "x"


def test_folder_that_holds_something_is_left_alone(tmp_path, hu):
    (tmp_path / "other.dcm").touch()
    with pytest.raises(ValueError, match="not empty"):
        write_phantom(hu, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.dcm"]


def test_shape_must_be_that_of_the_geometry(tmp_path, hu):
    with pytest.raises(ValueError, match="shape"):
        write_phantom(hu[1:], tmp_path / "out")


def test_phantom_is_conformant(tmp_path, hu):
    paths = write_phantom(hu, tmp_path / "out")
    assert not conformance_errors(paths[0])

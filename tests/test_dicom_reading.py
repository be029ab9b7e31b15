import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom import Code, SeriesEntry, SeriesError, Task, Verdict, discover, read_series
from pipeline.hu import AIR_HU
from tests.dicom_factory import make_slice, read_only_series, save, save_stack

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

"""NIfTI volumes written slice by slice, read back with nibabel and with SimpleITK."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.dicom import Geometry, discover, read_slices
from pipeline.inference.restoration.nifti import NIFTI_TOO_LONG, NiftiWriter, hu_dtype
from pipeline.inference.treatment import UnfitSeriesError
from tests.dicom_factory import HEAD_FIRST_GRID, write_phantom

TILT = np.deg2rad(20.0)
POSITIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "oblique": ((np.cos(TILT), np.sin(TILT), 0), (-np.sin(TILT), np.cos(TILT), 0)),
    "doubly oblique": (
        (np.cos(TILT), 0, -np.sin(TILT)),
        (np.sin(TILT) ** 2, np.cos(TILT), np.sin(TILT) * np.cos(TILT)),
    ),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "feet first": ((-1, 0, 0), (0, 1, 0)),
    "decubitus": ((0, 1, 0), (-1, 0, 0)),
    "prone": ((-1, 0, 0), (0, -1, 0)),
}


def grid(row_cosines, column_cosines, *, spacing_mm=(2.5, 0.8, 0.7)) -> Geometry:
    return Geometry((-12.5, 31.0, -7.25), row_cosines, column_cosines, spacing_mm, (5, 24, 20))


def numbered(shape: tuple[int, int, int]) -> np.ndarray:
    """HU that are all different, so that no axis can be swapped or mirrored unseen."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 1000


def write(path: Path, hu: np.ndarray, geometry: Geometry, dtype: type[np.generic] = np.int16) -> Path:
    with NiftiWriter(path, geometry, dtype=dtype) as writer:
        for index, one in enumerate(hu):
            writer.write(index, one)
    return path


def itk_dicom(folder: Path) -> SimpleITK.Image:
    return SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def assert_same_grid(one: SimpleITK.Image, other: SimpleITK.Image) -> None:
    """To 1e-3 mm, at the far corner of the volume too."""
    assert one.GetSize() == other.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, name)() == pytest.approx(getattr(other, name)(), abs=1e-5)
    far = [length - 1 for length in one.GetSize()]
    corners = [image.TransformIndexToPhysicalPoint(far) for image in (one, other)]
    assert corners[0] == pytest.approx(corners[1], abs=1e-3)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("spacing_mm", [(2.5, 0.7, 0.7), (1.25, 0.9, 0.6)])
def test_the_grid_and_the_voxels_are_those_of_the_dicom_series(tmp_path, position, spacing_mm):
    geometry = grid(*POSITIONS[position], spacing_mm=spacing_mm)
    hu = numbered(geometry.shape)
    write_phantom(hu, tmp_path / "dicom", geometry)
    dicom, nifti = itk_dicom(tmp_path / "dicom"), SimpleITK.ReadImage(write(tmp_path / "v.nii", hu, geometry))
    assert_same_grid(nifti, dicom)
    assert np.array_equal(SimpleITK.GetArrayViewFromImage(nifti), SimpleITK.GetArrayViewFromImage(dicom))


def test_nibabel_reads_the_affine_in_millimetres_and_both_forms_agree(tmp_path):
    geometry = grid(*POSITIONS["doubly oblique"])
    image = nib.load(write(tmp_path / "v.nii", numbered(geometry.shape), geometry))
    assert np.allclose(image.affine, geometry.affine_ras, atol=1e-6)
    for form, code in (image.header.get_qform(coded=True), image.header.get_sform(coded=True)):
        assert np.allclose(form, geometry.affine_ras, atol=1e-4)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_every_type_reads_back_bit_for_bit_whatever_the_order_of_slices(tmp_path, dtype):
    low, high = (-2000.5, 31000.25) if dtype is np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    volume = np.random.default_rng(1).uniform(low, high, HEAD_FIRST_GRID.shape).astype(dtype)
    with NiftiWriter(tmp_path / "v.nii", HEAD_FIRST_GRID, dtype=dtype) as writer:
        for index in (3, 0, 2, 1):
            writer.write(index, volume[index])
    stored = nib.load(tmp_path / "v.nii").dataobj
    assert stored.dtype == dtype
    assert np.array_equal(np.asarray(stored).T, volume)
    assert (tmp_path / "v.nii").stat().st_size == 352 + volume.nbytes


def test_writing_holds_one_slice_in_memory_not_five_thousand(tmp_path):
    geometry = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (5000, 64, 64))
    one = np.zeros((64, 64), np.float32)
    tracemalloc.start()
    try:
        with NiftiWriter(tmp_path / "v.nii", geometry, dtype=np.float32) as writer:
            for index in range(5000):
                writer.write(index, one + index)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2e6  # of a volume of 82 MB
    stored = nib.load(tmp_path / "v.nii").dataobj
    assert [stored[0, 0, index] for index in (0, 2500, 4999)] == [0, 2500, 4999]


def write_slices(path: Path, *indices: int, then: type[Exception] | None = None) -> None:
    hu = numbered(HEAD_FIRST_GRID.shape)
    with NiftiWriter(path, HEAD_FIRST_GRID, dtype=np.int16) as writer:
        for index in indices:
            writer.write(index, hu[index])
        if then is not None:
            raise then


def test_an_error_midway_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_slices(tmp_path / "v.nii", 0, 1, then=ZeroDivisionError)
    assert not list(tmp_path.iterdir())


def test_a_missing_slice_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"v\.nii: 2 slices missing, the first is 1"):
        write_slices(tmp_path / "v.nii", 0, 3)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from pipeline.inference.restoration.nifti import NiftiWriter
from tests.dicom_factory import HEAD_FIRST_GRID
writer = NiftiWriter(Path(sys.argv[1]) / "v.nii", HEAD_FIRST_GRID, dtype=np.int16)
for index in range(HEAD_FIRST_GRID.shape[0]):
    writer.write(index, np.zeros(HEAD_FIRST_GRID.shape[1:]))
os.kill(os.getpid(), signal.SIGKILL)
"""

FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.inference.restoration.nifti import NiftiWriter
from tests.dicom_factory import HEAD_FIRST_GRID
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with NiftiWriter(Path(sys.argv[1]) / "v.nii", HEAD_FIRST_GRID, dtype=np.int16) as writer:
        for index in range(HEAD_FIRST_GRID.shape[0]):
            writer.write(index, np.zeros(HEAD_FIRST_GRID.shape[1:]))
except OSError as error:
    sys.exit(error.errno)
"""


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "v.nii").exists()
    write(tmp_path / "v.nii", numbered(HEAD_FIRST_GRID.shape), HEAD_FIRST_GRID)
    assert [path.name for path in tmp_path.iterdir()] == ["v.nii"]


@pytest.mark.parametrize("room_bytes", [100, 2000, 352 + 4 * 24 * 20 * 2 - 1])
def test_a_full_disk_is_an_error_that_leaves_no_file(tmp_path, room_bytes):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path, str(room_bytes)], check=False)
    assert done.returncode == 27  # EFBIG, what a file size limit gives instead of ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int16, 0.5),
        (np.int16, 32768),
        (np.int16, np.nan),
        (np.uint8, -1),
        (np.uint8, 256),
        (np.float32, 0.1),
    ],
)
def test_values_that_the_type_does_not_hold_are_refused(tmp_path, dtype, value):
    writer = NiftiWriter(tmp_path / "v.nii", HEAD_FIRST_GRID, dtype=dtype)
    with pytest.raises(ValueError, match=r"v\.nii: slice 2 has values that .* does not hold"):
        writer.write(2, np.full((24, 20), value))
    writer.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("index", "shape"), [(4, (24, 20)), (-1, (24, 20)), (0, (20, 24))])
def test_a_slice_that_does_not_belong_is_refused(tmp_path, index, shape):
    writer = NiftiWriter(tmp_path / "v.nii", HEAD_FIRST_GRID, dtype=np.int16)
    with pytest.raises(ValueError, match="does not belong into a volume"):
        writer.write(index, np.zeros(shape))
    writer.discard()


def test_an_axis_longer_than_nifti_counts_is_refused_before_anything_is_written(tmp_path):
    longest = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (32767, 1, 2))
    volume = np.zeros(longest.shape, np.uint8)
    assert nib.load(write(tmp_path / "v.nii", volume, longest, np.uint8)).shape == (2, 1, 32767)
    (tmp_path / "v.nii").unlink()
    too_long = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (32768, 1, 2))
    with pytest.raises(
        UnfitSeriesError, match=r"32768 slices.* counts to 32767: run without --nifti"
    ) as refused:
        NiftiWriter(tmp_path / "v.nii", too_long, dtype=np.uint8)
    assert refused.value.code == NIFTI_TOO_LONG
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scales", "highest_stored", "dtype"),
    [
        ([(1.0, -1024.0)], 4095, np.int16),
        ([(1.0, -1024.0), (2.0, 0.0)], 4095, np.int16),
        ([(1.0, -1024.0), (1.000244, 0.0)], 4095, np.float32),
        ([(1.0, -1000.5)], 4095, np.float32),
        ([(1.0, 0.0)], 32767, np.int16),
        ([(1.0, 1.0)], 32767, np.float32),
        ([(1.0, -1024.0)], 65535, np.float32),
    ],
)
def test_hu_are_int16_only_where_all_are_whole_and_fit(scales, highest_stored, dtype):
    assert hu_dtype(scales, highest_stored=highest_stored) == dtype


@pytest.mark.real
@pytest.mark.parametrize("name", ["lidc_0314_chest_1mm", "lungdx_a0002_chest_8mm"])
def test_a_real_series_equals_what_simpleitk_reads_from_dicom(tmp_path, real_data, name):
    (entry,) = discover(real_data / "ct" / name).series
    assert entry.geometry is not None
    with NiftiWriter(tmp_path / "v.nii", entry.geometry, dtype=np.int16) as writer:
        for index, one in enumerate(read_slices(entry)):
            writer.write(index, one.hu)
    dicom, nifti = itk_dicom(real_data / "ct" / name), SimpleITK.ReadImage(tmp_path / "v.nii")
    assert_same_grid(nifti, dicom)
    hu, stored = SimpleITK.GetArrayViewFromImage(nifti), SimpleITK.GetArrayViewFromImage(dicom)
    assert np.array_equal(hu[stored > -1000], stored[stored > -1000])

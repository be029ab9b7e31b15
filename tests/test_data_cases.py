"""Volumes and cases on disk: geometry checked by SimpleITK, which shares no code with nibabel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from pipeline.data import Case, read_affine, read_cases, read_volume, write_index, write_volume
from pipeline.errors import DataError

# 30° oblique: columns run along (cos, sin, 0), rows along (-sin, cos, 0), slices along z, in LPS.
ORIGIN_LPS = np.array([-120.5, 40.25, 300.0])
STEPS_LPS = np.array(
    [[np.cos(np.pi / 6), -np.sin(np.pi / 6), 0], [np.sin(np.pi / 6), np.cos(np.pi / 6), 0], [0, 0, 1]]
)
SPACING = (2.5, 0.75, 0.5)  # slice, row, column
AFFINE_RAS = np.eye(4)
AFFINE_RAS[:3, :3] = np.diag([-1, -1, 1]) @ STEPS_LPS @ np.diag(SPACING[::-1])
AFFINE_RAS[:3, 3] = np.diag([-1, -1, 1]) @ ORIGIN_LPS


def ramp(shape=(3, 4, 5)) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape) - 1024


def test_simpleitk_reads_the_same_voxels_and_geometry(tmp_path):
    write_volume(tmp_path / "ct.nii", ramp(), AFFINE_RAS, np.int16)
    image = SimpleITK.ReadImage(str(tmp_path / "ct.nii"))
    assert image.GetPixelID() == SimpleITK.sitkInt16
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), ramp())
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN_LPS, atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), SPACING[::-1], atol=1e-5)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), STEPS_LPS, atol=1e-5)


def test_a_volume_comes_back_as_a_read_only_memory_map(tmp_path):
    write_volume(tmp_path / "ct.nii", ramp(), AFFINE_RAS, np.int16)
    volume = read_volume(tmp_path / "ct.nii")
    assert isinstance(volume, np.memmap)
    assert volume.dtype == np.int16
    assert volume.flags.c_contiguous
    assert not volume.flags.writeable
    np.testing.assert_array_equal(volume, ramp())
    np.testing.assert_allclose(read_affine(tmp_path / "ct.nii"), AFFINE_RAS, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii"]


@pytest.mark.parametrize("value", [32768, -32769, 0.5, np.nan])
def test_values_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, value):
    volume = np.full((1, 2, 2), value, dtype=np.float32)
    with pytest.raises(ValueError, match="not whole numbers within int16"):
        write_volume(tmp_path / "ct.nii", volume, AFFINE_RAS, np.int16)
    assert list(tmp_path.iterdir()) == []


def test_the_side_of_a_pixel_is_the_mean_of_both_steps(tmp_path):
    case = Case(
        "a", "p", "train", "chest", 0.25, "shared", (3.0, 0.8, 0.6), (1, 2, 2), tmp_path, False, False
    )
    assert case.pixel_mm == pytest.approx(0.7)


def test_damaged_missing_and_flat_files_are_named(tmp_path):
    path = tmp_path / "ct.nii"
    with pytest.raises(DataError, match=r"ct\.nii: no such file"):
        read_volume(path)
    path.write_bytes(b"not nifti")
    with pytest.raises(DataError, match=r"ct\.nii: not a NIfTI file"):
        read_volume(path)
    write_volume(path, ramp(), AFFINE_RAS, np.int16)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"ct\.nii: the file is damaged"):
        read_volume(path)
    with pytest.raises(ValueError, match="got shape"):
        write_volume(path, ramp()[0], AFFINE_RAS, np.int16)


def case(folder: Path, case_id: str, role: str, has_mask: bool = True, has_low_dose: bool = True) -> Case:
    return Case(
        case_id=case_id,
        patient_id="007",
        role=role,
        anatomy="NA",
        dose_fraction=0.25,
        noise="shared",
        spacing_mm=SPACING,
        shape=(3, 4, 5),
        folder=folder / case_id,
        has_mask=has_mask,
        has_truth=False,
        has_low_dose=has_low_dose,
        source="here",
    )


def test_the_index_is_read_back_equal_and_filtered_by_role(tmp_path):
    cases = (case(tmp_path, "01", "train"), case(tmp_path, "1", "test", has_mask=False, has_low_dose=False))
    write_index(tmp_path, cases)
    assert read_cases(tmp_path) == cases
    assert read_cases(tmp_path, "test") == cases[1:]
    with pytest.raises(DataError, match="no case with role validation"):
        read_cases(tmp_path, "validation")
    with pytest.raises(ValueError, match="got 'val'"):
        read_cases(tmp_path, "val")


def test_volumes_of_a_case(tmp_path):
    one = case(tmp_path, "c1", "train")
    one.folder.mkdir()
    write_volume(one.folder / "normal_dose.nii", ramp(), AFFINE_RAS, np.int16)
    write_volume(one.folder / "low_dose.nii", ramp() + 1, AFFINE_RAS, np.int16)
    write_volume(one.folder / "mask.nii", ramp() > -1000, AFFINE_RAS, np.uint8)
    np.testing.assert_array_equal(one.low_dose() - one.normal_dose(), 1)
    assert one.mask().dtype == np.uint8
    np.testing.assert_allclose(one.affine(), AFFINE_RAS, atol=1e-5)
    with pytest.raises(ValueError, match="case c1 has no truth"):
        one.truth()
    with pytest.raises(ValueError, match="case c1 has no mask"):
        replace(one, has_mask=False).mask()
    with pytest.raises(DataError, match="case c1 has no low dose; train with `low_dose` or `degradation`"):
        replace(one, has_low_dose=False).low_dose()
    with pytest.raises(DataError, match="but the index says"):
        replace(one, shape=(9, 4, 5)).normal_dose()


@pytest.mark.parametrize("added", ["has_low_dose", "source"])
def test_an_index_of_an_earlier_version_says_what_to_run(tmp_path, added):
    write_index(tmp_path, [case(tmp_path, "c1", "train")])
    lines = (tmp_path / "index.csv").read_text().splitlines()
    column = lines[0].split(",").index(added)
    older = [",".join(line.split(",")[:column] + line.split(",")[column + 1 :]) for line in lines]
    (tmp_path / "index.csv").write_text("\n".join(older) + "\n")
    with pytest.raises(DataError, match=r"index\.csv: .*run `ldct ingest` again"):
        read_cases(tmp_path)


@pytest.mark.parametrize("text", ["", "case_id,role\nc1,train\n", "\x00\x01"])
def test_a_broken_index_is_named(tmp_path, text):
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=r"index\.csv: .*run `ldct ingest` again"):
        read_cases(tmp_path)


def test_a_missing_index_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"index\.csv: no such file; run"):
        read_cases(tmp_path)

"""What independent programs say of every kind of DICOM that we write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import CTImageStorage

from pipeline.dicom import (
    DENOISED,
    CTSeries,
    Derivation,
    Geometry,
    SegmentLabel,
    SeriesEntry,
    discover,
    read_series,
    simulated_dose,
    write_derived_series,
    write_segmentation,
)
from pipeline.dicom.segmentation import plane_header
from tests.dicom_factory import NOON, make_slice, save, write_phantom
from tests.enhanced_factory import legacy_converted, make_enhanced
from tests.judges import (
    archive,
    conformance_errors,
    gdcm_reader,
    inconsistencies,
    must_run,
    nifti_of,
    segment_masks,
)

DERIVATION = Derivation("redcnn", "3", "ab" * 32, {"strength": 0.8, "engine": "cpu"}, "0.1.0")
PURPOSES = {"denoised": DENOISED, "simulated": simulated_dose(0.25)}
SHAPE = (5, 24, 20)
STEP_MM = 2.5
TOLERANCE_MM = 1e-3
FLOAT32_HU = 1e-3
"""What a rescale with a fraction may differ by in a program that computes it in single precision."""

STORED_SHIFT = 3
"""The modification: so many stored values are added, which every slope can express exactly."""

CONFORMANT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyDate": "20260101",
    "StudyTime": "110000",
    "StudyID": "",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "Maker",
    "BodyPartExamined": "ABDOMEN",
    "PositionReferenceIndicator": "",
    "KVP": "120",
    "AcquisitionNumber": 1,
    "RescaleType": "HU",
}
"""What the CT Image IOD wants beside `make_slice` (PS3.3 A.3.3), so that any error is the writer's."""

STORED_TYPES = {"INT16": np.int16, "UINT16": np.uint16}
"""How gdcm names the types of pixels."""

LIVER, SPLEEN, BODY = (
    SegmentLabel(name, value, ("123037004", "SCT", "Anatomical Structure"), (code, "SCT", meaning), rgb)
    for name, value, code, meaning, rgb in (
        ("liver", 5, "10200004", "Liver", (200, 80, 60)),
        ("spleen", 1, "78961009", "Spleen", (100, 150, 200)),
        ("body", 2, "38266002", "Entire body as a whole", (220, 180, 150)),
    )
)


@dataclass(frozen=True)
class Scan:
    """A source: how the patient lay, how the pixels are stored, and any further DICOM attributes."""

    position: str = "HFS"
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    dtype: type = np.int16
    bits: int = 16
    stored: tuple[int, int] = (0, 2000)
    rescales: Sequence[tuple[float, float]] = ((1, -1000),)
    padding: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


POSITIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "FFDR": (0, 1, 0, 1, 0, 0),
    "FFDL": (0, -1, 0, -1, 0, 0),
}
"""Patient position to image orientation (PS3.3 C.7.3.1.1.2 and C.7.6.2.1.1)."""

OBLIQUE = (0.955336489, 0.29552021, 0, -0.282321257, 0.912666967, 0.29552021)
"""Turned by 0.3 radians about z, then about the row."""

SCANS = {name: Scan(position=name, orientation=orientation) for name, orientation in POSITIONS.items()} | {
    "oblique": Scan(orientation=OBLIQUE),
    "column cosine -1": Scan(orientation=(1, 0, 0, 0, -1, 0)),
    "sagittal": Scan(orientation=(0, 1, 0, 0, 0, -1)),
    "non-square": Scan(attributes={"PixelSpacing": [0.9, 0.6]}),
    "unsigned 12 bits": Scan(dtype=np.uint16, bits=12, rescales=[(1, -1024)]),
    "signed 12 bits": Scan(bits=12, stored=(-1000, 1000), rescales=[(1, 0)]),
    "fractional slope": Scan(dtype=np.uint16, rescales=[(1.000244, -1024.5)]),
    "rescale per slice": Scan(rescales=[(1, -1000), (0.5, -1000), (1, -1024), (2, -1000), (1.25, -1000)]),
    "padding": Scan(padding=-2000, stored=(-900, 1000), rescales=[(1, 0)]),
    "unsigned padding": Scan(dtype=np.uint16, padding=0, stored=(10, 2000), rescales=[(1, -1024)]),
}


@dataclass(frozen=True)
class Output:
    """A written CT series and what it must hold."""

    files: tuple[Path, ...]
    geometry: Geometry
    stored: np.ndarray
    rescales: tuple[tuple[float, float], ...]

    @property
    def hu(self) -> np.ndarray:
        return hu_of(self.stored, self.rescales)

    @property
    def tolerance_hu(self) -> float:
        is_exact = all((8 * value).is_integer() for rescale in self.rescales for value in rescale)
        return 0.0 if is_exact else FLOAT32_HU


Written = Callable[[str], "Outputs"]


@dataclass(frozen=True)
class Outputs:
    """Everything written from one scan; `segmentations` are files with the masks of their segments."""

    series: CTSeries
    derived: dict[str, Output]
    segmentations: dict[Path, tuple[np.ndarray, ...]]

    @property
    def files(self) -> tuple[Path, ...]:
        return (*(path for output in self.derived.values() for path in output.files), *self.segmentations)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Writes each scan once, with every writer that works on a source."""

    @cache
    def write(name: str) -> Outputs:
        folder = tmp_path_factory.mktemp("scan")
        save_scan(SCANS[name], folder / "in")
        (entry,) = discover(folder / "in").series
        return write_all(entry, folder)

    return write


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Output:
    folder = tmp_path_factory.mktemp("phantom")
    geometry = Geometry((1 / 3, -200.12, 0.1), (-1, 0, 0), (0, -1, 0), (1 / 3, 0.7, 0.9), SHAPE)
    hu = np.random.default_rng(2).integers(-1024, 3000, SHAPE)
    return Output(write_phantom(hu, folder, geometry), geometry, hu, ((1.0, 0.0),) * SHAPE[0])


def save_scan(scan: Scan, folder: Path) -> None:
    """Noise without any symmetry, so that every flip, swap and shift shows."""
    normal = np.cross(scan.orientation[:3], scan.orientation[3:])
    noise = np.random.default_rng(1).integers(*scan.stored, SHAPE).astype(scan.dtype)
    attributes = CONFORMANT | {"PixelSpacing": [0.8, 0.8]} | scan.attributes
    if scan.padding is not None:
        noise[:, :4, :3] = scan.padding
        attributes["PixelPaddingValue"] = scan.padding
    for index in range(SHAPE[0]):
        slope, intercept = scan.rescales[index % len(scan.rescales)]
        dataset = make_slice(
            noise[index],
            position=[round(float(at), 6) for at in np.array((-100.5, 30.25, 7)) + index * STEP_MM * normal],
            orientation=scan.orientation,
            PatientPosition=scan.position,
            InstanceNumber=index + 1,
            BitsStored=scan.bits,
            HighBit=scan.bits - 1,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            **attributes,
        )
        save(dataset, folder / f"{SHAPE[0] - index:03d}.dcm")


def write_all(entry: SeriesEntry, folder: Path) -> Outputs:
    series = read_series(entry)
    return Outputs(series, write_derived(series, folder), write_seg(series, folder))


def write_derived(series: CTSeries, folder: Path) -> dict[str, Output]:
    """The scan with `STORED_SHIFT` added to every stored value but padding, within its bits."""
    entry = series.entry
    assert entry.geometry is not None
    rescales = tuple((rescale.slope, rescale.intercept) for rescale in entry.rescales if rescale)
    source = stored_in(entry)
    is_signed, bits = series.headers[0].PixelRepresentation, series.headers[0].BitsStored
    stored = np.minimum(source + STORED_SHIFT, 2 ** (bits - is_signed) - 1)
    stored[series.padding] = source[series.padding]
    hu = hu_of(stored, rescales)
    derived = {}
    for name, purpose in PURPOSES.items():
        files = write_derived_series(
            series, hu, folder / name, derivation=DERIVATION, purpose=purpose, now=NOON
        )
        derived[name] = Output(files, entry.geometry, stored, rescales)
    return derived


def stored_in(entry: SeriesEntry) -> np.ndarray:
    """(slices, rows, columns) stored values of a source, from pydicom alone."""
    frames = []
    for path, frame in zip(entry.files, entry.frames, strict=True):
        pixels = pydicom.dcmread(path).pixel_array
        frames.append(pixels if frame is None else pixels[frame])
    return np.stack(frames).astype(np.int64)


def hu_of(stored: np.ndarray, rescales: Sequence[tuple[float, float]]) -> np.ndarray:
    """(slices, rows, columns) HU in float64, padding included."""
    slopes, intercepts = np.array(rescales, np.float64).T[:, :, None, None]
    return stored * slopes + intercepts


def label_map_of(shape: tuple[int, ...]) -> np.ndarray:
    """A liver and a spleen of other extents each, in a body that holds both and more."""
    label_map = np.zeros(shape, np.uint8)
    rows, columns = shape[1:]
    label_map[:, rows // 8 : -rows // 6, columns // 5 : -columns // 10] = BODY.value
    label_map[1:3, rows // 6 : rows // 2, columns // 4 : columns // 2] = LIVER.value
    label_map[2:, rows // 2 : rows // 2 + 5, columns // 2 : -columns // 4] = SPLEEN.value
    return label_map


def write_seg(series: CTSeries, folder: Path) -> dict[Path, tuple[np.ndarray, ...]]:
    """The one place that knows how a segmentation is written."""
    label_map = label_map_of(series.hu.shape)
    first, *others = series.headers
    organs, body = write_segmentation(
        series.entry,
        label_map,
        (LIVER, SPLEEN),
        folder,
        headers=[first, *map(plane_header, others)],
        content_digests=series.content_digests,
        derivation=DERIVATION,
        now=NOON,
        whole_body=BODY,
    )
    return {organs: (label_map == LIVER.value, label_map == SPLEEN.value), body: (label_map > 0,)}


every_scan = pytest.mark.parametrize("name", SCANS)
what_dcm2niix_reads = pytest.mark.parametrize("name", [name for name in SCANS if name != "signed 12 bits"])
"""It takes the sign off 12 stored bits (v1.0.20220720), those of the source as well."""


@every_scan
def test_conformant_sources_give_conformant_files(written, name):
    outputs = written(name)
    for path in (*outputs.series.entry.files, *outputs.files):
        assert conformance_errors(path) == set()


def test_phantoms_are_conformant_and_consistent(phantom):
    assert set().union(*map(conformance_errors, phantom.files)) == set()
    assert inconsistencies(phantom.files) == set()


@every_scan
def test_everything_written_from_a_scan_agrees_about_patient_study_and_series(written, name):
    outputs = written(name)
    assert inconsistencies((*outputs.series.entry.files, *outputs.files)) == set()


@every_scan
def test_simpleitk_reads_the_geometry_and_hu_that_were_meant(written, name):
    for output in written(name).derived.values():
        assert_simpleitk_agrees(output)


def test_simpleitk_reads_phantoms(phantom):
    assert_simpleitk_agrees(phantom)


@what_dcm2niix_reads
def test_dcm2niix_reads_the_geometry_and_hu_that_were_meant(written, name, tmp_path):
    for purpose, output in written(name).derived.items():
        assert_dcm2niix_agrees(output, tmp_path / purpose)


def test_dcm2niix_reads_phantoms(phantom, tmp_path):
    assert_dcm2niix_agrees(phantom, tmp_path / "nifti")


@every_scan
def test_segments_have_a_dice_of_1_in_dcmqi(written, name, tmp_path):
    outputs = written(name)
    assert_segments_agree(outputs, tmp_path / "masks")


@every_scan
def test_gdcm_reads_the_geometry_and_pixels_that_were_meant(written, name):
    for output in written(name).derived.values():
        assert_gdcm_agrees(output)


def test_gdcm_reads_phantoms(phantom):
    assert_gdcm_agrees(phantom)


@pytest.mark.parametrize("name", ["HFS", "unsigned 12 bits", "padding"])
def test_gdcm_and_dcmtk_convert_what_we_write_without_loss(written, phantom, name, tmp_path):
    outputs = written(name)
    for number, path in enumerate((*outputs.files, phantom.files[0])):
        assert_conversions_are_lossless(path, tmp_path / str(number))


@pytest.mark.parametrize("name", ["HFS", "FFDL", "unsigned 12 bits"])
def test_an_archive_stores_what_we_write_unchanged(written, name, tmp_path):
    files = written(name).files
    assert_archive_keeps(files, tmp_path / "archive")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_every_judge_accepts_the_slices_of_a_multi_frame_image(is_legacy, tmp_path):
    """Denoising splits it; the other tasks want it split before."""
    if is_legacy:
        save_scan(SCANS["HFS"], tmp_path / "single")
        image = legacy_converted(sorted((tmp_path / "single").iterdir()))
    else:
        stored = np.random.default_rng(6).integers(0, 2000, SHAPE).astype(np.int16)
        positions = [(-100.5, 30.25, STEP_MM * index) for index in range(SHAPE[0])]
        image = make_enhanced(stored, positions, SCANS["rescale per slice"].rescales)
    path = save(image, tmp_path / "in" / "image")
    (entry,) = discover(tmp_path / "in").series
    for name, output in write_derived(read_series(entry), tmp_path).items():
        assert set().union(*map(conformance_errors, output.files)) <= conformance_errors(path)
        assert inconsistencies(output.files) == set()
        assert_simpleitk_agrees(output)
        assert_gdcm_agrees(output)
        assert_dcm2niix_agrees(output, tmp_path / f"{name} nifti")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    "folder",
    [
        "ct/lidc_0314_chest_1mm",
        "ct/lungdx_a0002_chest_8mm",
        "ct/totalseg_dicom_j2k/ct",
        "ct/philips_head_phantom_kernel_pairs/UB_1mm",
    ],
)
def test_every_judge_accepts_what_is_written_from_a_real_scan(real_data, folder, tmp_path):
    (entry,) = discover(real_data / folder).series
    outputs = write_all(entry, tmp_path)
    known_errors = errors_of_source(entry.files[0], tmp_path)
    for path in outputs.files:
        assert conformance_errors(path) <= known_errors
    disagreements = inconsistencies((*entry.files, *outputs.files)) - inconsistencies(entry.files)
    assert [line for line in disagreements if line.startswith("Error")] == []
    assert_segments_agree(outputs, tmp_path / "masks")
    for name, output in outputs.derived.items():
        assert_simpleitk_agrees(output)
        assert_gdcm_agrees(output)
        assert_dcm2niix_agrees(output, tmp_path / f"{name} nifti")
    assert_conversions_are_lossless(outputs.files[0], tmp_path / "converted")
    assert_archive_keeps(outputs.files, tmp_path / "archive")


@pytest.mark.real
@pytest.mark.slow
def test_no_real_slice_gets_an_error_that_its_source_has_not(real_data, tmp_path):
    """Every scanner, dialect and defect at hand, the series without a regular grid included."""
    found = [
        entry
        for folder in ("ct", "nasty/d2n_gantrytilting", "nasty/derived_missing_slice")
        for entry in discover(real_data / folder).series
    ]
    assert len(found) > 30
    for number, entry in enumerate(found):
        series = read_series(entry)
        for name, purpose in PURPOSES.items():
            files = write_derived_series(
                series,
                series.hu,
                tmp_path / f"{number}-{name}",
                derivation=DERIVATION,
                purpose=purpose,
                now=NOON,
            )
            assert conformance_errors(files[0]) <= errors_of_source(entry.files[0], tmp_path)
            assert gdcm_reader(files[0]).GetImage().GetDimension(1) == entry.rows


@pytest.mark.parametrize(
    ("keyword", "value", "complaint"),
    [("SeriesNumber", 7, "SeriesNumber"), ("Modality", "MR", "Modality")],
)
def test_the_judge_of_consistency_sees_a_planted_fault(written, tmp_path, keyword, value, complaint):
    files = written("HFS").derived["denoised"].files
    dataset = pydicom.dcmread(files[0])
    setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "odd.dcm")
    assert any(complaint in line for line in inconsistencies((tmp_path / "odd.dcm", *files[1:])))


def test_the_judge_of_conformance_sees_a_planted_fault(written, tmp_path):
    dataset = pydicom.dcmread(written("HFS").derived["denoised"].files[0])
    del dataset.KVP
    dataset.save_as(tmp_path / "odd.dcm")
    (error,) = conformance_errors(tmp_path / "odd.dcm")
    assert "<KVP>" in error


def errors_of_source(path: Path, folder: Path) -> set[str]:
    """What a real slice lacks as the CT image that it is read as, its own SOP class missing or not."""
    source = pydicom.dcmread(path)
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = CTImageStorage
    source.save_as(folder / "source.dcm")
    return conformance_errors(path) | conformance_errors(folder / "source.dcm")


def assert_simpleitk_agrees(output: Output) -> None:
    volume = SimpleITK.ReadImage([str(path) for path in output.files])
    directions = np.array(volume.GetDirection()).reshape(3, 3)
    spacing_mm = volume.GetSpacing()
    assert volume.GetSize() == output.geometry.shape[::-1]
    np.testing.assert_allclose(volume.GetOrigin(), output.geometry.origin_mm, atol=TOLERANCE_MM)
    np.testing.assert_allclose(spacing_mm, output.geometry.spacing_mm[::-1], atol=TOLERANCE_MM)
    cosines = (output.geometry.row_cosines, output.geometry.column_cosines, output.geometry.normal)
    np.testing.assert_allclose(directions.T, cosines, atol=1e-6)
    slices = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0] for path in output.files]
    np.testing.assert_allclose(np.stack(slices), output.hu, rtol=0, atol=output.tolerance_hu)


def assert_dcm2niix_agrees(output: Output, folder: Path) -> None:
    image = nifti_of(output.files, folder)
    meant = nibabel.as_closest_canonical(
        nibabel.Nifti1Image(output.hu.transpose(2, 1, 0), output.geometry.affine_ras)
    )
    np.testing.assert_allclose(image.affine, meant.affine, atol=TOLERANCE_MM)
    np.testing.assert_allclose(image.get_fdata(), meant.get_fdata(), rtol=0, atol=output.tolerance_hu)


def assert_segments_agree(outputs: Outputs, folder: Path) -> None:
    """The voxels of each segment lie at the same places: Dice = 1."""
    geometry = outputs.series.entry.geometry
    assert geometry is not None
    for path, masks in outputs.segmentations.items():
        images, warnings = segment_masks(path, folder / path.stem)
        assert warnings == []
        assert len(images) == len(masks)
        for image, mask in zip(images, masks, strict=True):
            to_source = np.linalg.inv(geometry.affine_ras) @ image.affine
            found = np.argwhere(np.asarray(image.dataobj)) @ to_source[:3, :3].T + to_source[:3, 3]
            np.testing.assert_allclose(found, np.rint(found), atol=TOLERANCE_MM)
            voxels = np.ravel_multi_index(np.rint(found).astype(int)[:, ::-1].T, mask.shape)
            np.testing.assert_array_equal(np.sort(voxels), np.flatnonzero(mask))


def assert_gdcm_agrees(output: Output) -> None:
    for index, path in enumerate(output.files):
        reader = gdcm_reader(path)
        image = reader.GetImage()
        geometry = output.geometry
        np.testing.assert_allclose(image.GetOrigin(), geometry.position_mm(index), atol=TOLERANCE_MM)
        spacing_mm = (image.GetSpacing(0), image.GetSpacing(1))
        np.testing.assert_allclose(spacing_mm, geometry.spacing_mm[:0:-1], atol=TOLERANCE_MM)
        cosines = (*geometry.row_cosines, *geometry.column_cosines)
        np.testing.assert_allclose(image.GetDirectionCosines(), cosines, atol=1e-6)
        assert (image.GetSlope(), image.GetIntercept()) == output.rescales[index]
        pixels = image.GetBuffer().encode("utf-8", "surrogateescape")
        stored_type = STORED_TYPES[image.GetPixelFormat().GetScalarTypeAsString()]
        np.testing.assert_array_equal(
            np.frombuffer(pixels, stored_type), output.stored[index].astype(stored_type).ravel()
        )
    said = must_run("gdcminfo", output.files[0])
    assert f"Dimensions: ({output.geometry.shape[2]},{output.geometry.shape[1]},1)" in said


def assert_conversions_are_lossless(path: Path, folder: Path) -> None:
    folder.mkdir()
    pixels = pydicom.dcmread(path).PixelData
    said = must_run("dcmdump", path)
    assert re.findall(r"^[WEF]: .*", said, re.MULTILINE) == []
    must_run("dcmconv", "+ti", path, folder / "implicit.dcm")
    must_run("dcmconv", "+te", folder / "implicit.dcm", folder / "explicit.dcm")
    must_run("gdcmconv", "--raw", "--implicit", path, folder / "gdcm.dcm")
    again = [folder / "explicit.dcm", folder / "gdcm.dcm"]
    if pydicom.dcmread(path).BitsAllocated > 1:
        must_run("dcmcrle", path, folder / "rle.dcm")
        must_run("dcmdrle", folder / "rle.dcm", folder / "dcmtk.dcm")
        must_run("gdcmconv", "--j2k", path, folder / "j2k.dcm")
        must_run("gdcmconv", "--raw", folder / "j2k.dcm", folder / "raw.dcm")
        again += [folder / "dcmtk.dcm", folder / "raw.dcm"]
    assert [pydicom.dcmread(one).PixelData == pixels for one in again] == [True] * len(again)


def assert_archive_keeps(files: Sequence[Path], folder: Path) -> None:
    """Sent and received, every element and pixel is as it was."""
    with archive(folder) as port:
        must_run("storescu", "--required", "127.0.0.1", port, *files)
    kept, sent = (
        {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, paths)}
        for paths in (folder.iterdir(), files)
    )
    assert kept == sent

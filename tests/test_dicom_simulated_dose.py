import os
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom import (
    Derivation,
    DerivedSeriesWriter,
    SeriesError,
    discover,
    read_series,
    read_slices,
    reads_back,
    simulated_dose,
    write_derived_series,
)
from tests.dicom_factory import NOON, make_slice, save, save_stack
from tests.judges import conformance_errors

REAL = os.environ.get("LDCT_REAL_DATA")
POSITIONS = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 4.0)]
SETTINGS = {"geometry": "fan", "photons_per_ray": 240000.0, "seed": 7}
DERIVATION = Derivation("dose simulation", "", "", SETTINGS, "0.1.0")


def writer_for(entry, folder, *, dose=0.25):
    return DerivedSeriesWriter(
        entry,
        [one.content_digest for one in read_slices(entry)],
        folder,
        derivation=DERIVATION,
        purpose=simulated_dose(dose),
        now=NOON,
    )


def simulate(entry, folder, *, dose=0.25, shift_hu=5):
    writer = writer_for(entry, folder, dose=dose)
    return [writer.write(index, one, one.hu + shift_hu) for index, one in enumerate(read_slices(entry))]


@pytest.fixture
def entry(tmp_path):
    save_stack(tmp_path / "in", POSITIONS)
    (found,) = discover(tmp_path / "in").series
    return found


def test_simulated_slices_say_what_they_are_and_keep_the_dose_tags(tmp_path):
    dose = {"Exposure": "120", "XRayTubeCurrent": "240", "ExposureTime": "500", "CTDIvol": 8.5, "KVP": "120"}
    save_stack(tmp_path / "in", POSITIONS, DerivationDescription="earlier step", **dose)
    (entry,) = discover(tmp_path / "in").series
    dataset = pydicom.dcmread(simulate(entry, tmp_path / "out")[1])
    assert dataset.SeriesDescription == "abdomen SIMULATED 25% dose"
    assert dataset.DerivationDescription == (
        "SIMULATED low dose: 25 % of the source image's dose, noise added by ldct-pipeline 0.1.0 with "
        "dose simulation; geometry fan, photons_per_ray 240000.0, seed 7 earlier step"
    )
    assert dataset.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert dataset.SeriesNumber == 250003
    assert "DerivationCodeSequence" not in dataset
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == entry.sop_instance_uids[1]
    equipment = dataset.ContributingEquipmentSequence[-1]
    assert equipment.ManufacturerModelName == "dose simulation"
    assert equipment.ContributionDescription.startswith("SIMULATED low dose: 25 %")
    source = pydicom.dcmread(entry.files[1])
    assert {keyword: dataset[keyword].value for keyword in dose} == {key: source[key].value for key in dose}


def test_a_long_description_still_ends_with_the_dose(tmp_path):
    save_stack(tmp_path / "in", POSITIONS, SeriesDescription="x" * 64)
    (entry,) = discover(tmp_path / "in").series
    description = pydicom.dcmread(simulate(entry, tmp_path / "out")[0]).SeriesDescription
    assert len(description) == 64
    assert description.endswith("x SIMULATED 25% dose")


def test_doses_of_one_series_differ_in_uids_numbers_and_descriptions(tmp_path, entry):
    doses = (0.5, 0.25, 0.1, 0.07, 0.025)
    paths = [simulate(entry, tmp_path / str(dose), dose=dose)[0] for dose in doses]
    datasets = [pydicom.dcmread(path) for path in paths]
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "SeriesNumber", "SeriesDescription"):
        assert len({dataset[keyword].value for dataset in datasets}) == len(doses)
    assert [dataset.SeriesDescription.split("SIMULATED ")[1] for dataset in datasets] == [
        "50% dose",
        "25% dose",
        "10% dose",
        "7% dose",
        "2.5% dose",
    ]


@pytest.mark.parametrize("dose", [0, 1, -0.25, 25, float("nan")])
def test_a_dose_outside_its_range_is_a_caller_mistake(dose):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        simulated_dose(dose)


def test_slices_written_one_by_one_in_any_order_equal_the_series_written_at_once(tmp_path, entry):
    series = read_series(entry)
    at_once = write_derived_series(
        series,
        series.hu + 5,
        tmp_path / "a",
        derivation=DERIVATION,
        purpose=simulated_dose(0.25),
        now=NOON,
    )
    writer = writer_for(entry, tmp_path / "b")
    for index in (2, 0, 1):
        (one,) = read_slices(entry, [index])
        assert writer.write(index, one, one.hu + 5) == tmp_path / "b" / at_once[index].name
    assert [path.read_bytes() for path in at_once] == [
        (tmp_path / "b" / path.name).read_bytes() for path in at_once
    ]


def test_a_written_slice_reads_back_and_a_flipped_bit_is_seen(tmp_path, entry):
    paths = simulate(entry, tmp_path / "out")
    slices = list(read_slices(entry))
    assert all(reads_back(path, one, one.hu + 5) for path, one in zip(paths, slices, strict=True))
    content = bytearray(paths[1].read_bytes())
    content[-100] ^= 1
    paths[1].write_bytes(content)
    assert not reads_back(paths[1], slices[1], slices[1].hu + 5)


def test_a_source_that_changes_between_the_passes_stops_the_series(tmp_path, entry):
    writer = writer_for(entry, tmp_path / "out")
    save(make_slice(np.zeros((24, 20), np.int16), position=POSITIONS[0]), entry.files[0])
    (one,) = read_slices(entry, [0])
    with pytest.raises(SeriesError, match="CORRUPT_PIXEL_DATA: 003: its content changed"):
        writer.write(0, one, one.hu)
    assert not list((tmp_path / "out").iterdir())


def test_digests_must_be_one_per_slice(tmp_path, entry):
    with pytest.raises(ValueError, match="1 digests for 3 slices"):
        DerivedSeriesWriter(entry, ["ab"], tmp_path / "out", derivation=DERIVATION, now=NOON)


def test_streaming_holds_few_slices_however_long_the_series(tmp_path):
    stored = np.zeros((256, 256), np.int16)
    save_stack(tmp_path / "in", [(0, 0, z) for z in range(40)], stored=stored)
    (entry,) = discover(tmp_path / "in").series
    tracemalloc.start()
    simulate(entry, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    slice_bytes = stored.size * np.float32().nbytes
    assert peak < 15 * slice_bytes


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
@pytest.mark.parametrize(
    "folder",
    [
        "ct/lungdx_a0002_chest_8mm",
        "ct/philips_head_phantom_kernel_pairs/UB_1mm",
        "ct/tcga_single_slices",
        "nasty/d2n_gantrytilting",
    ],
)
def test_simulated_series_has_no_error_that_its_source_has_not(tmp_path, folder):
    for number, entry in enumerate(discover(Path(str(REAL)) / folder).series):
        for path, source in zip(simulate(entry, tmp_path / str(number)), entry.files, strict=True):
            assert conformance_errors(path) <= conformance_errors(source)

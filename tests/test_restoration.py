"""One series through trained networks: streamed like held whole, written behind the work, never half."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from torch import nn

from pipeline.dicom import discover, read_series, write_derived_series
from pipeline.errors import ConfigError, DataError
from pipeline.inference import stream, survey
from pipeline.inference.restoration import restorer, results
from pipeline.inference.restoration.networks import Network, denoise, segment
from pipeline.inference.restoration.treatment import Restoration
from pipeline.inference.stream import Behind, read_chunks
from pipeline.inference.survey import survey_series
from pipeline.inference.treatment import Stopwatch, UnfitSeriesError
from pipeline.inference.untouched import link_files
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models import RedCNN
from tests.batch_cases import Add, Threshold, network_of, run, the_series
from tests.dicom_factory import HEAD_FIRST_GRID, save, save_stack, write_phantom
from tests.enhanced_factory import make_enhanced
from tests.predict_cases import NOW, write_source

GRID_SHAPE = (7, 45, 53)
DIGESTS = ("digest",) * 7
FINGERPRINT = {"slice_thickness_mm": [1.0, 1.5], "kernels": {"B30": 3}}


def trained(features=3):
    """A RED-CNN whose correction is tens of HU."""
    torch.manual_seed(0)
    model = RedCNN(features=features)
    nn.init.normal_(model.decoder[-1].weight, std=0.05)
    return model


def restoration(module=None, *, with_segmenter=True, **options):
    return Restoration(
        denoiser=network_of(module or trained()),
        segmenter=network_of(Threshold(), "segmenter") if with_segmenter else None,
        **options,
    )


def noisy_series(folder, shape=GRID_SHAPE):
    """A bright block with noise in air, on a matrix of odd sides; returns its entry."""
    hu = np.full(shape, -1000.0)
    hu[:, 8:36, 8:44] = 40
    hu[:, 12:20, 12:20] = 900
    hu += np.random.default_rng(0).normal(0, 20, shape)
    geometry = replace(HEAD_FIRST_GRID, shape=shape)
    write_phantom(np.rint(hu).clip(-1024).astype(np.int16), folder, geometry)
    return only_entry(folder)


def only_entry(folder):
    (entry,) = discover(folder).series
    return entry


def treat(entry, folder, chosen, *, grid="its own", on_slices=lambda _: None):
    folder.mkdir()
    grid = entry.geometry if grid == "its own" else grid
    return chosen.treat(entry, folder, grid=grid, clock=NOW, on_slices=on_slices)


def rewrite(path, **attributes):
    image = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    image.save_as(path)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def writer_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ldct-writer")]


def test_streamed_in_chunks_is_denoised_all_at_once_bit_for_bit(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration(strength=0.7)
    treat(entry, tmp_path / "out", chosen)
    series = read_series(entry)
    whole = replace(chosen.denoiser, batch_slices=len(series.hu))
    hu = denoise(whole, series.hu, series.padding, strength=0.7)
    derivation = chosen.derivation(chosen.denoiser, entry)
    write_derived_series(series, hu, tmp_path / "whole", derivation=derivation, now=NOW)
    assert np.abs(hu - series.hu).max() > 10
    assert len(contents(tmp_path / "whole")) == 7
    assert contents(tmp_path / "out" / "denoised") == contents(tmp_path / "whole")


def test_the_segmentation_of_chunks_is_that_of_the_whole_series(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration()
    measured = treat(entry, tmp_path / "out", chosen)
    series = read_series(entry)
    hu = denoise(chosen.denoiser, series.hu, series.padding)
    label_map = segment(chosen.segmenter, hu, series.padding, spacing_mm=(0.8, 0.7))
    organs = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    body = pydicom.dcmread(tmp_path / "out" / "body.dcm")
    bits = np.unpackbits(np.frombuffer(organs.PixelData, np.uint8), bitorder="little")
    assert bits.sum() == (label_map == 2).sum() > 0
    bits = np.unpackbits(np.frombuffer(body.PixelData, np.uint8), bitorder="little")
    assert bits.sum() == (label_map > 0).sum()
    voxel_ml = 2.5 * 0.8 * 0.7 / 1000
    assert measured.volumes_ml["bone"] == pytest.approx((label_map == 2).sum() * voxel_ml, abs=0.01)
    assert measured.volumes_ml["body"] == pytest.approx((label_map > 0).sum() * voxel_ml, abs=0.01)


def test_strength_zero_returns_every_stored_pixel_bit_for_bit(tmp_path):
    """Another rescale, window of values and padding in each slice."""
    rng = np.random.default_rng(1)
    for index, (slope, intercept) in enumerate([(1, -1024), (0.5, -1000), (0.75, -900.5), (2, -1024)]):
        stored = rng.integers(0, 4096, (24, 28)).astype(np.uint16)
        stored[:3] = 63536  # padding
        save_stack(
            tmp_path / "in" / str(index),
            [(0.0, 0.0, 2.0 * index)],
            stored=stored,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
            PixelPaddingValue=63536,
        )
    entry = only_entry(tmp_path / "in")
    assert len({rescale.slope for rescale in entry.rescales}) == 4
    treat(entry, tmp_path / "out", restoration(with_segmenter=False, strength=0.0))
    for source, written in zip(entry.files, sorted((tmp_path / "out" / "denoised").iterdir()), strict=True):
        assert pydicom.dcmread(source).PixelData == pydicom.dcmread(written).PixelData


@pytest.mark.real
@pytest.mark.parametrize("name", ["lidc_0314_chest_1mm", "lungdx_a0002_chest_8mm", "totalseg_dicom_j2k"])
def test_strength_zero_returns_real_series_bit_for_bit(real_data, tmp_path, name):
    """pydicom decodes source and result; the codec of one of them is JPEG 2000."""
    entry = max(discover(real_data / "ct" / name).series, key=lambda entry: len(entry.files))
    treat(entry, tmp_path / "out", restoration(Add(0.5), with_segmenter=False, strength=0.0), grid=None)
    for source, written in zip(entry.files, sorted((tmp_path / "out" / "denoised").iterdir()), strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(written)
        assert np.array_equal(before.pixel_array, after.pixel_array)


def test_large_slices_go_through_in_tiles_and_say_so(tmp_path):
    entry = noisy_series(tmp_path / "in", (3, 67, 90))
    whole, tiled = restoration(), restoration()
    tiled = replace(tiled, denoiser=replace(tiled.denoiser, tile_pixels=50))
    for name, chosen in (("whole", whole), ("tiled", tiled)):
        treat(entry, tmp_path / name, chosen)
    hu = [read_series(only_entry(tmp_path / name / "denoised")).hu for name in ("whole", "tiled")]
    assert np.abs(hu[0] - hu[1]).max() <= 1
    assert np.mean(hu[0] != hu[1]) < 1e-3
    assert "tile pixels 50" in tiled.derivation(tiled.denoiser, entry).description("Denoised")
    assert "tile pixels" not in whole.derivation(whole.denoiser, entry).description("Denoised")
    assert whole.recipe != tiled.recipe


def test_tiles_that_would_only_overlap_are_refused():
    bundle = network_of(trained()).bundle
    with pytest.raises(ConfigError, match="tile_pixels 40: neighbouring tiles of redcnn share 40 pixels"):
        Network.load(bundle, device=torch.device("cpu"), precision="fp32", tile_pixels=40)


def test_a_cpu_takes_slices_one_by_one_unless_told_otherwise():
    bundle, device = network_of(trained()).bundle, torch.device("cpu")
    assert Network.load(bundle, device=device, precision="fp32").batch_slices == 1
    assert Network.load(bundle, device=device, precision="fp32", batch_slices=3).batch_slices == 3


def test_a_series_is_measured_on_the_sample_of_its_survey(tmp_path):
    shape = (12, 96, 96)
    hu = 40 + np.random.default_rng(0).normal(0, 20, shape)
    write_phantom(np.rint(hu).astype(np.int16), tmp_path / "in", replace(HEAD_FIRST_GRID, shape=shape))
    entry = only_entry(tmp_path / "in")
    measured = treat(entry, tmp_path / "out", restoration(with_segmenter=False))
    sample = survey_series(entry)
    after = read_series(only_entry(tmp_path / "out" / "denoised")).hu[list(sample.indices)]
    assert len(sample.indices) == 8
    assert measured.noise_sd_hu["before"] == pytest.approx(20, rel=0.05)
    assert measured.noise_sd_hu["after"] == pytest.approx(global_noise_sd_hu(sample.hu, after), abs=0.5)


def test_noise_that_cannot_be_measured_is_not_mentioned(tmp_path):
    write_source(tmp_path / "in")
    entry = only_entry(tmp_path / "in")
    fingerprint = {"noise_sd_hu": {"low_dose": [8.0, 15.0], "normal_dose": [4.0, 8.0]}}
    chosen = Restoration(denoiser=network_of(trained(), fingerprint=fingerprint), segmenter=None)
    measured = treat(entry, tmp_path / "out", chosen)
    assert measured.noise_sd_hu["before"] is None
    assert (measured.unfamiliar, measured.reason_codes) == ((), ())


def test_the_preview_is_of_the_middle_slice(tmp_path, monkeypatch):
    entry, shown = noisy_series(tmp_path / "in"), []
    monkeypatch.setattr(restorer, "save_preview", lambda _, middle, *__: shown.append(middle))
    treat(entry, tmp_path / "out", restoration(Add(0.02)))
    middle = read_series(entry).hu[3]
    assert np.array_equal(shown[0].source_hu, middle)
    assert np.allclose(shown[0].denoised_hu, middle + 20)
    assert shown[0].label_map.max() == 2


def test_every_step_is_timed(tmp_path):
    told = []
    measured = treat(noisy_series(tmp_path / "in"), tmp_path / "out", restoration(), on_slices=told.append)
    steps = {"survey", "read", "denoise", "segment", "wait", "write", "check", "total"}
    assert steps <= set(measured.timings_s)
    assert all(measured.timings_s[step] <= measured.timings_s["total"] for step in ("survey", "denoise"))
    assert sum(told) == restoration().passes(7, segmentable=True) == 14


def test_a_stopwatch_loses_nothing_between_threads():
    class Dawdling(defaultdict):
        """Lets others in between reading a sum and writing it back."""

        def __getitem__(self, name):
            seconds = super().__getitem__(name)
            time.sleep(0.001)
            return seconds

    watch = Stopwatch()
    watch._seconds = Dawdling(float)

    def doze_often():
        for _ in range(20):
            with watch.step("doze"):
                time.sleep(0.002)

    threads = [threading.Thread(target=doze_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.timings_s()["doze"] >= 4 * 20 * 0.002


def test_a_chunk_is_written_while_the_next_one_is_in_the_network(tmp_path, monkeypatch):
    """Each waits for the other: one after the other, neither would ever get on."""
    second_batch, first_write = threading.Event(), threading.Event()
    batches = []

    def meet_the_writer(image):
        batches.append(image)
        if len(batches) == 2:
            second_batch.set()
            assert first_write.wait(10)

    write = results.DerivedSeriesWriter.write

    def meet_the_network(self, index, one, hu):
        first_write.set()
        assert second_batch.wait(10)
        return write(self, index, one, hu)

    monkeypatch.setattr(results.DerivedSeriesWriter, "write", meet_the_network)
    treat(noisy_series(tmp_path / "in"), tmp_path / "out", restoration(Add(0, meet_the_writer)))
    assert len(contents(tmp_path / "out" / "denoised")) == 7


def test_the_work_is_never_more_than_two_chunks_ahead_of_the_writer():
    let_go, begun = threading.Event(), []

    def slowly():
        begun.append(1)
        assert let_go.wait(10)

    with Behind(Stopwatch()) as behind:
        behind.submit(slowly)
        behind.submit(slowly)
        third = threading.Thread(target=behind.submit, args=(slowly,))
        third.start()
        third.join(0.2)
        assert third.is_alive(), "a third chunk was taken in while two were waiting"
        let_go.set()
        third.join(10)
    assert len(begun) == 3
    assert writer_threads() == []


def test_after_an_error_nothing_further_is_written():
    let_fail, begun = threading.Event(), []

    def fail():
        assert let_fail.wait(10)
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_two():
        with Behind(Stopwatch()) as behind:
            behind.submit(fail)
            behind.submit(begun.append, 1)
            let_fail.set()

    with pytest.raises(OSError, match="No space left"):
        write_two()
    assert begun == []
    assert writer_threads() == []


def test_a_full_disk_ends_the_series_at_once_and_leaves_no_thread(tmp_path, monkeypatch):
    """The error is the caller's by the time that two more chunks are through the network."""
    batches, write = [], results.DerivedSeriesWriter.write

    def fill_up(self, index, one, hu):
        if index == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, index, one, hu)

    monkeypatch.setattr(results.DerivedSeriesWriter, "write", fill_up)
    entry = noisy_series(tmp_path / "in", (20, 45, 53))
    with pytest.raises(OSError, match="No space left") as failed:
        treat(entry, tmp_path / "out", restoration(Add(0, batches.append), nifti=True))
    assert failed.value.errno == errno.ENOSPC
    assert len(batches) <= 4
    assert writer_threads() == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["denoised"], "half a NIfTI is left"


def test_an_error_of_the_last_chunk_is_not_lost(tmp_path, monkeypatch):
    def flip_a_bit(self, index, one, hu, write=results.DerivedSeriesWriter.write):
        path = write(self, index, one, hu)
        if index == 6:
            content = bytearray(path.read_bytes())
            content[-100] ^= 1
            path.write_bytes(content)
        return path

    monkeypatch.setattr(results.DerivedSeriesWriter, "write", flip_a_bit)
    with pytest.raises(DataError, match="slice 7 of 7 reads back differently"):
        treat(noisy_series(tmp_path / "in"), tmp_path / "out", restoration())
    assert writer_threads() == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_whatever_stops_the_network_ends_the_writer_too(tmp_path, stop):
    batches = []

    def interrupt(image):
        batches.append(image)
        if len(batches) == 3:
            raise stop

    with pytest.raises(stop):
        treat(noisy_series(tmp_path / "in"), tmp_path / "out", restoration(Add(0, interrupt)))
    assert writer_threads() == []


@pytest.mark.parametrize("with_denoiser", [True, False])
def test_pixels_that_change_between_the_passes_fail_the_series(tmp_path, monkeypatch, with_denoiser):
    entry = noisy_series(tmp_path / "in")
    second_pass = stream.read_slices

    def change_then_read(entry):
        content = bytearray(entry.files[4].read_bytes())
        content[-100] ^= 1
        entry.files[4].write_bytes(content)
        return second_pass(entry)

    monkeypatch.setattr(stream, "read_slices", change_then_read)
    chosen = restoration()
    chosen = chosen if with_denoiser else replace(chosen, denoiser=None)
    with pytest.raises(DataError, match="its content changed while the series was processed") as failed:
        treat(entry, tmp_path / "out", chosen)
    assert failed.value.finding.code == "CORRUPT_PIXEL_DATA"


@pytest.mark.parametrize("kind", ["denoiser", "segmenter"])
def test_a_network_that_gives_no_numbers_refuses_the_series(kind):
    hu = np.zeros((1, 24, 24), np.float32)
    apply, options = (denoise, {}) if kind == "denoiser" else (segment, {"spacing_mm": (1, 1)})
    with pytest.raises(UnfitSeriesError, match=f"{kind} gives values that are not finite") as refused:
        apply(network_of(Add(float("nan")), kind), hu, np.zeros(hu.shape, bool), **options)
    assert refused.value.code == "NOT_FINITE"


def test_slices_smaller_than_the_network_takes_are_refused(tmp_path):
    save_stack(tmp_path / "in", [(0, 0, 0), (0, 0, 2)], stored=np.zeros((20, 64), np.int16))
    message = "slices of 20 x 64 pixels, denoiser needs at least 21 x 21"
    with pytest.raises(UnfitSeriesError, match=message) as refused:
        treat(only_entry(tmp_path / "in"), tmp_path / "out", restoration())
    assert refused.value.code == "TOO_SMALL"


def unfamiliar_with(on_unfamiliar):
    return Restoration(
        denoiser=network_of(trained(), fingerprint=FINGERPRINT), segmenter=None, on_unfamiliar=on_unfamiliar
    )


FACTS = ("UNFAMILIAR_THICKNESS", "UNFAMILIAR_KERNEL")
PHRASES = ("slice thickness 2.5 mm (trained on 1 to 1.5)", "kernel RAMP (trained on B30)")


def test_an_unfamiliar_series_is_treated_with_a_warning(tmp_path):
    measured = treat(noisy_series(tmp_path / "in"), tmp_path / "out", unfamiliar_with("warn"))
    assert (measured.reason_codes, measured.unfamiliar) == (("UNFAMILIAR", *FACTS), PHRASES)
    assert len(contents(tmp_path / "out" / "denoised")) == 7


def test_an_unfamiliar_series_is_refused_where_that_is_asked_for(tmp_path):
    with pytest.raises(UnfitSeriesError, match=r"unlike the training: slice thickness 2\.5 mm") as refused:
        treat(noisy_series(tmp_path / "in"), tmp_path / "out", unfamiliar_with("refuse"))
    assert refused.value.code == "UNFAMILIAR"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("has_links", [True, False])
def test_an_unfamiliar_series_is_passed_on_byte_for_byte(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", _refuse_links)
    entry = noisy_series(tmp_path / "in")
    measured = treat(entry, tmp_path / "out", unfamiliar_with("pass"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["preview.png", "untouched"]
    passed = contents(tmp_path / "out" / "untouched")
    assert list(passed) == [f"{number:04d}.dcm" for number in range(1, 8)]
    assert list(passed.values()) == [path.read_bytes() for path in entry.files]
    assert (measured.reason_codes, measured.unfamiliar) == (("UNFAMILIAR_PASSED", *FACTS), PHRASES)
    assert measured.noise_sd_hu["after"] is None


def test_a_file_of_many_frames_is_passed_on_once(tmp_path):
    for name in ("many", "one"):
        (tmp_path / name).write_text(name)
    link_files([tmp_path / "many", tmp_path / "many", tmp_path / "one"], tmp_path / "out")
    assert contents(tmp_path / "out") == {"0001.dcm": b"many", "0002.dcm": b"one"}


def test_a_familiar_series_is_treated_whatever_is_done_with_others(tmp_path):
    entry = noisy_series(tmp_path / "in")
    for path in entry.files:
        rewrite(path, ConvolutionKernel="b30", SliceThickness=1.2)
    for on_unfamiliar in ("pass", "refuse"):
        measured = treat(entry, tmp_path / on_unfamiliar, unfamiliar_with(on_unfamiliar))
        assert (measured.reason_codes, measured.unfamiliar) == ((), ())
        assert (tmp_path / on_unfamiliar / "denoised").is_dir()


def test_a_series_is_as_unfamiliar_as_any_slice_of_its_sample(tmp_path):
    entry = noisy_series(tmp_path / "in")
    for path in entry.files:
        rewrite(path, ConvolutionKernel="B30", SliceThickness=1.2)
    rewrite(entry.files[-1], ConvolutionKernel="RAMP", SliceThickness=2.5)
    measured = treat(only_entry(tmp_path / "in"), tmp_path / "out", unfamiliar_with("warn"))
    assert measured.unfamiliar == PHRASES


@pytest.mark.parametrize(
    ("degradation", "judged"), [((), ["noise"]), (({"kind": "awgn"},), [])], ids=["low dose", "degraded"]
)
def test_noise_is_judged_only_where_the_network_has_met_that_of_low_dose(tmp_path, degradation, judged):
    shape = (3, 96, 96)
    hu = 40 + np.random.default_rng(0).normal(0, 20, shape)
    write_phantom(np.rint(hu).astype(np.int16), tmp_path / "in", replace(HEAD_FIRST_GRID, shape=shape))
    known = {"noise_sd_hu": {"low_dose": [1.0, 2.0], "normal_dose": [1.0, 2.0]}}
    denoiser = network_of(trained(), fingerprint=known, training={"degradation": list(degradation)})
    chosen = Restoration(denoiser=denoiser, segmenter=None)
    measured = treat(only_entry(tmp_path / "in"), tmp_path / "out", chosen)
    assert [phrase.split()[0] for phrase in measured.unfamiliar] == judged


@pytest.mark.parametrize(("slope", "dtype"), [(1, np.int16), (0.5, np.float32)])
def test_the_nifti_agrees_with_the_derived_series(tmp_path, slope, dtype):
    """SimpleITK reads the DICOM and the NIfTI, each in its own way."""
    rng, size = np.random.default_rng(2), (24, 28)
    for index in range(5):
        stored = rng.integers(0, 3000, size).astype(np.uint16)
        position, out = [(-10.0, 5.0, 2.0 * index)], tmp_path / "in" / str(index)
        save_stack(
            out,
            position,
            stored=stored,
            RescaleSlope=slope,
            RescaleIntercept=-1000,
            BitsStored=12,
            HighBit=11,
        )
    treat(only_entry(tmp_path / "in"), tmp_path / "out", restoration(Add(0.0203), nifti=True))
    files = [str(path) for path in sorted((tmp_path / "out" / "denoised").iterdir())]
    dicom = SimpleITK.ReadImage(files)
    nifti = SimpleITK.ReadImage(str(tmp_path / "out" / "denoised.nii"))
    assert nibabel.load(tmp_path / "out" / "denoised.nii").get_data_dtype() == dtype
    assert np.array_equal(SimpleITK.GetArrayFromImage(dicom), SimpleITK.GetArrayFromImage(nifti))
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(dicom, place)(), getattr(nifti, place)(), atol=1e-3)


def test_the_segmentation_as_nifti_holds_the_label_map(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration(nifti=True)
    treat(entry, tmp_path / "out", chosen)
    series = read_series(entry)
    hu = denoise(chosen.denoiser, series.hu, series.padding)
    label_map = segment(chosen.segmenter, hu, series.padding, spacing_mm=(0.8, 0.7))
    image = nibabel.load(tmp_path / "out" / "segmentation.nii")
    assert np.array_equal(np.asarray(image.dataobj).T, label_map)


def test_without_a_grid_there_is_neither_nifti_nor_segmentation(tmp_path):
    treat(noisy_series(tmp_path / "in"), tmp_path / "out", restoration(nifti=True), grid=None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["denoised", "preview.png"]


def test_what_decides_the_files_is_in_the_recipe():
    recipes = [
        restoration().recipe,
        restoration(nifti=True).recipe,
        restoration(on_unfamiliar="pass").recipe,
        restoration(strength=0.5).recipe,
        restoration(not_for_diagnosis=False).recipe,
        restoration(with_segmenter=False).recipe,
        *(
            replace(restoration(), **{kind: replace(getattr(restoration(), kind), precision="bf16")}).recipe
            for kind in ("denoiser", "segmenter")
        ),
        replace(restoration(), denoiser=replace(restoration().denoiser, tile_pixels=64)).recipe,
        replace(restoration(), denoiser=network_of(trained(), name="another")).recipe,
        replace(restoration(), segmenter=network_of(Threshold(), "segmenter", name="another")).recipe,
    ]
    assert len({json.dumps(recipe, sort_keys=True) for recipe in recipes}) == len(recipes)


def test_another_torch_or_device_is_another_recipe_and_gives_other_uids(tmp_path, monkeypatch):
    entry, chosen = noisy_series(tmp_path / "in"), restoration()
    recipe, identity = chosen.recipe, chosen.derivation(chosen.denoiser, entry).identity()
    assert recipe["segmenter"]["engine"] == f"torch {torch.__version__} on cpu in fp32"
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert chosen.recipe != recipe
    assert chosen.derivation(chosen.denoiser, entry).identity() != identity
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    on_card = replace(chosen.denoiser, device=torch.device("cuda", 1))
    assert on_card.engine == "torch 9.9.9 on card 1 in fp32"


def test_a_segmentation_says_what_computed_the_slices_that_it_is_made_of(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration()
    coarser = replace(chosen, denoiser=replace(chosen.denoiser, precision="bf16"))
    lines, identities = set(), set()
    for one in (chosen, coarser):
        derivation = one.derivation(one.segmenter, entry)
        assert derivation.settings["denoiser engine"] == one.denoiser.engine
        lines.add(derivation.description("Segmented"))
        identities.add(derivation.identity())
    assert (len(lines), len(identities)) == (2, 2)


def test_a_network_that_states_no_radius_takes_large_slices_whole(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in", (3, 67, 90)), restoration(Add(0.02))
    chosen = replace(chosen, denoiser=replace(chosen.denoiser, tile_pixels=50))
    treat(entry, tmp_path / "out", chosen)
    after = read_series(only_entry(tmp_path / "out" / "denoised")).hu
    assert np.array_equal(after, read_series(entry).hu + 20)
    assert "tile pixels" not in chosen.derivation(chosen.denoiser, entry).description("Denoised")


def test_enhanced_ct_gives_a_nifti_and_no_segmentation(tmp_path):
    stored = np.random.default_rng(3).integers(0, 2000, (4, 24, 28)).astype(np.uint16)
    positions = [(-10.0, 5.0, 2.0 * index) for index in range(4)]
    save(make_enhanced(stored, positions, [(1.0, -1000.0)] * 4), tmp_path / "in" / "enhanced")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", restoration(Add(0.02), nifti=True))
    assert (outcome.verdict, outcome.reason_codes) == ("slicewise", ("ENHANCED",))
    series = the_series(tmp_path / "out")
    written = {path.name for path in series.iterdir()}
    assert written == {"denoised", "denoised.nii", "preview.png", "series.json"}
    image = nibabel.load(series / "denoised.nii")
    assert np.array_equal(np.asarray(image.dataobj).T, stored.astype(np.int16) - 1000 + 20)
    assert image.header.get_zooms() == pytest.approx((0.7, 0.8, 2.0))


@pytest.mark.parametrize(
    "read", [survey_series, lambda entry: next(read_chunks(entry, DIGESTS, 2, Stopwatch()))]
)
def test_whatever_ends_a_pass_ends_its_reader(tmp_path, monkeypatch, read):
    """Not when its last reference goes: a traceback may hold that for long."""
    ended = []

    def endless(_):
        try:
            yield from iter(lambda: SimpleNamespace(padding=None, content_digest="another"), None)
        finally:
            ended.append(True)

    monkeypatch.setattr(stream, "read_slices", endless)
    monkeypatch.setattr(survey, "read_slices", endless)
    with pytest.raises((TypeError, DataError)) as held:
        read(noisy_series(tmp_path / "in"))
    assert ended == [True], held


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    """40 and 300 slices of 256 x 256; held whole, the HU before and after alone would differ by 136 MB."""
    peaks_mib = {slices: _peak_mib(tmp_path / str(slices), slices) for slices in (40, 300)}
    label_map_mib = (300 - 40) * 256 * 256 / 2**20
    assert peaks_mib[300] - peaks_mib[40] < 3 * label_map_mib + 30, peaks_mib


@pytest.mark.slow
def test_memory_without_a_segmentation_stays_what_it_is(tmp_path):
    peaks_mib = {slices: _peak_mib(tmp_path / str(slices), slices, "denoise") for slices in (40, 300)}
    assert peaks_mib[300] - peaks_mib[40] < 30, peaks_mib


def _peak_mib(folder, slices, *options):
    folder.mkdir()
    command = [sys.executable, "-c", TREAT_A_LONG_SERIES, str(folder), str(slices), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


TREAT_A_LONG_SERIES = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from tests.memory import peak_mib
from tests import test_restoration as cases
from tests.dicom_factory import HEAD_FIRST_GRID, make_slice, save

folder, slices = Path(sys.argv[1]), int(sys.argv[2])
stored = np.full((256, 256), -1000, np.int16)
stored[40:200, 40:200], stored[60:80, 60:80] = 40, 900
for index in range(slices):
    header = make_slice(stored, position=(0.0, 0.0, 2.0 * index))
    header.ImageComments = "a scanner writes many kilobytes into each header " * 200
    save(header, folder / "in" / f"{index:04d}")
chosen = cases.restoration(cases.Add(0.02), with_segmenter="denoise" not in sys.argv)
cases.treat(cases.only_entry(folder / "in"), folder / "out", chosen)
print(peak_mib())
"""


def _refuse_links(self, target):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))

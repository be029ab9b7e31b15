"""Denoisers that are given more than a slice, its neighbours or its noise: DICOM in, DICOM out."""

import json
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch
from torch import nn

from pipeline.dicom import discover, read_series
from pipeline.errors import BundleError
from pipeline.hu import AIR_HU
from pipeline.inference.restoration.networks import Network, denoise
from pipeline.inference.restoration.treatment import Restoration
from pipeline.inference.stream import read_chunks
from pipeline.inference.survey import survey_series
from pipeline.inference.treatment import Stopwatch
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models import MODELS
from pipeline.models.apply import restore_hu
from tests.batch_cases import Threshold, network_of, run, the_series
from tests.dicom_factory import HEAD_FIRST_GRID, save, save_stack, write_phantom
from tests.enhanced_factory import make_enhanced
from tests.predict_cases import NOW, write_source
from tests.tiny_bundles import denoiser_bundle

SHAPE = (7, 45, 53)
ONE_OF_EACH = [{"neighbours": 1}, {"noise_map": True}, {"neighbours": 2, "noise_map": True}]


def network(*, weights_sd=0.05, batch_slices=1, tile_pixels=512, **arguments):
    return Network.load(
        denoiser_bundle(weights_sd=weights_sd, **arguments),
        device=torch.device("cpu"),
        precision="fp32",
        batch_slices=batch_slices,
        tile_pixels=tile_pixels,
    )


def restoration(told_noise_sd_hu=None, **arguments):
    return Restoration(denoiser=network(**arguments), segmenter=None, told_noise_sd_hu=told_noise_sd_hu)


def noisy_series(folder, shape=SHAPE):
    """Soft tissue with noise in air, another slice at each place; returns its entry."""
    hu = np.full(shape, -1000.0)
    hu[:, 6:, 6:] = 40
    hu += np.random.default_rng(0).normal(0, 20, shape)
    geometry = replace(HEAD_FIRST_GRID, shape=shape)
    write_phantom(np.rint(hu).clip(-1024).astype(np.int16), folder, geometry)
    return only_entry(folder)


def only_entry(folder):
    (entry,) = discover(folder).series
    return entry


def treat(entry, folder, chosen, *, grid="its own"):
    folder.mkdir()
    grid = entry.geometry if grid == "its own" else grid
    return chosen.treat(entry, folder, grid=grid, clock=NOW, on_slices=lambda _: None)


def restored_whole(denoiser, series, noise_sd_hu=None):
    """What the network makes of all slices of a series at once, without any of the code under test."""
    k, bundle = denoiser.module.neighbours, denoiser.bundle
    hu = np.where(series.padding, np.float32(AIR_HU), series.hu)
    ends_repeated = np.concatenate([hu[:1]] * k + [hu] + [hu[-1:]] * k)
    around = np.stack([ends_repeated[step : step + len(hu)] for step in range(2 * k + 1)], axis=1)
    noise = None if noise_sd_hu is None else torch.full((len(hu),), noise_sd_hu)
    restored = restore_hu(denoiser.module, torch.from_numpy(around), bundle.scale, noise_sd_hu=noise)
    correction = restored[:, 0].numpy() - series.hu
    return np.where(series.padding, series.hu, series.hu + correction)


def pixels(folder):
    return [pydicom.dcmread(path).PixelData for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("chunk_slices", [1, 2, 8])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_neighbours_are_found_across_the_borders_of_chunks_bit_for_bit(tmp_path, neighbours, chunk_slices):
    entry, denoiser = noisy_series(tmp_path / "in"), network(neighbours=neighbours, batch_slices=chunk_slices)
    digests = survey_series(entry).content_digests
    chunks = list(read_chunks(entry, digests, chunk_slices, Stopwatch(), neighbours=neighbours))
    streamed = [denoise(denoiser, chunk.around_hu, chunk.around_padding, own=chunk.own) for chunk in chunks]
    series = read_series(entry)
    assert [index for chunk in chunks for index in chunk.indices] == list(range(7))
    assert np.array_equal(np.concatenate([chunk.hu for chunk in chunks]), series.hu)
    assert np.array_equal(np.concatenate(streamed), restored_whole(denoiser, series))
    assert max(len(chunk.around_hu) for chunk in chunks) <= chunk_slices + 2 * neighbours


def test_the_size_of_the_chunks_changes_no_byte_of_the_result(tmp_path):
    entry, written = noisy_series(tmp_path / "in"), []
    for batch_slices in (1, 2, 8):
        out = tmp_path / str(batch_slices)
        treat(entry, out, restoration(neighbours=2, batch_slices=batch_slices))
        written.append([path.read_bytes() for path in sorted((out / "denoised").iterdir())])
    assert written[0] == written[1] == written[2]
    expected = restored_whole(network(neighbours=2), read_series(entry))
    assert np.abs(expected - read_series(entry).hu).max() > 10
    after = read_series(only_entry(tmp_path / "1" / "denoised")).hu
    assert np.array_equal(after, np.rint(expected).clip(-1024))


def test_each_slice_is_read_once(tmp_path, monkeypatch):
    entry, read = noisy_series(tmp_path / "in"), []
    source = read_chunks.__globals__["read_slices"]

    def counted(entry):
        for one in source(entry):
            read.append(one)
            yield one

    monkeypatch.setitem(read_chunks.__globals__, "read_slices", counted)
    chunks = read_chunks(entry, survey_series(entry).content_digests, 2, Stopwatch(), neighbours=3)
    assert len(next(chunks).around_hu) == len(read) == 5
    assert len(list(chunks)) == 3
    assert len(read) == 7


def test_the_padding_of_neighbours_is_air_for_the_network(tmp_path):
    """The padding of the middle slice alone; the others see air there, and keep their own values."""
    for index in range(3):
        stored = np.full((32, 40), 1064, np.uint16)
        if index == 1:
            stored[:5] = 63536
        position = [(0.0, 0.0, 2.0 * index)]
        save_stack(
            tmp_path / "in" / str(index),
            position,
            stored=stored,
            RescaleIntercept=-1024,
            PixelPaddingValue=63536,
        )
    entry, seen = only_entry(tmp_path / "in"), []
    chosen = restoration(neighbours=1)
    chosen.denoiser.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    treat(entry, tmp_path / "out", chosen)
    series = read_series(entry)
    assert series.padding.any(axis=(1, 2)).tolist() == [False, True, False]
    top = [image[0, :, 0, 0].tolist() for image in seen]
    assert np.allclose(top, [[0.04, 0.04, -1], [0.04, -1, 0.04], [-1, 0.04, 0.04]])
    files = sorted((tmp_path / "out" / "denoised").iterdir())
    assert (pydicom.dcmread(files[1]).pixel_array[:5] == 63536).all()
    after = np.stack([one.hu for chunk in _chunks(tmp_path / "out" / "denoised") for one in chunk.slices])
    assert np.allclose(after, restored_whole(chosen.denoiser, series), atol=0.501)


def _chunks(folder):
    entry = only_entry(folder)
    return read_chunks(entry, survey_series(entry).content_digests, 1, Stopwatch())


def test_a_noise_map_holds_the_noise_that_the_survey_measured(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration(noise_map=True, neighbours=1, batch_slices=2)
    measured = treat(entry, tmp_path / "out", chosen)
    sample, series = survey_series(entry).hu, read_series(entry)
    sd_hu = measured.noise_sd_hu["before"]
    assert sd_hu == global_noise_sd_hu(sample, sample) == pytest.approx(20, rel=0.1)
    expected = restored_whole(chosen.denoiser, series, sd_hu)
    assert not np.array_equal(expected, restored_whole(chosen.denoiser, series, 2 * sd_hu))
    after = read_series(only_entry(tmp_path / "out" / "denoised")).hu
    assert np.array_equal(after, np.rint(expected).clip(-1024))


@pytest.mark.parametrize("inputs", ONE_OF_EACH)
def test_an_untrained_network_of_any_input_leaves_every_pixel_untouched(tmp_path, inputs):
    entry = noisy_series(tmp_path / "in")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", restoration(weights_sd=0.0, **inputs))
    assert (outcome.verdict, outcome.reason_codes) == ("done", ())
    source = [pydicom.dcmread(path).PixelData for path in entry.files]
    assert pixels(the_series(tmp_path / "out") / "denoised") == source


@pytest.mark.parametrize("inputs", ONE_OF_EACH)
def test_enhanced_ct_goes_the_same_way(tmp_path, inputs):
    rng = np.random.default_rng(3)
    stored = np.rint(1064 + rng.normal(0, 20, (5, 48, 44))).astype(np.uint16)
    positions = [(-10.0, 5.0, 2.0 * index) for index in range(5)]
    save(make_enhanced(stored, positions, [(1.0, -1024.0)] * 5), tmp_path / "in" / "enhanced")
    entry, chosen = only_entry(tmp_path / "in"), restoration(**inputs)
    sd_hu = treat(entry, tmp_path / "out", chosen).noise_sd_hu["before"]
    series = read_series(entry)
    assert np.array_equal(series.hu, stored - np.float32(1024))
    expected = restored_whole(chosen.denoiser, series, sd_hu)
    after = read_series(only_entry(tmp_path / "out" / "denoised")).hu
    assert np.array_equal(after, np.rint(expected))
    assert not np.array_equal(after, series.hu)


def test_large_slices_go_through_in_tiles_with_their_neighbours(tmp_path):
    entry, hu = noisy_series(tmp_path / "in", (3, 67, 90)), []
    for name, tile_pixels in (("whole", 512), ("tiled", 50)):
        chosen = restoration(neighbours=1, noise_map=True, tile_pixels=tile_pixels)
        treat(entry, tmp_path / name, chosen)
        hu.append(read_series(only_entry(tmp_path / name / "denoised")).hu)
    assert np.abs(hu[0] - hu[1]).max() <= 1
    assert np.mean(hu[0] != hu[1]) < 1e-3


def test_without_a_regular_grid_no_neighbour_is_guessed(tmp_path):
    write_source(tmp_path / "in" / "whole", "a", slices=5)
    write_source(tmp_path / "in" / "gap", "b", slices=5)[1].unlink()
    write_source(tmp_path / "in" / "single", "c", slices=1)
    outcomes = run(tmp_path / "in", tmp_path / "out", restoration(neighbours=1))
    ends = {outcome.files: (outcome.verdict, outcome.reason_codes) for outcome in outcomes}
    refused = ("refused", ("NEIGHBOURS_UNKNOWN",))
    assert ends == {5: ("done", ()), 4: refused, 1: refused}
    message = next(outcome.message for outcome in outcomes if outcome.files == 4)
    assert message == (
        "redcnn sees 1 slice on either side of each, and the series is no regular grid; "
        "take a denoiser that sees single slices"
    )
    assert len(pixels(the_series(tmp_path / "out") / "denoised")) == 5


def test_a_noise_map_alone_needs_no_grid(tmp_path):
    entry = noisy_series(tmp_path / "in")
    measured = treat(entry, tmp_path / "out", restoration(noise_map=True), grid=None)
    assert measured.noise_sd_hu["before"] is not None
    assert len(pixels(tmp_path / "out" / "denoised")) == 7


def test_noise_that_cannot_be_measured_is_not_made_up(tmp_path):
    write_source(tmp_path / "in")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", restoration(noise_map=True))
    assert (outcome.verdict, outcome.reason_codes) == ("refused", ("NOISE_UNKNOWN",))
    assert outcome.message == (
        "redcnn has to be told the noise, and there is too little soft tissue to measure it in; "
        "tell it with --noise-sd-hu, or take a denoiser without a noise map"
    )


def test_noise_that_is_told_takes_the_place_of_the_measured_one(tmp_path):
    """What was measured stays what `series.json` says of the source."""
    entry = noisy_series(tmp_path / "in")
    measured_sd_hu = treat(entry, tmp_path / "own", restoration(noise_map=True)).noise_sd_hu["before"]
    for name, told_sd_hu in (("same", measured_sd_hu), ("half", measured_sd_hu / 2)):
        chosen = restoration(noise_map=True, told_noise_sd_hu=told_sd_hu)
        assert treat(entry, tmp_path / name, chosen).noise_sd_hu["before"] == measured_sd_hu
        assert f"noise SD HU {told_sd_hu}," in described(tmp_path / name / "denoised")
    own, same, half = (pixels(tmp_path / name / "denoised") for name in ("own", "same", "half"))
    assert same == own
    assert half != own


def test_a_series_without_soft_tissue_is_denoised_with_the_noise_that_is_told(tmp_path):
    write_source(tmp_path / "in")
    for told_sd_hu in (20.0, 30.0):  # another level is another result: the series is done again
        chosen = restoration(noise_map=True, told_noise_sd_hu=told_sd_hu)
        (outcome,) = run(tmp_path / "in", tmp_path / "out", chosen)
        assert outcome.verdict == "done"
        assert f"noise SD HU {told_sd_hu}," in described(the_series(tmp_path / "out") / "denoised")


def described(folder):
    return pydicom.dcmread(next(folder.iterdir())).DerivationDescription


def test_an_unfamiliar_series_is_passed_on_before_its_noise_is_asked_for(tmp_path):
    write_source(tmp_path / "in")
    denoiser = network(noise_map=True)
    denoiser = replace(denoiser, bundle=replace(denoiser.bundle, fingerprint={"kernels": {"B70": 1}}))
    chosen = Restoration(denoiser=denoiser, segmenter=None, on_unfamiliar="pass")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", chosen)
    assert (outcome.verdict, outcome.reason_codes) == ("done", ("UNFAMILIAR_PASSED", "UNFAMILIAR_KERNEL"))


def test_results_say_the_neighbours_and_the_noise_they_were_made_with(tmp_path):
    noisy_series(tmp_path / "in")
    chosen = restoration(neighbours=2, noise_map=True)
    run(tmp_path / "in", tmp_path / "out", chosen)
    record = json.loads((the_series(tmp_path / "out") / "series.json").read_text())
    sd_hu = record["noise_sd_hu"]["before"]
    assert record["recipe"]["denoiser"]["neighbours"] == 2
    assert record["recipe"]["denoiser"]["noise_map"] is True
    written = sorted((the_series(tmp_path / "out") / "denoised").iterdir())[0]
    description = pydicom.dcmread(written).DerivationDescription
    assert f"neighbours 2, noise SD HU {sd_hu}" in description


def test_what_is_made_from_denoised_slices_says_so_too(tmp_path):
    entry = noisy_series(tmp_path / "in")
    chosen = replace(
        restoration(neighbours=1, noise_map=True), segmenter=network_of(Threshold(), "segmenter")
    )
    told = chosen.derivation(chosen.segmenter, entry, noise_sd_hu=20.125)
    assert (told.settings["neighbours"], told.settings["noise SD HU"]) == (1, 20.125)
    assert told.identity() != chosen.derivation(chosen.segmenter, entry, noise_sd_hu=20.375).identity()


def test_of_a_network_that_sees_a_slice_alone_nothing_new_is_said(tmp_path):
    entry, chosen = noisy_series(tmp_path / "in"), restoration()
    settings = chosen.derivation(chosen.denoiser, entry, noise_sd_hu=20.125).settings
    assert set(settings) == {"engine", "precision", "strength"}
    assert set(chosen.recipe["denoiser"]) == {"name", "model_hash", "engine", "precision"}


def test_a_denoiser_that_has_to_be_told_the_noise_says_so():
    hu = np.zeros((1, 24, 24), np.float32)
    with pytest.raises(ValueError, match="noise_sd_hu"):
        denoise(network(noise_map=True), hu, np.zeros(hu.shape, bool))


def test_strength_zero_returns_the_slices_asked_for():
    hu = np.random.default_rng(0).normal(0, 50, (5, 24, 24)).astype(np.float32)
    padding = np.zeros(hu.shape, bool)
    denoised = denoise(network(neighbours=1), hu, padding, strength=0.0, own=slice(1, 3))
    assert np.array_equal(denoised, hu[1:3])


def test_a_network_is_tried_with_as_many_channels_as_it_takes(monkeypatch):
    """One that gives two images is refused; `Network.load` of `network` has let the others through."""

    class Twice(nn.Module):
        neighbours, noise_map, smallest_side = 2, True, 70

        def __init__(self, **_):
            super().__init__()
            self.layer = nn.Conv2d(6, 2, 70)

        def forward(self, image):
            return self.layer(image)

    monkeypatch.setitem(MODELS, "twice", Twice)
    bundle = replace(denoiser_bundle(), architecture="twice", tensors=Twice().state_dict())
    with pytest.raises(BundleError, match="its network gives 2 channels, a denoiser has 1"):
        Network.load(bundle, device=torch.device("cpu"), precision="fp32")

"""Made low doses with other kernels' textures and other CT numbers: the levels told are those found."""

from functools import partial

import numpy as np
import pytest
import torch

from pipeline.data.batches import Part
from pipeline.data.low_dose_batches import LowDoseBatches
from pipeline.data.low_dose_levels import LowDoseLevels
from pipeline.data.low_dose_slices import CaseNoise
from pipeline.data.noise_textures import CUTOFFS_PER_MM, own_texture, varied_textures
from pipeline.data.patch_batches import PatchBatches
from pipeline.data.scans import case_acquisition
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.projector import Kernel
from pipeline.transforms import resample_image
from pipeline.transforms.batch import TissueVariety
from tests.ct_cases import write_cases
from tests.test_low_dose_batches import GIVEN, PIXEL_MM, PLAIN, SIDE, made, write_case

ZOOMS = (0.75, 1.0, 1.5)
TISSUE = TissueVariety(40.0, (0.8, 1.25))
VARIED = {**PLAIN, "kernels": "varied", "tissue": TISSUE, "zooms": ZOOMS, "noise_levels": True}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("variety"), 0)


@pytest.fixture(scope="module")
def varied(case):
    return LowDoseBatches([case], **VARIED)


@pytest.fixture(scope="module")
def plain(case):
    return LowDoseBatches([case], **{**PLAIN, "zooms": ZOOMS})


def test_what_is_drawn_besides_stays_what_it_was(varied, plain):
    one, other = varied.choices(Part(3)), plain.choices(Part(3))
    for name in ("places", "doses", "corners", "turns", "zooms"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert other.tissue == {}
    assert not other.textures.any()


def test_half_of_the_slices_keep_their_own_texture_and_the_others_share_the_rest(varied):
    textures = np.concatenate([varied.choices(Part(step)).textures for step in range(800)])
    counts = np.bincount(textures, minlength=1 + len(CUTOFFS_PER_MM)) / len(textures)
    assert counts[0] == pytest.approx(0.5, abs=0.04)
    assert counts[1:] == pytest.approx(0.5 / len(CUTOFFS_PER_MM), abs=0.025)


def test_the_parts_of_a_varied_batch_are_the_batch(varied):
    whole, halves = varied[Part(2)], [varied[Part(2, index, 2)] for index in range(2)]
    assert {"shift_hu", "contrast", "noise_sd_hu", "zoom"} < set(whole)
    assert all(torch.equal(torch.cat([half[name] for half in halves]), whole[name]) for name in whole)
    batch = made(varied, Part(2))
    assert set(batch) == {"low_dose", "normal_dose", "pixel_mm", "noise_sd_hu"}


def drawn_noise(case, texture, *, dose=0.25):
    """(slices, side, side) HU of the noise that is added, over whole slices."""
    scan = case_acquisition(case, **GIVEN, device=torch.device("cpu"))
    noise = CaseNoise(case, scan, side=SIDE, device=torch.device("cpu"))
    draw = partial(noise.draw, generator=torch.Generator().manual_seed(0))
    corner = torch.zeros(1, 2, dtype=torch.long)
    return torch.cat([draw(index, dose, texture).windows_hu(corner, SIDE) for index in range(case.shape[0])])


def level(noise, zoom=1.0):
    """Of the middle of the body, ten times as strong: the histogram's bins are 0.25 HU wide."""
    seen = resample_image(10 * noise, (round(SIDE * zoom),) * 2).numpy()
    margin = round(0.3 * SIDE * zoom)
    middle = seen[:, margin:-margin, margin:-margin]
    return global_noise_sd_hu(np.zeros_like(middle), middle)


def test_other_textures_have_the_level_of_the_own_at_every_zoom_as_told(case):
    textures = varied_textures(Kernel(GIVEN["kernel_cutoff_per_mm"]), PIXEL_MM, ZOOMS)
    own, smoothest, sharpest = (drawn_noise(case, textures[index]) for index in (0, 1, -1))
    for texture, noise in ((textures[1], smoothest), (textures[-1], sharpest)):
        assert level(noise) == pytest.approx(level(own), rel=0.06)
        for zoom, told in zip(ZOOMS, texture.zoomed, strict=True):
            assert level(noise, zoom) / level(own, zoom) == pytest.approx(told, rel=0.1)
        assert texture.zoomed[1] == pytest.approx(1)
    neighbours = [
        float(
            torch.corrcoef(torch.stack([noise[:, 40:88, 40:87].flatten(), noise[:, 40:88, 41:88].flatten()]))[
                0, 1
            ]
        )
        for noise in (own, smoothest, sharpest)
    ]
    assert neighbours[0] > neighbours[1] > neighbours[2]  # 0.3, 0.5 and 2.0 /mm


@pytest.mark.parametrize("pixel_mm", [0.5, 1.0])
def test_a_sharper_kernel_needs_its_noise_turned_down(pixel_mm):
    own, *others = varied_textures(Kernel(0.8), pixel_mm, ZOOMS)
    assert own == own_texture(Kernel(0.8), ZOOMS)
    scales = [texture.scale for texture in others]
    assert scales == sorted(scales, reverse=True)
    assert scales[0] > 1 > scales[-1]
    same = varied_textures(Kernel(CUTOFFS_PER_MM[3]), pixel_mm, ZOOMS)[4]
    assert same.scale == pytest.approx(1)
    assert same.zoomed == pytest.approx((1, 1, 1))


def test_added_noise_has_the_share_of_the_variance_that_the_dose_lacks():
    levels = LowDoseLevels(np.array([0.25, 0.5]), np.array([[40.0], [20.0]]))
    assert levels.at(0.25, 0) == levels.at(0.25, 0, added=1.0) == pytest.approx(40)
    # Own noise 20 HU and 34.6 HU added at a quarter of the dose; twice as much is 69.3 HU.
    assert levels.at(0.25, 0, added=2.0) == pytest.approx(np.hypot(20, 2 * np.sqrt(1200)))


def test_levels_told_go_with_dose_texture_zoom_and_contrast(varied):
    part = Part(5)
    chosen, told = varied.choices(part), made(varied, part)["noise_sd_hu"].tolist()
    (levels,), (textures,) = varied._levels, varied._textures
    contrast = chosen.tissue["contrast"].tolist()
    for sample, (zoom, value) in enumerate(zip(chosen.zooms.tolist(), told, strict=True)):
        dose, texture = chosen.doses[sample // 4], textures[chosen.textures[sample // 4]]
        assert value == pytest.approx(levels.at(dose, zoom, texture.zoomed[zoom]) * contrast[sample])
    low, high = varied.noise_sd_hu
    assert low <= min(told) <= max(told) <= high


def test_both_doses_move_alike(case):
    options = {**PLAIN, "noise_levels": True}
    moved, plain = LowDoseBatches([case], **options, tissue=TISSUE), LowDoseBatches([case], **options)
    chosen = moved.choices(Part(1)).tissue
    one, other = made(moved, Part(1)), made(plain, Part(1))
    factor, shift = (chosen[name][:, None, None, None] for name in ("contrast", "shift_hu"))
    for name in ("low_dose", "normal_dose"):
        expected = (other[name] + 1000) * factor - 1000 + shift
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-3)
    assert moved.noise_sd_hu == pytest.approx(
        [0.8 * plain.noise_sd_hu[0], 1.25 * plain.noise_sd_hu[1]], abs=1e-2
    )


def test_stored_pairs_move_alike_too(tmp_path):
    cases = write_cases(tmp_path, side=96, roles=("train",), noise_hu=20.0)
    settings = {"patch_size": 24, "batch_size": 4, "seed": 7, "noise_levels": True}
    moved, plain = PatchBatches(cases, **settings, tissue=TISSUE), PatchBatches(cases, **settings)
    raw = moved[Part(0)]
    one, other = (batches.on_device(batches[Part(0)], Part(0), generator=None) for batches in (moved, plain))
    factor = raw["contrast"][:, None, None, None]
    noise, before = ((batch["low_dose"] - batch["normal_dose"]) for batch in (one, other))
    torch.testing.assert_close(noise, before * factor, rtol=0, atol=1e-3)
    torch.testing.assert_close(one["noise_sd_hu"], other["noise_sd_hu"] * raw["contrast"])
    halves = [moved[Part(0, index, 2)]["shift_hu"] for index in range(2)]
    assert torch.equal(torch.cat(halves), raw["shift_hu"])


def test_a_scan_without_soft_tissue_has_a_texture_and_no_range(tmp_path):
    air = write_case(tmp_path, 0, slices=3, noisy=False, hu=torch.full((3, SIDE, SIDE), -1000.0))
    assert LowDoseBatches([air], **{**VARIED, "noise_levels": False}).noise_sd_hu is None

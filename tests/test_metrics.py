import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.errors import ConfigError
from pipeline.metrics import (
    CONVENTIONS,
    clean_output_gain_db,
    convention,
    detail,
    dice,
    gain_ceiling_db,
    mean_difference_hu,
    median_bandwidth,
    noise_sd_hu,
    psnr,
    rbf_mmd,
    rmse_hu,
    ssim,
    summarise,
    tissue_regions,
)
from pipeline.models.baselines import BASELINES, baseline

REDCNN, LEGACY, BENCHMARK, FULL = (CONVENTIONS[n] for n in ("redcnn", "redcnn-legacy", "ldctbench", "full"))


@pytest.fixture
def pair():
    """A noisy slice and its target, partly outside every window but the full one."""
    generator = np.random.default_rng(0)
    target = np.full((61, 48), -1000.0)
    target[10:50, 8:40] = 60
    target[20:30, 15:30] = 600
    return target + generator.normal(0, 40, target.shape), target


def test_40_hu_offset_at_data_range_400_is_exactly_20_db():
    target = np.full((16, 16), 50.0)
    assert psnr(target + 40, target, REDCNN) == 20
    assert rmse_hu(target + 40, target, REDCNN) == 40


def test_wider_peak_alone_adds_20_db():
    target = np.full((16, 16), 50.0)
    added = psnr(target + 40, target, FULL) - psnr(target + 40, target, REDCNN)
    assert added == pytest.approx(20.2, abs=0.01)


def test_both_images_are_clipped_to_the_window():
    target = np.full((16, 16), -1000.0)
    assert psnr(target - 500, target, REDCNN) == math.inf
    assert rmse_hu(np.full((16, 16), 5000.0), np.full((16, 16), 200.0), REDCNN) == 40


@pytest.mark.parametrize("name", ["redcnn", "dugan", "wide", "full"])
def test_psnr_and_ssim_equal_those_of_scikit_image(pair, name):
    chosen = CONVENTIONS[name]
    unit = [chosen.window().to_unit(image) for image in pair]
    assert psnr(*pair, chosen) == pytest.approx(peak_signal_noise_ratio(unit[1], unit[0], data_range=1))
    expected = structural_similarity(
        *unit, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(*pair, chosen) == pytest.approx(expected)


def test_benchmark_convention_follows_the_anatomy(pair):
    unit = [((image + 1350) / 1500).clip(0, 1) for image in pair]
    expected = structural_similarity(*unit, data_range=1)
    assert ssim(*pair, BENCHMARK, anatomy="chest") == pytest.approx(expected)
    assert psnr(*pair, BENCHMARK, anatomy="head") < psnr(*pair, BENCHMARK, anatomy="chest")
    with pytest.raises(ValueError, match="chest, abdomen, head"):
        psnr(*pair, BENCHMARK)


def test_legacy_ssim_equals_the_public_red_cnn_code(pair):
    """That code's `compute_SSIM`: 2-D window, `conv2d` with zero padding, images in HU."""
    x, y = (torch.tensor(image.clip(-160, 240))[None, None] for image in pair)
    taps = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)], dtype=torch.float64)
    window = torch.outer(taps / taps.sum(), taps / taps.sum())[None, None]

    def mean(image):
        return torch.nn.functional.conv2d(image, window, padding=5)

    mu1, mu2 = mean(x), mean(y)
    sigma1, sigma2, sigma12 = mean(x * x) - mu1**2, mean(y * y) - mu2**2, mean(x * y) - mu1 * mu2
    c1, c2 = (0.01 * 400) ** 2, (0.03 * 400) ** 2
    similarity = (2 * mu1 * mu2 + c1) * (2 * sigma12 + c2)
    similarity /= (mu1**2 + mu2**2 + c1) * (sigma1 + sigma2 + c2)
    assert ssim(*pair, LEGACY) == pytest.approx(similarity.mean().item())


@pytest.mark.parametrize("score", [psnr, ssim, rmse_hu])
def test_scores_refuse_images_of_different_shape(score):
    with pytest.raises(ValueError, match="differ in shape"):
        score(np.zeros((16, 16)), np.zeros((16, 17)), REDCNN)


def test_unknown_convention_is_named_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"'psnr'; known: redcnn, redcnn-legacy, ldctbench, dugan, wide, full"
    ):
        convention("psnr")


def test_convention_says_what_it_is():
    assert REDCNN.describe() == "[-160, 240] HU, SSIM 11x11 Gaussian, sigma 1.5"


@pytest.mark.parametrize(("dose", "ceiling", "clean"), [(0.6, 2.2, -1.8), (0.5, 3.0, 0.0), (0.25, 6.0, 4.8)])
def test_shared_noise_limits_are_those_of_the_field(dose, ceiling, clean):
    assert gain_ceiling_db(dose, "shared") == pytest.approx(ceiling, abs=0.05)
    assert clean_output_gain_db(dose, "shared") == pytest.approx(clean, abs=0.05)


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_limits_are_reached_by_the_best_estimate_of_simulated_noise(noise):
    generator, dose = np.random.default_rng(4), 0.25
    normal = generator.normal(0, 1, 200_000)
    added = generator.normal(0, math.sqrt(1 / dose - 1), normal.size)
    low = normal + added if noise == "shared" else generator.normal(0, math.sqrt(1 / dose), normal.size)
    slope = np.cov(low, normal)[0, 1] / low.var()

    def gain_db(output):
        return 10 * math.log10(np.mean((low - normal) ** 2) / np.mean((output - normal) ** 2))

    assert gain_ceiling_db(dose, noise) == pytest.approx(gain_db(slope * low), abs=0.05)
    assert clean_output_gain_db(dose, noise) == pytest.approx(gain_db(0 * low), abs=0.05)


@pytest.mark.parametrize(("dose", "noise"), [(0, "shared"), (1, "shared"), (0.5, "white")])
def test_limits_refuse_what_they_do_not_know(dose, noise):
    with pytest.raises(ValueError, match="must"):
        gain_ceiling_db(dose, noise)


def test_patients_weigh_the_same_whatever_their_slices():
    summary = summarise({"a": [1.0, 1.0, 1.0], "b": [3.0]}, np.random.default_rng(0))
    assert (summary.mean, dict(summary.patients), summary.interval) == (2.0, {"a": 1.0, "b": 3.0}, None)


def test_interval_appears_from_five_patients_up():
    values = {str(patient): [float(patient)] for patient in range(40)}
    low, high = summarise(values, np.random.default_rng(0)).interval
    standard_error = np.arange(40).std() / math.sqrt(40)
    assert low == pytest.approx(19.5 - 1.96 * standard_error, abs=0.3)
    assert high == pytest.approx(19.5 + 1.96 * standard_error, abs=0.3)


def test_summary_of_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="at least one"):
        summarise({"a": []}, np.random.default_rng(0))


@given(st.lists(st.booleans(), min_size=1), st.data())
def test_dice_is_symmetric_and_between_0_and_1(first, data):
    second = data.draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))
    a, b = np.array(first), np.array(second)
    assert 0 <= dice(a, b) == dice(b, a) <= 1
    assert dice(a, a) == 1


def test_dice_by_hand_and_for_empty_masks():
    assert dice(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1])) == pytest.approx(2 / 5)
    assert dice(np.zeros(4), np.zeros(4)) == 1
    assert dice(np.zeros(4), np.ones(4)) == 0


@pytest.fixture
def truth():
    """A body of soft tissue with a lung and a table below it."""
    image = np.full((128, 128), -1000.0)
    image[20:100, 20:108] = 50
    image[40:80, 30:60] = -800
    image[110:114, 10:118] = 100
    return image


def test_regions_are_eroded_and_leave_the_table_out(truth):
    regions = tissue_regions(truth)
    rows, columns = np.nonzero(regions["body"])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 97, 22, 105)
    assert regions["body"][60, 45]
    assert regions["lung"].sum() == 36 * 26
    assert not regions["bone"].any()


def test_bias_and_noise_of_a_known_error(truth):
    noisy = truth + 3 + np.random.default_rng(1).normal(0, 20, truth.shape)
    region = tissue_regions(truth)["soft_tissue"]
    assert mean_difference_hu(noisy, truth, region) == pytest.approx(3, abs=1)
    assert noise_sd_hu(noisy, truth, region) == pytest.approx(20, rel=0.05)


def test_bias_of_an_empty_region_is_none(truth):
    empty = np.zeros(truth.shape, bool)
    assert mean_difference_hu(truth, truth, empty) is None
    assert noise_sd_hu(truth, truth, empty) is None


def test_empty_slice_has_no_body():
    assert not any(region.any() for region in tissue_regions(np.full((32, 32), -1000.0)).values())


def test_mmd_equals_its_sums_written_out():
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[2.0], [5.0]])

    def k(a, b):
        return math.exp(-((a - b) ** 2) / (2 * 1.5**2))

    within_x = (k(0, 1) + k(0, 3) + k(1, 3)) / 3
    between = sum(k(a, b) for a in (0, 1, 3) for b in (2, 5)) / 6
    assert rbf_mmd(x, y, bandwidth=1.5) == pytest.approx(within_x + k(2, 5) - 2 * between)


def test_mmd_is_zero_on_average_for_one_distribution_and_grows_with_a_shift():
    generator = np.random.default_rng(2)
    same = [rbf_mmd(*generator.normal(size=(2, 50, 3)), bandwidth=2.0) for _ in range(100)]
    assert np.mean(same) == pytest.approx(0, abs=3 * np.std(same) / 10)
    x, y = generator.normal(size=(2, 50, 3))
    assert rbf_mmd(x, y + 1, bandwidth=2.0) > 5 * np.std(same)


def test_median_bandwidth_is_the_median_distance():
    reference = np.array([[0.0], [1.0], [3.0]])
    assert median_bandwidth(reference) == 2
    assert rbf_mmd(reference + 1, reference) == rbf_mmd(reference + 1, reference, bandwidth=2)


def test_mmd_needs_pairs_within_each_set():
    with pytest.raises(ValueError, match="at least two"):
        rbf_mmd(np.zeros((1, 2)), np.zeros((3, 2)), bandwidth=1)


@pytest.mark.parametrize(("name", "amount"), [("gaussian", 1.5), ("nlm", 30), ("tv", 30)])
def test_baselines_remove_noise_and_keep_hu(truth, name, amount):
    noisy = truth + np.random.default_rng(3).normal(0, 30, truth.shape)
    restored = BASELINES[name](noisy, amount)
    region = tissue_regions(truth, erosion_pixels=6)["soft_tissue"]
    assert restored.dtype == np.float32
    assert noise_sd_hu(restored, truth, region) < 0.6 * noise_sd_hu(noisy, truth, region)
    assert abs(mean_difference_hu(restored, noisy, region)) < 0.5


@pytest.mark.parametrize(("name", "value"), [("gaussian", 1.5), ("nlm", 0.8), ("tv", 0.8)])
def test_twice_the_image_in_twice_the_noise_gives_twice_the_result(truth, name, value):
    noisy = truth[:64, :64] + np.random.default_rng(3).normal(0, 30, (64, 64)).astype(np.float32)
    denoise = baseline(name)
    np.testing.assert_allclose(denoise(2 * noisy, value, 60.0), 2 * denoise(noisy, value, 30.0), atol=0.01)


def test_a_multiple_of_the_noise_level_is_the_filters_own_number_in_hu(truth):
    np.testing.assert_array_equal(baseline("tv")(truth, 0.5, 40.0), BASELINES["tv"](truth, 20.0))
    np.testing.assert_array_equal(baseline("gaussian")(truth, 0.5, None), BASELINES["gaussian"](truth, 0.5))
    with pytest.raises(ValueError, match="baseline nlm has to be told the noise level"):
        baseline("nlm")(truth, 0.5, None)


def test_detail_of_a_flat_image_is_zero_and_of_one_bright_pixel_its_height_less_the_mean():
    images = np.zeros((2, 9, 9))
    images[1, 4, 4] = 25.0
    found = detail(images)
    np.testing.assert_allclose(found[0], 0)
    assert found[1, 4, 4] == pytest.approx(24)
    assert found[1, 2, 2] == pytest.approx(-1)
    assert found[1, 0, 0] == 0

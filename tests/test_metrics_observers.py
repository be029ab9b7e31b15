"""Model observers against analytic detectability: white noise, known covariance, identical classes."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from pipeline.metrics import cho_scores, dense_dog_channels, estimate_detectability, npw_scores

SIDE = 16
SD_HU = 12.0


def disc(side=SIDE, contrast_hu=10.0, radius=3.0):
    rows, columns = np.indices((side, side)) - side // 2
    return np.where(np.hypot(rows, columns) < radius, contrast_hu, 0.0)


def transfer(side=SIDE):
    """Of a circulant filter that leaves low frequencies: correlated noise of known covariance."""
    steps = np.fft.fftfreq(side)
    return 0.3 + np.exp(-0.5 * (np.hypot(steps[:, None], steps[None, :]) / 0.15) ** 2)


def filtered(images):
    return np.fft.ifft2(np.fft.fft2(images) * transfer(images.shape[-1])).real


def classes(count, signal, *, seed=0, correlated=False):
    rng = np.random.default_rng(seed)
    noise = rng.normal(40, SD_HU, (2 * count, *signal.shape))
    noise = filtered(noise) if correlated else noise
    return noise[:count] + signal, noise[count:]


def covariance(side):
    """Of `filtered` white noise, (side², side²)."""
    impulses = np.eye(side**2).reshape(-1, side, side)
    matrix = filtered(impulses).reshape(side**2, -1)
    return SD_HU**2 * matrix @ matrix.T


def found(*scenes, seed=1):
    return estimate_detectability(scenes, np.random.default_rng(seed))


def mean_d_prime(scenes):
    folds = [fold for scene in scenes for fold in scene.folds]
    return np.mean([(p.mean() - a.mean()) / np.sqrt((p.var(ddof=1) + a.var(ddof=1)) / 2) for p, a in folds])


def test_npw_finds_a_known_signal_in_white_noise_as_its_energy_over_the_noise():
    signal = disc()
    estimate = found(npw_scores(*classes(500, signal), signal))
    by_hand = np.linalg.norm(signal) / SD_HU
    assert estimate.d_prime_interval[0] < by_hand < estimate.d_prime_interval[1]
    assert estimate.d_prime == pytest.approx(by_hand, rel=0.06)
    low, high = estimate.auc_interval
    assert low < norm.cdf(by_hand / np.sqrt(2)) < high


def test_correlated_noise_gives_the_analytic_npw_and_hotelling_values():
    signal = disc(6, radius=2.0)
    present, absent = classes(1500, signal, correlated=True)
    s, noise = signal.ravel(), covariance(6)
    npw = found(npw_scores(present, absent, signal))
    assert npw.d_prime_interval[0] < s @ s / np.sqrt(s @ noise @ s) < npw.d_prime_interval[1]
    complete = np.eye(36).reshape(36, 6, 6)
    hotelling = found(*cho_scores([(present, absent)], complete))
    by_hand = np.sqrt(s @ np.linalg.solve(noise, s))
    assert hotelling.d_prime_interval[0] < by_hand < hotelling.d_prime_interval[1]
    assert by_hand > 1.05 * npw.d_prime


def test_cho_has_the_hotelling_value_of_its_channels():
    signal = disc(32)
    channels = dense_dog_channels(32)
    estimate = found(*cho_scores([classes(1500, signal, correlated=True)], channels))
    u = channels.reshape(10, -1)
    spectrum = (SD_HU * transfer(32)) ** 2
    coloured = np.fft.ifft2(np.fft.fft2(channels) * spectrum).real.reshape(10, -1)
    outputs = u @ signal.ravel()
    by_hand = np.sqrt(outputs @ np.linalg.solve(coloured @ u.T, outputs))
    assert estimate.d_prime_interval[0] < by_hand < estimate.d_prime_interval[1]


def test_what_ten_channels_miss_of_a_hundred_images_shrinks_with_scenes():
    """Channels that are pixels of a row, of which one holds the signal: d' is 1."""
    channels = np.eye(10)[:, None]
    scenes = [classes(100, SD_HU * channels[0], seed=seed) for seed in range(80)]
    alone = [one for scene in scenes for one in cho_scores([scene], channels)]
    in_fours = [one for first in range(0, 80, 4) for one in cho_scores(scenes[first : first + 4], channels)]
    assert mean_d_prime(alone) == pytest.approx(0.82, abs=0.06)
    assert mean_d_prime(in_fours) == pytest.approx(0.96, abs=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_identical_classes_cannot_be_told_apart(seed):
    nothing = np.zeros((32, 32))
    present, absent = classes(150, nothing, seed=seed, correlated=True)
    scores = (
        npw_scores(present, absent),
        npw_scores(present, absent, disc(32)),
        *cho_scores([(present, absent)], dense_dog_channels(32)),
    )
    for one in scores:
        estimate = found(one)
        assert estimate.d_prime_interval[0] < 0 < estimate.d_prime_interval[1]
        assert estimate.auc_interval[0] < 0.5 < estimate.auc_interval[1]
        assert abs(estimate.d_prime) < 0.3


def test_an_invertible_filter_leaves_what_the_complete_hotelling_observer_finds():
    signal = disc(5, contrast_hu=9.0, radius=1.5)
    present, absent = classes(200, signal)
    complete = np.eye(25).reshape(25, 5, 5)
    before = found(*cho_scores([(present, absent)], complete))
    after = found(*cho_scores([(filtered(present), filtered(absent))], complete))
    assert after.d_prime == pytest.approx(before.d_prime, rel=1e-6)
    npw_before, npw_after = (
        found(npw_scores(f(present), f(absent), f(signal))) for f in (np.array, filtered)
    )
    assert npw_after.d_prime < 0.97 * npw_before.d_prime


def test_auc_is_the_mann_whitney_statistic():
    scores = npw_scores(*classes(120, disc(contrast_hu=2.0)), disc())
    ((present, absent),) = scores.folds
    assert found(scores).auc == pytest.approx(mannwhitneyu(present, absent).statistic / 120**2)


def test_the_mean_difference_loses_to_the_known_signal_but_answers_only_to_the_other_half():
    signal = disc(contrast_hu=4.0)
    images = classes(200, signal)
    known, learnt = found(npw_scores(*images, signal)), found(npw_scores(*images))
    assert 0.5 * known.d_prime < learnt.d_prime < known.d_prime


def test_scenes_are_averaged_and_narrow_the_interval():
    signal = disc()
    scenes = [npw_scores(*classes(100, signal, seed=seed), signal) for seed in range(4)]
    alone = [found(scene) for scene in scenes]
    together = found(*scenes)
    assert together.d_prime == pytest.approx(np.mean([one.d_prime for one in alone]))
    widths = [np.ptp(one.d_prime_interval) for one in (together, alone[0])]
    assert widths[0] < 0.7 * widths[1]


def test_a_change_compares_the_same_realisations():
    signal = disc()
    present, absent = classes(100, signal)
    before = found(npw_scores(present, absent, signal))
    scaled = found(npw_scores(0.5 * present, 0.5 * absent, signal))
    change, interval = scaled.change_from(before)
    assert change == pytest.approx(0, abs=1e-9)
    assert interval == pytest.approx((0, 0), abs=1e-9)
    assert scaled.verdict(before) == "kept"


def test_a_change_is_told_though_the_intervals_of_d_prime_overlap():
    """The same noise in both: a little less signal is a sure loss, and a rounding error is none."""
    signal = disc()
    present, absent = classes(200, signal)
    before, fainter, rounded = (
        found(npw_scores(present - share * signal, absent, signal)) for share in (0, 0.1, 1e-6)
    )
    assert fainter.d_prime_interval[1] > before.d_prime_interval[0]
    _, (low, high) = fainter.change_from(before)
    assert low < high < 0
    assert (fainter.verdict(before), before.verdict(fainter)) == ("lost", "gained")
    assert rounded.verdict(before) == "kept"


def test_intervals_apart_are_lost_and_gained():
    faint, clear = (found(npw_scores(*classes(200, disc(contrast_hu=c)), disc())) for c in (4.0, 9.0))
    assert (faint.verdict(clear), clear.verdict(faint)) == ("lost", "gained")
    assert faint.verdict(faint) == "kept"


def test_images_without_noise_show_all_or_nothing():
    signal = disc(32)
    blank = np.full((100, 32, 32), 40.0, np.float32)
    for observe in (
        lambda present: npw_scores(present, blank, signal),
        lambda present: cho_scores([(present, blank)], dense_dog_channels(32))[0],
    ):
        nothing, all_there = found(observe(blank)), found(observe(blank + signal))
        assert (nothing.d_prime, nothing.d_prime_interval, nothing.auc) == (0, (0, 0), pytest.approx(0.5))
        assert (all_there.d_prime, all_there.auc) == (np.inf, pytest.approx(1))
        assert np.isnan([all_there.change_from(all_there)[0], *all_there.change_from(all_there)[1]]).all()


def test_channels_are_centred_see_no_offset_and_pass_rising_bands():
    channels = dense_dog_channels(64)
    assert channels.shape == (10, 64, 64)
    np.testing.assert_allclose(channels.sum(axis=(1, 2)), 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(channels, axis=(1, 2)), 1)
    assert all(np.unravel_index(one.argmax(), one.shape) == (32, 32) for one in channels)
    steps = np.fft.fftfreq(64)
    frequency = np.hypot(steps[:, None], steps[None, :])
    power = np.abs(np.fft.fft2(channels)) ** 2
    middles = (power * frequency).sum(axis=(1, 2)) / power.sum(axis=(1, 2))
    assert (np.diff(middles) > 0).all()


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        (lambda p, a: npw_scores(p[:99], a), "99 images with and 100 without"),
        (lambda p, a: npw_scores(p, a[0]), "of one size"),
        (lambda p, a: npw_scores(p, a, np.zeros((3, 3))), "signal must be"),
        (lambda p, a: cho_scores([(p, a)], np.zeros((4, 3, 3))), "channels must be"),
        (lambda p, a: cho_scores([(p, a)], np.zeros((51, 8, 8))), "need 204 images"),
    ],
)
def test_what_cannot_be_observed_is_refused(observe, message):
    with pytest.raises(ValueError, match=message):
        observe(*classes(100, disc(8)))


def test_no_scene_has_no_detectability():
    with pytest.raises(ValueError, match="at least one scene"):
        found()

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from pipeline.dose.slices import shared_noise, shared_noise_weights, slice_correlations
from pipeline.dose.statistics import low_count, missing_noise, missing_variance

DRAWS = 200_000


def exact_moments(counts: float, electronic_variance: float) -> tuple[float, float]:
    """Bias and variance of −ln max(N, ½), summed over photons and read-out errors."""
    photons = np.arange(int(counts + 12 * counts**0.5) + 40)
    errors = np.linspace(-8, 8, 801)
    weights = np.exp(-(errors**2) / 2)
    logs = -np.log(np.maximum(photons[:, None] + electronic_variance**0.5 * errors, 0.5))
    probability = poisson.pmf(photons, counts)[:, None] * weights / weights.sum()
    mean = float((probability * logs).sum())
    return mean + float(np.log(counts)), float((probability * logs**2).sum()) - mean**2


def drawn(counts: float, dose_fraction: float, electronic_variance: float) -> torch.Tensor:
    rays, normal = (
        torch.full((DRAWS,), counts),
        torch.randn(DRAWS, generator=torch.Generator().manual_seed(0)),
    )
    return missing_noise(rays, dose_fraction, normal, electronic_variance=electronic_variance).double()


@pytest.mark.parametrize("dose_fraction", [0.05, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("electronic_variance", [0.0, 10.0])
def test_added_variance_is_the_analytic_one(dose_fraction: float, electronic_variance: float) -> None:
    counts = 1000 / dose_fraction
    ratio = electronic_variance / counts
    analytic = (1 / dose_fraction - 1) / counts * (1 + (1 + dose_fraction) / dose_fraction * ratio)
    noise = drawn(counts, dose_fraction, electronic_variance)
    assert float(noise.var()) == pytest.approx(analytic, rel=0.02)
    variance = missing_variance(torch.tensor([counts]), dose_fraction, electronic_variance)
    assert float(variance) == pytest.approx(analytic, rel=0.01)


@pytest.mark.parametrize("left", [0.05, 1.0, 5.0, 20.0, 39.0, 41.0, 100.0])
@pytest.mark.parametrize("dose_fraction", [0.05, 0.25])
def test_mean_is_the_difference_of_the_exact_log_biases(left: float, dose_fraction: float) -> None:
    expected = exact_moments(left, 10.0)[0] - exact_moments(left / dose_fraction, 10.0)[0]
    noise = drawn(left / dose_fraction, dose_fraction, 10.0)
    assert float(noise.mean()) == pytest.approx(expected, abs=4 * float(noise.std()) / DRAWS**0.5 + 1e-4)


@pytest.mark.parametrize("electronic_variance", [0.0, 10.0, 25.0])
def test_both_sides_of_the_threshold_have_the_exact_variance(electronic_variance: float) -> None:
    for left in (low_count(electronic_variance) - 0.1, low_count(electronic_variance) + 0.1):
        at_dose, normal = (exact_moments(count, electronic_variance)[1] for count in (left, 4 * left))
        assert float(drawn(4 * left, 0.25, electronic_variance).var()) == pytest.approx(
            at_dose - normal, rel=0.02
        )


def two_scans_of_the_same_photons(
    counts: float, dose_fraction: float, electronic_variance: float
) -> np.ndarray:
    """The missing noise, photon by photon: each one is kept with probability α, read-out noise is added."""
    rng = np.random.default_rng(7)
    normal = rng.poisson(counts, DRAWS)
    kept = rng.binomial(normal, dose_fraction)
    first, second = electronic_variance**0.5 * rng.standard_normal((2, DRAWS))
    low = np.maximum(kept + dose_fraction * first + (1 - dose_fraction**2) ** 0.5 * second, 0.5)
    return np.log(np.maximum(normal + first, 0.5)) - np.log(low) + np.log(dose_fraction)


@pytest.mark.parametrize("left", [0.02, 0.6, 3.0, 11.0, 29.0])
@pytest.mark.parametrize(("dose_fraction", "electronic_variance"), [(0.05, 10.0), (0.5, 10.0), (0.25, 2.0)])
def test_starved_rays_have_the_distribution_of_counted_photons(
    left: float, dose_fraction: float, electronic_variance: float
) -> None:
    expected = two_scans_of_the_same_photons(left / dose_fraction, dose_fraction, electronic_variance)
    found = drawn(left / dose_fraction, dose_fraction, electronic_variance).numpy()
    assert found.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() / DRAWS**0.5)
    assert found.var() == pytest.approx(expected.var(), rel=0.03)
    shares = [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98]
    assert np.abs(np.quantile(found, shares) - np.quantile(expected, shares)).max() < 0.05 * expected.std()


@pytest.mark.parametrize("left", [0.5, 5.0, 39.0, 500.0])
def test_noise_of_every_ray_rises_with_its_normal_number(left: float) -> None:
    normal = torch.linspace(-5, 5, 301)
    noise = missing_noise(torch.full((301,), left / 0.25), 0.25, normal, electronic_variance=10.0)
    assert bool((noise.diff() >= 0).all())
    assert noise[0] < noise[150] < noise[300]


@pytest.mark.parametrize("left", [0.01, 0.5, 3.0, 25.0])
def test_missing_variance_of_starved_rays_is_that_of_their_draws(left: float) -> None:
    predicted = missing_variance(torch.tensor([left / 0.1]), 0.1, 10.0)
    assert float(predicted) == pytest.approx(float(drawn(left / 0.1, 0.1, 10.0).var()), rel=0.03)


def test_everything_is_finite_without_any_photons() -> None:
    counts = torch.tensor([0.0, 1e-30, 1e-3, 1.0, 1e9])
    noise = missing_noise(counts, 0.05, torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]), electronic_variance=10.0)
    assert bool(noise.isfinite().all())
    assert bool(missing_variance(counts, 0.05, 10.0).isfinite().all())


@pytest.mark.parametrize("dose_fraction", [0.0, 1.0, -0.25, 1.5, float("nan")])
def test_dose_fractions_outside_0_to_1_are_refused(dose_fraction: float) -> None:
    with pytest.raises(ValueError, match="dose_fraction must be between 0 and 1"):
        drawn(100.0, dose_fraction, 10.0)
    with pytest.raises(ValueError, match="dose_fraction must be between 0 and 1"):
        missing_variance(torch.ones(1), dose_fraction, 10.0)


def test_slices_share_the_noise_of_their_overlap() -> None:
    assert slice_correlations(0.5) == (1.0,)
    assert slice_correlations(1.0) == (1.0,)
    assert slice_correlations(2.5) == pytest.approx((1.0, 0.6, 0.2))


@pytest.mark.parametrize("thickness_over_increment", [0.3, 1.0, 1.25, 2.0, 2.5, 4.0, 10.0])
def test_weights_of_the_white_fields_give_these_correlations(thickness_over_increment: float) -> None:
    weights = np.array(shared_noise_weights(thickness_over_increment))
    products = [float(weights[lag:] @ weights[: len(weights) - lag]) for lag in range(len(weights))]
    assert products == pytest.approx(slice_correlations(thickness_over_increment), abs=1e-6)


def test_noise_of_a_slice_does_not_depend_on_where_a_chunk_begins() -> None:
    def fields(first: int, count: int, **changes: float) -> list[torch.Tensor]:
        options = {"dose_fraction": 0.25, "thickness_over_increment": 2.5, "seed": 7} | changes
        stream = shared_noise((50, 60), first_slice=first, device=torch.device("cpu"), **options)
        return list(itertools.islice(stream, count))

    whole = fields(0, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], fields(3, 3), strict=True))
    assert not torch.equal(whole[0], fields(0, 1, seed=8)[0])
    assert not torch.equal(whole[0], fields(0, 1, dose_fraction=0.1)[0])
    found = [float((whole[0] * other).mean()) for other in whole[:4]]
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.0], abs=0.08)


def test_impossible_overlaps_are_refused() -> None:
    with pytest.raises(ValueError, match="thickness_over_increment"):
        slice_correlations(0.0)

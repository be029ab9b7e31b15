"""Model observers: can a known low-contrast signal still be told from its absence?

    scenes = cho_scores([(present_hu, absent_hu)], dense_dog_channels(64))
    found = estimate_detectability(scenes, np.random.default_rng(seed))

Two linear observers after AAPM TG-233 (Samei et al. 2019, doi:10.1002/mp.13763), for a signal and a
background known exactly. The non-prewhitening matched filter (NPW) correlates the image with a template and
suffers from correlated noise, as readers do. The channelised Hotelling observer (CHO) is the best linear
observer of what its channels pass, whatever the noise's spectrum: what it no longer finds is lost and not
just hidden. Neither has an eye filter or internal noise, so both do better than readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.metrics.aggregation import RESAMPLES

Array = npt.NDArray[np.float64]
Images = npt.NDArray[Any]

FEWEST_IMAGES: Final = 100
"""Of each class; with fewer the interval of d' is wider than most differences between denoisers."""

_DOG_CHANNELS: Final = 10
_DOG_FIRST_SD: Final = 0.005  # cycles per pixel
_DOG_RATIO: Final = 1.4
_DOG_WIDTH: Final = 1.67
"""Dense difference-of-Gaussian channels as Abbey and Barrett 2001 set them (doi:10.1364/JOSAA.18.000473)."""

_ROUNDING: Final = 1e-4
"""Of d': HU to network units and back move it by less; an unchanged image is neither lost nor gained."""

_RIDGE: Final = 1e-10
"""Of a correlation matrix: decides nothing but directions without noise."""


@dataclass(frozen=True)
class Scores:
    """An observer's answers to images of one scene: the higher, the surer that the signal is there.

    Attributes:
        folds: answers to the images with and without the signal, `(n,)` and `(m,)`, of each template; one
            learnt from half of the images answers to the other half.
    """

    folds: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Detectability:
    """How well an observer finds the signal.

    Attributes:
        d_prime: distance of the mean answers over the root of their mean variance.
        d_prime_interval: 95 %, over noise realisations.
        auc: probability that of two images the one with the signal gets the higher answer.
        auc_interval: 95 %, likewise.
        replicates: `(resamples,)` bootstrap values of d'.
    """

    d_prime: float
    d_prime_interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    replicates: Array

    def change_from(self, before: Detectability) -> tuple[float, tuple[float, float]]:
        """Difference in d' and its 95 % interval.

        Both must come from generators in the same state and images with the same noise, one by one: then each
        replicate compares the same draw of realisations.
        """
        with np.errstate(invalid="ignore"):  # infinite less infinite is no number
            changes = self.replicates - before.replicates
        return self.d_prime - before.d_prime, _interval(changes)

    def verdict(self, before: Detectability) -> Literal["lost", "kept", "gained"]:
        """`lost` or `gained` where the interval of the change excludes 0; conditions as in `change_from`.

        The intervals of the two d' may well overlap then: what the noise does to both is no difference.
        """
        _, (low, high) = self.change_from(before)
        if high < -_ROUNDING:
            return "lost"
        return "gained" if low > _ROUNDING else "kept"


def estimate_detectability(scenes: Sequence[Scores], generator: np.random.Generator) -> Detectability:
    """Detectability index and AUC, averaged over the templates of a scene and then over scenes.

    The intervals are those of these scenes under other noise: a percentile bootstrap over the answers of each
    scene and class, with the templates as they are. They say nothing about other scenes or patients.

    Args:
        scenes: each with its own background and templates.
        generator: draws the resamples.

    Raises:
        ValueError: there is no scene.
    """
    if not scenes:
        raise ValueError("detectability needs at least one scene, got none")
    parts = [np.mean([_resampled(*fold, generator) for fold in scene.folds], axis=0) for scene in scenes]
    (d_prime, *d_primes), (auc, *aucs) = np.mean(parts, axis=0)
    replicates = np.array(d_primes)
    return Detectability(
        float(d_prime), _interval(replicates), float(auc), _interval(np.array(aucs)), replicates
    )


def npw_scores(present_hu: Images, absent_hu: Images, signal_hu: Images | None = None) -> Scores:
    """Answers of the non-prewhitening matched filter.

    Args:
        present_hu: `(N, S, S)` HU, realisations with the signal.
        absent_hu: `(M, S, S)` HU, realisations of the same scene without it.
        signal_hu: `(S, S)` the signal, which then is the template. With None it is the difference of the mean
            images of one half, and answers to the other: noise in it costs some d', the more the larger S.

    Raises:
        ValueError: fewer than 100 images of a class, or other shapes.
    """
    _require_images(present_hu, absent_hu)
    present, absent = _answerable(present_hu, absent_hu)
    if signal_hu is not None:
        if signal_hu.shape != present_hu.shape[1:]:
            raise ValueError(
                f"the signal must be {present_hu.shape[1:]} as the images, got {signal_hu.shape}"
            )
        template = signal_hu.ravel().astype(np.float64)
        return Scores(((present @ template, absent @ template),))
    folds = []
    for half in (0, 1):
        learnt = present[half::2].mean(axis=0) - absent[half::2].mean(axis=0)
        folds.append((present[1 - half :: 2] @ learnt, absent[1 - half :: 2] @ learnt))
    return Scores(tuple(folds))


def cho_scores(scenes: Sequence[tuple[Images, Images]], channels: Array) -> list[Scores]:
    """Answers of the channelised Hotelling observer, at every scene.

    It learns one template for all scenes from one half of the images and answers to the other half, both
    ways. What is learnt from few images misses some of d', so the expectation lies below that of endless
    images. With ten channels and 100 images of either class of one scene it is lower by 18 % at d' 1, by 9 %
    at 2 and 5 % at 4; of four scenes by 19 % at 0.5, 4 % at 1 and 2 % at 2 (measured with white noise).

    Args:
        scenes: `(N, S, S)` HU with the signal and `(M, S, S)` without it, realisations of each scene.
        channels: `(C, S, S)`, far fewer than images.

    Raises:
        ValueError: fewer than 100 images of a class, or other shapes, or too many channels.
    """
    outputs = [_channel_outputs(present, absent, channels) for present, absent in scenes]
    images = sum(len(present) + len(absent) for present, absent in outputs)
    if 4 * len(channels) > images:
        raise ValueError(f"{len(channels)} channels need {4 * len(channels)} images, got {images}")
    templates = [
        _hotelling_template([(present[half::2], absent[half::2]) for present, absent in outputs])
        for half in (0, 1)
    ]
    return [
        Scores(
            tuple(
                (present[1 - half :: 2] @ template, absent[1 - half :: 2] @ template)
                for half, template in enumerate(templates)
            )
        )
        for present, absent in outputs
    ]


def dense_dog_channels(side: int) -> Array:
    """Ten dense difference-of-Gaussian channels, centred on the pixel `side // 2` of both axes.

    Radial pass-bands exp(−½ (f / Qσ)²) − exp(−½ (f / σ)²) with σ = 0.005 · 1.4^j cycles per pixel and
    Q = 1.67 (Abbey and Barrett 2001): for signals without direction.

    Args:
        side: pixels along an edge; 64 holds the whole of the widest channel that matters.

    Returns:
        `(10, side, side)`, each with a sum of 0 and a norm of 1.
    """
    steps = np.fft.fftfreq(side)
    frequency = np.hypot(steps[:, None], steps[None, :])
    channels = []
    for number in range(_DOG_CHANNELS):
        sd = _DOG_FIRST_SD * _DOG_RATIO**number
        passed = np.exp(-0.5 * (frequency / (_DOG_WIDTH * sd)) ** 2) - np.exp(-0.5 * (frequency / sd) ** 2)
        image = np.roll(np.fft.ifft2(passed).real, (side // 2, side // 2), axis=(0, 1))
        channels.append(image / np.linalg.norm(image))
    return np.stack(channels)


def _channel_outputs(present: Images, absent: Images, channels: Array) -> tuple[Array, Array]:
    """`(N, C)` and `(M, C)`."""
    _require_images(present, absent)
    if channels.ndim != 3 or channels.shape[1:] != present.shape[1:]:
        raise ValueError(f"channels must be (C, *{present.shape[1:]}), got {channels.shape}")
    passed = channels.reshape(len(channels), -1).T
    with_signal, without = _answerable(present, absent)
    return with_signal @ passed, without @ passed


def _hotelling_template(scenes: Sequence[tuple[Array, Array]]) -> Array:
    """Inverse of the mean covariance, times the mean difference; of correlations, as these invert."""
    covariance = np.mean(
        [np.atleast_2d(np.cov(one, rowvar=False)) for pair in scenes for one in pair], axis=0
    )
    difference = np.mean([present.mean(axis=0) - absent.mean(axis=0) for present, absent in scenes], axis=0)
    sd = np.sqrt(np.diag(covariance))
    sd = np.where(sd > 0, sd, 1.0)
    correlation = covariance / np.outer(sd, sd) + _RIDGE * np.eye(len(sd))
    template: Array = np.linalg.solve(correlation, difference / sd) / sd
    return template


def _resampled(present: Array, absent: Array, generator: np.random.Generator) -> Array:
    """`(2, 1 + resamples)` d' and AUC: of the answers themselves, then of resamples of each class."""
    with_signal, without = _weights(len(present), generator), _weights(len(absent), generator)
    mean, variance = _moments(with_signal, present)
    mean_absent, variance_absent = _moments(without, absent)
    spread, distance = np.sqrt((variance + variance_absent) / 2), mean - mean_absent
    endless = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    d_prime = np.divide(distance, spread, out=endless, where=spread > 0)
    higher = (present[:, None] > absent) + 0.5 * (present[:, None] == absent)
    auc = ((with_signal @ higher) * without).sum(axis=1)
    return np.stack([d_prime, auc])


def _weights(count: int, generator: np.random.Generator) -> Array:
    """`(1 + resamples, count)` shares of each answer: all alike, then as often as it is drawn."""
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    return np.concatenate([np.full((1, count), 1 / count), drawn])


def _moments(weights: Array, scores: Array) -> tuple[Array, Array]:
    """Means and unbiased variances under each row of weights."""
    mean = weights @ scores
    variance = (weights @ scores**2 - mean**2) * (len(scores) / (len(scores) - 1))
    return mean, np.maximum(variance, 0.0)


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(
        values, [0.025, 0.975], method="inverted_cdf"
    )  # values themselves: may be infinite
    return float(low), float(high)


def _answerable(present: Images, absent: Images) -> tuple[Array, Array]:
    """`(N, S²)` and `(M, S²)` less one image without the signal: no digits go to what all have in common."""
    common = absent[0].astype(np.float64)
    return (present - common).reshape(len(present), -1), (absent - common).reshape(len(absent), -1)


def _require_images(present: Images, absent: Images) -> None:
    if present.ndim != 3 or absent.ndim != 3 or present.shape[1:] != absent.shape[1:]:
        raise ValueError(
            f"images must be (N, S, S) and (M, S, S) of one size, got {present.shape} and {absent.shape}"
        )
    if min(len(present), len(absent)) < FEWEST_IMAGES:
        raise ValueError(
            f"{len(present)} images with and {len(absent)} without the signal; an observer needs at least "
            f"{FEWEST_IMAGES} of either"
        )

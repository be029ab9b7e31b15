"""The inserted disc: its area, its place, and the kernel's blur."""

import math

import numpy as np
import pytest

from pipeline.dose.lesions import disc_hu
from pipeline.metrics import disc_ttf
from pipeline.projector import Kernel

PLAIN = {"contrast_hu": -20.0, "diameter_mm": 12.0, "side": 64, "pixel_mm": 0.8}


def test_a_disc_has_its_area_and_contrast_around_its_pixel():
    disc = disc_hu(**PLAIN, kernel=None)
    assert (disc.dtype, disc.shape) == (np.float32, (64, 64))
    assert disc.sum() * 0.8**2 == pytest.approx(-20 * math.pi * 6**2, rel=0.005)
    assert (disc[32, 32], disc[0, 0]) == (-20, 0)
    np.testing.assert_allclose(disc[1:], disc[1:][::-1], atol=1e-5)  # row 32 is the middle of rows 1 to 63
    np.testing.assert_allclose(disc, disc.T, atol=1e-5)


@pytest.mark.parametrize("kernel", [Kernel(0.35), Kernel(0.9, 4.0), Kernel(math.inf)])
def test_a_kernel_moves_no_volume(kernel):
    sharp, blurred = (disc_hu(**PLAIN, kernel=one) for one in (None, kernel))
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=1e-5)
    changed = np.abs(blurred - sharp).max()
    assert changed < 1e-4 if math.isinf(kernel.cutoff_per_mm) else changed > 1


def test_the_edge_has_the_kernel_s_transfer():
    kernel = Kernel(0.5)
    wide = PLAIN | {"side": 128, "diameter_mm": 40.0}
    disc = disc_hu(**wide, kernel=kernel)
    where = {"centre_pixels": (64, 64), "radius_mm": 20.0, "reach_mm": 12.0, "pixel_mm": 0.8}
    assert disc_ttf(disc[None], **where).f50_per_mm == pytest.approx(0.25, rel=0.05)  # a Hann window's half


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrast_hu": 0.0}, "other than 0"),
        ({"contrast_hu": math.nan}, "other than 0"),
        ({"diameter_mm": 0.7}, "at least one pixel"),
        ({"diameter_mm": 26.0}, "at most half"),
    ],
)
def test_a_disc_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        disc_hu(**PLAIN | change, kernel=None)

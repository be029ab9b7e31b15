import numpy as np
import pydicom
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipeline.dicom import Code, Derivation, Task, discover, write_derived_series
from pipeline.dicom.pixels import Rescale, padding_mask, rescale_of, stored_pixels
from pipeline.hu import AIR_HU
from tests.dicom_factory import NOON, make_slice, read_only_series, save

DERIVATION = Derivation("redcnn", "3", "ab" * 32, {"strength": 0.0}, "0.1.0")
SLOPES = [1.0, 1.000244, 0.1, 2.0002442, 0.00375, 1e-4, 37.5]
INTERCEPTS = [0.0, -1000.0, -1024.0, -1024.4, -8192.0, 1000.0]


def limits(bits_stored, signed):
    return (-(2 ** (bits_stored - 1)), 2 ** (bits_stored - 1) - 1) if signed else (0, 2**bits_stored - 1)


@st.composite
def stored_slices(draw):
    """Stored values over the whole range of their bits, extremes included, and how they are described."""
    bits_allocated = draw(st.sampled_from([8, 16, 32]))
    bits_stored = draw(st.integers(bits_allocated // 2, bits_allocated))
    signed = draw(st.booleans())
    low, high = limits(bits_stored, signed)
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits_allocated // 8}")
    extremes = st.sampled_from([low, low + 1, high - 1, high])
    stored = draw(st_numpy.arrays(dtype, (3, 4), elements=st.integers(low, high) | extremes))
    padding = {}
    if draw(st.booleans()) and bits_allocated <= 16:
        padding["PixelPaddingValue"] = draw(st.integers(low, high) | st.sampled_from(stored.ravel().tolist()))
        if draw(st.booleans()):
            padding["PixelPaddingRangeLimit"] = draw(st.integers(low, high))
    header = make_slice(stored, BitsStored=bits_stored, HighBit=bits_stored - 1, **padding)
    header.RescaleSlope = draw(st.sampled_from(SLOPES))
    header.RescaleIntercept = draw(st.sampled_from(INTERCEPTS))
    return header, stored


@settings(max_examples=400, deadline=None)
@given(stored_slices())
def test_strength_zero_gives_every_stored_value_back(described):
    """The zero-bias proof at the level of pixels: what is not to change does not, by a single bit."""
    header, stored = described
    assume(rescale_of(header).is_reversible(header.BitsStored))
    hu = rescale_of(header).to_hu(stored)
    padding = padding_mask(header, stored, hu)
    hu[padding] = AIR_HU
    again = stored_pixels(header, hu, padding=padding, padding_stored=stored[padding])
    assert again.dtype == stored.dtype
    np.testing.assert_array_equal(again, stored)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("signed", [False, True])
def test_every_value_of_16_bits_survives_float32(slope, intercept, signed):
    rescale = Rescale(slope, intercept)
    low, high = limits(16, signed)
    stored = np.arange(low, high + 1, dtype=np.int64)
    survives = np.array_equal(rescale.to_stored(rescale.to_hu(stored)), stored)
    assert survives or not rescale.is_reversible(16)
    assert rescale.is_reversible(16) or slope == min(SLOPES)


@pytest.mark.parametrize(
    ("rescale", "bits_stored", "lost"),
    [
        (Rescale(1.0, 0.0), 32, 2**24 + 1),
        (Rescale(1.0, -1024.0), 25, 2**25 - 1),
        (Rescale(1e-6, -1024.0), 16, 1),
        (Rescale(1e-45, 0.0), 12, 4000),
        (Rescale(1e38, 0.0), 16, 60000),
    ],
)
def test_what_float32_cannot_hold_is_known_beforehand(rescale, bits_stored, lost):
    with np.errstate(over="ignore"):
        hu = rescale.to_hu(np.array([lost]))
    assert rescale.to_stored(hu) != lost
    assert not rescale.is_reversible(bits_stored)


@pytest.mark.parametrize("rescale", [Rescale(5e-324, 1e308), Rescale(1e308, -1e308), Rescale(1.0, 1e300)])
@pytest.mark.parametrize("bits_stored", [0, 16, 65535])
def test_absurd_headers_are_answered(rescale, bits_stored):
    assert not rescale.is_reversible(bits_stored)


def test_series_that_float32_cannot_hold_is_refused_for_every_task(tmp_path):
    for z in range(2):
        stored = np.full((4, 4), 2**24 + 1, np.uint32)
        save(make_slice(stored, position=(0.0, 0.0, z)), tmp_path / str(z))
    (entry,) = discover(tmp_path).series
    assert {entry.finding(task).code for task in Task} == {Code.INEXACT_HU}


@pytest.mark.parametrize(
    ("dtype", "bits_stored"),
    [(np.uint8, 8), (np.int8, 7), (np.uint16, 12), (np.int16, 16), (np.uint32, 16), (np.int32, 20)],
)
def test_every_width_is_written_bit_for_bit(tmp_path, dtype, bits_stored):
    low, high = limits(bits_stored, np.dtype(dtype).kind == "i")
    stored = np.linspace(low, high, 12 * 10).astype(dtype).reshape(12, 10)
    dataset = make_slice(
        stored, BitsStored=bits_stored, HighBit=bits_stored - 1, RescaleSlope=0.1, RescaleIntercept=-1024
    )
    save(dataset, tmp_path / "in" / "a")
    series = read_only_series(tmp_path / "in")
    (path,) = write_derived_series(series, series.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    written = pydicom.dcmread(path)
    np.testing.assert_array_equal(written.pixel_array, stored)
    assert (written.BitsAllocated, written.BitsStored) == (8 * stored.dtype.itemsize, bits_stored)

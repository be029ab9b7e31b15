import pytest
import torch

from pipeline.dose.flux import BODY, HEAD, Bowtie, Flux, flux_from_tags
from pipeline.projector import FanBeam, ParallelBeam


def test_full_bowtie_gives_all_rays_through_its_cylinder_the_same_counts() -> None:
    offsets_mm = torch.linspace(-99, 99, 67)
    water = torch.exp(-0.0193 * 2 * (100**2 - offsets_mm**2).sqrt())
    counts = Bowtie(radius_mm=100, strength=1).relative_fluence(offsets_mm) * water
    assert torch.allclose(counts, counts[33].expand_as(counts), rtol=1e-4)


@pytest.mark.parametrize("bowtie", [BODY, HEAD])
def test_bowtie_is_one_at_the_centre_falls_outwards_and_stays_positive(bowtie: Bowtie) -> None:
    fluence = bowtie.relative_fluence(torch.linspace(0, 400, 200))
    assert fluence[0] == 1
    assert bool((fluence.diff() <= 0).all())
    assert fluence[-1] == bowtie.relative_fluence(torch.tensor(bowtie.radius_mm)) > 0.01


def test_expected_counts_by_hand() -> None:
    beam = ParallelBeam(4, pixel_mm=10.0, views=4)
    rays = torch.full((2, 4, 4), 2.0)
    flux = Flux(1000.0, bowtie=Bowtie(radius_mm=10.0, strength=0.5))
    counts = flux.expected_counts(rays, beam, exposure=torch.tensor([1.0, 3.0]))
    # Offsets ±5 and ±15 mm: half chords of √75 and 0 mm.
    inner = 1000 * 2.718281828 ** (-2 - 0.5 * 0.0193 * 2 * (10 - 75**0.5))
    outer = 1000 * 2.718281828 ** (-2 - 0.5 * 0.0193 * 20)
    assert counts[0, 1].tolist() == pytest.approx([outer, inner, inner, outer], rel=1e-5)
    assert torch.allclose(counts[1], 3 * counts[0])


def test_flux_from_tags_by_hand_and_in_the_range_of_the_field() -> None:
    beam = FanBeam(512, pixel_mm=0.7, views=1000, source_mm=500.0)
    photons = flux_from_tags(kvp=120, exposure_mas=200, slice_thickness_mm=1.0, beam=beam)
    assert photons == pytest.approx(6e5 * 4 * 200 / 1000 * 0.7)
    assert 1e5 < flux_from_tags(kvp=120, exposure_mas=100, slice_thickness_mm=1, beam=FanBeam(512, 0.7)) < 1e6


def test_flux_from_tags_scales_with_voltage_squared_load_and_thickness() -> None:
    def photons(**changes: float) -> float:
        tags = {"kvp": 120.0, "exposure_mas": 100.0, "slice_thickness_mm": 1.0} | changes
        return flux_from_tags(**tags, beam=ParallelBeam(512, 0.7))

    assert photons(kvp=60) == pytest.approx(photons() / 4)
    assert photons(exposure_mas=50) == pytest.approx(photons() / 2)
    assert photons(slice_thickness_mm=5) == pytest.approx(5 * photons())


def test_impossible_numbers_are_refused() -> None:
    beam = ParallelBeam(8, 1.0, views=4)
    with pytest.raises(ValueError, match=r"kvp must be positive, got 0"):
        flux_from_tags(kvp=0, exposure_mas=1, slice_thickness_mm=1, beam=beam)
    with pytest.raises(ValueError, match=r"photons_per_ray .* got nan"):
        Flux(float("nan"))
    with pytest.raises(ValueError, match="electronic_variance"):
        Flux(1.0, electronic_variance=-1.0)
    with pytest.raises(ValueError, match="radius_mm"):
        Bowtie(0.0, 0.5)
    with pytest.raises(ValueError, match="strength"):
        Bowtie(100.0, 1.5)

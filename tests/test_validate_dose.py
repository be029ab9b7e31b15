import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pipeline.dose.flux import Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.validation import Check, Measure, suite
from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.bias import mean_of_starved_scans
from pipeline.dose.validation.direct import log_moments, noise_of_a_scan
from pipeline.dose.validation.geometry import (
    adjointness,
    analytic_line_integrals,
    analytic_reconstruction,
    scikit_image_reference,
)
from pipeline.dose.validation.laws import dose_law, tube_current_law
from pipeline.dose.validation.level import added_image_variance, added_ray_variance
from pipeline.dose.validation.objects import BODY, METAL_HIPS, Ellipse, line_integrals_of, paint_hu
from pipeline.dose.validation.streaks import streakiness, streaks
from pipeline.dose.validation.texture import noise_spectrum
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam

PIXEL_MM = 3.0
FINE: dict[str, Beam] = {"fan": FanBeam(256, 0.8, views=480)}
BEAMS: dict[str, Beam] = {
    "parallel": ParallelBeam(96, PIXEL_MM, views=120),
    "fan": FanBeam(96, PIXEL_MM, views=240),
}
KERNEL = Kernel(cutoff_per_mm=1 / (2 * PIXEL_MM))


def bench(geometry: str = "fan", **changes: object) -> Mapping[str, Bench]:
    settings = {
        "ellipses": BODY,
        "beam": BEAMS[geometry],
        "flux": Flux(4e5),
        "realisations": 60,
        "seed": 3,
    } | changes
    return {geometry: Bench(kernel=KERNEL, **settings)}  # type: ignore[arg-type]


def too_noisy(hu: torch.Tensor, acquisition: Acquisition, **options: object) -> torch.Tensor:
    """10 % more variance than the dose asks for."""
    return hu + math.sqrt(1.1) * (insert_noise(hu, acquisition, **options) - hu)  # type: ignore[arg-type]


def wrong_kernel(hu: torch.Tensor, acquisition: Acquisition, **options: object) -> torch.Tensor:
    smoother = Kernel(cutoff_per_mm=0.7 * acquisition.kernel.cutoff_per_mm)
    wrong = Acquisition(beam=acquisition.beam, flux=acquisition.flux, kernel=smoother)
    return insert_noise(hu, wrong, **options)  # type: ignore[arg-type]


def without_log_bias(hu: torch.Tensor, acquisition: Acquisition, **options: object) -> torch.Tensor:
    noise = insert_noise(hu, acquisition, **options) - hu  # type: ignore[arg-type]
    return hu + noise - noise.mean(dim=1, keepdim=True)


def failures(check: Check) -> list[str]:
    return [f"{measure.what}: {measure.value:.4g}" for measure in check.measures if not measure.holds]


def test_a_measure_holds_inside_its_range_only() -> None:
    assert Measure("x", 1.0, low=0.9, high=1.1).strain == pytest.approx(0)
    assert Measure("x", 1.1, low=0.9, high=1.1).strain == pytest.approx(1)
    assert not Measure("x", 1.2, low=0.9, high=1.1).holds
    assert not Measure("x", math.nan, high=1.0).holds
    assert Measure("x", 4.0, low=2.0).strain == pytest.approx(0.5)
    assert [Measure("x", 1.0, high=2.0).limit, Measure("x", 1.0, low=0.5).limit] == ["≤ 2", "≥ 0.5"]
    with pytest.raises(ValueError, match="no range"):
        Measure("x", 1.0)


def test_line_integrals_of_a_disc_are_its_chords() -> None:
    disc = [Ellipse(30, 30, 1000, x_mm=10)]
    angles, offsets = torch.tensor([0.0, math.pi / 2])[:, None], torch.tensor([10.0, 0.0, 28.0])
    chords = line_integrals_of(disc, angles, offsets)[0] / disc[0].per_mm
    assert chords[0].tolist() == pytest.approx(
        [60, 2 * math.sqrt(900 - 100), 2 * math.sqrt(900 - 324)], rel=1e-5
    )
    assert chords[1, 1] == pytest.approx(60, rel=1e-5)


def test_a_painted_ellipse_has_its_area_and_its_hu() -> None:
    image = paint_hu([Ellipse(30, 20, 1040)], 64, 2.0)[0]
    assert (image + 1000).sum() * 4 / 1040 == pytest.approx(math.pi * 600, rel=0.002)
    assert image[32, 32] == 40
    assert image[0, 0] == -1000


@pytest.mark.parametrize("photons", [0.3, 4.0, 25.0, 400.0, 5000.0])
def test_log_moments_are_those_of_many_draws(photons: float) -> None:
    noise = noise_of_a_scan(torch.full((400_000,), photons), 10.0, torch.Generator().manual_seed(0)).double()
    exact, counts = log_moments(10.0), torch.tensor([photons])
    error = 4 * float(noise.std()) / len(noise) ** 0.5
    assert float(exact.mean(counts)) == pytest.approx(float(noise.mean()), abs=error)
    assert float(exact.variance(counts)) == pytest.approx(float(noise.var()), rel=0.01)


def test_the_projector_is_adjoint_exact_and_agrees_with_scikit_image() -> None:
    checks = [
        adjointness(BEAMS, torch.Generator().manual_seed(0)),
        analytic_line_integrals(BEAMS),
        scikit_image_reference(BEAMS),
    ]
    assert [failures(check) for check in checks] == [[], [], []]


def test_rays_that_turn_the_wrong_way_fail_the_line_integrals(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.dose.validation import geometry

    right = geometry.project
    monkeypatch.setattr(geometry, "project", lambda image, beam: right(image.flip(1), beam))
    assert not analytic_line_integrals(BEAMS).passed


def test_exact_line_integrals_reconstruct_to_their_object() -> None:
    assert not failures(analytic_reconstruction(suite.BEAMS, suite.KERNEL))


@pytest.mark.parametrize("wrong", ["weight", "place", "a quarter of a cell"])
def test_a_wrong_back_projector_fails_the_reconstruction(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = FanBeam.footprint

    def footprint(
        beam: FanBeam, centres: torch.Tensor, angles: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        place, weight = right(beam, centres, angles)
        if wrong == "weight":
            return place, weight.sqrt()
        return (place * 1.01 if wrong == "place" else place + 0.25), weight

    monkeypatch.setattr(FanBeam, "footprint", footprint)
    fan = {"fan": suite.BEAMS["fan"]}
    assert not analytic_reconstruction(fan, suite.KERNEL).passed
    assert adjointness(fan, torch.Generator().manual_seed(0)).passed  # which cannot tell


def test_rays_get_the_analytic_variance() -> None:
    check = added_ray_variance(10.0)
    assert not failures(check)


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_the_image_gets_the_analytic_variance(geometry: str) -> None:
    assert not failures(added_image_variance(bench(geometry, realisations=200)))


def test_ten_per_cent_too_much_variance_fails() -> None:
    check = added_image_variance(bench(insertion=too_noisy))
    assert not check.passed
    rim = [measure.value for measure in check.measures if "rim" in measure.what]
    assert rim == pytest.approx([1.1] * len(rim), abs=0.04)


def test_noise_follows_dose_and_tube_current() -> None:
    assert not failures(dose_law(bench()))
    assert not failures(tube_current_law(bench(flux=Flux(4e6), realisations=40)))


def test_noise_that_ignores_the_dose_fails_the_dose_law() -> None:
    def deaf(hu: torch.Tensor, acquisition: Acquisition, **options: object) -> torch.Tensor:
        doses = options.pop("dose_fractions")
        at_half = insert_noise(hu, acquisition, dose_fractions=[0.5], **options)  # type: ignore[arg-type]
        return at_half.expand(len(doses), -1, -1, -1)  # type: ignore[arg-type]

    assert not dose_law(bench(insertion=deaf, realisations=20)).passed


def test_the_mean_of_starved_scans_is_the_direct_simulations() -> None:
    starved = bench(ellipses=METAL_HIPS, beam=FINE["fan"], flux=Flux(4e5), realisations=12)
    assert not failures(mean_of_starved_scans(starved))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_proof_of_the_mean_does_not_hang_on_its_seed(seed: int) -> None:
    starved = bench(
        ellipses=METAL_HIPS, beam=FINE["fan"], flux=Flux(suite.PHOTONS), realisations=40, seed=seed
    )
    check = mean_of_starved_scans(starved)
    assert not failures(check)
    assert max(measure.standard_error or math.inf for measure in check.measures) < 0.1


def test_noise_without_the_log_bias_fails_the_mean() -> None:
    starved = bench(
        ellipses=METAL_HIPS, beam=FINE["fan"], flux=Flux(2e5), realisations=4, insertion=without_log_bias
    )
    assert not mean_of_starved_scans(starved).passed


def test_the_spectrum_is_the_direct_simulations() -> None:
    assert not failures(noise_spectrum(bench(realisations=200)))


def test_another_kernel_fails_the_spectrum() -> None:
    assert not noise_spectrum(bench(insertion=wrong_kernel, realisations=200)).passed


def test_streaks_lie_between_the_bones() -> None:
    assert not failures(streaks(bench(realisations=250)))


def test_noise_without_direction_has_no_streaks() -> None:
    noise = torch.randn(200, 96, 96, generator=torch.Generator().manual_seed(0))
    assert streakiness(noise) == pytest.approx(1, abs=0.1)


def test_the_command_fails_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    from pipeline.stages import validate_dose as stage

    good = Check("good", "A law that holds", "It holds.", "ratio", [Measure("here", 1.0, low=0.9, high=1.1)])
    bad = Check("bad", "A law that does not", "It does not.", "ratio", [Measure("there", math.nan, high=1.0)])
    monkeypatch.setattr(stage, "proofs", lambda _: [lambda: good, lambda: bad])
    assert stage.run(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "holds   A law that holds" in printed
    assert "FAILED  A law that does not" in printed
    report = json.loads((tmp_path / "validation.json").read_text(encoding="utf-8"))
    assert not report["passed"]
    assert report["checks"][1]["measures"][0] == {
        "what": "there",
        "value": None,
        "low": None,
        "high": 1.0,
        "standard_error": None,
        "holds": False,
    }
    page = (tmp_path / "validation.html").read_text(encoding="utf-8")
    assert "1 of 2 checks failed: A law that does not" in page
    assert page.count("<details>") == 1  # around the table of the one that holds


@pytest.mark.slow
def test_the_command_proves_the_physics(tmp_path: Path) -> None:
    from pipeline.stages import validate_dose as stage

    assert stage.run(tmp_path) == 0
    page = (tmp_path / "validation.html").read_text(encoding="utf-8")
    assert "checks hold" in page
    assert page.count("<img") >= 8
    assert "http" not in page

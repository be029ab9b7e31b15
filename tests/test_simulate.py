import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.data import read_volume
from pipeline.dicom import Task, discover, read_series
from pipeline.dose.photons import ELECTRONIC_VARIANCE, WATER_PER_MM
from pipeline.dose.scanner import Scanner
from pipeline.errors import ConfigError
from pipeline.manifest import read_manifest, read_split
from pipeline.projector import ParallelBeam
from pipeline.simulate import Label
from pipeline.stages import simulate

PROJECT = Path(__file__).parents[1]
SIZE, PIXEL_MM = 96, 2.0
BEAM = ParallelBeam(SIZE, PIXEL_MM, views=120)
AXIS_MM = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL_MM
RADIUS_MM = np.hypot(AXIS_MM[:, None], AXIS_MM[None, :])


def water_disc(slices: int) -> np.ndarray:
    disc = np.where(RADIUS_MM < 70, 0.0, -1000.0).astype(np.float32)
    return np.repeat(disc[None], slices, axis=0)


def noise_hu(scanner: Scanner, dose_fraction: float, *, slices: int = 24, seed: int = 0) -> np.ndarray:
    """Noise of independent scans of a water disc, `(slices, size, size)` HU."""
    line_integrals = scanner.measure(water_disc(slices))
    scan = scanner.expose(line_integrals, dose_fraction, np.random.default_rng(seed))
    noisy, truth = scanner.reconstruct([scan, line_integrals])
    return noisy - truth


def test_noise_goes_with_one_over_the_root_of_the_dose() -> None:
    scanner = Scanner(BEAM, photons_per_ray=5e5)
    inside = RADIUS_MM < 50
    full, quarter = (noise_hu(scanner, dose)[:, inside].std() for dose in (1.0, 0.25))
    assert quarter / full == pytest.approx(2.0, rel=0.02)


def test_noise_has_no_bias_at_either_dose() -> None:
    scanner = Scanner(BEAM, photons_per_ray=5e5)
    for dose_fraction in (1.0, 0.25):
        assert abs(noise_hu(scanner, dose_fraction)[:, RADIUS_MM < 60].mean()) < 0.3


def test_noise_variance_at_the_centre_is_the_analytic_one() -> None:
    """Central variance of FBP: (π/V)² Σ_views var(p) Σ_k h_k², linear interpolation included."""
    scanner = Scanner(BEAM, photons_per_ray=5e5, hann_cutoff=1.0)
    through_centre = 2 * 70 * WATER_PER_MM
    counts = 5e5 * np.exp(-through_centre)
    variance_of_p = 1 / counts + ELECTRONIC_VARIANCE / counts**2
    # squared norm of the interpolated kernel over one detector period, by Parseval: |H|² (2 + cos w) / 3
    frequency = np.linspace(0, 0.5, 4001)
    response = frequency / PIXEL_MM * 0.5 * (1 + np.cos(2 * np.pi * frequency))
    interpolation = (2 + np.cos(2 * np.pi * frequency)) / 3
    kernel_norm = 2 * np.trapezoid(response**2 * interpolation, frequency)
    expected_hu = 1000 / WATER_PER_MM * np.pi * np.sqrt(variance_of_p * kernel_norm / BEAM.views)
    found_hu = noise_hu(scanner, 1.0, slices=48)[:, RADIUS_MM < 12].std()
    assert found_hu == pytest.approx(expected_hu, rel=0.04)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_noise() -> None:
    scanner = Scanner(BEAM, photons_per_ray=5e5)
    first, again, other = (noise_hu(scanner, 1.0, slices=1, seed=seed) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    correlation = np.corrcoef(first[0][RADIUS_MM < 60], other[0][RADIUS_MM < 60])[0, 1]
    assert abs(correlation) < 0.05


def test_starved_rays_stay_finite() -> None:
    scanner = Scanner(BEAM, photons_per_ray=10.0)
    assert np.isfinite(noise_hu(scanner, 0.01, slices=1)).all()


def test_outside_of_the_field_of_view_is_air() -> None:
    scanner = Scanner(BEAM, photons_per_ray=5e5)
    (truth,) = scanner.reconstruct([scanner.measure(water_disc(1))])
    assert truth[0, 0, 0] == truth[0, -1, -1] == -1000


def test_scanner_refuses_impossible_doses() -> None:
    with pytest.raises(ValueError, match="photons_per_ray"):
        Scanner(BEAM, photons_per_ray=0)
    with pytest.raises(ValueError, match="dose_fraction"):
        Scanner(BEAM, photons_per_ray=1e5).expose(torch.zeros(1, 120, 96), 0, np.random.default_rng(0))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one tiny patient per role, made by the smoke settings."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    path = tmp_path / "configs" / "smoke" / "simulate.yaml"
    settings = YAML(typ="safe").load(path.read_text())
    settings["matrix"], settings["views"] = 48, 48
    nobody = {"head": 0, "chest": 0, "abdomen": 0}
    settings["patients"] = {
        "train": nobody | {"abdomen": 1},
        "validation": nobody | {"head": 1},
        "test": nobody | {"chest": 1},
        "incoming": nobody | {"abdomen": 1},
    }
    for protocol in settings["protocols"].values():
        protocol["slices"], protocol["pixel_mm"] = 2, 2.7 * protocol["pixel_mm"]
    with path.open("w") as file:
        YAML().dump(settings, file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    files = [
        file for top in ("data", "data_manifests") for file in (folder / top).rglob("*") if file.is_file()
    ]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_stage_writes_pairs_labels_truth_factors_and_a_manifest(project: Path) -> None:
    simulate.run("smoke")
    manifest = project / "data_manifests" / "phantom_smoke"
    cases = read_manifest(manifest)
    assert read_split(manifest, "holdout", cases) == {
        "phantom-abdomen-001": "train",
        "phantom-head-001": "validation",
        "phantom-chest-001": "test",
    }
    root = project / "data" / "smoke" / "simulated"
    for case in cases:
        volumes = []
        for folder in (case.normal_dose, case.low_dose):
            (entry,) = discover(root / str(folder)).series
            assert entry.finding(Task.INGEST) is None
            volumes.append(read_series(entry).hu)
        truth, labels = read_volume(root / str(case.truth)), read_volume(root / str(case.mask))
        assert truth.shape == labels.shape == volumes[0].shape == volumes[1].shape
        body = ~np.isin(labels, (Label.BACKGROUND, Label.TABLE))
        normal_error, low_error = (np.std((volume - truth)[body]) for volume in volumes)
        assert 1.5 < low_error / normal_error < 2.6
    with (root / "factors.csv").open() as file:
        rows = {row["patient_id"]: row for row in csv.DictReader(file)}
    assert rows["phantom-head-001"]["region"] == "head"
    assert rows["phantom-head-001"]["liver_width_mm"] == ""
    assert [path.name for path in (project / "data" / "smoke" / "incoming").iterdir()] == [
        "phantom-abdomen-002"
    ]


def test_stage_repeats_byte_for_byte_and_cleans_up_after_itself(project: Path) -> None:
    simulate.run("smoke")
    first = digests(project)
    stale = project / "data" / "smoke" / "simulated" / "phantom-chest-099"
    stale.mkdir()
    simulate.run("smoke")
    assert digests(project) == first
    assert not stale.exists()


def uids(folder: Path) -> set[str]:
    return {uid for entry in discover(folder).series for uid in (entry.series_uid, *entry.sop_instance_uids)}


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [(None, "dose_fraction", 0.251), (None, "hann_cutoff", 0.9), ("abdomen", "photons_per_ray", 4e5)],
)
def test_other_contents_get_other_uids(project: Path, section: str | None, name: str, value: float) -> None:
    incoming = project / "data" / "smoke" / "incoming"
    simulate.run("smoke")
    first = uids(incoming)
    path = project / "configs" / "smoke" / "simulate.yaml"
    settings = YAML(typ="safe").load(path.read_text())
    (settings["protocols"][section] if section else settings)[name] = value
    with path.open("w") as file:
        YAML().dump(settings, file)
    simulate.run("smoke")
    assert len(uids(incoming)) == len(first) == 3
    assert not uids(incoming) & first


def test_stage_takes_its_date_from_source_date_epoch(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "951782400")  # 2000-02-29 00:00:00 UTC
    simulate.run("smoke")
    (entry,) = discover(project / "data" / "smoke" / "incoming").series
    assert read_series(entry).headers[0].StudyDate == "20000229"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH=yesterday"):
        simulate.run("smoke")


def test_a_role_without_phantoms_is_refused_in_one_line(project: Path) -> None:
    path = project / "configs" / "smoke" / "simulate.yaml"
    settings = YAML().load(path)
    settings["patients"]["validation"] = {"head": 0, "chest": 0, "abdomen": 0}
    YAML().dump(settings, path)
    with pytest.raises(ConfigError, match=r"patients\.validation has no phantom") as error:
        simulate.run("smoke")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["demo", "paper", "smoke"])
def test_presets_test_on_chest_and_abdomen_of_patients_of_their_own(preset: str) -> None:
    settings = simulate.load_settings(
        PROJECT / "configs" / preset / "simulate.yaml", simulate.SimulateSettings
    )
    assert settings.patients.test.chest > 0
    assert settings.patients.test.abdomen > 0

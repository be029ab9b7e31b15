"""Evaluation on low doses made from the normal dose: who is tested, what is counted, what is told."""

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from rich.progress import Progress

from pipeline.bundle import save_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings, MadeDoseSettings
from pipeline.config.layout import Layout
from pipeline.data import Case, read_cases, write_index, write_volume
from pipeline.data.fingerprint import CaseStatistics, count_hu, write_statistics
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.errors import ConfigError, DataError
from pipeline.manifest import file_sha256
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models.baselines import BASELINES, baseline, gaussian
from pipeline.projector import FanBeam, Kernel
from pipeline.stages import evaluate
from pipeline.stages.denoiser_scores import read_scores
from pipeline.stages.evaluation import context
from pipeline.stages.evaluation.restoration import low_doses, made, pictures
from pipeline.stages.evaluation.restoration.groups import in_turn, noise_peak_per_mm
from pipeline.stages.evaluation.restoration.low_doses import Unusable, scans_of
from pipeline.stages.evaluation.restoration.scenes import SceneNoise
from pipeline.stages.evaluation.restoration.scores import worst_patient_bias
from pipeline.stages.evaluation.restoration.texture import texture_rows
from pipeline.stages.evaluation.restoration.verdicts import below_input_verdict, verdict
from pipeline.stages.evaluation.restoration.whole_bar import whole_bar
from tests.tiny_bundles import denoiser_bundle

SIDE, PIXEL_MM, PHOTONS, CUTOFF = 128, 1.5, 3e5, 0.3
CPU = torch.device("cpu")
EVALUATE = """
slices_per_case: 2
restoration:
  conventions: [redcnn, full]
  tuning_slices_per_case: 1
  baselines: {gaussian: [0.5, 1, 2]}
  low_dose: {dose_fractions: [0.25, 0.1]}
"""
OBSERVED = """  detectability:
    {contrast_hu: 60, diameter_mm: 8, dose_fractions: [0.1], cases: 1, places_per_case: 1}
  sharpness: {contrasts_hu: [300], realisations: 4, cases: 2}
"""
SOURCES = {"a1": ("a", "test"), "a2": ("a", "train"), "b1": ("b", "validation"), "b2": ("b", "test")}
KERNELS = {"a1": ("B20f",), "a2": ("B60f",), "b1": (), "b2": ("B20f",)}
THICKNESS_MM = {"a1": 1.0, "a2": 8.0, "b1": None, "b2": 3.0}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """Four water bodies with the noise of a scan of `PHOTONS`, of two sources."""
    layout = Layout("made")
    folder = tmp_path_factory.mktemp("made") / layout.cases
    folder.mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    water = torch.from_numpy(np.where(np.hypot(x, y) < 0.36 * SIDE, 0, -1000).astype(np.float32))
    endless = Acquisition(FanBeam(SIDE, PIXEL_MM), Flux(100 * PHOTONS, BODY), Kernel(CUTOFF))
    cases = []
    for number, (name, (source, role)) in enumerate(SOURCES.items()):
        (hu,) = insert_noise(
            water.repeat(4, 1, 1), endless, dose_fractions=[0.01], slice_index=0, seed=number
        )
        cases.append(write_case(folder, name, source, role, hu.numpy()))
    write_index(folder, cases)
    return folder


def write_case(folder, name, source, role, hu):
    case = Case(
        case_id=name,
        patient_id=f"patient {name}",
        role=role,
        anatomy="abdomen",
        dose_fraction=1.0,
        noise="shared",
        spacing_mm=(3.0, PIXEL_MM, PIXEL_MM),
        shape=hu.shape,
        folder=folder / name,
        has_mask=False,
        has_truth=False,
        has_low_dose=False,
        source=source,
    )
    case.folder.mkdir()
    volume = np.rint(hu).clip(-1024).astype(np.int16)
    write_volume(case.folder / "normal_dose.nii", volume, np.eye(4), np.int16)
    noise = {"normal_dose": None, "low_dose": None}
    kernels, thickness_mm = KERNELS.get(name, ()), THICKNESS_MM.get(name)
    write_statistics(case, CaseStatistics(kernels, thickness_mm, noise, count_hu(volume)))
    return case


@pytest.fixture
def project(ingested, tmp_path, monkeypatch):
    """A working directory with the ingested cases and settings; no tracking, no pictures."""
    return opened(ingested, tmp_path, monkeypatch, {})


@pytest.fixture(scope="module")
def harmful(ingested, tmp_path_factory):
    """The evaluation of a network that adds tens of HU: its metrics, tables and panels by name."""
    panels = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        layout = opened(ingested, tmp_path_factory.mktemp("harmful"), monkeypatch, panels)
        metrics = evaluated(layout, weights_sd=0.05)
        return SimpleNamespace(metrics=metrics, worst=table(layout, "worst"), panels=panels)


def opened(ingested, folder, monkeypatch, panels):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    for name in ("save_panels", "save_curve_panels"):
        monkeypatch.setattr(pictures, name, lambda path, rows, **_: panels.update({path.name: rows}))
    layout = Layout("made")
    layout.cases.parent.mkdir(parents=True)
    layout.cases.symlink_to(ingested)
    layout.config("evaluate").parent.mkdir(parents=True)
    layout.config("evaluate").write_text(EVALUATE)
    return layout


def evaluated(layout, *, left_out=(), **options):
    bundle = denoiser_bundle(**options)
    if left_out:
        bundle = replace(bundle, training={"left_out": list(left_out)})
    save_bundle(layout.bundle("denoiser"), bundle)
    (layout.model("denoiser") / "run.json").write_text('{"run_id": null}')
    evaluate.run("denoiser", "made")
    assert read_scores(layout, "denoiser", load_settings(layout.config("evaluate"), EvaluateSettings))
    return json.loads(layout.metrics("denoiser").read_text(encoding="utf-8"))


def table(layout, name):
    return pd.read_csv(layout.evaluation("denoiser") / f"{name}.csv")


def scans(cases, *, dose_fractions=(0.25, 0.1), assumed=None, noise_levels=False, seed=0):
    settings = MadeDoseSettings(dose_fractions=dose_fractions, assumed_cutoff_per_mm=assumed)
    return list(scans_of(cases, settings, noise_levels=noise_levels, seed=seed, device=CPU))


def test_network_that_changes_nothing_is_below_its_input_nowhere(project):
    metrics = evaluated(project)
    assert metrics["verdict"] == "no slice below its input up to 25% dose (PSNR, full)"
    assert (metrics["patients"], metrics["slices"], metrics["cases_left_out"]) == (2, 4, {})
    assert list(metrics["doses"]) == ["dose_0.25", "dose_0.1"]
    for scores in metrics["doses"].values():
        assert scores["verdict"].startswith("no better than its input: ")
        assert scores["against_normal_dose"]["full"]["restored"]["gain_db"] == 0
        assert (scores["slices_below_input"], scores["worst_gain_db"]) == (0, 0)
        texture = scores["noise_texture"]
        assert texture["restored"] == pytest.approx(texture["input"], abs=1e-3)
    ceilings = [scores["gain_ceiling_db"] for scores in metrics["doses"].values()]
    assert ceilings == pytest.approx([-10 * math.log10(0.25), 10], abs=1e-3)


def test_error_of_the_input_is_the_noise_that_each_dose_lacks(project):
    """Variance (1/dose − 1) of the normal dose's: threefold from 25 to 10 %, at equal photons."""
    doses = evaluated(project)["doses"].values()
    wide = [scores["against_normal_dose"]["full"]["input"]["rmse_hu"] ** 2 for scores in doses]
    assert wide[1] / wide[0] == pytest.approx(3, rel=0.1)
    sd_hu = [scores["noise_texture"]["input"]["noise_sd_hu"] for scores in doses]
    normal_dose_hu = next(iter(doses))["noise_texture"]["normal_dose"]["noise_sd_hu"]
    assert sd_hu[0] / normal_dose_hu == pytest.approx(2, rel=0.1)
    assert sd_hu[1] / normal_dose_hu == pytest.approx(math.sqrt(10), rel=0.1)


def test_slices_below_their_input_are_counted_and_listed(harmful):
    metrics, worst = harmful.metrics, harmful.worst
    assert metrics["verdict"].startswith("SLICES BELOW THEIR INPUT: 4 of 4 at 25%, 4 of 4 at 10%")
    assert worst["gain_db"].is_monotonic_increasing
    assert (worst["gain_db"] < 0).all()
    first = worst.iloc[0]
    listed = metrics["below_input"][f"dose_{first['dose_fraction']:g}"]
    assert listed[f"{first['case']}/{first['slice']}"] == pytest.approx(first["gain_db"], abs=1e-3)
    assert metrics["doses"]["dose_0.1"]["slices_below_input"] == 4
    remarks = list(evaluate._remarks(metrics, "evaluate.yaml"))
    assert any(line.startswith("dose_0.1: WORSE THAN its input") for line in remarks)


def test_the_worst_slices_and_one_of_each_source_are_drawn(harmful):
    kinds = ("worst", "panels", "methods", "spectra")
    assert set(harmful.panels) == {f"{kind}_dose_{dose}.png" for kind in kinds for dose in (0.25, 0.1)}
    worst = harmful.worst.query("dose_fraction == 0.1").head(3)
    titles = [row[0].title for row in harmful.panels["worst_dose_0.1.png"]]
    assert titles == [f"{row.case}, {row.gain_db:+.2f} dB, low dose (10%)" for row in worst.itertuples()]
    sources = [row[0].title for row in harmful.panels["panels_dose_0.1.png"]]
    assert sources == ["a, low dose (10%)", "b, low dose (10%)"]
    (spectra, _) = harmful.panels["spectra_dose_0.1.png"]
    assert list(spectra.curves) == ["input", "restored", "normal dose"]


def test_lesions_and_edges_are_looked_for_where_settings_ask(project, monkeypatch):
    rng = np.random.default_rng(0)

    def white():  # cheaper than the scan's own
        return rng.normal(0, 40, (1, 96, 96)).astype(np.float32)

    monkeypatch.setattr(SceneNoise, "missing_hu", lambda *_: white)
    project.config("evaluate").write_text(EVALUATE.replace("[0.25, 0.1]", "[0.1]") + OBSERVED)
    metrics = evaluated(project)
    found = metrics["detectability"]
    assert (list(found["by_dose"]), list(found["by_case"])) == (["0.1"], ["a1"])
    assert found["verdict"] == {"0.1": {"npw": "kept", "cho": "kept"}}
    assert set(found["by_dose"]["0.1"]["cho"]) == {"input", "restored", "gaussian"}
    lines = table(project, "detectability")
    assert list(lines["case"].unique()) == ["all", "a1"]
    line = lines.query("case == 'all' and observer == 'cho' and method == 'gaussian'")
    assert line["d_prime"].item() == found["by_dose"]["0.1"]["cho"]["gaussian"]["d_prime"]
    edges = metrics["ttf"]["by_dose"]
    assert list(edges) == ["0.1"]
    assert edges["0.1"]["300"]["gaussian"]["f50_share"] < 1
    assert set(table(project, "ttf")["case"]) == {"a1", "b2"}
    assert (project.evaluation("denoiser") / "observed.png").stat().st_size > 0


def test_baselines_see_windows_as_they_were_tuned_at_that_dose(monkeypatch):
    monkeypatch.setattr(made, "baseline", lambda name: lambda *told: (name, *told))
    methods = made._on_windows(None, {0.25: {"tv": 0.6}, 0.1: {"tv": 0.7}})
    scan = SimpleNamespace(noise_sd_hu=lambda dose: 5 / dose)
    assert methods["tv"]("image", scan, 0.1) == ("tv", "image", 0.7, 50.0)
    assert methods["input"]("image", None, 0.1) == "image"


def test_scores_are_kept_where_no_lesion_can_be_put(project):
    settings = OBSERVED.replace("diameter_mm: 8", "diameter_mm: 1")
    project.config("evaluate").write_text(EVALUATE + settings.partition("  sharpness")[0])
    metrics = evaluated(project)
    assert "case a1: a disc of 1 mm must be at least" in metrics["detectability"]["not_measured"]
    assert list(metrics["doses"]) == ["dose_0.25", "dose_0.1"]
    assert not (project.evaluation("denoiser") / "observed.png").exists()


def test_the_first_cases_are_of_all_sources_and_kernels(ingested):
    found = scans(read_cases(ingested))
    assert [scan.case.case_id for scan in in_turn(found)] == ["a1", "b1", "a2", "b2"]
    b20, b60, twin = found[0], found[1], replace(found[0], case=replace(found[0].case, case_id="a3"))
    assert in_turn([b20, twin, b60]) == [b20, b60, twin]


def test_one_bar_goes_over_all_parts(monkeypatch):
    seen = []
    monkeypatch.setattr(Progress, "advance", lambda _self, _task, amount: seen.append(amount))
    with whole_bar({"long": 8.0, "short": 1.0}) as bar:
        assert list(bar([1, 2], "long")) == [1, 2]
        next(iter(bar([1, 2], "short")))
    assert seen == [4, 4, 0, 1]


def test_a_left_out_source_is_tested_whole_and_tunes_nothing(project, monkeypatch):
    seen = []
    real = made.tune_baselines
    monkeypatch.setattr(
        made, "tune_baselines", lambda slices, *a, **k: seen.append(len(slices)) or real(slices, *a, **k)
    )
    evaluated(project, left_out=["a"])
    assert set(table(project, "slices")["case"]) == {"a1", "a2"}
    assert seen == [1, 1]  # one slice of b1 at each dose
    with pytest.raises(DataError, match="no validation case is left without b"):
        evaluated(project, left_out=["b"])
    with pytest.raises(DataError, match="trained without c to be tested on it"):
        evaluated(project, left_out=["c"])


def test_without_left_out_sources_the_role_decides(project):
    bundle = denoiser_bundle()
    test, validation = context.scored_cases(bundle, project.cases)
    assert [case.case_id for case in test] == ["a1", "b2"]
    assert [case.case_id for case in validation] == ["b1"]


def test_scores_are_told_by_source_kernel_texture_and_thickness(project):
    metrics = evaluated(project, left_out=["a"], weights_sd=0.002)
    at_quarter = metrics["doses"]["dose_0.25"]
    assert set(at_quarter["by_source"]) == {"a"}
    assert set(at_quarter["by_kernel"]) == {"B20f", "B60f"}
    assert set(at_quarter["by_thickness"]) == {"below 2 mm", "above 4 mm"}
    assert set(at_quarter["by_texture"]) == {"smooth"}
    assert set(at_quarter["by_scan"]) == {"read from the images"}
    slices = table(project, "slices").query("kernel == 'B60f' and dose_fraction == 0.25")
    means = slices.query("convention == 'full'").groupby("method")["psnr_db"].mean()
    sharp = at_quarter["by_kernel"]["B60f"]
    assert (sharp["patients"], sharp["slices"]) == (1, 2)
    assert sharp["full"]["gain_db"] == pytest.approx(means["restored"] - means["input"], abs=1e-3)
    line = table(project, "groups").query(
        "by == 'kernel' and group == 'B60f' and convention == 'full' and method == 'gaussian' "
        "and dose_fraction == 0.25"
    )
    assert line["psnr_db"].item() == pytest.approx(means["gaussian"], abs=1e-3)


def test_low_dose_depends_on_seed_case_slice_and_dose_alone(ingested):
    cases = read_cases(ingested)[:2]
    one, other = scans(cases)
    image = one.low_dose(1, 0.25, CPU)
    (again,) = scans(cases[:1], dose_fractions=(0.25,))
    np.testing.assert_array_equal(again.low_dose(1, 0.25, CPU), image)
    (reseeded,) = scans(cases[:1], seed=1)
    noise = {
        "slice": (one.low_dose(2, 0.25, CPU), cases[0].normal_dose()[2]),
        "dose": (one.low_dose(1, 0.1, CPU), cases[0].normal_dose()[1]),
        "case": (other.low_dose(1, 0.25, CPU), cases[1].normal_dose()[1]),
        "seed": (reseeded.low_dose(1, 0.25, CPU), cases[0].normal_dose()[1]),
    }
    here = slice(32, -32)
    added = (image - cases[0].normal_dose()[1])[here, here].ravel()
    for what, (low_dose, normal_dose) in noise.items():
        correlation = np.corrcoef(added, (low_dose - normal_dose)[here, here].ravel())[0, 1]
        assert abs(correlation) < 0.2, what


def test_network_is_told_the_noise_that_inference_would_measure(ingested):
    cases = read_cases(ingested)[:1]
    (scan,) = scans(cases, noise_levels=True)
    for dose in (0.25, 0.1):
        volume = np.stack([scan.low_dose(index, dose, CPU) for index in range(4)])
        measured = global_noise_sd_hu(volume, volume)
        assert scan.noise_sd_hu(dose) == pytest.approx(measured, rel=0.1)
    (untold,) = scans(cases)
    assert untold.noise_sd_hu(0.25) is None


def test_a_noise_map_is_filled_for_each_dose(project, monkeypatch):
    told, restore = [], context.Denoiser.restore

    def listen(self, seen_hu, noise_sd_hu):
        told.append(noise_sd_hu)
        return restore(self, seen_hu, noise_sd_hu)

    monkeypatch.setattr(context.Denoiser, "restore", listen)
    evaluated(project, noise_map=True)
    quarter, tenth = np.reshape(told, (2, 2, 2))[0].mean(axis=1)  # case, dose, slice
    assert tenth / quarter == pytest.approx(math.sqrt(2.5), rel=0.1)


TOLD = EVALUATE.replace("{gaussian: [0.5, 1, 2]}", "{tv: [0.5]}")


def test_baselines_are_told_the_noise_of_each_scan_at_each_dose(project, ingested, monkeypatch):
    told = []
    monkeypatch.setitem(BASELINES, "tv", lambda image, weight_hu: told.append(weight_hu) or image)
    project.config("evaluate").write_text(TOLD)
    evaluated(project)
    level = {scan.case.case_id: scan.noise_sd_hu for scan in scans(read_cases(ingested), noise_levels=True)}
    tuned = [level["b1"](dose) / 2 for dose in (0.25, 0.1)]
    scored = [level[case](dose) / 2 for case in ("a1", "b2") for dose in (0.25, 0.1) for _ in range(2)]
    assert told == pytest.approx([*tuned, *scored])


def test_a_scan_without_a_level_is_left_out_where_baselines_are_told_it(project, monkeypatch):
    measure = low_doses.low_dose_levels

    def unless_a1(case, *given, **options):
        if case.case_id == "a1":
            raise DataError("case a1: too little soft tissue")
        return measure(case, *given, **options)

    monkeypatch.setattr(low_doses, "low_dose_levels", unless_a1)
    assert evaluated(project)["cases_left_out"] == {}
    project.config("evaluate").write_text(TOLD)
    assert evaluated(project)["cases_left_out"] == {"a1": "case a1: too little soft tissue"}


def test_a_case_without_readable_noise_is_left_out_and_named(project, ingested, tmp_path):
    silent = write_case(tmp_path, "silent", "a", "test", np.zeros((2, SIDE, SIDE), np.float32))
    (found,) = scans([silent])
    assert isinstance(found, Unusable)
    assert "case silent: its own noise cannot be read" in found.reason
    (found,) = scans([silent], assumed=CUTOFF)
    assert isinstance(found, Unusable)
    assert "case silent: shows no noise in soft tissue" in found.reason


def test_a_scan_says_whether_it_was_read_or_assumed(ingested, tmp_path):
    fat = np.random.default_rng(3).normal(-100, 20, (8, SIDE, SIDE))  # no kernel is read in fat
    hidden = write_case(tmp_path, "hidden", "a", "test", fat.astype(np.float32))
    read, assumed = scans([*read_cases(ingested)[:1], hidden], assumed=CUTOFF)
    assert (read.origin, assumed.origin) == ("read from the images", "assumed")
    assert assumed.acquisition.kernel == Kernel(CUTOFF)


def test_a_case_that_baselines_cannot_be_tuned_on_is_named(project, ingested, tmp_path, monkeypatch):
    silent = write_case(tmp_path, "silent", "b", "validation", np.zeros((2, SIDE, SIDE), np.float32))
    test, validation = context.scored_cases(denoiser_bundle(), project.cases)
    monkeypatch.setattr(evaluate, "scored_cases", lambda *_: (test[:1], (*validation, silent)))
    left_out = evaluated(project)["tuning_cases_left_out"]
    assert list(left_out) == ["silent"]
    assert "its own noise cannot be read" in left_out["silent"]


def test_where_no_case_is_readable_one_line_says_so(project, monkeypatch):
    def unreadable(case, **_):
        raise DataError(f"case {case.case_id}: its own noise cannot be read")

    monkeypatch.setattr("pipeline.data.scans.case_acquisition", unreadable)
    with pytest.raises(DataError, match="no validation case can be given a low dose: case b1"):
        evaluated(project)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_whose_output_is_not_finite_is_not_scored(project, monkeypatch, value):
    def broken(self, seen_hu, noise_sd_hu):
        return np.where(seen_hu[0] > seen_hu[0].max() - 1e-3, value, seen_hu[0])

    monkeypatch.setattr(context.Denoiser, "restore", broken)
    with pytest.raises(DataError, match=r"case a1, slice 1, dose 0\.25: 1 pixels of restored are not finite"):
        evaluated(project)
    assert not project.metrics("denoiser").exists()


def test_a_gain_that_is_no_number_is_no_gain():
    scores = {"input": {"psnr_db": math.inf}, "restored": {"psnr_db": math.inf, "gain_db": math.nan}}
    assert verdict(scores, "full") == "NOT DECIDED: its gain over its input is no number (PSNR, full)"


def test_scores_name_the_weights_and_the_settings_that_they_are_of(project):
    metrics = evaluated(project)
    assert metrics["model_hash"] == denoiser_bundle().model_hash
    assert metrics["settings_sha256"] == file_sha256(project.config("evaluate"))


def test_the_worst_patient_shows_a_bias_that_the_mean_hides():
    rows = [("one", -3.0), ("two", 2.0), ("two", 3.0), ("three", 0.5)]
    tissue = pd.DataFrame(
        [{"tissue": "lung", "method": "restored", "patient": who, "bias_hu": hu} for who, hu in rows]
    )
    assert worst_patient_bias(tissue, "bias_hu") == {"lung": {"restored": -3.0}}


def test_neighbours_are_refused(project):
    with pytest.raises(ConfigError, match="takes 1 neighbouring slices, and low doses are made of single"):
        evaluated(project, neighbours=1)


def test_only_numbers_without_names_are_tracked(harmful):
    tracked = {key: value for key, value in harmful.metrics.items() if key not in evaluate.NOT_TRACKED}
    names = dict(evaluate.numbers(tracked, "test"))
    assert "test/doses/dose_0.1/slices_below_input" in names
    assert not any("patient a1" in name or "a1/" in name for name in names)


def test_smoothing_moves_the_noise_peak_down_and_nothing_moves_nothing(ingested):
    case = read_cases(ingested)[0]
    normal_dose = [case.normal_dose()[index].astype(np.float32) for index in range(4)]
    outputs = {"same": normal_dose, "smooth": [gaussian(image, 1.5) for image in normal_dose]}
    found = texture_rows(case, range(4), outputs)
    by_method = {row["method"]: row for row in found.table}
    assert by_method["same"]["l1_distance"] == by_method["same"]["peak_shift_per_mm"] == 0
    assert by_method["smooth"]["peak_shift_per_mm"] < -0.02
    assert by_method["smooth"]["mean_shift_per_mm"] < -0.02
    assert by_method["smooth"]["l1_distance"] > 0.3
    assert {row["method"] for row in found.spectra} == {"normal_dose", "same", "smooth"}


def test_texture_of_too_little_uniform_tissue_is_not_told(tmp_path):
    air = write_case(tmp_path, "air", "a", "test", np.full((2, SIDE, SIDE), -1000, np.float32))
    found = texture_rows(air, range(2), {"input": [np.zeros((SIDE, SIDE), np.float32)] * 2})
    assert found.table == found.spectra == []


def test_noise_peak_of_a_hann_window_is_where_its_derivative_is_zero():
    """d/dx x (1 + cos πx)² = 0: 1 + cos πx = 2πx sin πx, x = 0.2654… of the cut-off."""
    x = noise_peak_per_mm(Kernel(0.5), 0.5) / 0.5
    assert 1 + math.cos(math.pi * x) == pytest.approx(2 * math.pi * x * math.sin(math.pi * x), abs=0.1)
    assert noise_peak_per_mm(Kernel(0.9, boost=12.7), 0.65) > 0.45 > noise_peak_per_mm(Kernel(0.9), 0.65)


def test_verdict_promises_up_to_forty_percent_and_reports_above():
    counts = {0.6: 2, 0.4: 0, 0.1: 0}
    assert below_input_verdict(counts, 30, "full") == (
        "no slice below its input up to 40% dose; above 40% dose: 2 of 30 at 60% below their input "
        "(PSNR, full)"
    )
    assert below_input_verdict({0.4: 3, 0.1: 0}, 30, "full").startswith(
        "SLICES BELOW THEIR INPUT: 3 of 30 at 40%, 0 of 30 at 10%"
    )
    assert below_input_verdict({0.6: 0}, 9, "full").startswith("above 40% dose: 0 of 9 at 60%")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[redcnn, full]", "[redcnn]", "counted under the convention full; add it"),
        ("[0.25, 0.1]", "[0.25, 0.25]", "a dose appears twice"),
        ("[0.25, 0.1]", "[25]", "less than 1"),
        ("[0.25, 0.1]", "[]", "dose_fractions"),
        ("  low_dose: {", "  sharpness: {}\n  # low_dose: {", "sharpness needs low doses that are made"),
        (
            "  low_dose",
            "  detectability: {dose_fractions: [0.4]}\n  low_dose",
            "detectability at 0.4 of the dose, which low_dose does not make",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_one_line(project, old, new, complaint):
    project.config("evaluate").write_text(EVALUATE.replace(old, new))
    with pytest.raises(ConfigError, match=complaint) as refused:
        evaluated(project)
    assert "\n" not in str(refused.value)


def test_bm3d_is_asked_for_by_name_and_told_the_noise(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ConfigError, match="not installed; pip install bm3d if your use is non-commercial"):
        baseline("bm3d")
    with pytest.raises(ConfigError, match="unknown baseline 'bm4d'; known: gaussian, nlm, tv, bm3d"):
        baseline("bm4d")
    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=lambda image, sd: image - sd))
    restored = baseline("bm3d")(np.full((4, 4), 50, np.int16), 0.5, 40.0)
    assert restored.dtype == np.float32
    assert (restored == 30).all()


def test_settings_without_made_doses_stay_as_they_were():
    settings = EvaluateSettings.model_validate({"restoration": {"baselines": {"tv": [1.0]}}})
    assert settings.restoration.low_dose is None


@pytest.mark.real
@pytest.mark.slow
def test_a_real_left_out_series_is_scored_at_each_dose(tmp_path, monkeypatch, real_data):
    """Siemens B40f at 8 mm, its baseline tuned on GE STANDARD at 2.5 mm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    layout = Layout("made")
    layout.cases.mkdir(parents=True)
    single = sorted((real_data / "ct" / "covid_sbu_single_slices").glob("*.dcm"))
    series = sorted((real_data / "ct" / "lungdx_a0002_chest_8mm").glob("*.dcm"))
    cases = [
        real_case(layout.cases, "thick", "lungdx", "train", series[:4]),
        real_case(layout.cases, "thin", "covid", "test", single[:1]),
        real_case(layout.cases, "other", "covid", "validation", single[1:2]),
    ]
    write_index(layout.cases, cases)
    layout.config("evaluate").parent.mkdir(parents=True)
    layout.config("evaluate").write_text(EVALUATE.replace("slices_per_case: 2", "slices_per_case: 1", 1))
    metrics = evaluated(layout, left_out=["lungdx"], noise_map=True)
    assert (metrics["slices"], metrics["cases_left_out"]) == (1, {})
    psnr_db = []
    for scores in metrics["doses"].values():
        texture = scores["noise_texture"]["input"]
        assert abs(texture["mean_shift_per_mm"]) < 0.15  # anatomy in 7 squares is most of it
        assert texture["noise_sd_hu"] > scores["noise_texture"]["normal_dose"]["noise_sd_hu"]
        assert abs(scores["bias_against_normal_dose_hu"]["soft_tissue"]["input"]) < 1
        psnr_db.append(scores["against_normal_dose"]["full"]["input"]["psnr_db"])
    assert psnr_db[0] - psnr_db[1] == pytest.approx(10 * math.log10(3), abs=0.6)


def real_case(folder, name, source, role, files):
    read = sorted((pydicom.dcmread(path) for path in files), key=lambda one: one.ImagePositionPatient[2])
    hu = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in read])
    hu = np.where(hu < -1024, -1000, hu).astype(np.float32)
    row_mm, column_mm = (float(step) for step in read[0].PixelSpacing)
    case = write_case(folder, name, source, role, hu)
    return replace(case, anatomy="chest", spacing_mm=(float(read[0].SliceThickness), row_mm, column_mm))

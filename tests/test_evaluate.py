"""The evaluate stage on a hand-made project: two test patients, one validation patient, 64×64 pixels."""

import json
import shutil
import sys
import typing
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import BaselineName, ConventionName, EvaluateSettings, RestorationSettings
from pipeline.config.layout import Layout
from pipeline.data import Case, read_cases, read_volume, write_index, write_volume
from pipeline.data.patches import centred_slices
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.hu import RED_CNN_PAPER, WATER_CENTRED, HUWindow
from pipeline.manifest import file_sha256
from pipeline.metrics import CONVENTIONS, convention, rbf_mmd
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models import MODELS, ConvVAE, DCGANGenerator, RedCNN
from pipeline.models.apply import restore_hu
from pipeline.models.baselines import BASELINES, BENCHMARK_BASELINES
from pipeline.stages import evaluate
from pipeline.stages.evaluation import context
from pipeline.stages.evaluation.restoration import stored
from pipeline.stages.evaluation.restoration.tuning import TuningSlice, at_grid_end, tune_baselines
from pipeline.stages.evaluation.restoration.verdicts import verdict
from pipeline.tracking import Run
from tests.tiny_bundles import denoiser_bundle

WINDOW = HUWindow(-160, 240)
BODY, LIVER = 14, 5
LABELS = (
    {"name": "body", "value": 1, "rgb": [200, 160, 120]},
    {"name": "liver", "value": 2, "rgb": [200, 40, 40]},
)
EVALUATE = """
slices_per_case: 2
restoration:
  tuning_slices_per_case: 1
  baselines: {gaussian: [0.1, 5], nlm: [0.05, 1.5], tv: [0.05, 1.5]}
generative: {samples: 8}
"""
VIEW = {"field_of_view_mm": 64.0}


class Threshold(nn.Module):
    """Air, body and liver told apart by their CT numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([0.0, 0.5, 0.75]))

    def forward(self, image: Tensor) -> Tensor:
        return -100 * (image - self.centres[:, None, None]).abs()


@pytest.fixture
def layout(tmp_path, monkeypatch, pytestconfig):
    """The project, with the working directory inside it and tracking off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    layout = Layout("smoke")
    layout.cases.mkdir(parents=True)
    roles = {"p1": "test", "p2": "test", "p3": "validation"}
    cases = [write_case(layout, name, role, seed) for seed, (name, role) in enumerate(roles.items())]
    write_index(layout.cases, cases)
    write(layout.config("evaluate"), EVALUATE)
    shutil.copy(pytestconfig.rootpath / "configs" / "labels.yaml", "configs")
    return layout


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_case(layout, name, role, seed):
    """A square body at 40 HU with a liver at 140 HU; noise of 10 HU, and three times its variance more."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((3, 64, 64), np.uint8)
    mask[:, 8:56, 8:56] = BODY
    mask[:, 20:40, 12 : 30 + seed] = LIVER
    truth = np.select([mask == BODY, mask == LIVER], [40, 140], -1000)
    normal_dose = truth + generator.normal(0, 10, truth.shape)
    low_dose = normal_dose + generator.normal(0, 10 * np.sqrt(3), truth.shape)
    folder = layout.cases / name
    folder.mkdir()
    volumes = {"truth": truth, "normal_dose": normal_dose, "low_dose": low_dose}
    for file, volume in volumes.items():
        write_volume(folder / f"{file}.nii", np.rint(volume), np.eye(4), "int16")
    write_volume(folder / "mask.nii", mask, np.eye(4), "uint8")
    return Case(name, name, role, "abdomen", 0.25, "shared", (1, 1, 1), mask.shape, folder, True, True)


def change_cases(layout, *names, **fields):
    """Give the cases of these names, or all, other fields in the index."""
    changed = [
        replace(case, **fields) if not names or case.case_id in names else case
        for case in read_cases(layout.cases)
    ]
    write_index(layout.cases, changed)


def save_model(layout, name, kind, architecture, model, **fields):
    arguments = fields.pop("arguments", {})
    bundle = Bundle(
        kind=kind, architecture=architecture, arguments=arguments, name=name, score={}, config_digest="",
        data_digest="", tensors=model.state_dict(), **fields,
    )  # fmt: skip
    save_bundle(layout.bundle(name), bundle)
    (layout.model(name) / "run.json").write_text('{"run_id": null}')


def save_redcnn(layout, last_layer_sd=0.0):
    torch.manual_seed(0)
    model = RedCNN(features=2)
    nn.init.normal_(model.decoder[-1].weight, std=last_layer_sd)
    save_model(layout, "redcnn", "denoiser", "redcnn", model, arguments={"features": 2}, scale=WATER_CENTRED)


def save_threshold(layout, monkeypatch):
    monkeypatch.setitem(MODELS, "threshold", Threshold)
    save_model(layout, "unet", "segmenter", "threshold", Threshold(), window=WINDOW, labels=LABELS)


def metrics_of(layout, name):
    return json.loads(layout.metrics(name).read_text(encoding="utf-8"))


def test_denoiser_that_returns_its_input_gains_nothing_and_is_told_so(layout):
    save_redcnn(layout)
    evaluate.run("redcnn", "smoke")
    metrics = metrics_of(layout, "redcnn")
    scores = metrics["against_normal_dose"]["redcnn"]
    assert scores["restored"] == {**scores["input"], "gain_db": 0.0}
    assert metrics["verdict"].startswith("no better than its input")
    assert list(metrics["by_patient"]) == ["p1", "p2"]
    for patient in metrics["by_patient"].values():
        assert list(patient) == ["normal_dose", "truth"]
        for psnr_db in patient.values():
            assert psnr_db == {**psnr_db, "restored_psnr_db": psnr_db["input_psnr_db"], "gain_db": 0.0}


def test_input_scores_are_those_of_the_noise_that_was_added(layout):
    """Inside a quarter of 4096 pixels nothing clips: RMSE √300 HU on the 48×48 body, 0 in the air around."""
    save_redcnn(layout)
    evaluate.run("redcnn", "smoke")
    metrics = metrics_of(layout, "redcnn")
    rmse = np.sqrt(300 * 48**2 / 64**2)
    full = metrics["against_normal_dose"]["redcnn"]["input"]
    assert full["rmse_hu"] == pytest.approx(rmse, rel=0.05)
    assert full["psnr_db"] == pytest.approx(20 * np.log10(400 / rmse), abs=0.4)
    assert metrics["noise_sd_hu"]["soft_tissue"]["normal_dose"] == pytest.approx(10, rel=0.1)
    assert metrics["noise_sd_hu"]["soft_tissue"]["input"] == pytest.approx(20, rel=0.1)
    assert metrics["bias_against_truth_hu"]["body"]["input"] == pytest.approx(0, abs=1)
    assert metrics["gain_ceiling_db"] == pytest.approx(6.02, abs=0.01)
    assert metrics["clean_output_gain_db"] == pytest.approx(4.77, abs=0.01)


def test_baselines_are_tuned_on_validation_and_beat_their_input(layout):
    save_redcnn(layout)
    evaluate.run("redcnn", "smoke")
    metrics = metrics_of(layout, "redcnn")
    assert metrics["baselines"] == {"gaussian": 0.1, "nlm": 1.5, "tv": 1.5}
    assert metrics["against_truth"]["redcnn"]["nlm"]["gain_db"] > 1


def test_model_worse_than_its_input_is_said_so(layout):
    save_redcnn(layout, last_layer_sd=1.0)
    evaluate.run("redcnn", "smoke")
    assert "WORSE THAN its input" in metrics_of(layout, "redcnn")["verdict"]


def test_verdict_names_the_baselines_that_did_better():
    scores = {
        "input": {"psnr_db": 30.0},
        "restored": {"psnr_db": 34.0, "gain_db": 4.0},
        "nlm": {"psnr_db": 35.0, "gain_db": 5.0},
        "tv": {"psnr_db": 33.0, "gain_db": 3.0},
    }
    assert (
        verdict(scores, "redcnn")
        == "gains 4.00 dB over its input (PSNR, redcnn) but nlm did as well or better"
    )


def test_slices_csv_averages_to_the_metrics(layout):
    save_redcnn(layout, last_layer_sd=0.01)
    evaluate.run("redcnn", "smoke")
    table = pd.read_csv(layout.evaluation("redcnn") / "slices.csv")
    rows = table.query("reference == 'truth' and convention == 'full' and method == 'restored'")
    mean = rows.groupby("patient")["ssim"].mean().mean()
    assert metrics_of(layout, "redcnn")["against_truth"]["full"]["restored"]["ssim"] == pytest.approx(
        mean, abs=1e-4
    )


def test_same_inputs_give_the_same_files(layout):
    save_redcnn(layout, last_layer_sd=0.01)
    runs = []
    for _ in range(2):
        evaluate.run("redcnn", "smoke")
        written = sorted(layout.evaluation("redcnn").iterdir())
        runs.append([layout.metrics("redcnn").read_bytes(), *(path.read_bytes() for path in written)])
        assert {path.name for path in written} == {"slices.csv", "tissue.csv", "panels.png", "methods.png"}
    assert runs[0] == runs[1]


def test_segmenter_is_scored_per_organ(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    evaluate.run("unet", "smoke")
    dices = metrics_of(layout, "unet")["dice"]
    assert list(dices) == ["normal_dose"]
    assert dices["normal_dose"] == {"body": 1.0, "liver": 1.0, "mean": 1.0}
    assert (layout.evaluation("unet") / "overlays.png").exists()


def test_organ_found_in_a_patient_without_it_is_counted_in_ml(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    mask = np.full_like(read_volume(layout.cases / "p1" / "mask.nii"), BODY)
    write_volume(layout.cases / "p1" / "mask.nii", mask, np.eye(4), "uint8")
    evaluate.run("unet", "smoke")
    metrics = metrics_of(layout, "unet")
    liver_voxels_of_1_mm3 = 2 * 20 * 18  # in the two slices that the settings ask for
    assert metrics["false_ml_where_absent"]["normal_dose"]["liver"] == liver_voxels_of_1_mm3 / 1000
    assert metrics["dice"]["normal_dose"]["liver"] == 1.0


def test_task_compares_normal_low_and_restored_dose(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    save_redcnn(layout)
    evaluate.run("task", "smoke")
    dices = metrics_of(layout, "task")["dice"]
    assert dices["normal_dose"]["liver"] == 1
    assert dices["low_dose"]["liver"] < 1
    assert dices["restored"] == dices["low_dose"]


def test_vae_terms_add_up_to_the_bound(layout):
    torch.manual_seed(0)
    arguments = {"image_size": 16, "latent_dimensions": 4, "features": 4}
    training = {**VIEW, "noise_sd": 0.1}
    model = ConvVAE(**arguments)
    save_model(layout, "vae", "vae", "vae", model, arguments=arguments, window=WINDOW, training=training)
    evaluate.run("vae", "smoke")
    metrics = metrics_of(layout, "vae")
    assert metrics["negative_elbo_nats"] == pytest.approx(metrics["reconstruction_nats"] + metrics["kl_nats"])
    latent = pd.read_csv(layout.evaluation("vae") / "latent.csv")
    assert latent["kl_nats"].sum() == pytest.approx(metrics["kl_nats"], abs=1e-3)
    assert metrics["mmd2"] > 0
    pictures = {path.name for path in layout.evaluation("vae").glob("*.png")}
    assert pictures == {"reconstructions.png", "samples.png", "interpolations.png"}


def test_gan_samples_stand_beside_the_floor_of_real_slices(layout):
    torch.manual_seed(0)
    arguments = {"image_size": 16, "latent_dimensions": 4, "features": 4}
    model = DCGANGenerator(**arguments)
    save_model(layout, "gan", "gan", "dcgan", model, arguments=arguments, window=WINDOW, training=VIEW)
    evaluate.run("gan", "smoke")
    metrics = metrics_of(layout, "gan")
    assert metrics["mmd2"] > 0.1
    test, validation = (
        torch.cat(
            [
                centred_slices(case, image_size=16, field_of_view_mm=64)
                for case in read_cases(layout.cases, role)
            ]
        )
        for role in ("test", "validation")
    )
    floor = rbf_mmd(WINDOW.to_unit(validation).numpy(), WINDOW.to_unit(test).numpy())
    assert metrics["mmd2_real_vs_real"] == pytest.approx(floor, abs=1e-4)
    assert metrics["samples"] == 8


def test_missing_weights_leave_earlier_results_alone(layout):
    write(layout.metrics("redcnn"), "{}")
    with pytest.raises(BundleError, match="no such bundle"):
        evaluate.run("redcnn", "smoke")
    assert layout.metrics("redcnn").read_text() == "{}"


def test_killed_evaluation_leaves_no_old_scores(layout, monkeypatch):
    save_redcnn(layout)
    write(layout.metrics("redcnn"), "{}")
    monkeypatch.setattr(evaluate, "evaluate_stored", lambda *_: sys.exit(143))
    with pytest.raises(SystemExit):
        evaluate.run("redcnn", "smoke")
    assert not layout.metrics("redcnn").exists()


def test_scores_are_written_before_they_are_tracked(layout, monkeypatch):
    save_redcnn(layout)
    monkeypatch.setattr(evaluate, "_track", lambda *_: sys.exit(1))
    with pytest.raises(SystemExit):
        evaluate.run("redcnn", "smoke")
    assert metrics_of(layout, "redcnn")["patients"] == 2


def test_tracked_run_says_what_it_was_scored_with_and_names_no_patient(layout, monkeypatch):
    class Recorder(Run):
        def set_tags(self, values):
            seen["tags"] = values

        def log_metrics(self, values, step=None):  # noqa: ARG002 (the method of Run)
            seen["metrics"] = values

    seen = {}
    monkeypatch.setattr(evaluate, "reopen_run", lambda *_, **__: nullcontext(Recorder()))
    save_redcnn(layout)
    evaluate.run("redcnn", "smoke")
    assert seen["tags"]["evaluate.config.sha256"] == file_sha256(layout.config("evaluate"))
    assert "test/against_truth/redcnn/restored/gain_db" in seen["metrics"]
    assert not any("p1" in name for name in seen["metrics"])


@pytest.mark.parametrize("trained", ["fp32", "bf16"])
def test_only_a_model_trained_in_bf16_is_scored_in_bf16(layout, monkeypatch, trained):
    """RED-CNN's own scale has 4096 HU for a unit, where bfloat16 moves in steps of 8 HU and more."""
    monkeypatch.setattr(context, "preferred_precision", lambda _: "bf16")
    torch.manual_seed(0)
    arguments = {"features": 2}
    model = RedCNN(**arguments)
    nn.init.normal_(model.decoder[-1].weight, std=1.0)
    fields = {"arguments": arguments, "scale": RED_CNN_PAPER, "precision": trained}
    save_model(layout, "redcnn", "denoiser", "redcnn", model, **fields)
    case = read_cases(layout.cases, "test")[0]
    restored = context.restore_with(load_bundle(layout.bundle("redcnn")))(case, 0)
    image = torch.from_numpy(case.low_dose()[0].astype(np.float32))[None, None]
    exact = restore_hu(model.eval(), image, RED_CNN_PAPER, bf16=False)[0, 0].numpy()
    assert (np.abs(restored - exact).max() < 0.1) == (trained == "fp32")


def test_without_a_truth_noise_is_not_measured(layout):
    change_cases(layout, has_truth=False)
    save_redcnn(layout)
    evaluate.run("redcnn", "smoke")
    metrics = metrics_of(layout, "redcnn")
    assert "noise_sd_hu" not in metrics
    assert "bias_against_normal_dose_hu" in metrics


def test_impossible_dose_is_refused_before_scoring(layout, monkeypatch):
    change_cases(layout, dose_fraction=25.0)
    save_redcnn(layout)
    monkeypatch.setattr(stored, "tune_baselines", lambda *_: pytest.fail("scored"))
    with pytest.raises(DataError, match="dose_fraction must lie between 0 and 1, got 25"):
        evaluate.run("redcnn", "smoke")


def save_denoiser(layout, **options):
    bundle = denoiser_bundle(**options)
    save_bundle(layout.bundle("redcnn"), bundle)
    (layout.model("redcnn") / "run.json").write_text('{"run_id": null}')
    return bundle


@pytest.mark.parametrize("neighbours", [1, 2])
def test_a_slice_is_restored_between_its_neighbours_in_the_case(layout, neighbours):
    """Three slices: of the first and the last, the ends stand for what lies beyond."""
    bundle = denoiser_bundle(weights_sd=0.05, neighbours=neighbours)
    case = read_cases(layout.cases, "test")[0]
    restore, low_dose = context.restore_with(bundle), np.asarray(case.low_dose(), np.float32)
    for index in range(3):
        around = [low_dose[min(max(index + step, 0), 2)] for step in range(-neighbours, neighbours + 1)]
        image = torch.from_numpy(np.stack(around))[None]
        exact = restore_hu(bundle.model(), image, bundle.scale)[0, 0].numpy()
        assert np.array_equal(restore(case, index), exact)
        assert np.abs(exact - low_dose[index]).max() > 10


def test_a_noise_map_holds_the_noise_of_the_cases_low_dose_measured_once(layout, monkeypatch):
    measured, cases = [], read_cases(layout.cases, "test")

    def measure(case):
        measured.append(global_noise_sd_hu(case.low_dose(), case.low_dose()))
        return measured[-1]

    assert [context.low_dose_noise_sd_hu(case) for case in cases] == [measure(case) for case in cases]
    measured.clear()
    monkeypatch.setattr(context, "low_dose_noise_sd_hu", measure)
    bundle = denoiser_bundle(weights_sd=0.05, noise_map=True)
    restore = context.restore_with(bundle)
    restored = [[restore(case, index) for index in range(3)] for case in cases]
    assert len(measured) == 2
    assert measured == pytest.approx([20, 20], rel=0.1)
    for case, slices, sd_hu in zip(cases, restored, measured, strict=True):
        image = torch.from_numpy(case.low_dose()[1].astype(np.float32))[None, None]
        exact = [
            restore_hu(bundle.model(), image, bundle.scale, noise_sd_hu=torch.tensor([sd]))[0, 0].numpy()
            for sd in (sd_hu, 2 * sd_hu)
        ]
        assert np.array_equal(slices[1], exact[0])
        assert not np.array_equal(slices[1], exact[1])


GAUSSIAN_ALONE = EVALUATE.replace(", nlm: [0.05, 1.5], tv: [0.05, 1.5]", "")


@pytest.mark.parametrize(("settings", "noise_map"), [(EVALUATE, False), (GAUSSIAN_ALONE, True)])
def test_a_case_whose_noise_cannot_be_told_is_left_out_and_named(layout, capsys, settings, noise_map):
    write(layout.config("evaluate"), settings)
    without_tissue(layout, "p2")
    save_denoiser(layout, noise_map=noise_map)
    evaluate.run("redcnn", "smoke")
    metrics, told = metrics_of(layout, "redcnn"), "case p2: too little soft tissue to measure the noise"
    assert (metrics["patients"], metrics["tuning_cases_left_out"]) == (1, {})
    assert list(metrics["cases_left_out"]) == ["p2"]
    assert metrics["cases_left_out"]["p2"].startswith(told)
    assert f"test case left out: {told}" in capsys.readouterr().err


def test_where_nothing_is_told_the_noise_no_case_needs_any(layout):
    write(layout.config("evaluate"), GAUSSIAN_ALONE)
    without_tissue(layout, "p2", "p3")
    save_denoiser(layout)
    evaluate.run("redcnn", "smoke")
    metrics = metrics_of(layout, "redcnn")
    assert (metrics["patients"], metrics["cases_left_out"], metrics["tuning_cases_left_out"]) == (2, {}, {})


def test_where_no_noise_can_be_measured_one_line_says_so(layout):
    without_tissue(layout, "p3")
    save_denoiser(layout)
    with pytest.raises(DataError, match="no validation case can be used: case p3: too little") as refused:
        evaluate.run("redcnn", "smoke")
    assert "\n" not in str(refused.value)


def without_tissue(layout, *names):
    for name in names:
        air = np.full((3, 64, 64), -1000, np.int16)
        write_volume(layout.cases / name / "low_dose.nii", air, np.eye(4), "int16")


def test_baselines_are_told_the_noise_of_each_stored_low_dose(layout, monkeypatch):
    told = []
    monkeypatch.setitem(BASELINES, "tv", lambda image, weight_hu: told.append(weight_hu) or image)
    write(layout.config("evaluate"), EVALUATE.replace("[0.05, 1.5]}", "[0.5]}"))
    save_denoiser(layout)
    evaluate.run("redcnn", "smoke")
    levels = [context.low_dose_noise_sd_hu(case) for case in read_cases(layout.cases)]
    p1, p2, p3 = (level / 2 for level in levels)
    assert told == [p3, p1, p1, p2, p2]  # a slice is tuned on, two of each case are scored


@pytest.mark.parametrize(
    "inputs", [{"neighbours": 1}, {"noise_map": True}, {"neighbours": 2, "noise_map": True}]
)
def test_an_untrained_network_of_any_input_returns_the_low_dose(layout, monkeypatch, inputs):
    save_denoiser(layout, **inputs)
    save_threshold(layout, monkeypatch)
    evaluate.run("redcnn", "smoke")
    evaluate.run("task", "smoke")
    scores = metrics_of(layout, "redcnn")["against_normal_dose"]["redcnn"]
    assert scores["restored"] == {**scores["input"], "gain_db": 0.0}
    dices = metrics_of(layout, "task")["dice"]
    assert dices["restored"] == dices["low_dose"]


@pytest.mark.parametrize("name", ["redcnn", "task"])
def test_cases_without_a_low_dose_are_left_out_and_counted(layout, monkeypatch, capsys, name):
    save_redcnn(layout)
    save_threshold(layout, monkeypatch)
    change_cases(layout, "p1", has_low_dose=False)
    evaluate.run(name, "smoke")
    assert metrics_of(layout, name)["patients"] == 1
    assert "1 of 2 test cases left out: no low dose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "without", "role"),
    [("redcnn", ("p1", "p2"), "test"), ("redcnn", ("p3",), "validation"), ("task", ("p1", "p2"), "test")],
)
def test_without_any_low_dose_nothing_is_scored(layout, monkeypatch, name, without, role):
    save_redcnn(layout)
    save_threshold(layout, monkeypatch)
    change_cases(layout, *without, has_low_dose=False)
    with pytest.raises(DataError, match=f"no {role} case has a low dose") as refused:
        evaluate.run(name, "smoke")
    assert "\n" not in str(refused.value)


def test_a_segmenter_needs_no_low_dose(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    change_cases(layout, has_low_dose=False)
    evaluate.run("unet", "smoke")
    assert metrics_of(layout, "unet")["patients"] == 2


def test_winner_at_the_end_of_its_grid_is_named():
    settings = RestorationSettings(baselines={"gaussian": (0.5,), "nlm": (0.5, 1, 2), "tv": (0.5, 1, 2)})
    chosen = {"gaussian": 0.5, "nlm": 2.0, "tv": 1.0}
    assert at_grid_end(chosen, settings) == {"nlm": 2.0}


def noisy_step(scale):
    """A step of 200 HU in noise of 20 HU, all times a factor."""
    truth = np.zeros((48, 48), np.float32)
    truth[:, 24:] = 200
    noise = np.random.default_rng(3).normal(0, 20, truth.shape).astype(np.float32)
    return TuningSlice(scale * (truth + noise), scale * truth, "abdomen", scale * 20.0)


def test_one_multiple_of_the_noise_level_suits_scans_of_weak_and_of_strong_noise():
    grids = {"nlm": (0.3, 0.6, 1.2, 2.4), "tv": (0.2, 0.5, 1.0, 4.0)}
    settings, full = RestorationSettings(baselines=grids), convention("full")
    weak, strong = noisy_step(0.25), noisy_step(5.0)
    chosen = tune_baselines([weak], settings, full)
    assert tune_baselines([strong], settings, full) == chosen
    assert tune_baselines([weak, strong], settings, full) == chosen
    assert at_grid_end(chosen, settings) == {}


def test_task_refuses_a_bundle_of_another_kind(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    save_model(layout, "redcnn", "segmenter", "threshold", Threshold(), window=WINDOW, labels=LABELS)
    with pytest.raises(BundleError, match="holds a segmenter, a denoiser is needed"):
        evaluate.run("task", "smoke")


def test_segmenter_without_any_mask_is_one_line(layout, monkeypatch):
    save_threshold(layout, monkeypatch)
    change_cases(layout, has_mask=False)
    with pytest.raises(DataError, match="no test case has a mask"):
        evaluate.run("unet", "smoke")


def test_misspelt_convention_is_one_line(layout):
    write(layout.config("evaluate"), EVALUATE.replace("  tuning", "  conventions: [red-cnn]\n  tuning"))
    with pytest.raises(ConfigError, match=r"restoration\.conventions"):
        evaluate.run("redcnn", "smoke")


def test_settings_name_exactly_the_conventions_and_baselines_that_exist():
    assert set(typing.get_args(ConventionName)) == set(CONVENTIONS)
    assert set(typing.get_args(BaselineName)) == {*BASELINES, *BENCHMARK_BASELINES}


def test_what_is_not_finite_becomes_null():
    assert evaluate.rounded({"a": {"b": float("inf")}, "c": 1.23456, "d": 3}) == {
        "a": {"b": None},
        "c": 1.2346,
        "d": 3,
    }
    assert dict(evaluate.numbers({"a": {"b": 1.5, "c": "text"}, "d": 2, "e": None}, "test")) == {
        "test/a/b": 1.5,
        "test/d": 2.0,
    }
    assert dict(evaluate.numbers({"liver (left)": 1}, "test")) == {"test/liver _left_": 1.0}


@pytest.mark.parametrize("preset", ["demo", "smoke", "paper"])
def test_every_preset_can_be_read(preset, pytestconfig):
    load_settings(pytestconfig.rootpath / Layout(preset).config("evaluate"), EvaluateSettings)

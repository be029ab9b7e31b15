"""`ldct predict`: options, exit codes, and real folders."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from pipeline import tracking
from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.config import load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.predict import PredictSettings
from pipeline.dicom import discover, read_series
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.hu import RED_CNN_PAPER, WATER_CENTRED, HUWindow
from pipeline.inference.pseudonyms import secret_path
from pipeline.models import build_model
from pipeline.stages import predict
from tests.predict_cases import LABELS, write_source

COMMON = {"score": {}, "config_digest": "", "data_digest": ""}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own: the pseudonym secret of the checkout is left alone."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return tmp_path / "project"


@pytest.fixture
def denoiser(tmp_path):
    network = build_model("redcnn", features=2)
    bundle = Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments={"features": 2},
        name="redcnn",
        scale=WATER_CENTRED,
        tensors=network.state_dict(),
        **COMMON,
    )
    save_bundle(tmp_path / "denoiser.safetensors", bundle)
    return tmp_path / "denoiser.safetensors"


@pytest.fixture
def segmenter(tmp_path):
    arguments = {"classes": 3, "channels": [4, 8], "residual_units": 1}
    bundle = Bundle(
        kind="segmenter",
        architecture="unet",
        arguments=arguments,
        name="unet",
        window=HUWindow(-1000, 1000),
        input_spacing_mm=1.5,
        labels=tuple(vars(label) for label in LABELS),
        tensors=build_model("unet", **arguments).state_dict(),
        **COMMON,
    )
    save_bundle(tmp_path / "segmenter.safetensors", bundle)
    return tmp_path / "segmenter.safetensors"


def test_an_untrained_denoiser_changes_no_stored_pixel(tmp_path, denoiser, segmenter, capsys):
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, segmenter=segmenter) == 0
    before = read_series(discover(tmp_path / "in").series[0])
    (denoised,) = (tmp_path / "out").glob("*/*/denoised")
    after = read_series(discover(denoised).series[0])
    assert np.array_equal(after.hu, before.hu)
    series, total = capsys.readouterr().out.splitlines()
    assert series.split() == ["done", denoised.parent.name, "files:", "3"]
    assert total == "predict: 1 done"


def test_a_denoiser_trained_on_something_else_than_low_dose_is_told_and_recorded(tmp_path, denoiser, capsys):
    bundle = replace(load_bundle(denoiser), training={"degradation": [{"kind": "blur"}]})
    save_bundle(denoiser, bundle)
    write_source(tmp_path / "in")
    for _ in ("first", "again"):
        assert predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser) == 0
        assert (
            "OTHER_TRAINING the denoiser was trained on normal dose after blur, not on low dose"
            in capsys.readouterr().out
        )
    (record,) = (tmp_path / "out").glob("*/*/series.json")
    assert json.loads(record.read_text())["reason_codes"] == ["OTHER_TRAINING"]


def test_source_date_epoch_is_the_clock_and_makes_runs_byte_identical(
    tmp_path, denoiser, segmenter, monkeypatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    write_source(tmp_path / "in")
    for target in ("one", "two"):
        predict.run(tmp_path / "in", tmp_path / target, denoiser=denoiser, segmenter=segmenter)
    for first in (tmp_path / "one").rglob("*.dcm"):
        assert first.read_bytes() == (tmp_path / "two" / first.relative_to(tmp_path / "one")).read_bytes()
    marker = json.loads((tmp_path / "one" / ".ldct.json").read_text())
    assert datetime.fromisoformat(marker["started"]) == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)


def test_the_secret_stays_in_the_project(tmp_path, denoiser, project):
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser)
    secret = (project / ".ldct" / "secret").read_bytes()
    assert not any(secret in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_outside_a_project_the_secret_lies_in_the_users_state(tmp_path, denoiser, monkeypatch):
    write_source(tmp_path / "in")
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser)
    assert (tmp_path / "state" / "ldct" / "secret").is_file()
    assert not list(tmp_path.rglob(".ldct"))


@pytest.mark.parametrize("named", [{}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}])
def test_the_users_state_has_a_default(tmp_path, monkeypatch, named):
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = secret_path(named, root=tmp_path, apart_from=())
    assert secret == tmp_path / ".local" / "state" / "ldct" / "secret"


@pytest.mark.parametrize("inside", ["in", "out"])
def test_a_secret_inside_the_input_or_output_is_refused(tmp_path, denoiser, monkeypatch, inside):
    write_source(tmp_path / "in")
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / inside / "state"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{inside}: holds the pseudonym secret .*; name a folder without it"):
        predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser)
    assert not list(tmp_path.rglob("secret"))


@pytest.mark.parametrize(("trained", "hardware"), [("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16")])
def test_auto_precision_is_never_coarser_than_the_training(tmp_path, monkeypatch, trained, hardware):
    bundle = Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments={"features": 2},
        name="paper",
        scale=RED_CNN_PAPER,
        precision=trained,
        tensors=build_model("redcnn", features=2).state_dict(),
        **COMMON,
    )
    save_bundle(tmp_path / "paper.safetensors", bundle)
    monkeypatch.setattr(predict, "preferred_precision", lambda _: hardware)
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=tmp_path / "paper.safetensors")
    (record,) = (tmp_path / "out").glob("*/*/series.json")
    used = json.loads(record.read_text())["recipe"]["denoiser"]["precision"]
    assert used == ("bf16" if trained == hardware == "bf16" else "fp32")


def test_champions_are_taken_when_no_bundle_is_named(tmp_path, denoiser, monkeypatch):
    monkeypatch.setattr(tracking, "champion", lambda kind: denoiser if kind == "denoiser" else None)
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out") == 0
    assert not list((tmp_path / "out").rglob("segmentation.dcm"))


def test_without_any_model_one_line_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "champion", lambda _: None)
    write_source(tmp_path / "in")
    with pytest.raises(BundleError, match="make repro"):
        predict.run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_another_kind_is_refused(tmp_path, segmenter):
    write_source(tmp_path / "in")
    with pytest.raises(BundleError, match="holds a segmenter, a denoiser is needed"):
        predict.run(tmp_path / "in", tmp_path / "out", denoiser=segmenter)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_its_range_is_refused(tmp_path, denoiser, strength):
    with pytest.raises(ConfigError, match="between 0"):
        predict.run(tmp_path, tmp_path / "out", denoiser=denoiser, strength=strength)


@pytest.mark.parametrize("epoch", ["noon", "1e400", "99999999999999999999"])
def test_a_malformed_clock_is_refused(epoch):
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        fixed_clock({"SOURCE_DATE_EPOCH": epoch})


def test_the_strength_of_the_command_line_overrides_the_settings(tmp_path, denoiser):
    write_source(tmp_path / "in")
    settings = tmp_path / "predict.yaml"
    settings.write_text("strength: 0.2\nprecision: fp32\n")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, settings=settings, strength=0.9)
    (record,) = (tmp_path / "out").glob("*/*/series.json")
    recipe = json.loads(record.read_text())["recipe"]
    assert (recipe["strength"], recipe["denoiser"]["precision"]) == (0.9, "fp32")


@pytest.mark.parametrize("preset", ["demo", "smoke", "paper"])
def test_every_preset_has_predict_settings(preset, pytestconfig):
    load_settings(pytestconfig.rootpath / "configs" / preset / "predict.yaml", PredictSettings)


@pytest.mark.real
def test_a_real_chest_keeps_its_geometry(tmp_path, denoiser, segmenter, real_data):
    sitk = pytest.importorskip("SimpleITK")
    source = real_data / "ct" / "lidc_0314_chest_1mm"
    assert predict.run(source, tmp_path / "out", denoiser=denoiser, segmenter=segmenter) == 0
    (denoised,) = (tmp_path / "out").glob("*/*/denoised")
    before, after = (
        sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        for folder in (source, denoised)
    )
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(before, name)(), getattr(after, name)(), atol=1e-3)
    assert np.array_equal(sitk.GetArrayViewFromImage(before), sitk.GetArrayViewFromImage(after))


@pytest.mark.real
def test_hostile_folders_end_with_a_line_per_refused_series(tmp_path, denoiser, segmenter, real_data, capsys):
    code = predict.run(real_data / "nasty", tmp_path / "out", denoiser=denoiser, segmenter=segmenter)
    assert code == 3
    lines = capsys.readouterr().out.splitlines()
    assert sum("DUPLICATE_POSITION" in line for line in lines) == 1
    assert all(len(line.split()) > 4 for line in lines if line.startswith(("refused", "failed")))

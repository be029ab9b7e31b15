"""`ldct predict`: options, exit codes, one line for each bad input, and real folders."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline import __version__, tracking
from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.cli import main
from pipeline.config import load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.predict import PredictSettings
from pipeline.dicom import discover, read_series
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.hu import AIR_HU, RED_CNN_PAPER
from pipeline.inference import outcomes
from pipeline.inference.output import journal
from pipeline.inference.output.pseudonyms import secret_path
from pipeline.inference.restoration import engines, familiarity, fitness, networks, nifti, restorer
from pipeline.inference.restoration import treatment as restoration
from pipeline.inference.restoration.networks import TILE_PIXELS, Network
from pipeline.models import build_model
from pipeline.stages import predict
from pipeline.weights import VARIANTS
from tests.predict_cases import write_source
from tests.tiny_bundles import write_bundles

COMMON = {"score": {}, "config_digest": "", "data_digest": ""}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own: the pseudonym secret of the checkout is left alone."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setattr(predict, "shipped", lambda _: None)
    return tmp_path / "project"


@pytest.fixture
def bundles(tmp_path):
    return write_bundles(tmp_path)


@pytest.fixture
def denoiser(bundles):
    return bundles[0]


@pytest.fixture
def segmenter(bundles):
    return bundles[1]


def test_an_untrained_denoiser_changes_no_stored_pixel(tmp_path, denoiser, segmenter, capsys):
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, segmenter=segmenter) == 0
    before = read_series(discover(tmp_path / "in").series[0])
    (denoised,) = (tmp_path / "out").glob("*/*/denoised")
    after = read_series(discover(denoised).series[0])
    assert np.array_equal(after.hu, before.hu)
    *networks, series, total = capsys.readouterr().out.splitlines()
    recipe = recipe_of(tmp_path / "out")
    for kind, path, line in zip(("denoiser", "segmenter"), (denoiser, segmenter), networks, strict=True):
        name, model_hash, engine = (recipe[kind][key] for key in ("name", "model_hash", "engine"))
        assert line == f"{kind}: {name} {model_hash[:12]} ({path}), {engine}"
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
    monkeypatch.setattr(engines, "preferred_precision", lambda _: hardware)
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=tmp_path / "paper.safetensors")
    (record,) = (tmp_path / "out").glob("*/*/series.json")
    used = json.loads(record.read_text())["recipe"]["denoiser"]["precision"]
    assert used == ("bf16" if trained == hardware == "bf16" else "fp32")


def have_champions(monkeypatch, **champions):
    """Whether or not those of phantoms alone count."""
    monkeypatch.setattr(tracking, "champion", lambda kind, **_: champions.get(kind))


@pytest.fixture
def ships(tmp_path, monkeypatch):
    """Both variants of a shipped denoiser, told apart by their names."""
    paths = {}
    for variant in VARIANTS:
        bundle = replace(load_bundle(write_bundles(tmp_path / variant)[0]), name=f"reference_{variant}")
        paths[variant] = tmp_path / variant / "denoiser.safetensors"
        save_bundle(paths[variant], bundle)
    monkeypatch.setattr(predict, "shipped", paths.get)
    return paths


def test_champions_are_taken_when_no_bundle_is_named(tmp_path, denoiser, ships, monkeypatch, capsys):
    have_champions(monkeypatch, denoiser=denoiser)
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out") == 0
    assert not list((tmp_path / "out").rglob("segmentation.dcm"))
    assert recipe_of(tmp_path / "out")["denoiser"]["model_hash"] == load_bundle(denoiser).model_hash
    assert "shipped" not in capsys.readouterr().out


@pytest.mark.parametrize(("texture", "variant"), [(None, "plain"), (False, "plain"), (True, "texture")])
def test_without_any_training_the_shipped_denoiser_runs_and_is_named(
    tmp_path, ships, capsys, texture, variant
):
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out", texture=texture) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    model_hash = load_bundle(ships[variant]).model_hash
    name = f"reference_{variant}"
    known = (
        f"denoiser: {name} {model_hash[:12]} (shipped with ldct-pipeline {__version__}, {ships[variant]}), "
    )
    assert first.removeprefix(known) == recipe_of(tmp_path / "out")["denoiser"]["engine"]
    recorded = recipe_of(tmp_path / "out")["denoiser"]
    assert (recorded["name"], recorded["model_hash"]) == (name, model_hash)


def test_a_champion_that_segments_joins_the_shipped_denoiser(tmp_path, segmenter, ships, monkeypatch):
    have_champions(monkeypatch, segmenter=segmenter)
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out") == 0
    recipe = recipe_of(tmp_path / "out")
    assert (recipe["denoiser"]["name"], recipe["segmenter"]["name"]) == ("reference_plain", "unet")


def test_a_champion_that_saw_phantoms_alone_does_not_go_before_the_shipped_denoiser(
    tmp_path, ships, monkeypatch
):
    asked = {}
    monkeypatch.setattr(tracking, "champion", lambda kind, **options: asked.update({kind: options}))
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out")
    assert asked == {"denoiser": {"phantoms_alone": False}, "segmenter": {"phantoms_alone": False}}


def test_a_named_network_is_used_alone(tmp_path, segmenter, ships):
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", segmenter=segmenter)
    assert recipe_of(tmp_path / "out")["denoiser"] is None


@pytest.mark.parametrize("texture", [True, False])
def test_the_texture_of_another_denoiser_than_a_shipped_one_is_one_line(
    tmp_path, denoiser, ships, monkeypatch, texture
):
    write_source(tmp_path / "in")
    option = "--texture" if texture else "--no-texture"
    with pytest.raises(ConfigError, match=f"{option} chooses .* a network is named; leave one"):
        predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, texture=texture)
    have_champions(monkeypatch, denoiser=denoiser)
    path = ships["texture" if texture else "plain"]
    with pytest.raises(ConfigError, match=f"{option} chooses .* champion goes first; .* name {path}"):
        predict.run(tmp_path / "in", tmp_path / "out", texture=texture)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("texture", "way_out"), [(None, "make repro"), (True, "came without its denoisers; name one with")]
)
def test_without_any_model_one_line_says_how_to_get_one(tmp_path, monkeypatch, texture, way_out):
    have_champions(monkeypatch)
    write_source(tmp_path / "in")
    with pytest.raises(BundleError, match=way_out):
        predict.run(tmp_path / "in", tmp_path / "out", texture=texture)
    assert not (tmp_path / "out").exists()


def test_without_the_variant_that_is_asked_for_one_line_names_the_other(tmp_path, ships, monkeypatch):
    have_champions(monkeypatch)
    monkeypatch.setattr(predict, "shipped", {"plain": ships["plain"]}.get)
    write_source(tmp_path / "in")
    message = "--texture: .* without its texture denoiser; take the plain one with --no-texture, or name one"
    with pytest.raises(BundleError, match=message):
        predict.run(tmp_path / "in", tmp_path / "out", texture=True)


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"engine": "openvino"}, "--engine openvino"),
        ({"precision": "int8"}, "--precision int8"),
    ],
)
def test_openvino_without_a_denoiser_is_one_line(tmp_path, segmenter, asked, option):
    write_source(tmp_path / "in")
    with pytest.raises(ConfigError, match=f"{option}: OpenVINO computes denoisers only"):
        predict.run(tmp_path / "in", tmp_path / "out", segmenter=segmenter, **asked)
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_another_kind_is_refused(tmp_path, segmenter):
    write_source(tmp_path / "in")
    with pytest.raises(BundleError, match="holds a segmenter, a denoiser is needed"):
        predict.run(tmp_path / "in", tmp_path / "out", denoiser=segmenter)


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


def recipe_of(target):
    (record,) = target.glob("*/*/series.json")
    return json.loads(record.read_text())["recipe"]


def test_the_command_line_overrides_the_settings_and_both_are_recorded(tmp_path, denoiser):
    write_source(tmp_path / "in")
    settings = tmp_path / "predict.yaml"
    settings.write_text("on_unfamiliar: pass\nnifti: true\nprecision: fp32\n")
    predict.run(tmp_path / "in", tmp_path / "one", denoiser=denoiser, settings=settings)
    recipe = recipe_of(tmp_path / "one")
    assert (recipe["on_unfamiliar"], recipe["nifti"]) == ("pass", True)
    given = {"on_unfamiliar": "refuse", "nifti": False}
    options = given | {"engine": "torch", "precision": "bf16"}
    predict.run(tmp_path / "in", tmp_path / "two", denoiser=denoiser, settings=settings, **options)
    assert recipe_of(tmp_path / "two")["denoiser"]["precision"] == "bf16"
    assert {name: recipe_of(tmp_path / "two")[name] for name in given} == given


@pytest.mark.parametrize(("text", "expected"), [("auto", None), ("3", 3)])
def test_batches_and_tiles_reach_the_networks(tmp_path, denoiser, monkeypatch, text, expected):
    loaded = []
    load = Network.load

    def note(bundle, **options):
        loaded.append(options)
        return load(bundle, **options)

    monkeypatch.setattr(Network, "load", note)
    settings = tmp_path / "predict.yaml"
    settings.write_text(f"batch_slices: {text}\ntile_pixels: 128\n")
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, settings=settings)
    (options,) = loaded
    assert (options["batch_slices"], options["tile_pixels"]) == (expected, 128)


def test_the_settings_and_the_networks_agree_on_the_largest_whole_slice():
    assert PredictSettings().tile_pixels == TILE_PIXELS


def test_nifti_lies_beside_the_dicom_on_request(tmp_path, denoiser, segmenter):
    write_source(tmp_path / "in")
    for target, wanted in (("without", False), ("with", True)):
        predict.run(tmp_path / "in", tmp_path / target, denoiser=denoiser, segmenter=segmenter, nifti=wanted)
    assert not list((tmp_path / "without").rglob("*.nii"))
    (denoised,) = (tmp_path / "with").glob("*/*/denoised.nii")
    after = read_series(discover(denoised.parent / "denoised").series[0])
    volume = nib.load(denoised)
    assert volume.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(volume.dataobj).T, after.hu)
    assert np.allclose(volume.affine, after.entry.geometry.affine_ras, atol=1e-5)
    assert nib.load(denoised.with_name("segmentation.nii")).get_data_dtype() == np.uint8


@pytest.fixture
def trained_elsewhere(denoiser):
    """The denoiser with the fingerprint of a training that the source's kernel, B30, was no part of."""
    save_bundle(denoiser, replace(load_bundle(denoiser), fingerprint={"kernels": {"B70f": 2}}))
    return denoiser


def test_an_unfamiliar_series_is_denoised_with_a_warning(tmp_path, trained_elsewhere, capsys):
    write_source(tmp_path / "in")
    assert predict.run(tmp_path / "in", tmp_path / "out", denoiser=trained_elsewhere) == 0
    assert "UNFAMILIAR" in (told := capsys.readouterr().out)
    assert "UNFAMILIAR_KERNEL unlike the training: kernel B30 (trained on B70f)" in told
    (record,) = (tmp_path / "out").glob("*/*/series.json")
    assert json.loads(record.read_text())["reason_codes"] == ["UNFAMILIAR", "UNFAMILIAR_KERNEL"]
    assert list((tmp_path / "out").glob("*/*/denoised/*.dcm"))


def test_an_unfamiliar_series_can_be_passed_on_untouched(tmp_path, trained_elsewhere, capsys):
    sources = write_source(tmp_path / "in")
    options = {"denoiser": trained_elsewhere, "on_unfamiliar": "pass"}
    assert predict.run(tmp_path / "in", tmp_path / "out", **options) == 0
    assert "UNFAMILIAR_PASSED UNFAMILIAR_KERNEL handed on untouched" in capsys.readouterr().out
    passed = sorted((tmp_path / "out").glob("*/*/untouched/*.dcm"))
    assert [path.read_bytes() for path in passed] == [path.read_bytes() for path in sources]
    assert not list((tmp_path / "out").glob("*/*/denoised"))


def test_an_unfamiliar_series_can_be_refused(tmp_path, trained_elsewhere, capsys):
    write_source(tmp_path / "in")
    options = {"denoiser": trained_elsewhere, "on_unfamiliar": "refuse"}
    assert predict.run(tmp_path / "in", tmp_path / "out", **options) == 1
    assert "UNFAMILIAR UNFAMILIAR_KERNEL unlike the training: kernel B30" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_verify_finds_a_changed_output_that_a_plain_run_believes(tmp_path, denoiser):
    write_source(tmp_path / "in")
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser)
    first = next((tmp_path / "out").glob("*/*/denoised/*.dcm"))
    before = first.read_bytes()
    spoilt = before[:-1] + bytes([before[-1] ^ 1])
    first.write_bytes(spoilt)
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser)
    assert first.read_bytes() == spoilt
    predict.run(tmp_path / "in", tmp_path / "out", denoiser=denoiser, verify=True)
    assert first.read_bytes() == before


@pytest.fixture
def ldct(tmp_path, monkeypatch, capsys):
    """The console command in this process: takes its arguments, gives its exit code and its two outputs."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.delenv("LDCT_DEBUG", raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    with warnings.catch_warnings():
        yield run
    signal.signal(signal.SIGTERM, before)


def complaint(result, code):
    """The one line of a command that did nothing."""
    ended_with, out, err = result
    assert (ended_with, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("ldct: ")
    assert not err.startswith("ldct: unexpected")
    return err


def make_file(path):
    path.write_text("no folder")
    return path


def make_empty(path):
    path.mkdir()
    return path


def make_notes(path):
    (path / "deeper").mkdir(parents=True)
    (path / "deeper" / "notes.txt").write_text("no image")
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "no such folder"),
        (make_file, "a file; name the folder"),
        (make_empty, "no DICOM files here"),
        (make_notes, "no CT series here"),
    ],
)
def test_an_input_without_ct_is_one_line(tmp_path, denoiser, ldct, make, reason):
    result = ldct("predict", make(tmp_path / "in"), tmp_path / "out", "--denoiser", denoiser)
    assert f"{tmp_path / 'in'}: {reason}" in complaint(result, 1)
    assert not (tmp_path / "out").exists()


def without_permissions_of_root(*command):
    """Run a command that may read and write only what its user may, also where that user is root."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads every folder, and setpriv (util-linux) is not here to change that")
        dropped = "-dac_override,-dac_read_search"
        command = ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *command)
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("locked", "mode", "code"),
    [("in", 0o000, 2), ("denoiser.safetensors", 0o000, 2), ("out", 0o000, 2), ("out", 0o555, 1)],
)
def test_what_lacks_permission_is_one_line(tmp_path, denoiser, locked, mode, code):
    write_source(tmp_path / "in")
    (tmp_path / "out").mkdir()
    before = (tmp_path / locked).stat().st_mode
    (tmp_path / locked).chmod(mode)
    try:
        arguments = ("predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser)
        done = without_permissions_of_root(sys.executable, "-m", "pipeline", *arguments)
    finally:
        (tmp_path / locked).chmod(before)
    assert str(tmp_path / locked) in complaint((done.returncode, done.stdout, done.stderr), code)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("source", "target"), [("in", "in"), ("in", "in/out"), ("in/deeper", "in"), ("in", "linked/out")]
)
def test_folders_inside_each_other_are_one_line(tmp_path, denoiser, ldct, source, target):
    write_source(tmp_path / "in" / "deeper")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    result = ldct("predict", tmp_path / source, tmp_path / target, "--denoiser", denoiser)
    assert "overlaps the input" in complaint(result, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_with_other_files_is_one_line_and_stays_as_it_is(tmp_path, denoiser, ldct):
    write_source(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    result = ldct("predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser)
    assert "not empty and not written by ldct predict" in complaint(result, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("target", ["file", "file/out", "/proc/out", "/sys/out"])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, denoiser, ldct, target):
    write_source(tmp_path / "in")
    make_file(tmp_path / "file")
    result = ldct("predict", tmp_path / "in", tmp_path / target, "--denoiser", denoiser)
    assert f"{tmp_path / target}: " in complaint(result, 1)


def test_a_secret_that_cannot_be_kept_is_one_line(tmp_path, denoiser, ldct, monkeypatch):
    write_source(tmp_path / "in")
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.chdir(tmp_path)
    result = ldct("predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser)
    assert complaint(result, 1) == (
        "ldct: the pseudonym secret cannot be kept in /proc/nobody/.local/state/ldct; "
        "set XDG_STATE_HOME to a folder of yours\n"
    )
    assert not (tmp_path / "out").exists()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit_of_a_weight(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def give_other_arguments(path):
    save_bundle(path, replace(load_bundle(path), arguments={"features": 3}))


def give_unknown_arguments(path):
    save_bundle(path, replace(load_bundle(path), arguments={"colours": 3}))


def give_unknown_architecture(path):
    save_bundle(path, replace(load_bundle(path), architecture="diffusion"))


def give_the_network_of_a_segmenter(path):
    _, segmenter = write_bundles(path.parent / "other")
    unet = load_bundle(segmenter)
    changes = {"architecture": unet.architecture, "arguments": unet.arguments, "tensors": unet.tensors}
    save_bundle(path, replace(load_bundle(path), **changes))


def drop_the_header(path):
    save_file(dict(load_bundle(path).tensors), path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "no such bundle; name one that ldct train wrote"),
        (lambda path: path.write_text("my best weights"), "not a readable safetensors file"),
        (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
        (cut_short, "not a readable safetensors file"),
        (flip_a_bit_of_a_weight, "weights and header disagree"),
        (replace_by_folder, "a folder; name the bundle"),
        (drop_the_header, "a safetensors file, but no bundle"),
        (give_unknown_architecture, "unknown architecture 'diffusion'"),
        (give_other_arguments, "does not fit redcnn"),
        (give_unknown_arguments, "does not fit redcnn"),
        (give_the_network_of_a_segmenter, "its network gives 3 channels, a denoiser has 1"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_one_line(tmp_path, denoiser, ldct, spoil, reason):
    write_source(tmp_path / "in")
    spoil(denoiser)
    result = ldct("predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser)
    assert reason in complaint(result, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--denoiser", "--segmenter"])
def test_a_bundle_of_the_other_kind_is_one_line(tmp_path, denoiser, segmenter, ldct, option):
    write_source(tmp_path / "in")
    other = segmenter if option == "--denoiser" else denoiser
    result = ldct("predict", tmp_path / "in", tmp_path / "out", option, other)
    wanted, held = ("denoiser", "segmenter") if option == "--denoiser" else ("segmenter", "denoiser")
    assert f"{other}: holds a {held}, a {wanted} is needed" in complaint(result, 1)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--strength", "1.5", "--strength 1.5: must be a number from 0 (no change) to 1"),
        ("--strength", "-0.1", "--strength -0.1: must be"),
        ("--strength", "nan", "--strength nan: must be"),
        ("--on-unfamiliar", "ignore", "--on-unfamiliar ignore: must be warn, pass or refuse"),
        ("--engine", "tpu", "--engine tpu: must be auto, torch or openvino"),
        ("--precision", "fp8", "--precision fp8: must be auto, fp32, bf16 or int8"),
        ("--settings", "none.yaml", "none.yaml: no such settings file"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line(tmp_path, denoiser, ldct, option, value, reason):
    write_source(tmp_path / "in")
    result = ldct("predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser, option, value)
    assert reason in complaint(result, 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("strength: 1.5", "strength: input should be less than or equal to 1, got 1.5"),
        ("strength: -0.5", "strength: input should be greater than or equal to 0, got -0.5"),
        ("strength: .nan", "strength: input should be a finite number"),
        ("on_unfamiliar: ignore", "on_unfamiliar: input should be 'warn', 'pass' or 'refuse', got 'ignore'"),
        ("engine: tpu", "engine: input should be 'auto', 'torch' or 'openvino', got 'tpu'"),
        ("batch_slices: 0", "greater than or equal to 1, got 0"),
        ("tile_pixels: 8", "tile_pixels: input should be greater than or equal to 64, got 8"),
        ("on_unfamilar: pass", "on_unfamilar: unknown key, did you mean on_unfamiliar?"),
        ("strength: [", "not valid YAML"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(tmp_path, denoiser, ldct, line, reason):
    write_source(tmp_path / "in")
    settings = tmp_path / "predict.yaml"
    settings.write_text(f"{line}\n")
    result = ldct(
        "predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser, "--settings", settings
    )
    error = complaint(result, 2)
    assert str(settings) in error
    assert reason in error


def test_the_documentation_lists_every_code_that_a_run_adds(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "predict.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))
    modules = (familiarity, fitness, journal, networks, nifti, outcomes, restoration, restorer)
    named = {
        value
        for module in modules
        for name, value in vars(module).items()
        if name == value and re.fullmatch("[A-Z]+(_[A-Z]+)*", name)
    }
    assert listed == named


@pytest.mark.slow
def test_the_installed_command_says_what_the_others_say(tmp_path, denoiser):
    command = shutil.which("ldct", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run(
        [command, "predict", tmp_path / "in", tmp_path / "out", "--denoiser", denoiser],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ldct: {tmp_path / 'in'}: no such folder; name a folder that holds DICOM files\n"


@pytest.mark.parametrize("preset", ["demo", "smoke", "paper"])
def test_every_preset_has_predict_settings(preset, pytestconfig):
    load_settings(pytestconfig.rootpath / "configs" / preset / "predict.yaml", PredictSettings)


@pytest.mark.real
def test_a_real_chest_keeps_its_geometry(tmp_path, denoiser, segmenter, real_data):
    sitk = pytest.importorskip("SimpleITK")
    source = real_data / "ct" / "lidc_0314_chest_1mm"
    assert predict.run(source, tmp_path / "out", denoiser=denoiser, segmenter=segmenter, nifti=True) == 0
    (denoised,) = (tmp_path / "out").glob("*/*/denoised")
    before, after = (
        sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        for folder in (source, denoised)
    )
    nifti = sitk.ReadImage(denoised.with_name("denoised.nii"))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        for image in (after, nifti):
            assert np.allclose(getattr(before, name)(), getattr(image, name)(), atol=1e-3)
    hu, after_hu, nifti_hu = (sitk.GetArrayViewFromImage(image) for image in (before, after, nifti))
    assert np.array_equal(hu, after_hu)
    assert np.array_equal(hu[hu > AIR_HU], nifti_hu[hu > AIR_HU])


@pytest.mark.real
def test_hostile_folders_end_with_a_line_per_refused_series(tmp_path, denoiser, segmenter, real_data, capsys):
    code = predict.run(real_data / "nasty", tmp_path / "out", denoiser=denoiser, segmenter=segmenter)
    assert code == 3
    lines = capsys.readouterr().out.splitlines()
    assert sum("DUPLICATE_POSITION" in line for line in lines) == 1
    assert all(len(line.split()) > 4 for line in lines if line.startswith(("refused", "failed")))

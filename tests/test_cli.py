"""`ldct`: what it starts, what it prints when something is wrong, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline.stages
from pipeline import __version__
from pipeline.cli import main
from pipeline.errors import ConfigError, DataError
from tests.conftest import CHECKOUT

STAGES = ("simulate", "ingest", "train", "evaluate", "inspect", "predict", "export", "report", "publish")


@pytest.fixture(autouse=True)
def _untouched_process() -> Iterator[None]:
    """`main` sets process-wide filters and handlers; give the next test its own back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("PYTHONWARNINGS", "error")
        patch.setenv("COLUMNS", "200")
        patch.delenv("LDCT_DEBUG", raising=False)
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("demo/simulate", "demo/redcnn", "demo/evaluate", "smoke/simulate", "smoke/vae"):
        (tmp_path / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / f"{name}.yaml").touch()
    (tmp_path / "configs" / "preset.yaml").write_text("preset: demo\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stages that only note how they were called."""
    noted: list[tuple[Any, ...]] = []

    def stand_in(stage: str) -> SimpleNamespace:
        def run(*arguments: object, **options: object) -> int:
            noted.append((stage, *arguments, options) if options else (stage, *arguments))
            return 3

        return SimpleNamespace(run=run)

    for stage in STAGES:
        monkeypatch.setattr(pipeline.stages, stage, stand_in(stage), raising=False)
    return noted


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(preset: str) -> None:
        raise error

    monkeypatch.setattr(pipeline.stages, "simulate", SimpleNamespace(run=run), raising=False)


def test_stages_get_the_active_preset_unless_one_is_named(
    project: Path, calls: list[tuple[Any, ...]]
) -> None:
    assert exit_code("simulate") == 0
    assert exit_code("ingest", "--preset", "smoke") == 0
    assert exit_code("train", "redcnn") == 0
    assert exit_code("evaluate", "task", "--preset", "smoke") == 0
    assert exit_code("report") == 0
    assert calls == [
        ("simulate", "demo"),
        ("ingest", "smoke"),
        ("train", "redcnn", "demo"),
        ("evaluate", "task", "smoke"),
        ("report", "demo"),
    ]


def test_predict_needs_no_project_and_ends_with_the_stage_s_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("predict", "in", "out", "--denoiser", "weights", "--strength", "0.5") == 3
    options = {
        "denoiser": Path("weights"),
        "texture": None,
        "segmenter": None,
        "settings": None,
        "strength": 0.5,
        "noise_sd_hu": None,
        "on_unfamiliar": None,
        "engine": None,
        "precision": None,
        "nifti": None,
        "verify": False,
    }
    assert calls == [("predict", Path("in"), Path("out"), options)]
    calls.clear()
    assert exit_code("predict", "in", "out", "--on-unfamiliar", "pass", "--no-nifti", "--verify") == 3
    given = {"denoiser": None, "strength": None, "on_unfamiliar": "pass", "nifti": False, "verify": True}
    assert calls == [("predict", Path("in"), Path("out"), options | given)]
    calls.clear()
    assert exit_code("predict", "in", "out", "--texture", "--engine", "openvino", "--precision", "int8") == 3
    given = {"denoiser": None, "strength": None, "texture": True, "engine": "openvino", "precision": "int8"}
    assert calls == [("predict", Path("in"), Path("out"), options | given)]


def test_export_needs_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("export", "weights", "net.onnx") == 0
    assert exit_code("export", "weights", "net.xml", "--precision", "int8", "--calibrate", "scans") == 0
    assert calls == [
        ("export", Path("weights"), Path("net.onnx"), {"precision": "fp32", "calibrate": None}),
        ("export", Path("weights"), Path("net.xml"), {"precision": "int8", "calibrate": Path("scans")}),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "redcn"], "'redcn' is not one of redcnn"),
        (["train", "task"], "'task' is not one of redcnn"),
        (["train", "evaluate"], "'evaluate' is not one of redcnn"),
        (["evaluate", "vae"], "did you mean vae --preset smoke? 'vae' is not one of redcnn, task"),
        (["train", "redcnn", "--preset", "smoke"], "did you mean redcnn --preset demo? 'redcnn' is not one"),
        (["simulate", "--preset", "dmo"], "dmo: no such preset; configs/ has demo, smoke"),
        (["simulate", "--preset", ""], "'': no such preset; configs/ has demo, smoke"),
        (["predict", "in", "out", "--strength", "much"], "valid number"),
        (["predict", "in"], "Missing argument 'OUT'; see ldct predict --help"),
        (["predict", "in", "out", "--strenght", "1"], "No such option: --strenght"),
        (["trian"], "'trian'. Did you mean 'train'?; see ldct --help"),
    ],
)
def test_wrong_usage_is_named_and_ends_with_2(
    arguments: list[str],
    complaint: str,
    project: Path,
    calls: list[tuple[Any, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(*arguments) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert (err.startswith("ldct: "), err.count("\n")) == (True, 1)
    assert calls == []


@pytest.mark.parametrize(
    ("command", "missing", "way_out"),
    [
        (
            "evaluate denoiser --preset reference",
            "models/reference/denoiser/bundle.safetensors: no such bundle",
            "train denoiser --preset reference",
        ),
        (
            "evaluate rednet30",
            "models/demo/rednet30/bundle.safetensors: no such bundle",
            "train rednet30 --preset demo",
        ),
        (
            "evaluate task --preset smoke",
            "models/smoke/unet/bundle.safetensors: no such bundle",
            "train unet --preset smoke",
        ),
        (
            "train denoiser --preset reference",
            "data/reference/cases/index.csv: no such file",
            "ingest --preset reference",
        ),
        ("train redcnn", "data/demo/cases/index.csv: no such file", "ingest --preset demo"),
        (
            "train denoiser",
            "'denoiser' is not one of gan, redcnn",
            "denoiser --preset reference",
        ),
        (
            "evaluate task --preset reference",
            "models/reference/unet/bundle.safetensors: no such bundle",
            "no configs/reference/unet.yaml to train it; name a model that the preset reference has",
        ),
    ],
)
def test_in_a_fresh_clone_what_is_missing_comes_with_the_command_that_makes_it(
    command: str,
    missing: str,
    way_out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(CHECKOUT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    assert exit_code(*command.split()) in (1, 2)
    line = capsys.readouterr().err
    assert (missing in line, way_out in line, line.count("\n")) == (True, True, 1)
    assert "dvc repro" not in line


@pytest.mark.parametrize("arguments", [[], ["manifest"]])
def test_without_a_command_the_help_is_shown(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    shown = capsys.readouterr()
    assert (" ".join(["Usage: ldct", *arguments]) in shown.out, shown.err) == (True, "")


def test_outside_a_project_says_where_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code("report") == 2
    assert capsys.readouterr().err == (
        f"ldct: {tmp_path}: no configs/ folder here; run this in the root of the project\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a has 12 slices,\n b has 11"), 1, "a has 12 slices, b has 11"),
        (ConfigError("redcnn.yaml: lr: unknown key"), 2, "redcnn.yaml: lr: unknown key"),
        (PermissionError(13, "Permission denied", "out/a.dcm"), 1, "out/a.dcm: Permission denied"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    error: Exception,
    code: int,
    line: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(monkeypatch, error)
    assert exit_code("simulate") == code
    assert capsys.readouterr().err == f"ldct: {line}\n"


def test_a_bug_is_one_line_too_and_debug_shows_its_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("division by zero"))
    assert exit_code("simulate") == 1
    quiet = capsys.readouterr().err
    assert quiet.startswith("ldct: unexpected ZeroDivisionError: division by zero (test_cli.py:")
    assert quiet.count("\n") == 1
    monkeypatch.setenv("LDCT_DEBUG", "1")
    assert exit_code("simulate") == 1
    assert "Traceback" in capsys.readouterr().err


def test_library_warnings_stay_hidden(
    project: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def run(preset: str) -> None:
        warnings.warn("not for users", FutureWarning, stacklevel=1)

    monkeypatch.setattr(pipeline.stages, "simulate", SimpleNamespace(run=run), raising=False)
    assert exit_code("simulate") == 0
    assert not recwarn.list


def test_help_shows_every_stage_and_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    helped = capsys.readouterr().out
    assert all(stage in helped for stage in STAGES)
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"ldct {__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_of_a_stage_has_an_example(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(stage, "--help") == 0
    assert f"Example: ldct {stage}" in capsys.readouterr().out


def test_the_help_of_predict_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("predict", "--help") == 0
    helped = capsys.readouterr().out
    assert all(f" {code}: " in helped for code in (0, 1, 2, 3, 130, 143))


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import atexit, sys\n"
        "heavy = {'numpy', 'torch', 'monai', 'mlflow', 'pydicom', 'pydantic', 'ruamel'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & sys.modules.keys())))\n"
        "from pipeline.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_stage_cleans_up(signal_number: signal.Signals, code: int, project: Path) -> None:
    script = (
        "import signal, time, types, pipeline.stages\n"
        "from pipeline.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore it
        "def run(preset):\n"
        "    try:\n"
        "        print('started', flush=True)\n"
        "        time.sleep(30)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "pipeline.stages.simulate = types.SimpleNamespace(run=run)\n"
        "main(['simulate'])\n"
    )
    stage = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == "started\n"
    time.sleep(0.1)
    stage.send_signal(signal_number)
    out, err = stage.communicate(timeout=20)
    assert (out, stage.returncode) == ("cleaned up\n", code)
    assert "Traceback" not in err


def test_a_home_that_cannot_be_written_is_no_error_for_figures() -> None:
    script = (
        "import os, sys\n"
        "from pipeline.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: import matplotlib; print(matplotlib.get_configdir(), matplotlib.get_cachedir())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "MPL"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"HOME": "/proc/nobody"},
    )
    folders = done.stdout.split()[-2:]
    assert done.stderr == ""
    assert folders[0] == folders[1]
    assert not Path(folders[0]).exists()


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m pipeline --help | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""

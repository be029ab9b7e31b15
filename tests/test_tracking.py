"""Runs, reopened runs and champions in a real MLflow store, and what happens when the store fails."""

import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import tracking
from pipeline.errors import DataError, TrackingError
from pipeline.inference.output.pseudonyms import secret_path
from pipeline.tracking import registry
from pipeline.tracking.store import connect, store_name

DIGEST = "d" * 64


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A project with a fresh store; MLflow takes seconds to make one, so tests copy it."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        for name in ("MLFLOW_TRACKING_URI", "LDCT_TRACKING"):
            patch.delenv(name, raising=False)
        connect()
    return root / ".ldct" / "mlflow.db"


@pytest.fixture
def bare_project(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "my project é"
    root.mkdir()
    (root / "redcnn.yaml").write_text("features: 8\n")
    monkeypatch.chdir(root)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "LDCT_TRACKING", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def project(bare_project, empty_store) -> Path:
    (bare_project / ".ldct").mkdir()
    shutil.copy(empty_store, bare_project / ".ldct" / "mlflow.db")
    return bare_project


def settings(**changes):
    known = {"experiment": "ldct", "name": "redcnn", "stage": "train@redcnn", "config": Path("redcnn.yaml")}
    return {**known, "data_digest": DIGEST, **changes}


def stored(run_id):
    return connect().get_run(run_id)


def test_a_run_holds_what_was_logged(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-exp")
    (project / "curves.csv").write_text("step,loss\n")
    with tracking.start_run(**settings(), tags={"preset": "demo"}) as run:
        run.log_params({"optim": {"lr": 1e-4}, "steps": 10})
        run.log_params({"steps": 99, "batch": 4})
        for step in (1, 2):
            run.log_metrics({"loss": 1 / step, "psnr": 30.0 + step}, step=step)
        run.log_artifact(Path("curves.csv"), "tables")
    found = stored(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optim.lr": "0.0001", "steps": "10", "batch": "4"}
    assert found.data.metrics == {"loss": 0.5, "psnr": 32.0}
    assert [point.step for point in connect().get_metric_history(run.run_id, "loss")] == [1, 2]
    assert found.data.tags["dvc.stage"] == "train@redcnn"
    assert found.data.tags["dvc.exp_name"] == "brave-exp"
    assert found.data.tags["preset"] == "demo"
    # sha256sum of "features: 8\n"
    assert (
        found.data.tags["config.sha256"] == "b781676b9722365003fa14c95d8243bc32e6979daf03fffef9a3edd7a473d3c9"
    )
    assert found.data.tags["data.sha256"] == DIGEST
    assert found.inputs.dataset_inputs[0].dataset.digest == DIGEST[:36]
    kept = project / ".ldct" / "mlartifacts" / run.run_id / "artifacts" / "tables" / "curves.csv"
    assert kept.read_text() == "step,loss\n"


def test_git_commit_and_dirtiness_are_tagged(project):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", "add", "redcnn.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tracking.start_run(**settings()) as clean:
        (project / "redcnn.yaml").write_text("features: 9\n")
    with tracking.start_run(**settings()) as dirty:
        pass
    assert stored(clean.run_id).data.tags["git.sha"] == sha
    assert stored(clean.run_id).data.tags["git.dirty"] == "false"
    assert stored(dirty.run_id).data.tags["git.dirty"] == "true"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("nan"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_how_a_run_ends(project, error, status):
    with pytest.raises(type(error)), tracking.start_run(**settings()) as run:
        raise error
    assert stored(run.run_id).info.status == status


def test_sigterm_ends_the_run_as_killed_and_the_handler_is_restored(project):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving, tracking.start_run(**settings()) as run:
        signal.raise_signal(signal.SIGTERM)
    assert leaving.value.code == 143
    assert stored(run.run_id).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_run_is_resumed_and_a_vanished_one_is_not(project):
    with pytest.raises(KeyboardInterrupt), tracking.start_run(**settings()) as first:
        raise KeyboardInterrupt
    with tracking.start_run(**settings(), resume_run_id=first.run_id) as again:
        assert stored(again.run_id).info.status == "RUNNING"
    assert again.run_id == first.run_id
    assert stored(again.run_id).info.status == "FINISHED"
    with tracking.start_run(**settings(), resume_run_id="0" * 32) as new:
        pass
    assert new.run_id not in ("0" * 32, first.run_id)


def test_a_run_is_reopened_and_keeps_its_status(project):
    with tracking.start_run(**settings()) as run:
        tracking.write_run_json(run, project / "run.json")
    with tracking.reopen_run(project / "run.json", **settings(stage="evaluate@redcnn")) as again:
        again.log_metrics({"test/psnr": 33.0})
        assert stored(run.run_id).info.status == "FINISHED"
    assert again.run_id == run.run_id
    assert stored(run.run_id).data.metrics == {"test/psnr": 33.0}
    assert stored(run.run_id).data.tags["dvc.stage"] == "train@redcnn"


def test_a_vanished_run_is_restored_once(project):
    (project / "run.json").write_text(json.dumps({"run_id": "f" * 32}))
    with tracking.reopen_run(project / "run.json", **settings()) as stand_in:
        pass
    assert stored(stand_in.run_id).data.tags["dvc.restored"] == "true"
    with tracking.reopen_run(project / "run.json", **settings()) as again:
        pass
    assert again.run_id == stand_in.run_id


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_run_file_is_named(project, text):
    (project / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json: not a run file"):  # noqa: SIM117
        with tracking.reopen_run(project / "run.json", **settings()):
            pass


def test_off_does_nothing_and_imports_no_mlflow(bare_project):
    code = (
        "import sys; from pathlib import Path; from pipeline import tracking as t\n"
        "with t.start_run(experiment='e', name='n', stage='s', config=Path('gone'), data_digest='') as run:\n"
        "    run.log_params({'a': 1}); run.log_metrics({'b': 2}); run.set_tags({'c': 'd'})\n"
        "    t.write_run_json(run, Path('run.json'))\n"
        "settings = dict(experiment='e', name='n', stage='s', config=Path('gone'), data_digest='')\n"
        "with t.reopen_run(Path('run.json'), **settings):\n"
        "    pass\n"
        "assert t.champion('denoiser') is None\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    repository = str(Path(__file__).parent.parent)
    environment = {**os.environ, "LDCT_TRACKING": "off", "PYTHONPATH": repository}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert json.loads((bare_project / "run.json").read_text()) == {"run_id": None}
    assert not (bare_project / ".ldct").exists()


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def register(
    score,
    *,
    model,
    name="redcnn",
    higher=True,
    convention="psnr/redcnn",
    data_digest=DIGEST,
    phantoms_alone=False,
):
    bundle = Path("bundle.safetensors")
    bundle.write_text(model)
    with tracking.start_run(**settings(name=name)) as run:
        return tracking.register_bundle(
            run,
            bundle,
            kind="denoiser",
            model_hash=sha256(model),
            score=score,
            higher_is_better=higher,
            convention=convention,
            data_digest=data_digest,
            phantoms_alone=phantoms_alone,
        )


def champion_text() -> str:
    path = tracking.champion("denoiser")
    assert path is not None
    return path.read_text()


def test_only_a_better_score_moves_the_champion(project):
    assert tracking.champion("denoiser") is None
    assert register(float("nan"), model="diverged") == "1"
    assert tracking.champion("denoiser") is None
    assert register(30.0, model="first") == "2"
    assert champion_text() == "first"
    register(29.0, model="worse")
    register(30.0, model="equal")
    assert champion_text() == "first"
    register(31.0, model="better")
    assert champion_text() == "better"
    register(30.5, model="lower", higher=False)
    assert champion_text() == "lower"
    assert tracking.champion("segmenter") is None


def test_the_same_weights_make_no_second_version(project):
    assert [register(30.0, model="same") for _ in range(2)] == ["1", "1"]
    version = connect().get_model_version("ldct-denoiser", "1")
    assert version.tags == {
        "model_hash": sha256("same"),
        "score": "30.0",
        "convention": "psnr/redcnn",
        "data.sha256": DIGEST,
        "phantoms_alone": "no",
        "run": "redcnn",
    }


def describe(*, model):
    """Make a card in a run of its own and describe the version with it; the run."""
    page, pictures = Path("docs/card.md"), Path("docs/card/pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    page.write_text("![](card/pictures/gain.png)\n")
    (pictures / "gain.png").write_text("drawn")
    with tracking.start_run(**settings(name="card-demo")) as run:
        tracking.log_card(run, page, pictures)
        tracking.describe_bundle(
            run,
            kind="denoiser",
            model_hash=sha256(model),
            description="It is good.",
            page=page,
            pictures=pictures,
        )
    return run


def check_where_the_card_is(project, run_id):
    """Version 1 names this run's copy of the card, and the copy is whole."""
    version = connect().get_model_version("ldct-denoiser", "1")
    uri, digest = f"runs:/{run_id}/card/card.md", sha256("![](card/pictures/gain.png)\n")
    kept = project / ".ldct" / "mlartifacts" / run_id / "artifacts" / "card"
    assert (version.tags["card.uri"], version.tags["card.sha256"]) == (uri, digest)
    assert version.description == (
        f"It is good.\n\nThe whole card, with its pictures: `{uri}` (SHA-256 of the page: `{digest}`)"
    )
    assert sha256((kept / "card.md").read_text()) == digest
    assert (kept / "card" / "pictures" / "gain.png").read_text() == "drawn"


def test_a_version_leads_to_the_card_in_its_own_run(project):
    register(30.0, model="first")
    own = connect().get_model_version("ldct-denoiser", "1").run_id
    for _ in range(2):  # as after another evaluation
        assert describe(model="first").run_id != own
        check_where_the_card_is(project, own)
    assert stored(own).info.status == "FINISHED"


def test_the_card_stays_in_the_run_that_made_it_where_the_own_one_is_gone(project):
    register(30.0, model="first")
    connect().delete_run(connect().get_model_version("ldct-denoiser", "1").run_id)
    check_where_the_card_is(project, describe(model="first").run_id)


def test_a_bundle_that_is_not_registered_here_is_not_described(project, caplog):
    register(30.0, model="first")
    describe(model="other")
    assert "card.uri" not in connect().get_model_version("ldct-denoiser", "1").tags
    assert not caplog.records


@pytest.mark.parametrize("change", [{"convention": "psnr/full"}, {"data_digest": "e" * 64}])
def test_another_convention_or_other_data_keeps_the_champion_and_says_so(project, caplog, change):
    register(30.0, model="first")
    register(50.0, model="other", **change)
    assert champion_text() == "first"
    assert "ldct-denoiser: version 1 stays champion" in caplog.text
    assert "move the alias 'champion'" in caplog.text


def test_a_champion_that_saw_phantoms_alone_gives_way_and_is_passed_over(project, caplog):
    register(50.0, model="smoke", phantoms_alone=True)
    register(40.0, model="worse", phantoms_alone=True)
    assert champion_text() == "smoke"
    register(30.0, model="demo", data_digest="e" * 64, phantoms_alone=True)
    assert champion_text() == "demo"
    caplog.clear()
    assert tracking.champion("denoiser", phantoms_alone=False) is None
    assert "version 3 (run redcnn, psnr/redcnn 30, data eeeeeeeeeeee): passed over, it saw ph" in caplog.text
    register(20.0, model="own", name="demo-chest", data_digest="f" * 64)
    register(70.0, model="demo again", data_digest="f" * 64, phantoms_alone=True)
    caplog.clear()
    path = tracking.champion("denoiser", phantoms_alone=False)
    assert path is not None
    assert path.read_text() == "own"
    (record,) = caplog.records
    assert record.getMessage() == (
        "champion of ldct-denoiser: version 4 (run demo-chest, psnr/redcnn 20, data ffffffffffff)"
    )


def test_a_server_cannot_choose_where_its_champion_is_written(project):
    version = SimpleNamespace(
        name="ldct-denoiser", version="1", source="mlflow-artifacts:/a/b", tags={"model_hash": "../../x"}
    )
    with pytest.raises(
        TrackingError, match=r"version 1 of ldct-denoiser has the model_hash '\.\./\.\./x', no SHA"
    ):
        registry._local_file(version)


def test_a_champion_whose_file_is_gone_is_an_error(project):
    register(30.0, model="first")
    tracking.champion("denoiser").unlink()
    with pytest.raises(TrackingError, match="the champion of ldct-denoiser is gone"):
        tracking.champion("denoiser")


def test_looking_for_a_champion_makes_no_store(bare_project):
    assert tracking.champion("denoiser") is None
    assert not (bare_project / ".ldct").exists()


def test_no_user_host_or_folder_name_is_tracked_as_a_tag(project):
    with tracking.start_run(**settings()) as run:
        pass
    found = stored(run.run_id)
    assert found.info.user_id == "unknown"
    assert "mlflow.user" not in found.data.tags
    assert not any(str(project) in value for value in found.data.tags.values())


def test_the_root_is_the_nearest_dvc_project_and_never_a_temporary_experiment(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    inner = tmp_path / "a" / "b"
    temporary = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1" / "sub"
    for folder in (inner, temporary):
        folder.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert tracking.project_root() == inner
    (tmp_path / "dvc.yaml").touch()
    assert tracking.project_root() == tmp_path
    monkeypatch.chdir(temporary)
    assert tracking.project_root() == tmp_path
    monkeypatch.setenv("DVC_ROOT", str(temporary))
    assert tracking.project_root() == tmp_path
    assert tracking.store_uri() == f"sqlite:///{tmp_path}/.ldct/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(inner))
    assert tracking.project_root() == inner


def test_a_pipeline_file_of_the_package_is_no_project(tmp_path, monkeypatch):
    """`ldct` started in pipeline/weights, whose dvc.yaml says how the shipped weights are made."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    package = tmp_path / "pipeline" / "weights"
    package.mkdir(parents=True)
    for name in ("dvc.yaml", "__init__.py"):
        (package / name).touch()
    monkeypatch.chdir(package)
    (tmp_path / "dvc.yaml").touch()
    assert tracking.project_root() == tmp_path
    (tmp_path / "dvc.yaml").unlink()
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    secret = secret_path(state, root=tracking.project_root(), apart_from=())
    assert secret == tmp_path / "state" / "ldct" / "secret"


def test_a_copied_project_uses_its_own_files(project, tmp_path, monkeypatch):
    register(30.0, model="first")
    original = tracking.champion("denoiser")
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    monkeypatch.chdir(copy)
    assert tracking.champion("denoiser") == copy / original.relative_to(project)
    register(31.0, model="better")
    assert tracking.champion("denoiser").is_relative_to(copy)
    monkeypatch.chdir(project)
    assert tracking.champion("denoiser") == original


def test_nothing_is_written_outside_the_state_folder(project):
    register(30.0, model="first")
    assert {path.name for path in project.iterdir()} == {".ldct", "redcnn.yaml", "bundle.safetensors"}


def test_a_damaged_store_is_one_line(bare_project):
    (bare_project / ".ldct").mkdir()
    (bare_project / ".ldct" / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(TrackingError) as error:  # noqa: SIM117
        with tracking.start_run(**settings()):
            pass
    assert "mlflow.db: cannot open the store" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dead_server_fails_fast_and_shows_no_password(bare_project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(TrackingError) as error:  # noqa: SIM117
        with tracking.start_run(**settings()):
            pass
    assert "http://127.0.0.1:9: the MLflow server does not answer" in str(error.value)
    assert "LDCT_TRACKING=off" in str(error.value)
    assert "secret" not in store_name()


def test_a_store_that_dies_during_a_run_costs_one_warning(project, caplog):
    with tracking.start_run(**settings()) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        (project / ".ldct" / "mlflow.db").write_bytes(b"")
        for step in range(3):
            run.log_metrics({"loss": 0.5}, step=step)
        version = tracking.register_bundle(
            run,
            Path("bundle"),
            kind="denoiser",
            model_hash="h",
            score=1.0,
            higher_is_better=True,
            convention="c",
            data_digest=DIGEST,
            phantoms_alone=False,
        )
    assert version == ""
    assert caplog.text.count("stopped answering") == 1
    assert len(caplog.records) == 1


FIRST_USE = """
from pathlib import Path
from pipeline import tracking
settings = dict(experiment="e", name="n", stage="s", config=Path("redcnn.yaml"), data_digest="")
with tracking.start_run(**settings) as run:
    run.log_metrics({"a": 1.0})
print(run.run_id)
"""


@pytest.mark.slow
def test_several_processes_may_use_a_new_store_first_and_quietly(bare_project):
    repository = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": repository, "PYTHONWARNINGS": "error"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_USE],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in processes]
    assert [(errors, code) for _, errors, code in ended] == [("", 0)] * 3
    assert len({output for output, _, _ in ended}) == 3


class _NotMlflow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        """Say nothing."""


def test_a_server_that_is_not_mlflow_is_one_line(bare_project, monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), _NotMlflow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(TrackingError, match="cannot open experiment ldct"):  # noqa: SIM117
            with tracking.start_run(**settings()):
                pass
        server.shutdown()


@pytest.fixture
def server(tmp_path):
    """A real MLflow server: (address, process)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = f"sqlite:///{tmp_path}/server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--artifacts-destination", str(tmp_path / "kept"), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}", process
    process.terminate()
    process.wait(timeout=30)


def wait_until_healthy(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):  # noqa: S310
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the MLflow server did not start")


@pytest.mark.slow
def test_a_real_server_keeps_bundles_and_may_die_during_a_run(bare_project, server, monkeypatch, caplog):
    address, process = server
    wait_until_healthy(address)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    register(30.0, model="first")
    assert champion_text() == "first"
    with tracking.start_run(**settings()) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        process.terminate()
        process.wait(timeout=30)
        run.log_metrics({"loss": 0.5}, step=2)
        run.log_metrics({"loss": 0.2}, step=3)
    assert caplog.text.count("stopped answering") == 1
    assert not (bare_project / ".ldct" / "mlflow.db").exists()

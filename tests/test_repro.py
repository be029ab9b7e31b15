"""`dvc repro` on the `smoke` preset: everything is made, nothing runs twice, an edit runs what it touches."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.config import Layout
from tests.conftest import Project

pytestmark = pytest.mark.slow

SMOKE = Layout("smoke")
MODELS = ("redcnn", "unet", "vae", "gan")
LEARNING_RATE = "optim.lr"


def stages_run(log: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", log)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit(project: Project, settings: Path, key: str, value: str) -> None:
    """Change one line of a settings file, as a researcher would."""
    path = project.root / settings
    edited, count = re.subn(rf"(?m)^(\s*{key}:\s*)[^\s#]+", rf"\g<1>{value}", path.read_text())
    assert count == 1
    path.write_text(edited)


def test_every_stage_leaves_what_the_layout_promises(smoke_project: Project) -> None:
    expected = [
        SMOKE.simulated / "factors.csv",
        SMOKE.manifest / "cases.csv",
        SMOKE.cases / "index.csv",
        SMOKE.cases / "fingerprint.json",
        *(SMOKE.bundle(name) for name in MODELS),
        *(SMOKE.model(name) / "run.json" for name in MODELS),
        *(SMOKE.metrics(name) for name in (*MODELS, "task")),
        *(SMOKE.evaluation(name) for name in (*MODELS, "task")),
        SMOKE.report,
    ]
    assert [path for path in expected if not (smoke_project.root / path).exists()] == []
    assert list((smoke_project.root / SMOKE.predictions).rglob("*.dcm"))


def test_repro_leaves_only_the_lock_and_the_scores_for_git(smoke_project: Project) -> None:
    changed = smoke_project.must_run("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert {line[3:] for line in changed} == {
        "dvc.lock",
        *(str(SMOKE.metrics(name)) for name in (*MODELS, "task")),
    }


def test_a_second_repro_runs_nothing(smoke_project: Project) -> None:
    assert stages_run(smoke_project.must_run("dvc", "repro")) == []


def test_the_same_seed_gives_the_same_bytes(smoke_copy: Project) -> None:
    before = contents(smoke_copy.root / SMOKE.simulated)
    smoke_copy.must_run("python", "-m", "pipeline", "simulate")
    assert contents(smoke_copy.root / SMOKE.simulated) == before


def test_an_edited_setting_reruns_what_it_touches_and_mlflow_compares_both(smoke_copy: Project) -> None:
    edit(smoke_copy, SMOKE.config("redcnn"), LEARNING_RATE.rpartition(".")[2], "3e-4")
    rerun = stages_run(smoke_copy.must_run("dvc", "repro"))
    assert rerun[0] == "train@redcnn"
    assert set(rerun) == {"train@redcnn", "evaluate@redcnn", "evaluate@task", "predict", "report"}

    runs = tracked_runs(smoke_copy)
    assert len(runs) == 2
    after, before = runs
    assert float(after["params"][LEARNING_RATE]) == 3e-4
    assert before["params"][LEARNING_RATE] != after["params"][LEARNING_RATE]
    assert before["tags"]["config.sha256"] != after["tags"]["config.sha256"]
    for run in runs:
        assert "validation_psnr_db" in run["metrics"]  # from train
        assert "test/against_normal_dose/redcnn/restored/gain_db" in run["metrics"]  # from evaluate


def test_an_experiment_sets_a_value_from_the_command_line(smoke_copy: Project) -> None:
    setting = f"{SMOKE.config('redcnn')}:{LEARNING_RATE}=2e-4"
    log = smoke_copy.must_run("dvc", "exp", "run", "--set-param", setting, "train@redcnn")
    assert stages_run(log) == ["train@redcnn"]
    assert float(tracked_runs(smoke_copy)[0]["params"][LEARNING_RATE]) == 2e-4


def test_an_unknown_key_is_one_line_and_ends_with_2(smoke_copy: Project) -> None:
    settings = smoke_copy.root / SMOKE.config("redcnn")
    settings.write_text(settings.read_text() + "\nlerning_rate: 1\n")
    done = smoke_copy.run("python", "-m", "pipeline", "train", "redcnn")
    assert done.returncode == 2
    assert done.stderr.startswith(f"ldct: {SMOKE.config('redcnn')}: lerning_rate: unknown key")
    assert done.stderr.count("\n") == 1


def tracked_runs(project: Project) -> list[dict[str, dict[str, str]]]:
    """Runs of RED-CNN in the project's MLflow store, newest first, as a user of MLflow would list them."""
    script = (
        "import json\n"
        "from mlflow import MlflowClient\n"
        "from pipeline.tracking import store_uri\n"
        "client = MlflowClient(store_uri())\n"
        "experiments = [e.experiment_id for e in client.search_experiments()]\n"
        "runs = client.search_runs(experiments, order_by=['attributes.start_time DESC'])\n"
        "print(json.dumps([{'params': r.data.params, 'metrics': r.data.metrics, 'tags': r.data.tags}\n"
        "                  for r in runs if r.data.tags.get('dvc.stage') == 'train@redcnn']))\n"
    )
    listed: list[dict[str, dict[str, str]]] = json.loads(
        project.must_run("python", "-c", script).splitlines()[-1]
    )
    return listed

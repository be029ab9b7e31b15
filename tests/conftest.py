"""Fixtures that several test files share: real images, and a project in which every stage has run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest_plugins = ["tests.crash_reports"]

CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Project:
    """A copy of this checkout with its own git history and DVC cache, on the `smoke` preset."""

    root: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project with this Python first on the PATH; output is captured."""
        return subprocess.run(
            command, cwd=self.root, env=_environment(), capture_output=True, text=True, check=False
        )

    def must_run(self, *command: str) -> str:
        """What a command that has to succeed prints."""
        done = self.run(*command)
        assert done.returncode == 0, (
            f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real CT and hostile DICOM."""
    folder = os.environ.get("LDCT_REAL_DATA")
    if not folder:
        pytest.skip("LDCT_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def smoke_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a real `dvc repro` of the `smoke` preset. Read only: change a `smoke_copy` instead."""
    root = tmp_path_factory.mktemp("smoke") / "project"
    project = new_project(root)
    project.must_run("dvc", "repro")
    return project


@pytest.fixture
def smoke_copy(smoke_project: Project, tmp_path: Path) -> Project:
    """A copy of `smoke_project` that a test may change."""
    root = tmp_path / "project"
    shutil.copytree(smoke_project.root, root, symlinks=True)
    return Project(root)


def new_project(root: Path) -> Project:
    """Copy what git would commit of this checkout, choose the `smoke` preset and commit that."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, root / name)
    (root / "configs" / "preset.yaml").write_text("preset: smoke\n", encoding="utf-8")
    project = Project(root)
    project.must_run("git", "init", "--quiet")
    project.must_run("git", "add", "--all")
    project.must_run("git", "commit", "--quiet", "--message", "As found")
    return project


def _environment() -> dict[str, str]:
    """This environment without what would point a stage elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LDCT_", "MLFLOW_", "DVC_"))
    }
    kept.pop("PYTHONPATH", None)
    identity = {
        f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return kept | identity | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

"""The README: its commands run, in the order in which they stand, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import Layout
from tests.conftest import CHECKOUT, Project

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]

CHEAPER = {
    "make test": "make --dry-run test",  # this very suite
    "configs/demo/": "configs/smoke/",
    "simulate validate": "simulate validate --help",  # minutes; tests/test_validate_dose.py runs it
    "--dose 0.25 --dose 0.1": "--dose 0.25 --flux 2e5 --kernel hann",  # tiny phantoms lack uniform tissue
}
"""What the test runs instead of the words of the README."""


def console_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [
        line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")
    ]


@pytest.mark.slow
def test_the_commands_of_the_readme_run(smoke_copy: Project, tmp_path: Path) -> None:
    """In a project whose environment is set up (a view of this one) and whose stages have run."""
    environment = smoke_copy.root / ".venv"
    environment.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (environment / part).symlink_to(Path(sys.prefix) / part)
    (environment / ".installed").touch()
    shutil.copytree(smoke_copy.root / Layout("smoke").incoming, tmp_path / "scans")
    patient = next((smoke_copy.root / Layout("smoke").simulated).glob("phantom-*"))
    shutil.copytree(patient / "normal_dose", tmp_path / "normal-dose")
    for dose, folder in (("normal_dose", "full_3mm"), ("low_dose", "quarter_3mm")):
        shutil.copytree(patient / dose, tmp_path / "mayo" / folder / "L067")

    script = "\n".join(["set -e", f"export HOME={tmp_path}", *console_commands()])
    for words, instead in CHEAPER.items():
        assert words in script
        script = script.replace(words, instead)
    smoke_copy.must_run("bash", "-c", script)

    assert list((tmp_path / "cleaned").rglob("*.dcm"))
    assert list((tmp_path / "pairs").rglob("dose_0.25/*.dcm"))
    assert (smoke_copy.root / "data_manifests" / "mayo" / "cases.csv").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_to_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_make_help_lists_every_target_of_the_readme() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout
    assert all(f"make {target} " in listed for target in set(re.findall(r"`make (\w+)`", README)))

"""The wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import __version__
from pipeline.dicom import Geometry
from tests.dicom_factory import write_phantom

CHECKOUT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(CHECKOUT)],
        check=True,
        capture_output=True,
    )
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_licence_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "pipeline").rglob("*.py")}
    assert modules <= set(names)
    assert {name.split("/")[0] for name in names} == {"pipeline", f"ldct_pipeline-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "pipeline/weights/denoiser.safetensors" in names


def test_the_wheel_works_in_a_clean_environment_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Installed alone; the libraries of this environment are lent to it, less the checkout's own entry."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    # A folder named in a .pth is searched, but its own .pth files (the editable checkout) are not read.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    where = run(str(python), "-c", "import pipeline.stages.predict as stage; print(stage.__file__)").strip()
    assert Path(where).is_relative_to(packages)
    assert run(str(home / "bin" / "ldct"), "--version") == f"ldct {__version__}\n"
    assert "predict" in run(str(home / "bin" / "ldct"), "--help")
    shape = (4, 128, 128)  # of soft tissue, with noise that can be measured
    hu = 40 + 20 * np.random.default_rng(0).standard_normal(shape)
    grid = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (2.5, 0.8, 0.8), shape)
    write_phantom(hu.astype(np.float32), tmp_path / "scans", grid)
    run(str(home / "bin" / "ldct"), "predict", "scans", "cleaned")
    (record,) = (tmp_path / "cleaned").glob("*/*/series.json")
    assert "denoiser" in record.read_text()


def test_the_lock_pins_every_requirement_and_names_no_place() -> None:
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if "==" not in line or "://" in line or " @ " in line or "+" in line] == []
    assert not any(word in line for line in lines for word in ("://", "-e ", "--index", "/"))

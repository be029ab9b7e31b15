"""Independent programs that judge the DICOM we write: each reads it in its own way, none shares our code."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gdcm
import nibabel
import pytest

_OURS = str(Path(sys.executable).parent)
"""python-gdcm puts namesakes of gdcm's programs here that print nothing; of ours only dcmqi's count."""

_ELSEWHERE = os.pathsep.join(
    place for place in os.environ.get("PATH", "").split(os.pathsep) if place != _OURS
)
_PLACE_OF = {"segimage2itkimage": _OURS}
_START_S, _START_STEP_S = 10.0, 0.02


def judge(tool: str) -> str:
    """Where a tool lies; without it the test skips, or fails where `LDCT_REQUIRE_JUDGES` is 1."""
    path = shutil.which(tool, path=_PLACE_OF.get(tool, _ELSEWHERE))
    if path is not None:
        return path
    if os.environ.get("LDCT_REQUIRE_JUDGES") == "1":
        pytest.fail(f"{tool} is not installed, but LDCT_REQUIRE_JUDGES is 1")
    pytest.skip(f"{tool} is not installed; .ci/run says which package holds it")


def must_run(tool: str, *arguments: object) -> str:
    """What a tool that has to succeed prints."""
    done = _run(tool, *arguments)
    assert done.returncode == 0, f"{tool} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def conformance_errors(path: Path) -> set[str]:
    """What `dciodvfy` calls an error in one file, without the values and numbers that it quotes."""
    return {_normalised(line) for line in _complaints("dciodvfy", path) if line.startswith("Error")}


def inconsistencies(paths: Sequence[Path]) -> set[str]:
    """What `dcentvfy` says of files that should describe one patient, study, series and equipment.

    The lines about DICOMDIR are left out: they are about media, not about agreement.
    """
    lines = _complaints("dcentvfy", *paths)
    return {re.sub(r" for file .*", "", line) for line in lines if "DICOMDIR" not in line}


def nifti_of(files: Sequence[Path], folder: Path) -> nibabel.Nifti1Image:
    """One volume of `files`, made by `dcm2niix`, in the axis order nearest to RAS."""
    shutil.copytree(files[0].parent, folder / "in")  # it takes whole folders only
    must_run("dcm2niix", "-b", "n", "-z", "n", "-m", "y", "-f", "volume", "-o", folder, folder / "in")
    (path,) = folder.glob("*.nii")
    return nibabel.as_closest_canonical(nibabel.load(path))


def gdcm_reader(path: Path) -> gdcm.ImageReader:
    """A file that the library gdcm has read; its image lives no longer than the reader."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read(), f"gdcm cannot read {path.name}"
    return reader


def segment_masks(path: Path, folder: Path) -> tuple[list[nibabel.Nifti1Image], list[str]]:
    """The segments of a DICOM SEG in order, as dcmqi's `segimage2itkimage` sees them, and its warnings."""
    folder.mkdir(parents=True)
    said = must_run(
        "segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nii"
    )
    found = sorted(folder.glob("*.nii*"), key=lambda path: int(path.name.partition(".")[0]))
    return [nibabel.load(path) for path in found], re.findall(r"^[WEF]: .*", said, re.MULTILINE)


@contextmanager
def archive(folder: Path) -> Iterator[int]:
    """A `storescp` on the loopback that keeps what it receives in `folder`; gives its port."""
    program = judge("storescp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    command = [program, "--output-directory", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()


def _run(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [judge(tool), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _complaints(tool: str, *paths: Path) -> list[str]:
    done = _run(tool, *paths)
    return [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))
    ]


def _normalised(line: str) -> str:
    """Without quoted UIDs and values: a derived image has others, and that is no new error."""
    return re.sub(r"<[\d.]+>|= '.*", "", line)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(_START_STEP_S)
        else:
            return
    pytest.fail(f"storescp did not answer within {_START_S:g} s")

"""How long the road takes and how much memory: `python benchmarks/run.py [--preset demo]`.

Works in a scratch copy with an empty cache: nothing is skipped. Writes `benchmarks/results/<preset>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).parents[1]
HELP_REPETITIONS = 5
SAMPLE_SECONDS = 0.2
MIB = 2**20


def main() -> None:
    """Measure a preset, print the numbers and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it, to look around in")
    arguments = parser.parse_args()
    preset = arguments.preset
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        project = arguments.keep or Path(scratch)
        copy_checkout(project, preset)
        with peak_memory() as peak_mib:
            total, stages = time_repro(project)
        unchanged, rerun = time_repro(project)
    if rerun:
        raise SystemExit(f"the second dvc repro ran {', '.join(rerun)}: a stage changes its own dependencies")
    result = {
        "preset": preset,
        "machine": machine(),
        "repro_s": round(total, 1),
        "stages_s": {name: round(seconds, 1) for name, seconds in stages.items()},
        "repro_without_changes_s": round(unchanged, 2),
        "help_s": round(time_help(), 3),
        "peak_memory_mib": round(peak_mib[0]),
    }
    text = json.dumps(result, indent=2) + "\n"
    kept = CHECKOUT / "benchmarks" / "results" / f"{preset}.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(text, encoding="utf-8")
    print(text, end="")


def copy_checkout(project: Path, preset: str) -> None:
    """Copy what git knows and would know, on the chosen preset, with its own git and an empty DVC cache."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if (CHECKOUT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, project / name)
    (project / "configs" / "preset.yaml").write_text(f"preset: {preset}\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)


def time_repro(project: Path) -> tuple[float, dict[str, float]]:
    """Seconds of one `dvc repro`, whole and by stage (each with DVC's own share: hashing and caching)."""
    began = time.perf_counter()
    starts: list[tuple[str, float]] = []
    repro = subprocess.Popen(
        ["dvc", "repro"], cwd=project, env=environment(), stdout=subprocess.PIPE, text=True, bufsize=1
    )
    for line in repro.stdout or ():
        if started := re.match(r"Running stage '([^']+)'", line):
            starts.append((started[1], time.perf_counter()))
            print(f"{starts[-1][1] - began:7.1f} s  {started[1]}", file=sys.stderr)
    if repro.wait():
        raise SystemExit(f"dvc repro ended with {repro.returncode}")
    ended = time.perf_counter()
    moments = [start for _, start in starts] + [ended]
    return ended - began, {name: end - start for (name, start), end in zip(starts, moments[1:], strict=True)}


def time_help() -> float:
    """Seconds of the fastest of a few `ldct --help`."""
    seconds = []
    for _ in range(HELP_REPETITIONS):
        began = time.perf_counter()
        subprocess.run(["ldct", "--help"], env=environment(), stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Largest resident memory of all children together, in MiB (a page that two share counts twice)."""
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def resident_mib() -> float:
    """Resident memory of all children of this process now."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MIB


def environment() -> dict[str, str]:
    """This environment with this Python's programs first and without settings that point elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LDCT_", "MLFLOW_", "DVC_"))
    }
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    names = re.findall(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


if __name__ == "__main__":
    main()

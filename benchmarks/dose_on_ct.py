"""Predicted and achieved noise of real CT at several doses, as the table of docs/dose.md.

    LDCT_REAL_DATA=… python benchmarks/dose_on_ct.py [--keep FOLDER]

Runs `ldct simulate dose` at 50, 25, 10 and 5 % on every DICOM folder below `$LDCT_REAL_DATA/ct` and prints
one line per folder: noise in uniform tissue, and for folders of single slices the median over them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from run import environment

DOSES = (0.5, 0.25, 0.1, 0.05)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="leave the results here, to look at the previews")
    keep = parser.parse_args().keep
    archive = Path(os.environ["LDCT_REAL_DATA"], "ct")
    print("| folder | series | cut-off /mm, boost | photons | normal dose, HU |", end="")
    print("".join(f" {dose:.0%} |" for dose in DOSES) + " achieved over predicted |")
    print("|---" * (6 + len(DOSES)) + "|")
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        for folder in sorted(path for path in archive.rglob("*") if holds_dicom(path)):
            name = folder.relative_to(archive)
            records = simulate(folder, (keep or Path(scratch)) / "_".join(name.parts))
            if records:
                print(row(str(name), records))


def holds_dicom(folder: Path) -> bool:
    """Whether a folder has files other than NIfTI directly in it."""
    return folder.is_dir() and any(
        path.is_file() and path.suffix not in {".gz", ".nii", ".md"} for path in folder.iterdir()
    )


def simulate(source: Path, target: Path) -> list[dict[str, Any]]:
    """The records of all series with partners and a measured noise."""
    doses = [word for dose in DOSES for word in ("--dose", str(dose))]
    command = [sys.executable, "-m", "pipeline", "simulate", "dose", str(source), str(target), *doses]
    subprocess.run(command, env=environment(), check=False, stdout=sys.stderr)
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(target.glob("*/*/series.json"))
    ]
    return [record for record in records if record["noise_sd_hu"]["before"] is not None]


def row(name: str, records: list[dict[str, Any]]) -> str:
    """One line of the table."""
    simulated = [record["simulated"] for record in records]
    kernel = f"{median(simulated, 'kernel_cutoff_per_mm'):.2f}, {median(simulated, 'kernel_boost'):.1f}"
    before = statistics.median(record["noise_sd_hu"]["before"] for record in records)
    cells = [name, str(len(records)), kernel, f"{median(simulated, 'photons_per_ray'):.2g}", f"{before:.1f}"]
    ratios = []
    for number in range(len(DOSES)):
        doses = [one["doses"][number] for one in simulated]
        cells.append(f"{median(doses, 'achieved_sd_hu'):.1f} ({median(doses, 'predicted_sd_hu'):.1f})")
        ratios += [dose["achieved_sd_hu"] / dose["predicted_sd_hu"] for dose in doses]
    cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
    return "| " + " | ".join(cells) + " |"


def median(records: list[dict[str, Any]], key: str) -> float:
    """Median of one value."""
    return statistics.median(record[key] for record in records)


if __name__ == "__main__":
    main()

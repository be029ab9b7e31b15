"""What a run over a folder says on the terminal."""

import subprocess
import sys

import pytest

from pipeline.dicom import Verdict
from pipeline.inference.outcomes import Outcome
from pipeline.inference.terminal import Terminal
from tests.batch_cases import run
from tests.predict_cases import Copying, write_sources


def outcome_of(series=None, *, verdict="done", codes=(), message="", place=""):
    return Outcome(
        study=series and "study-1",
        series=series,
        verdict=Verdict(verdict),
        reason_codes=codes,
        files=1,
        message=message,
        place=place,
    )


def test_a_line_tells_where_the_series_lies(tmp_path, capsys):
    source = write_sources(tmp_path / "in", "ab")
    (source / "b").rename(source / "odd\x1b[2J")
    with Terminal("predict") as terminal:
        run(source, tmp_path / "out", Copying(), observer=terminal)
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.endswith("  files: 3  a")
    assert second.endswith(r"  files: 3  odd\x1b[2J")
    assert "odd" not in "".join(path.read_text() for path in (tmp_path / "out").glob("[js]*.*"))


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_tells_how_far_it_came(capsys, ending):
    with pytest.raises(ending), Terminal("predict") as terminal:  # noqa: PT012
        terminal.planned(9, 3)
        terminal.settled(outcome_of("series-1"))
        terminal.settled(outcome_of("series-2", verdict="failed"))
        raise ending
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "1 of 3 series done; run the same command again to go on"


@pytest.mark.parametrize(("number", "lines"), [(20, 20), (21, 1)])
def test_many_stray_files_share_a_line(capsys, number, lines):
    with Terminal("predict") as terminal:
        for one in range(number):
            name = f"{one}.dcm"
            terminal.settled(
                outcome_of(verdict="failed", codes=("UNREADABLE",), message=f"{name}: empty", place=name)
            )
        terminal.planned(0, 0)
        *printed, last = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len([*printed, last]) == lines
    summed_up = "failed    file  files: 21  UNREADABLE 0.dcm, 1.dcm, 2.dcm and 18 more"
    assert last == (summed_up if lines == 1 else "failed    file  files: 1  19.dcm  UNREADABLE 19.dcm: empty")


def test_a_linked_folder_is_passed_over_in_a_line_and_other_skipped_files_in_none(capsys):
    with Terminal("predict") as terminal:
        terminal.settled(outcome_of(verdict="skipped", codes=("NOT_DICOM",), message="a.txt: no DICOM"))
        terminal.settled(outcome_of(verdict="skipped", codes=("LINKED_FOLDER",), message="b: a link"))
    assert capsys.readouterr().out.splitlines() == [
        "skipped   file  files: 1  LINKED_FOLDER b: a link",
        "predict: 2 skipped",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["| true", "> /dev/full"])
def test_lines_that_cannot_be_printed_end_no_run(tmp_path, output):
    write_sources(tmp_path / "in", "abc")
    ldct = f"sleep 1; '{sys.executable}' -m tests.restart_runs show '{tmp_path / 'in'}' '{tmp_path / 'out'}'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({ldct}) {output}"], capture_output=True, text=True, check=False
    )
    assert len(list(tmp_path.glob("out/*/*/series.json"))) == 3
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ldct: no more is shown (")


def test_waiting_is_said_in_one_line(capsys):
    with Terminal("predict") as terminal:
        terminal.waiting(2)
    assert capsys.readouterr().out == "waiting for another run, which works on 2 of the series\n"

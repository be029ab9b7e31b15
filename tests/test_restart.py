"""Runs that are killed, repeated, run side by side, or meet a world that changes under them."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.errors import DataError
from pipeline.inference import series_run
from pipeline.inference.outcomes import exit_code
from pipeline.inference.output import views
from pipeline.inference.output.journal import MARKER, open_target
from pipeline.inference.output.locks import series_lock, target_lock
from pipeline.inference.terminal import Terminal
from pipeline.inference.treatment import UnfitSeriesError
from tests import restart_runs
from tests.batch_cases import run, the_series, tree
from tests.predict_cases import NOW, Copying, Silent, write_sources

WAIT_S = 60
KILLS = 12
TMPFS_KB = 300


def contents(folder):
    """Bytes of every file by its name, seconds of the records left out."""
    return {
        name: re.sub(rb'"timings_s": \{[^}]*\}', b"", path.read_bytes())
        for name, path in tree(folder).items()
    }


def start(function, *arguments):
    process = restart_runs.server().Process(target=function, args=arguments)
    process.start()
    return process


def files_below(folder):
    """How many there are, while others come and go."""
    return sum(len(files) for _, _, files in os.walk(folder))


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_any_moment_a_run_is_brought_to_its_end_by_the_next(tmp_path):
    source = write_sources(tmp_path / "in", "adgjmps", slices=2)
    write_sources(source, "bcefhiklnoqrt", slices=1)  # no volumes, so no segmentation, which takes most time
    undisturbed = tmp_path / "undisturbed"
    reference = start(restart_runs.predict, source, undisturbed)
    reference.join()
    expected = contents(undisturbed)
    assert reference.exitcode == 0
    assert len(list(undisturbed.glob("*/*/series.json"))) == 20
    assert {Path(name).suffix for name in expected} >= {".dcm", ".png", ".nii", ".json"}

    def kill_and_rerun(number):
        target = tmp_path / f"killed {number}"
        process = start(restart_runs.predict, source, target)
        files = np.random.default_rng(number).integers(len(expected))
        wait_until(lambda: files_below(target) >= files or not process.is_alive())
        process.kill()
        process.join()
        finished = len(list(target.glob("*/*/series.json")))
        again = start(restart_runs.predict, source, target)
        again.join()
        same = contents(target) == expected
        shutil.rmtree(target)
        return process.exitcode, finished, again.exitcode, same

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(kill_and_rerun, range(KILLS)))
    assert [(code, same) for _, _, code, same in results] == [(0, True)] * KILLS
    midway = [finished for code, finished, *_ in results if code == -signal.SIGKILL and finished < 20]
    assert len(midway) >= KILLS // 2
    assert len(set(midway)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir"])
def test_killed_before_each_step_to_the_disk_a_run_is_brought_to_its_end_by_the_next(tmp_path, step):
    """Two series that an earlier run did with another setting are done again; the kill comes ever later."""
    source = write_sources(tmp_path / "in", "ab")
    run(source, tmp_path / "undisturbed", Copying(setting=1))
    expected = contents(tmp_path / "undisturbed")
    codes = []
    while not codes or codes[-1] != 0:
        target = tmp_path / f"killed {len(codes)}"
        run(source, target, Copying(setting=0))
        killed = start(restart_runs.copy_until, step, len(codes), source, target, Copying(setting=1))
        killed.join()
        codes.append(killed.exitcode)
        run(source, target, Copying(setting=1))
        assert contents(target) == expected
    assert codes[:-1] == [-signal.SIGKILL] * len(codes[:-1])
    assert len(codes) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_two_runs_at_once_do_every_series_once(tmp_path, workers):
    source = write_sources(tmp_path / "in", "abcdefghijkl")
    treatment = Copying(log=tmp_path / "log", pause_s=0.02)
    both = [
        start(restart_runs.copy, source, tmp_path / "out", treatment, {"workers": workers}) for _ in range(2)
    ]
    for process in both:
        process.join(WAIT_S)
    assert [process.exitcode for process in both] == [0, 0]
    treated = Counter((tmp_path / "log").read_text().split())
    assert sorted(treated) == sorted(path.parent.name for path in tmp_path.glob("out/*/*/series.json"))
    assert set(treated.values()) == {1}
    assert len(treated) == 12
    run(source, tmp_path / "alone", Copying())
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_runs_that_start_at_once_get_one_clock(tmp_path):
    together = threading.Barrier(6)

    def open_at_once(target, number):
        together.wait()
        return open_target(target, now=NOW + timedelta(days=number), key_id="k", command="predict")

    with ThreadPoolExecutor(6) as pool:
        for round_number in range(20):
            target = tmp_path / str(round_number)
            markers = list(pool.map(lambda number, at=target: open_at_once(at, number), range(6)))
            assert len({marker.started for marker in markers}) == 1
            assert sorted(path.name for path in target.iterdir()) == [MARKER, ".lock", ".locks"]


def test_a_series_of_another_run_is_waited_for_and_then_found_done(tmp_path):
    source = write_sources(tmp_path / "in", "abc")
    treatment = Copying(log=tmp_path / "log")
    held = run(source, tmp_path / "reference", treatment)[1].series
    (tmp_path / "log").unlink()
    observer = Silent()
    run(write_sources(tmp_path / "first", "a"), tmp_path / "out", treatment)
    with ThreadPoolExecutor(1) as pool:
        with series_lock(tmp_path / "out", held) as is_ours:
            assert is_ours
            other = pool.submit(run, source, tmp_path / "out", treatment, observer=observer)
            wait_until(lambda: observer.waited_for)
            assert not other.done()
            assert (observer.waited_for, observer.seen) == ([1], 6)
        outcomes = other.result(WAIT_S)
    assert (observer.waited_for, observer.seen) == ([1], observer.total)
    assert outcomes[-1].series == held
    assert (tmp_path / "log").read_text().split().count(held) == 1


@pytest.mark.slow
def test_a_run_that_dies_frees_its_series_for_the_one_that_waits(tmp_path):
    source = write_sources(tmp_path / "in", "a")
    dying = start(restart_runs.copy, source, tmp_path / "out", Copying(pause_s=WAIT_S))
    wait_until(lambda: list(tmp_path.glob("out/.staging/*/copies/*")))
    observer = Silent()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, source, tmp_path / "out", Copying(), observer=observer)
        wait_until(lambda: observer.waited_for)
        dying.kill()
        (outcome,) = waiting.result(WAIT_S)
    assert (outcome.verdict, outcome.reused) == ("done", False)
    assert not (tmp_path / "out" / ".staging").exists()


def test_a_run_leaves_what_another_is_staging(tmp_path):
    both = write_sources(tmp_path / "in", "ab")
    run(both, tmp_path / "reference", Copying())
    only_a = write_sources(tmp_path / "only", "a")
    (other,) = {path.parent.name for path in tmp_path.glob("reference/*/*/series.json")} - {
        outcome.series for outcome in run(only_a, tmp_path / "out", Copying())
    }
    staged = tmp_path / "out" / ".staging" / other / "half.dcm"
    staged.parent.mkdir(parents=True)
    staged.touch()
    with series_lock(tmp_path / "out", other):
        run(only_a, tmp_path / "out", Copying())
        assert staged.exists()
    run(only_a, tmp_path / "out", Copying())
    assert not staged.parent.parent.exists()


def test_a_result_that_was_about_to_be_replaced_is_not_lost(tmp_path):
    """Killed between the two renames, and the series is not in the input of the next run."""
    source = write_sources(tmp_path / "in", "a")
    run(source, tmp_path / "out", Copying())
    series = the_series(tmp_path / "out")
    expected = contents(series)
    (tmp_path / "out" / ".staging").mkdir()
    series.rename(tmp_path / "out" / ".staging" / f"{series.name}.replaced")
    run(write_sources(tmp_path / "other", "b"), tmp_path / "out", Copying())
    assert contents(series) == expected
    assert not (tmp_path / "out" / ".staging").exists()


def test_views_are_written_one_run_at_a_time(tmp_path):
    source = write_sources(tmp_path / "in", "a")
    run(source, tmp_path / "out", Copying())
    before = (tmp_path / "out" / "journal.jsonl").stat().st_mtime_ns
    settled, lock_is_taken = threading.Event(), threading.Event()

    class Told(Silent):
        def settled(self, _):
            settled.set()
            assert lock_is_taken.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, source, tmp_path / "out", Copying(setting=1), observer=Told())
        assert settled.wait(WAIT_S)
        with target_lock(tmp_path / "out"):
            lock_is_taken.set()
            time.sleep(0.3)
            assert not other.done()
            assert (tmp_path / "out" / "journal.jsonl").stat().st_mtime_ns == before
        other.result(WAIT_S)
    assert (tmp_path / "out" / "journal.jsonl").stat().st_mtime_ns > before


def unchanged(_):
    """Nothing happens between two runs."""


def lose_an_output(out):
    next((the_series(out) / "copies").iterdir()).unlink()


def cut_an_output(out):
    path = next((the_series(out) / "copies").iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_byte(path):
    """The content alone changes, and neither size nor time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_a_byte_of_an_output(out):
    flip_a_byte(next((the_series(out) / "copies").iterdir()))


def flip_a_byte_of_a_source(out):
    flip_a_byte(next((out.parent / "in" / "a").iterdir()))


def touch_a_source(out):
    next((out.parent / "in" / "a").iterdir()).touch()


def damage_the_record(out):
    record = the_series(out) / "series.json"
    record.write_text(record.read_text().replace('"shape": [', '"shape": ["x",'))


@pytest.mark.parametrize(
    ("change", "redone", "redone_with_verify"),
    [
        (unchanged, False, False),
        (lose_an_output, True, True),
        (cut_an_output, True, True),
        (flip_a_byte_of_an_output, False, True),
        (flip_a_byte_of_a_source, False, True),
        (touch_a_source, True, True),
        (damage_the_record, True, True),
    ],
)
@pytest.mark.parametrize("verify", [False, True])
def test_what_differs_is_done_again_and_nothing_else(tmp_path, change, redone, redone_with_verify, verify):
    source = write_sources(tmp_path / "in", "a")
    out = tmp_path / "out"
    run(source, out, Copying())
    inode = the_series(out).stat().st_ino
    change(out)
    (outcome,) = run(source, out, Copying(), verify=verify)
    expected = redone_with_verify if verify else redone
    assert (outcome.reused, the_series(out).stat().st_ino == inode) == (not expected, not expected)
    if expected:
        copied = [path.read_bytes() for path in sorted((the_series(out) / "copies").iterdir())]
        assert copied == [path.read_bytes() for path in sorted((source / "a").iterdir())]
        assert run(source, out, Copying(), verify=True)[0].reused


def test_another_setting_is_done_again(tmp_path):
    source = write_sources(tmp_path / "in", "a")
    run(source, tmp_path / "out", Copying(setting=1))
    assert not run(source, tmp_path / "out", Copying(setting=2))[0].reused
    assert run(source, tmp_path / "out", Copying(setting=2))[0].reused


@dataclass(frozen=True, kw_only=True)
class Ending(Copying):
    """Finishes no series."""

    error: Exception

    def treat(self, *_, **__):
        raise self.error


REFUSED = Ending(setting=1, error=UnfitSeriesError("UNFAMILIAR", "unlike the training"))
FAILED = Ending(setting=1, error=DataError("reads back differently"))


def in_place(_):
    """The earlier result lies where it belongs."""


def killed_as_it_was_replaced(out):
    (out / ".staging").mkdir()
    the_series(out).rename(out / ".staging" / f"{the_series(out).name}.replaced")


def killed_as_it_was_withdrawn(out):
    (out / ".staging").mkdir()
    the_series(out).rename(out / ".staging" / f"{the_series(out).name}.withdrawn")


@pytest.mark.parametrize("state", [in_place, killed_as_it_was_replaced, killed_as_it_was_withdrawn])
def test_a_series_refused_now_has_no_earlier_result(tmp_path, state):
    source, out = write_sources(tmp_path / "in", "a"), tmp_path / "out"
    run(source, out, Copying())
    state(out)
    (outcome,) = run(source, out, REFUSED)
    assert (outcome.verdict, outcome.reason_codes) == ("refused", ("UNFAMILIAR",))
    assert outcome.message == "unlike the training"
    assert not [*out.glob("study-*/*"), *out.glob(".staging")]
    assert json.loads((out / "summary.json").read_text())["verdicts"] == {"refused": 1}


def test_a_series_refused_from_its_headers_now_has_no_earlier_result_and_the_others_do(tmp_path):
    source, out = write_sources(tmp_path / "in", "ab"), tmp_path / "out"
    run(source, out, Copying())
    for path in (source / "a").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleType = "OD"
        dataset.save_as(path)
    outcomes = run(source, out, Copying())
    assert sorted((one.verdict, one.reason_codes) for one in outcomes) == [
        ("done", ()),
        ("refused", ("NOT_HU",)),
    ]
    (kept,) = out.glob("study-*/*")
    assert [kept.name] == [one.series for one in outcomes if one.verdict == "done"]


@pytest.mark.parametrize("state", [in_place, killed_as_it_was_replaced])
def test_the_earlier_result_of_a_series_that_fails_now_is_kept_and_told(tmp_path, state):
    source, out = write_sources(tmp_path / "in", "a"), tmp_path / "out"
    run(source, out, Copying())
    expected = contents(the_series(out))
    state(out)
    (outcome,) = run(source, out, FAILED)
    assert (outcome.verdict, outcome.message) == (
        "failed",
        "reads back differently; the earlier result is kept",
    )
    assert contents(the_series(out)) == expected
    _, line = (out / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["reason_codes"] == ["UNEXPECTED_ERROR", "EARLIER_RESULT"]
    page = (out / "journal.html").read_text()
    assert all(code in page for code in ("UNEXPECTED_ERROR", "EARLIER_RESULT", "an earlier run is kept"))
    (again,) = run(source, out, Copying())
    assert (again.reused, again.reason_codes) == (True, ())


def test_a_series_that_fails_without_an_earlier_result_tells_of_none(tmp_path):
    (outcome,) = run(write_sources(tmp_path / "in", "a"), tmp_path / "out", FAILED)
    assert outcome.reason_codes == ("UNEXPECTED_ERROR",)


def test_a_folder_of_an_older_schema_is_refused_in_one_line(tmp_path):
    source = write_sources(tmp_path / "in", "a")
    marker = {"ldct_predict": 1, "started": NOW.isoformat(), "key_id": "k"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(json.dumps(marker))
    with pytest.raises(DataError, match="written with schema 1, this version of ldct predict writes 2; name"):
        run(source, tmp_path / "out", Copying())


class Changing(Silent):
    """Changes a source file once all headers have been read."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def planned(self, slices, series):
        super().planned(slices, series)
        self._change()


def replace_with_another(path):
    part = path.with_name("other")
    part.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    part.replace(path)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (Path.unlink, "SOURCE_VANISHED", "gone since the run began; bring it back, run again"),
        (Path.touch, "SOURCE_CHANGED", "changed since the run began; run again"),
        (lambda path: os.truncate(path, 700), "SOURCE_CHANGED", "changed since the run began; run again"),
        (replace_with_another, "SOURCE_CHANGED", "changed since the run began; run again"),
    ],
)
def test_a_source_that_changes_underneath_fails_its_series_alone(tmp_path, change, code, message):
    source = write_sources(tmp_path / "in", "abc")
    victim = sorted((source / "b").iterdir())[1]
    observer = Changing(lambda: change(victim))
    outcomes = run(source, tmp_path / "out", Copying(), observer=observer)
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    assert [(one.reason_codes, one.message) for one in failed] == [((code,), f"{victim.name}: {message}")]
    assert (exit_code(outcomes), observer.seen) == (3, observer.total)
    assert len(list(tmp_path.glob("out/*/*/series.json"))) == 2
    assert not (tmp_path / "out" / ".staging").exists()
    again = run(source, tmp_path / "out", Copying())
    assert sum(outcome.reused for outcome in again) == 2


def test_a_source_that_changes_while_it_is_read_gives_no_result(tmp_path, monkeypatch):
    source = write_sources(tmp_path / "in", "a")
    treat = Copying.treat

    def treat_and_touch(self, entry, folder, **options):
        measured = treat(self, entry, folder, **options)
        entry.files[0].touch()
        return measured

    monkeypatch.setattr(Copying, "treat", treat_and_touch)
    (outcome,) = run(source, tmp_path / "out", Copying())
    assert outcome.reason_codes == ("SOURCE_CHANGED",)
    assert not list(tmp_path.glob("out/*/*/series.json"))


def no_space(path, *_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_no_space_for_a_record_fails_its_series_alone(tmp_path, monkeypatch):
    source = write_sources(tmp_path / "in", "ab")
    write, records = series_run.write_json, []

    def first_fails(path, content):
        records.append(path)
        if len(records) == 1:
            no_space(path)
        write(path, content)

    monkeypatch.setattr(series_run, "write_json", first_fails)
    outcomes = run(source, tmp_path / "out", Copying())
    assert [outcome.reason_codes for outcome in outcomes] == [("DISK_FULL",), ()]
    assert exit_code(outcomes) == 3
    assert not (tmp_path / "out" / ".staging").exists()


def test_no_space_is_recognised_behind_another_error(tmp_path, monkeypatch):
    source = write_sources(tmp_path / "in", "a")

    def fail(self, entry, folder, **options):
        try:
            no_space(folder)
        except OSError:
            raise RuntimeError("a library's own words") from None

    monkeypatch.setattr(Copying, "treat", fail)
    assert run(source, tmp_path / "out", Copying())[0].reason_codes == ("DISK_FULL",)


@pytest.mark.parametrize("view", ["journal.jsonl", "summary.json", "journal.html"])
def test_no_space_for_a_view_is_one_line_at_the_end_and_what_is_finished_stays(
    tmp_path, monkeypatch, capsys, view
):
    source = write_sources(tmp_path / "in", "ab")
    run(source, tmp_path / "out", Copying(setting=1))
    before = (tmp_path / "out" / view).read_bytes()
    with monkeypatch.context() as patched:
        for name in ("write_text", "write_json"):
            write = getattr(views, name)
            patched.setattr(
                views,
                name,
                lambda path, content, write=write: (no_space if path.name == view else write)(path, content),
            )
        with Terminal("predict") as terminal:
            outcomes = run(source, tmp_path / "out", Copying(setting=2), observer=terminal)
    *_, line, totals = capsys.readouterr().out.splitlines()
    assert line == (
        f"failed    journal  VIEWS_NOT_WRITTEN {tmp_path / 'out'}: cannot write here "
        "(No space left on device); what is finished stays, run again"
    )
    assert totals == "predict: 2 done, 1 failed"
    assert exit_code(outcomes) == 3
    assert (tmp_path / "out" / view).read_bytes() == before
    assert [outcome.reused for outcome in run(source, tmp_path / "out", Copying(setting=2))] == [True, True]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_a_disk_that_is_full_or_read_only(tmp_path):
    """On a small file system of its own: three series of four fit."""
    source = write_sources(tmp_path / "in", "abc")
    write_sources(source, "z", slices=120)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={TMPFS_KB}k none '{disk}'"
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*private, mount], check=False).returncode != 0:
        pytest.skip("no file systems can be mounted here, not even in a namespace of their own")
    runs = f"{mount} && exec '{sys.executable}' -m tests.restart_runs '{source}' '{disk}'"
    told = subprocess.run([*private, runs], check=True, capture_output=True, text=True).stdout
    fits, no_byte, freed, turned_read_only, read_only, writable = json.loads(told)
    all_but_one = [["done"]] * 3 + [["failed", "DISK_FULL"]]
    assert (fits["outcomes"], fits["exit code"]) == (all_but_one, 3)
    assert fits["messages"] == ["no space left for the results; free some and run again"]
    assert no_byte["outcomes"] == [
        ["failed", "DISK_FULL"],
        *[["failed", "DISK_FULL", "EARLIER_RESULT"]] * 3,
        ["failed", "VIEWS_NOT_WRITTEN"],
    ]
    assert (no_byte["exit code"], no_byte["files"]) == (1, fits["files"])
    assert (freed["outcomes"], freed["kept"], freed["files"]) == (all_but_one, 3, fits["files"])
    assert turned_read_only["outcomes"] == [
        ["done"],
        ["failed", "NOT_WRITABLE"],
        *[["failed", "NOT_WRITABLE", "EARLIER_RESULT"]] * 2,
        ["failed", "VIEWS_NOT_WRITTEN"],
    ]
    assert turned_read_only["messages"] == [
        f"{disk}/out: cannot write here (Read-only file system); make it writable and run again",
        f"{disk}/out: cannot write here (Read-only file system); make it writable and run again; "
        "the earlier result is kept",
        f"{disk}/out: cannot write here (Read-only file system); what is finished stays, run again",
    ]
    assert (turned_read_only["exit code"], turned_read_only["files"]) == (3, fits["files"])
    assert read_only == {
        "error": f"{disk}/out: cannot write here (Read-only file system); name another folder"
    }
    assert (writable["outcomes"], writable["kept"], writable["files"]) == (all_but_one, 1, fits["files"])


def test_results_removed_underneath_end_the_run_in_clear_lines_and_do_not_come_back(tmp_path):
    source = write_sources(tmp_path / "in", "abc")
    out = tmp_path / "out"
    observer = restart_runs.AtFirstOutcome(lambda: shutil.rmtree(out))
    outcomes = run(source, out, Copying(), observer=observer)
    gone = f"{out}: cannot write here (removed since the run began)"
    assert [(*outcome.reason_codes, outcome.message) for outcome in outcomes] == [
        ("",),
        ("NOT_WRITABLE", f"{gone}; make it writable and run again"),
        ("NOT_WRITABLE", f"{gone}; make it writable and run again"),
        ("VIEWS_NOT_WRITTEN", f"{gone}; what is finished stays, run again"),
    ]
    assert exit_code(outcomes) == 3
    assert not out.exists()


def test_results_removed_while_a_series_is_written_leave_no_remains(tmp_path, monkeypatch):
    source = write_sources(tmp_path / "in", "a")
    out = tmp_path / "out"

    def remove_and_write(self, entry, folder, **options):
        shutil.rmtree(out)
        (folder / "denoised").mkdir(parents=True)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Copying, "treat", remove_and_write)
    outcomes = run(source, out, Copying())
    assert [outcome.reason_codes for outcome in outcomes] == [("NOT_WRITABLE",), ("VIEWS_NOT_WRITTEN",)]
    assert exit_code(outcomes) == 1
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("lives", "verdict"), [(1, "done"), (9, "failed")])
def test_a_worker_that_dies_takes_no_other_series_with_it(tmp_path, lives, verdict):
    source = write_sources(tmp_path / "in", "abcdef")
    (tmp_path / "lives").mkdir()
    for life in range(lives):
        (tmp_path / "lives" / str(life)).touch()
    deadly = pydicom.dcmread(sorted((source / "b").iterdir())[1]).SOPInstanceUID.encode()
    treatment = Copying(log=tmp_path / "log", deadly=deadly, lives=tmp_path / "lives", pause_s=0.01)
    observer = Silent()
    outcomes = run(source, tmp_path / "out", treatment, observer=observer, workers=2)
    assert sorted(str(outcome.verdict) for outcome in outcomes) == ["done"] * 5 + [verdict]
    assert observer.seen == observer.total == 18
    treated = (tmp_path / "log").read_text().split()
    done = {path.parent.name for path in tmp_path.glob("out/*/*/series.json")}
    assert set(treated) == done == {one.series for one in outcomes if one.verdict == "done"}
    assert len(treated) - len(done) <= 1, "only the other worker's series may have been cut off"
    assert exit_code(outcomes) == (0 if verdict == "done" else 3)
    if verdict == "failed":
        (failed,) = (outcome for outcome in outcomes if outcome.verdict == "failed")
        assert failed.reason_codes == ("UNEXPECTED_ERROR",)
        assert "its process died, twice" in failed.message
    assert not (tmp_path / "out" / ".staging").exists()

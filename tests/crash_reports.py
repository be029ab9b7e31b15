"""Where a test process died, by a crash or by its time limit: the end of the run says it once more.

Python's `faulthandler` writes each thread's stack and then hundreds of names of extension modules, of which a
log that is cut at the front keeps only the latter.
pytest-timeout's stacks are lost with the process that it ends.
A process that a signal from elsewhere ends leaves no stack; how it ended then says the most.
"""

from __future__ import annotations

import faulthandler
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import pytest

RUNNERS = ("_pytest", "pluggy", "execnet", "xdist")
LINES = 60
UNTIL_ENDED_S = 30
BEFORE_THE_LIMIT_S = 5
_REPORTS = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
_REPORT = pytest.StashKey[IO[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the others keeps a folder for their reports."""
    if not hasattr(config, "workerinput"):
        config.stash[_REPORTS] = tempfile.TemporaryDirectory(prefix="crashes-")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a test process where its report goes."""
    node.workerinput["crash_report"] = str(Path(node.config.stash[_REPORTS].name) / node.gateway.id)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Of a test process that was lost: how it ended, at the head of its report."""
    if error is None:
        return
    report = Path(node.workerinput["crash_report"])
    stacks = report.read_text(encoding="utf-8", errors="replace")
    report.write_text(f"{_ending(node.gateway._io.popen)}\n{stacks}", encoding="utf-8")


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(UNTIL_ENDED_S)
    except subprocess.TimeoutExpired:
        return f"it did not end within {UNTIL_ENDED_S} s of losing its connection"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """In a test process, after pytest's own plugin has had its turn: stacks go to the report."""
    told = getattr(session.config, "workerinput", None)
    if told is not None:
        report = Path(told["crash_report"]).open("w")  # noqa: SIM115 (open as long as the process lives)
        session.config.stash[_REPORT] = report
        session.config.add_cleanup(report.close)
        faulthandler.enable(file=report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Shortly before pytest-timeout ends the process, its stacks go to the report."""
    report, limit_s = item.config.stash.get(_REPORT, None), float(item.config.getini("timeout") or 0)
    if report is not None and limit_s > BEFORE_THE_LIMIT_S:
        faulthandler.dump_traceback_later(limit_s - BEFORE_THE_LIMIT_S, file=report)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The first lines of each report: what happened, and the threads' stacks without what runs the tests."""
    for report in sorted(Path(config.stash[_REPORTS].name).iterdir()):
        lines = report.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if not any(f"site-packages/{name}/" in line for name in RUNNERS)]
        if told:
            terminalreporter.section(f"test process {report.name} died or hung")
            terminalreporter.write_line("\n".join(told[:LINES]))

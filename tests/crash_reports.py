"""Where a test process died that something killed from within: the end of the run says it once more.

Python's `faulthandler` writes each thread's stack and then hundreds of names of extension modules, of which a
log that is cut at the front keeps only the latter.
"""

from __future__ import annotations

import faulthandler
import tempfile
from pathlib import Path
from typing import Any

import pytest

RUNNERS = ("_pytest", "pluggy", "execnet", "xdist")
LINES = 60
_REPORTS = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the others keeps a folder for their reports."""
    if not hasattr(config, "workerinput"):
        config.stash[_REPORTS] = tempfile.TemporaryDirectory(prefix="crashes-")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a test process where its report goes."""
    node.workerinput["crash_report"] = str(Path(node.config.stash[_REPORTS].name) / node.gateway.id)


def pytest_sessionstart(session: pytest.Session) -> None:
    """In a test process, after pytest's own plugin has had its turn: stacks go to the report."""
    told = getattr(session.config, "workerinput", None)
    if told is not None:
        report = Path(told["crash_report"]).open("w")  # noqa: SIM115 (open as long as the process lives)
        session.config.add_cleanup(report.close)
        faulthandler.enable(file=report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The first lines of each report: what happened, and the threads' stacks without what runs the tests."""
    for report in sorted(Path(config.stash[_REPORTS].name).iterdir()):
        lines = report.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if not any(f"site-packages/{name}/" in line for name in RUNNERS)]
        if told:
            terminalreporter.section(f"test process {report.name} died")
            terminalreporter.write_line("\n".join(told[:LINES]))

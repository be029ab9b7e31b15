"""What a run says of a test process that died."""

import os
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

DEATHS = {
    "crash": ("import ctypes", "ctypes.string_at(0)", ["Segmentation fault", "ended by SIGSEGV"]),
    "time limit": ("import time", "time.sleep(60)", ["Timeout (0:00:01)!", "exit status 1"]),
}
SILENT_DEATHS = {
    "signal": ("import signal", "signal.raise_signal(signal.SIGTERM)", "ended by SIGTERM"),
    "exit": ("import os", "os._exit(3)", "exit status 3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
def test_the_end_of_a_run_says_where_a_test_process_died(tmp_path, death):
    imported, fatal, said = DEATHS[death]
    report = report_of(tmp_path, imported, fatal)
    assert all(words in report for words in said)
    assert 'test_fatal.py", line 5 in test_fatal' in report
    assert "site-packages/_pytest/" not in report


@pytest.mark.slow
@pytest.mark.parametrize("death", SILENT_DEATHS)
def test_the_end_of_a_run_says_how_a_test_process_ended(tmp_path, death):
    imported, fatal, said = SILENT_DEATHS[death]
    assert said in report_of(tmp_path, imported, fatal)


def report_of(tmp_path, imported, fatal):
    """What a run says of a test that imports and does this."""
    (tmp_path / "test_fatal.py").write_text(f"{imported}\n\n\ndef test_fatal():\n    {fatal}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 6\ntimeout_method = thread\n")
    plugins = ["-p", "tests.crash_reports", "-n", "1", "--max-worker-restart", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, tmp_path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.fspath(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stdout.split("test process gw0 died or hung")[1]

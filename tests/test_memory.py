"""A process that keeps what it frees is not given cleared pages again."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy as np
from pipeline.inference.restoration.memory import keep_freed_memory

if {keep}:
    keep_freed_memory()
def features():
    np.ones(2**26, np.uint8)  # 64 MB, as the features of one layer
features()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    features()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, keep):
    return int(subprocess.check_output([sys.executable, "-c", COUNT.format(keep=keep)], text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_was_freed_is_used_again_without_new_pages():
    given, kept = page_faults(keep=False), page_faults(keep=True)
    assert given > 5 * 10  # huge pages or not, every one of five times
    assert kept < given / 10

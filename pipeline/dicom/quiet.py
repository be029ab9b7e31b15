"""pydicom and highdicom quote the values they complain about: nothing of that may be seen."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pydicom.config

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
"""Malformed values are kept either way; the warnings quote them, wherever a dataset is read or unpickled."""

for _library in ("pydicom", "highdicom"):
    logging.getLogger(_library).addHandler(logging.NullHandler())
    logging.getLogger(_library).propagate = False

_lock = threading.Lock()
_filters = ExitStack()
_inside = 0


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Swallow warnings: they would print patient values, or become errors under `-W error`.

    Warning filters belong to the process, so threads share them: the first one in sets them, the last one out
    puts the former ones back.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _filters.close()

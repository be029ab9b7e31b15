"""pydicom's warnings and log lines quote the values they complain about: nothing of them may be seen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

logging.getLogger("pydicom").propagate = False


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Swallow warnings: they would print patient values, or become errors under `-W error`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Out of memory as one line that says what to lower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from pipeline.errors import PipelineError

_PHRASES: Final = ("not enough memory", "can't allocate memory", "ALLOC_FAILED", "could not create a memory")
"""How torch's CPU allocator, the CUDA libraries and oneDNN put it."""


@contextmanager
def memory_advice(advice: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory into a `PipelineError` with the advice of that moment."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PipelineError(advice()) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, of a device or the host, did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(phrase in str(error) for phrase in _PHRASES)

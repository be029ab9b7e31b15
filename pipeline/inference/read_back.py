"""Written slices read back and compared with what was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dicom import CTSlice, reads_back
from pipeline.errors import DataError


def check_slice(
    path: Path, source: CTSlice, hu: npt.NDArray[np.floating], *, index: int, slices: int
) -> None:
    """Read a derived slice back and compare every pixel, padding included, with what was meant.

    Args:
        path: the written file.
        source: the slice it was made from.
        hu: (rows, columns) what was to be written.
        index: its number, from 0.
        slices: how many its series has.

    Raises:
        DataError: something differs.
    """
    if not reads_back(path, source, hu):
        raise DataError(
            f"slice {index + 1} of {slices} reads back differently from what was written; "
            "its series was dropped: check the disk and run again"
        )

"""What a denoiser needs of a series; a series without it is refused, never guessed."""

from __future__ import annotations

from typing import Final

from pipeline.dicom import Geometry
from pipeline.inference.restoration.networks import Network
from pipeline.inference.treatment import UnfitSeriesError

TOO_SMALL: Final = "TOO_SMALL"
"""Reason code of a series whose slices are smaller than the denoiser can take."""
NEIGHBOURS_UNKNOWN: Final = "NEIGHBOURS_UNKNOWN"
"""Reason code of a series without a regular grid, before a denoiser that sees a slice's neighbours."""
NOISE_UNKNOWN: Final = "NOISE_UNKNOWN"
"""Reason code of a series whose noise cannot be measured, before a denoiser that has to be told it."""


def check_matrix(network: Network, rows: int, columns: int) -> None:
    """Refuse slices that are too small for a network.

    Raises:
        UnfitSeriesError: they are.
    """
    least = getattr(network.module, "smallest_side", 1)
    if min(rows, columns) < least:
        raise UnfitSeriesError(
            TOO_SMALL,
            f"slices of {rows} x {columns} pixels, {network.bundle.name} needs at least {least} x {least}; "
            "leave the series out",
        )


def check_neighbours(network: Network, grid: Geometry | None) -> None:
    """Refuse a series of which it is not known what lies beside a slice, where the network sees that.

    Raises:
        UnfitSeriesError: the network sees neighbours, and there is no regular grid.
    """
    if network.neighbours and grid is None:
        slices = "1 slice" if network.neighbours == 1 else f"{network.neighbours} slices"
        raise UnfitSeriesError(
            NEIGHBOURS_UNKNOWN,
            f"{network.bundle.name} sees {slices} on either side of each, "
            "and the series is no regular grid; take a denoiser that sees single slices",
        )


def check_noise(network: Network, noise_sd_hu: float | None) -> None:
    """Refuse a series of unknown noise, where the network has to be told it.

    Args:
        network: of a denoiser's bundle.
        noise_sd_hu: of the series (`metrics.noise.global_noise_sd_hu`); None where it cannot be measured.

    Raises:
        UnfitSeriesError: the network takes a noise map, and the noise is not known.
    """
    if network.noise_map and noise_sd_hu is None:
        raise UnfitSeriesError(
            NOISE_UNKNOWN,
            f"{network.bundle.name} has to be told the noise, and there is too little soft tissue to measure "
            "it in; tell it with --noise-sd-hu, or take a denoiser without a noise map",
        )

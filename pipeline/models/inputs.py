"""The channels that a restoration network is given: neighbouring slices, then a map of the noise level."""

from __future__ import annotations

from torch import Tensor


def input_channels(neighbours: int, noise_map: bool) -> int:
    """Channels of the input: the slices -k … k around the one to restore, and the noise map if there is one.

    Args:
        neighbours: k, slices on either side of the one to restore; 0 for one slice alone.
        noise_map: whether a plane with the noise's SD comes last (Zhang et al. 2018, "FFDNet",
            arXiv:1710.04026).

    Raises:
        ValueError: `neighbours` is negative.
    """
    if neighbours < 0:
        raise ValueError(f"neighbours must be 0 or more, got {neighbours}")
    return 2 * neighbours + 1 + int(noise_map)


def slice_to_restore(image: Tensor, neighbours: int) -> Tensor:
    """The middle slice of a network's input.

    Args:
        image: (N, C, H, W): 2 × `neighbours` + 1 slices, with or without a noise map behind them.
        neighbours: slices on either side.

    Returns:
        (N, 1, H, W), a view.

    Raises:
        ValueError: `image` does not have these channels.
    """
    slices = input_channels(neighbours, noise_map=False)
    if image.ndim != 4 or not slices <= image.shape[1] <= slices + 1:
        raise ValueError(
            f"an input of shape {tuple(image.shape)}: with {neighbours} neighbours on either side it is "
            f"(N, {slices}, H, W), or (N, {slices + 1}, H, W) with a noise map"
        )
    return image[:, neighbours : neighbours + 1]

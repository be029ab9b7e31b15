"""How the first weights are drawn, and how first layer and last sum stay exact in a restoration network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.models.inputs import slice_to_restore


class ImageConv2d(nn.Conv2d):
    """The first layer of a restoration network: in bfloat16 it weighs CT numbers as exactly as in float32.

    In bfloat16 air at -1000 HU comes in steps of 4 HU and a weight is up to 0.4 % off, which the large number
    multiplies: nearly all that bfloat16 costs a DRUNet. So under autocast, outside of training, image and
    weights come as two bfloat16 each, x = hi + lo, in one convolution: of (hi, lo, x) with (w_hi, w_hi,
    w_lo). The convolution rounds that x to hi, and what is lost is about 2^-16 of each product; in float32
    the same sum is x w. Trainings see the plain layer. (So do graphs of `torch.compile`: it leaves out the
    rounding to bfloat16 and back, and lo is 0.)

    Of one group; the parameters and their names are those of `nn.Conv2d`.

    Attributes:
        in_halves: compute so in every case; for a graph that another engine runs in bfloat16.
    """

    in_halves = False

    def forward(self, image: Tensor, margin: Sequence[int] = ()) -> Tensor:
        """The convolution of an image, or of its halves.

        Args:
            image: (N, C, H, W) in network units.
            margin: pixels to repeat left, right, above and below before that; here, because another engine
                pads in bfloat16, and what comes after that has no lower half.

        Returns:
            (N, F, H', W'), as `nn.Conv2d`.
        """
        rounded = not self.training and torch.is_autocast_enabled(image.device.type)
        if not (self.in_halves or rounded):
            return super().forward(_with_margin(image, margin))
        coarse, coarse_weight = _to_bfloat16_steps(image), _to_bfloat16_steps(self.weight)
        operands = torch.cat([coarse, image - coarse, image], dim=1)
        weights = torch.cat([coarse_weight, coarse_weight, self.weight - coarse_weight], dim=1)
        features: Tensor = self._conv_forward(_with_margin(operands, margin), weights, self.bias)
        return features


def he_normal(layer: nn.Conv2d | nn.ConvTranspose2d, *, linear: bool = False) -> None:
    """Draw the weights of a layer of stride 1 so that it keeps the size of its input; the bias starts at 0.

    He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852: variance 2 / fan-in in front of a ReLU,
    1 / fan-in in front of nothing (`linear`). PyTorch's own draw has a sixth of the former: behind thirty
    layers without skips 1e-8 of the difference between two images is left (with He's, a few per cent).

    The fan-in of a transposed convolution is what PyTorch calls its fan-out: its weights are (in, out, …).
    """
    nn.init.kaiming_normal_(
        layer.weight,
        mode="fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in",
        nonlinearity="linear" if linear else "relu",
    )
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero(layer: nn.Module) -> None:
    """Let a layer start with nothing, so that an untrained network with an input skip returns its input."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def corrected_slice(image: Tensor, neighbours: int, correction: Tensor) -> Tensor:
    """The slice to restore plus a correction: float32 on unquantised CT numbers, also under autocast.

    Args:
        image: (N, C, H, W), all channels of the network's input.
        neighbours: slices on either side of the one to restore.
        correction: (N, 1, H, W), in bfloat16 under autocast: exact to 0.4 % of itself.
    """
    return at_least_float32(slice_to_restore(image, neighbours)) + at_least_float32(correction)


def in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """Run the last layer of a network without input skip outside of autocast.

    Its output is the image itself: in bfloat16 that would come in steps of 8 HU above 1000 HU, where the
    network's unit is 1000 HU.
    """
    with torch.autocast(features.device.type, enabled=False):
        image: Tensor = layer(at_least_float32(features))
    return image


def at_least_float32(values: Tensor) -> Tensor:
    """`values` in float32, or in float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()


def _with_margin(image: Tensor, margin: Sequence[int]) -> Tensor:
    return pad(image, margin, mode="replicate") if margin else image


def _to_bfloat16_steps(values: Tensor) -> Tensor:
    """Rounded to what bfloat16 holds; the type stays."""
    return values.bfloat16().to(values.dtype)

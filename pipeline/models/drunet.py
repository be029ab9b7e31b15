"""DRUNet: a residual U-Net that is told the noise, small enough to be shipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d, corrected_slice, he_normal, zero


class DRUNet(nn.Module):
    """U-Net of residual blocks with additive skips; without biases, it scales with its input.

    Zhang et al. 2021, "Plug-and-Play Image Restoration with Deep Denoiser Prior", arXiv:2008.13751. A 3×3
    convolution, then on every scale but the last `blocks` residual blocks and a 2×2 convolution of stride 2;
    `blocks` more on the last scale; for every scale on the way up a 2×2 transposed convolution of stride 2
    and `blocks` residual blocks; a 3×3 convolution. What a scale is given on the way down is added to what
    it is left with on the way up. A residual block adds convolution, ReLU and convolution to its input. No
    batch norm, no biases. As published: features (64, 128, 256, 512), 4 blocks and a noise map, 32 638 656
    parameters.

    Without biases the network is homogeneous (Mohan et al. 2020, "Robust and Interpretable Blind Image
    Denoising via Bias-Free Convolutional Neural Networks", arXiv:1906.05478): f(a x, a σ) = a f(x, σ) for
    every a > 0, so it has an answer at noise levels that it never saw. The pivot of that scaling is the zero
    of the HU scale: water with `hu.WATER_CENTRED`. Soft tissue is scaled as meant, contrast against noise;
    lung at -800 HU is scaled to what no scan holds. Nor is the network equivariant to an added offset: what
    it does to a texture at 0 HU says nothing of the same texture at 60 HU, which the training has to show.

    Departures: the slice to restore is added to the output, so the layers learn the additive corruption, and
    the last layer starts at zero, so that an untrained network returns its input. The other weights are drawn
    so that features keep their size (`layers.he_normal`). Sides that the total stride does not divide are
    padded below and on the right with the last pixel, and cut again, as the authors do when they test.

    Args:
        features: filters on each scale, from the image's own down; each further one halves the image.
        blocks: residual blocks on each scale, on the way down and on the way up.
        bias: give every layer a bias; the network no longer scales with its input.
        neighbours: slices on either side that come with the one to restore.
        noise_map: a plane with the noise's SD in network units comes as the last channel.

    Attributes:
        strides: of the steps down; their product is the total stride. The position of a pixel on that raster
            matters, so tiles have to lie on it (`models.tiles`).
        receptive_radius: no output pixel depends on input pixels farther away; the pixels on one side of the
            raster's cells see this far.
        smallest_side: shortest side of an image that passes through.

    Raises:
        ValueError: fewer than two scales.
    """

    smallest_side = 1

    def __init__(
        self,
        features: Sequence[int] = (16, 32, 64),
        blocks: int = 2,
        bias: bool = False,
        neighbours: int = 0,
        noise_map: bool = True,
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise ValueError(f"features must name two scales or more, got {list(features)}")
        self.neighbours = neighbours
        self.noise_map = noise_map
        self.strides = (2,) * (len(features) - 1)
        self.receptive_radius = _receptive_radius(len(features), blocks)
        self.head = ImageConv2d(input_channels(neighbours, noise_map), features[0], 3, padding=1, bias=bias)
        self.down = nn.ModuleList(
            nn.Sequential(*_blocks(fine, blocks, bias), nn.Conv2d(fine, wide, 2, stride=2, bias=bias))
            for fine, wide in pairwise(features)
        )
        self.body = nn.Sequential(*_blocks(features[-1], blocks, bias))
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=bias), *_blocks(fine, blocks, bias)
            )
            for coarse, fine in pairwise(reversed(features))
        )
        self.tail = nn.Conv2d(features[0], 1, 3, padding=1, bias=bias)
        self._draw(blocks * (2 * len(features) - 1))

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image` (N, C, H, W), network units, see `models.inputs`.

        Returns:
            (N, 1, H, W) float32, also under bfloat16 autocast.
        """
        rows, columns = image.shape[-2:]
        multiple = math.prod(self.strides)
        # (padded in every case, by nothing where it fits: an exported graph then takes slices of any size)
        scales = [self.head(image, margin=(0, -columns % multiple, 0, -rows % multiple))]
        for down in self.down:
            scales.append(down(scales[-1]))
        features = self.body(scales[-1])
        for up in self.up:
            features = up(features + scales.pop())
        correction = self.tail(features + scales.pop())
        return corrected_slice(image, self.neighbours, correction[..., :rows, :columns])

    def _draw(self, blocks_in_a_row: int) -> None:
        """Draw all weights; the last layer's are zero.

        A block adds 1 / `blocks_in_a_row` of its input's variance to it, so all of them make at most e times
        as much of it. A step up halves the features (four pixels share each of its weights) after a skip has
        about doubled them.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                he_normal(layer, linear=True)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                he_normal(block.second)
                block.second.weight.data *= blocks_in_a_row**-0.5
        zero(self.tail)


class ResidualBlock(nn.Module):
    """Its input plus two 3×3 convolutions of it with a ReLU between them."""

    def __init__(self, features: int, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(features, features, 3, padding=1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, H, W) to the same shape."""
        correction: Tensor = self.second(self.first(features).relu_())
        return features + correction


def _blocks(features: int, count: int, bias: bool) -> list[nn.Module]:
    return [ResidualBlock(features, bias) for _ in range(count)]


def _receptive_radius(scales: int, blocks: int) -> int:
    """One pixel of its scale per 3×3 convolution; and a pixel's cell on the coarsest scale counts whole."""
    coarsest = 1 << scales - 1
    finer = coarsest - 1  # 1 + 2 + … + coarsest / 2
    return 2 + 4 * blocks * finer + 2 * blocks * coarsest + coarsest - 1

"""RED-Net: RED-CNN's ancestor from natural images, of any depth."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d, corrected_slice, he_normal, in_float32, zero


class RedNet(nn.Module):
    """As many 3×3 convolutions as transposed ones, of stride 1, joined by symmetric additive skips.

    Mao et al. 2016, "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with Symmetric
    Skip Connections", NIPS, arXiv:1603.09056: RED10, RED20 and RED30 by depth. With K layers in either half,
    the output of convolution i joins that of transposed convolution K - i for every i that `skip_every`
    divides, with the ReLU after the sum; the input itself joins the output of the last layer, so the network
    learns the additive corruption.

    Every layer pads with one pixel of zeros, as in the network that the authors released: features keep the
    size of the image, and the outermost pixels see zeros beyond the edge, which is what `HUScale.zero_hu`
    stands for, not air. (The released network also has 128 filters; the paper's experiments name 64.)

    Departures: weights are drawn for ReLUs (`layers.he_normal`), so that an image comes through a RED30
    without skips, and with the input skip the last layer starts at zero, so that an untrained network returns
    its input.

    Args:
        depth: layers in both halves together: 10, 20 or 30 as published, any even number from 4.
        features: filters per layer; 64 as published.
        skip_every: layers from one skip to the next, 2 as published; None leaves all of them out but the one
            from the input to the output, which is `residual`.
        residual: the skip from the input to the output, as published. Without it the network is direct.
        neighbours: slices on either side that come with the one to restore.
        noise_map: a plane with the noise's SD in network units comes as the last channel.

    Attributes:
        receptive_radius: no output pixel depends on input pixels farther away: one more per layer.
        smallest_side: shortest side of an image that passes through.

    Raises:
        ValueError: `depth` is odd or below 4, or `skip_every` below 1.
    """

    smallest_side = 1

    def __init__(
        self,
        depth: int = 30,
        features: int = 64,
        skip_every: int | None = 2,
        residual: bool = True,
        neighbours: int = 0,
        noise_map: bool = False,
    ) -> None:
        super().__init__()
        if depth < 4 or depth % 2:
            raise ValueError(f"depth must be an even number from 4, got {depth}")
        if skip_every is not None and skip_every < 1:
            raise ValueError(f"skip_every must be 1 or more, or null for no skips, got {skip_every}")
        half = depth // 2
        self.skip_every = skip_every
        self.residual = residual
        self.neighbours = neighbours
        self.noise_map = noise_map
        self.receptive_radius = depth
        outputs = [features] * (half - 1) + [1]
        first = ImageConv2d(input_channels(neighbours, noise_map), features, 3, padding=1)
        down = [first, *(nn.Conv2d(features, features, 3, padding=1) for _ in range(half - 1))]
        up = [nn.ConvTranspose2d(features, channels, 3, padding=1) for channels in outputs]
        for layer in down:
            he_normal(layer)
        for transposed in up[:-1]:
            he_normal(transposed)
        if residual:
            zero(up[-1])
        else:
            he_normal(up[-1], linear=True)
        self.encoder, self.decoder = nn.ModuleList(down), nn.ModuleList(up)

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image` (N, C, H, W), network units, see `models.inputs`.

        Returns:
            (N, 1, H, W) float32, also under bfloat16 autocast.
        """
        features = image
        skips: dict[int, Tensor] = {}
        for level, layer in enumerate(self.encoder, start=1):
            features = layer(features).relu()
            if self.skip_every is not None and level % self.skip_every == 0:
                skips[level] = features
        *inner, last = self.decoder
        for level, layer in zip(range(len(inner), 0, -1), inner, strict=True):
            features = layer(features)
            if level in skips:
                features = features + skips.pop(level)
            features = features.relu()
        if self.residual:
            return corrected_slice(image, self.neighbours, last(features))
        return in_float32(last, features)

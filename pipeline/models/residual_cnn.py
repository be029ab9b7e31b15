"""The plain residual CNN that the encoder-decoders have to beat."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d, corrected_slice, he_normal, zero


class ResidualCNN(nn.Module):
    """A chain of 3×3 convolutions that estimates the correction of its input: DnCNN without its batch norm.

    Zhang et al. 2017, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
    doi:10.1109/TIP.2017.2662206. No skip but the one from the input to the output. Each layer pads with one
    pixel of zeros, as published. Batch normalisation is left out: a CT number must not depend on which other
    slices were in the batch, neither in training nor in averaged weights; the weights are drawn for ReLUs
    instead (`layers.he_normal`), and the last layer starts at zero.

    Args:
        depth: layers; 17 as published.
        features: filters per layer; 64 as published.
        neighbours: slices on either side that come with the one to restore.
        noise_map: a plane with the noise's SD in network units comes as the last channel.

    Attributes:
        receptive_radius: no output pixel depends on input pixels farther away: one more per layer.
        smallest_side: shortest side of an image that passes through.

    Raises:
        ValueError: `depth` is below 2.
    """

    smallest_side = 1

    def __init__(
        self, depth: int = 17, features: int = 64, neighbours: int = 0, noise_map: bool = False
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be 2 or more, got {depth}")
        self.neighbours = neighbours
        self.noise_map = noise_map
        self.receptive_radius = depth
        first = ImageConv2d(input_channels(neighbours, noise_map), features, 3, padding=1)
        inner = [first, *(nn.Conv2d(features, features, 3, padding=1) for _ in range(depth - 2))]
        for layer in inner:
            he_normal(layer)
        self.inner = nn.ModuleList(inner)
        self.last = nn.Conv2d(features, 1, 3, padding=1)
        zero(self.last)

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image` (N, C, H, W), network units, see `models.inputs`.

        Returns:
            (N, 1, H, W) float32, also under bfloat16 autocast.
        """
        features = image
        for layer in self.inner:
            features = layer(features).relu()
        return corrected_slice(image, self.neighbours, self.last(features))

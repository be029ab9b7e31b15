"""CNN-10, the first convolutional denoiser of low-dose CT."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d, he_normal, in_float32


class CNN10(nn.Module):
    """Three convolutions: 64 filters of 9×9, 32 of 3×3, one of 5×5, with a ReLU between them.

    Chen et al. 2017, "Low-dose CT via convolutional neural network", doi:10.1364/BOE.8.000679; "CNN-10" in
    the low-dose CT benchmark (Eulig et al. 2024, doi:10.1002/mp.17379), which pads with zeros so that images
    keep their size, as here. Direct: no skip adds the input, so an untrained network returns noise.

    Args:
        neighbours: slices on either side that come with the one to restore.
        noise_map: a plane with the noise's SD in network units comes as the last channel.

    Attributes:
        receptive_radius: no output pixel depends on input pixels farther away: 4 + 1 + 2.
        smallest_side: shortest side of an image that passes through.
    """

    receptive_radius = 7
    smallest_side = 1

    def __init__(self, neighbours: int = 0, noise_map: bool = False) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.noise_map = noise_map
        self.first = ImageConv2d(input_channels(neighbours, noise_map), 64, 9, padding=4)
        self.second = nn.Conv2d(64, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 1, 5, padding=2)
        he_normal(self.first)
        he_normal(self.second)
        he_normal(self.last, linear=True)

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image` (N, C, H, W), network units, see `models.inputs`.

        Returns:
            (N, 1, H, W) float32, also under bfloat16 autocast.
        """
        return in_float32(self.last, self.second(self.first(image).relu()).relu())

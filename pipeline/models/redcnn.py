"""RED-CNN, the default denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d, corrected_slice, in_float32, zero

KERNEL = 5
LAYERS = 5
SMALLEST_SIDE = LAYERS * (KERNEL - 1) + 1


class RedCNN(nn.Module):
    """Residual encoder-decoder: 5 convolutions, 5 transposed convolutions, 3 additive skips.

    Chen et al. 2017, "Low-Dose CT With a Residual Encoder-Decoder Convolutional Neural Network",
    doi:10.1109/TMI.2017.2715284. All kernels are 5×5 with stride 1 and no padding, so the encoder takes 20
    pixels off each axis and the decoder gives them back. The skips run from the input, convolution 2 and
    convolution 4 to the outputs of transposed convolutions 5, 3 and 1, with a ReLU after each sum.

    Two departures from the paper: the last layer starts at zero, so that an untrained network returns its
    input, and the last ReLU is optional, because it clips every scale on which air is negative.

    Args:
        features: filters per layer; 96 as published (1 848 865 parameters).
        final_relu: clip the output at 0, as published; only for a non-negative scale.
        residual: the skip from the input to the output, as published. Without it the network is direct: it
            makes the image itself, and its last layer starts as PyTorch draws it.
        neighbours: slices on either side that come with the one to restore.
        noise_map: a plane with the noise's SD in network units comes as the last channel.

    Attributes:
        receptive_radius: no output pixel depends on input pixels farther away in rows or columns, see
            `models.tiles`: each layer of either half reaches half a kernel to both sides.
        smallest_side: shortest side of an image that passes through.
    """

    receptive_radius = 2 * LAYERS * (KERNEL // 2)
    smallest_side = SMALLEST_SIDE

    def __init__(
        self,
        features: int = 96,
        final_relu: bool = False,
        residual: bool = True,
        neighbours: int = 0,
        noise_map: bool = False,
    ) -> None:
        super().__init__()
        self.final_relu = final_relu
        self.residual = residual
        self.neighbours = neighbours
        self.noise_map = noise_map
        outputs = [features] * (LAYERS - 1) + [1]
        first = ImageConv2d(input_channels(neighbours, noise_map), features, KERNEL)
        inner = [nn.Conv2d(features, features, KERNEL) for _ in range(LAYERS - 1)]
        self.encoder = nn.ModuleList([first, *inner])
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(features, channels, KERNEL) for channels in outputs)
        if residual:
            zero(self.decoder[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image`.

        Args:
            image: (N, C, H, W) in network units, see `models.inputs`, with sides of 21 pixels or more.

        Returns:
            (N, 1, H, W) float32. The input skip and its sum are float32 on the unquantised input, also under
            bfloat16 autocast.

        Raises:
            ValueError: a side is shorter than 21 pixels.
        """
        features, last = self._features(image), self.decoder[-1]
        if self.residual:
            restored = corrected_slice(image, self.neighbours, last(features))
        else:
            restored = in_float32(last, features)
        return torch.relu(restored) if self.final_relu else restored

    def _features(self, image: Tensor) -> Tensor:
        """What the last layer is given, (N, features, H - 4, W - 4)."""
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"RED-CNN needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, got {tuple(image.shape)}"
            )
        conv1, conv2, conv3, conv4, conv5 = self.encoder
        deconv1, deconv2, deconv3, deconv4, _ = self.decoder
        level2 = conv2(conv1(image).relu()).relu()
        level4 = conv4(conv3(level2).relu()).relu()
        level5 = conv5(level4).relu()
        up4 = (deconv1(level5) + level4).relu()
        up2 = (deconv3(deconv2(up4).relu()) + level2).relu()
        features: Tensor = deconv4(up2).relu()
        return features

"""RED-CNN, the default denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    Attributes:
        receptive_radius: no output pixel depends on input pixels farther away in rows or columns, see
            `models.tiles`: each layer of either half reaches half a kernel to both sides.
        smallest_side: shortest side of an image that passes through.
    """

    receptive_radius = 2 * LAYERS * (KERNEL // 2)
    smallest_side = SMALLEST_SIDE

    def __init__(self, features: int = 96, final_relu: bool = False) -> None:
        super().__init__()
        self.final_relu = final_relu
        inputs = [1] + [features] * (LAYERS - 1)
        outputs = [features] * (LAYERS - 1) + [1]
        self.encoder = nn.ModuleList(nn.Conv2d(channels, features, KERNEL) for channels in inputs)
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(features, channels, KERNEL) for channels in outputs)
        for parameter in self.decoder[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """Restore `image`, (N, 1, H, W) in network units with sides of 21 pixels or more; the shape is kept.

        The input skip and its sum are float32 on the unquantised input, also under bfloat16 autocast.

        Raises:
            ValueError: a side is shorter than 21 pixels.
        """
        restored = image.float() + self.residual(image).float()
        return torch.relu(restored) if self.final_relu else restored

    def residual(self, image: Tensor) -> Tensor:
        """The correction alone, (N, 1, H, W): what `forward` adds to its input."""
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"RED-CNN needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, got {tuple(image.shape)}"
            )
        conv1, conv2, conv3, conv4, conv5 = self.encoder
        deconv1, deconv2, deconv3, deconv4, deconv5 = self.decoder
        level2 = conv2(conv1(image).relu()).relu()
        level4 = conv4(conv3(level2).relu()).relu()
        level5 = conv5(level4).relu()
        up4 = (deconv1(level5) + level4).relu()
        up2 = (deconv3(deconv2(up4).relu()) + level2).relu()
        correction: Tensor = deconv5(deconv4(up2).relu())
        return correction

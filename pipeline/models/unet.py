"""The U-Net segmenter."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.unet import UNet


def unet(classes: int, channels: Sequence[int] = (16, 32, 64, 128, 256), residual_units: int = 2) -> UNet:
    """MONAI's 2-D residual U-Net: (N, 1, H, W) in [0, 1] to logits (N, classes, H, W).

    Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28; residual units after Kerfoot et al. 2018,
    doi:10.1007/978-3-030-12029-0_40. Sides must be multiples of `2 ** (len(channels) - 1)`
    (`pipeline.models.apply.class_logits` pads).

    Args:
        classes: output channels, background included.
        channels: features per level; each further level halves the image.
        residual_units: convolutions per residual block; 0 for plain ones.
    """
    return UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=classes,
        channels=tuple(channels),
        strides=(2,) * (len(channels) - 1),
        num_res_units=residual_units,
    )

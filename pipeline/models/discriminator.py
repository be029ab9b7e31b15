"""The judge of an adversarially trained denoiser, patch by patch."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

from pipeline.models.layers import at_least_float32

_KERNEL = 4
_WIDEST = 8


class PatchDiscriminator(nn.Module):
    """A convolutional discriminator with one logit per patch of the image.

    Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", arXiv:1611.07004:
    4×4 convolutions, first of stride 2, then two of stride 1. No batch normalisation: each logit depends on
    its own image only, which a gradient penalty needs (Gulrajani et al. 2017, arXiv:1704.00028). Spectral
    normalisation: Miyato et al. 2018, arXiv:1802.05957. Biases start at 0. Built by `patch_discriminator`.

    Attributes:
        smallest_side: shortest side of an image that passes through.
    """

    def __init__(self, features: int, layers: int, spectral_norm: bool) -> None:
        super().__init__()
        widths = [features * min(2**layer, _WIDEST) for layer in range(layers + 1)]
        strides = [2] * layers + [1]
        blocks: list[nn.Module] = []
        for (before, after), stride in zip(pairwise([1, *widths]), strides, strict=True):
            blocks += [_convolution(before, after, stride, spectral_norm), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*blocks, _convolution(widths[-1], 1, 1, spectral_norm))
        self.smallest_side = 3 * 2**layers

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 1, h, w) float32 for `image` (N, 1, H, W): positive means real.

        Raises:
            ValueError: the image is too small.
        """
        if min(image.shape[-2:]) < self.smallest_side:
            raise ValueError(
                f"this discriminator needs at least {self.smallest_side}x{self.smallest_side} pixels, got "
                f"{tuple(image.shape)}: take larger patches or fewer layers"
            )
        logits: Tensor = self.layers(image)
        return at_least_float32(logits)


def patch_discriminator(*, features: int = 32, layers: int = 3, spectral_norm: bool = True) -> nn.Module:
    """A discriminator of patches: (N, 1, H, W) to logits (N, 1, h, w).

    (MONAI's `PatchDiscriminator` returns a list of all feature maps and knows no spectral normalisation.)

    Args:
        features: filters of the first layer; each further one has twice as many, at most eight times.
        layers: halvings; with 3 each logit sees 70 × 70 pixels.
        spectral_norm: keep the largest singular value of each layer at 1; leave it out under a gradient
            penalty, which bounds the slope itself.

    Raises:
        ValueError: a count is below 1.
    """
    if min(features, layers) < 1:
        raise ValueError(f"features and layers must be 1 or more, got {features} and {layers}")
    return PatchDiscriminator(features, layers, spectral_norm)


def _convolution(before: int, after: int, stride: int, spectral_norm: bool) -> nn.Module:
    layer = nn.Conv2d(before, after, _KERNEL, stride=stride, padding=1)
    # beside random biases, noise of 0.01 would leave nearly every LeakyReLU on one side of its kink: a linear
    # network, which cannot tell strong noise from weak
    nn.init.zeros_(layer.get_parameter("bias"))
    return normalised(layer) if spectral_norm else layer

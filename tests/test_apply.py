import pytest
import torch
from torch import Tensor, nn

from pipeline.hu import ABDOMEN, RED_CNN_PAPER, WATER_CENTRED
from pipeline.models import RedCNN, unet
from pipeline.models.apply import class_logits, restore_hu


class Threshold(nn.Module):
    """Two classes split at the middle of the window; down-samples by 8 as far as `apply` can tell."""

    strides = (2, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-1] % 8 == image.shape[-2] % 8 == 0
        return torch.cat([0.5 - image, image - 0.5], dim=1)


def half_and_half(height: int, width: int) -> Tensor:
    """Air on the left, 240 HU on the right."""
    image = torch.full((1, 1, height, width), -1000.0)
    image[..., width // 2 :] = 240
    return image


@pytest.mark.parametrize("bf16", [False, True])
def test_identity_net_passes_a_half_hu_ramp_and_metal(bf16):
    ramp = torch.arange(-1024, 8000, 0.5)[: 128 * 141].reshape(1, 1, 128, 141)
    restored = restore_hu(RedCNN(features=2).eval(), ramp, WATER_CENTRED, bf16=bf16)
    assert torch.allclose(restored, ramp, rtol=0, atol=0.001)


def test_published_scale_clips_only_below_its_zero():
    image = torch.tensor([-2000.0, -1024.0, 40.0, 5000.0]).repeat(441).reshape(1, 1, 42, 42)
    restored = restore_hu(RedCNN(features=2, final_relu=True).eval(), image, RED_CNN_PAPER)
    assert torch.allclose(restored, image.clip(min=-1024), atol=0.001)


def test_restoring_is_the_network_on_its_own_scale():
    torch.manual_seed(0)
    model = RedCNN(features=4).eval()
    nn.init.normal_(model.decoder[-1].weight, std=0.1)
    image = torch.randn(2, 1, 32, 40) * 100
    residual = 1000 * model.residual(image / 1000)
    assert torch.allclose(restore_hu(model, image, WATER_CENTRED), image + residual, atol=0.01)
    rounding = restore_hu(model, image, WATER_CENTRED, bf16=True) - image - residual
    assert rounding.norm() < 0.01 * residual.norm()


@pytest.mark.parametrize("input_spacing_mm", [None, 0.7, 1.5, 3.1])
def test_logits_return_to_the_input_grid(input_spacing_mm):
    logits = class_logits(
        Threshold(),
        half_and_half(61, 90),
        window=ABDOMEN,
        spacing_mm=(0.7, 0.9),
        input_spacing_mm=input_spacing_mm,
    )
    assert logits.shape == (1, 2, 61, 90)
    labels = logits.argmax(dim=1)
    assert (labels[..., :43] == 0).all()
    assert (labels[..., 47:] == 1).all()


def test_unet_survives_odd_sizes():
    model = unet(classes=3, channels=(4, 8, 16, 16)).eval()
    image = half_and_half(53, 77)
    logits = class_logits(model, image, window=ABDOMEN, spacing_mm=(1, 1), input_spacing_mm=2.0, bf16=True)
    assert logits.shape == (1, 3, 53, 77)
    assert logits.dtype == torch.float32

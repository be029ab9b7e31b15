"""The first layer of a restoration network, and what bfloat16 leaves of its CT numbers."""

import pytest
import torch
from torch import nn

from pipeline.models import build_model
from pipeline.models.layers import ImageConv2d

RESTORING = {
    "drunet": {"features": (4, 6), "blocks": 1},
    "redcnn": {"features": 4},
    "rednet": {"depth": 4, "features": 4},
    "residual_cnn": {"depth": 3, "features": 4},
    "cnn10": {},
}


def layers(channels=2, **arguments):
    """The layer, and a plain one of the same weights."""
    torch.manual_seed(0)
    image_layer = ImageConv2d(channels, 4, 3, padding=1, **arguments)
    plain = nn.Conv2d(channels, 4, 3, padding=1, **arguments)
    plain.load_state_dict(image_layer.state_dict())
    return image_layer.eval(), plain.eval()


def air(*shape, sd=0.02):
    """Noise of 20 HU about -1000 HU."""
    return sd * torch.randn(shape, generator=torch.Generator().manual_seed(1)) - 1


def in_bfloat16(layer, image):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(image).float()


def test_a_difference_of_half_a_hu_in_air_survives_bfloat16():
    """-999.5 less -1000 HU: in bfloat16 both are -1000, in halves their difference is 0.5 HU."""
    layer, plain = ImageConv2d(1, 1, (1, 2), bias=False).eval(), nn.Conv2d(1, 1, (1, 2), bias=False)
    for each in (layer, plain):
        each.weight.data = torch.tensor([[[[-1.0, 1.0]]]])
    image = torch.tensor([[[[-1.0, -0.9995]]]])
    assert in_bfloat16(plain, image).item() == 0
    assert in_bfloat16(layer, image).item() == pytest.approx(0.0005, rel=2**-7)


@pytest.mark.parametrize("sides", [(24, 24), (23, 17)])
def test_under_autocast_it_weighs_as_in_float32(sides):
    """Products are exact to some 2^-16 of themselves; the layer's output is a bfloat16, 2^-9 of itself."""
    layer, plain = layers(bias=False)
    image = air(2, 2, *sides)
    with torch.no_grad():
        exact = plain(image)
        products = nn.functional.conv2d(image.abs(), plain.weight.abs(), padding=1)
    allowed = 2.0**-8 * exact.abs() + 2.0**-15 * products
    assert ((in_bfloat16(layer, image) - exact).abs() <= allowed).all()
    assert not ((in_bfloat16(plain, image) - exact).abs() <= allowed).all()


def test_in_training_and_in_float32_it_is_the_plain_layer_to_the_bit():
    layer, plain = layers()
    image = air(1, 2, 20, 22)
    assert torch.equal(layer(image), plain(image))
    layer.train()
    assert torch.equal(in_bfloat16(layer, image), in_bfloat16(plain, image))


def test_halves_give_the_same_sum_in_float32_with_a_margin_too():
    layer, plain = layers()
    image = air(1, 2, 9, 10)
    wider = nn.functional.pad(image, (0, 2, 0, 3), mode="replicate")
    layer.in_halves = True
    assert torch.allclose(layer(image), plain(image), rtol=0, atol=1e-6)
    assert torch.allclose(layer(image, margin=(0, 2, 0, 3)), plain(wider), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RESTORING)
def test_every_restoration_network_begins_with_it_under_the_names_of_before(name):
    model = build_model(name, neighbours=1, noise_map=True, **RESTORING[name])
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [isinstance(layer, ImageConv2d) for layer in convolutions] == [True] + [False] * (
        len(convolutions) - 1
    )
    first, *_ = model.state_dict()
    assert first in {"head.weight", "encoder.0.weight", "inner.0.weight", "first.weight"}
    assert convolutions[0].weight.shape[1] == 4

"""Networks as OpenVINO graphs, in float32 or with int8 layers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.export.flip import flipped
from pipeline.export.libraries import nncf_library, openvino_library
from pipeline.models.apply import neighbours_of, takes_noise_map
from pipeline.models.inputs import input_channels
from pipeline.models.layers import ImageConv2d

INPUT: Final = "image"
OUTPUT: Final = "restored"

_TRACED_PIXELS: Final = 64
_LAYERS: Final = frozenset(
    {
        "Convolution",
        "ConvolutionBackpropData",
        "GroupConvolution",
        "GroupConvolutionBackpropData",
        "MatMul",
    }
)
_NO_OPERATION: Final = frozenset({"Parameter", "Constant", "Result"})


def example_input(module: nn.Module) -> Tensor:
    """Zeros (2, C, H, W) that a restoration network takes; the sides differ, as two dimensions should."""
    channels = input_channels(neighbours_of(module), takes_noise_map(module))
    side = max(_TRACED_PIXELS, int(getattr(module, "smallest_side", 1)))
    return torch.zeros(2, channels, side, side + 8)


@torch.no_grad()
def converted(module: nn.Module, *, in_halves: bool = False) -> Any:
    """The `openvino.Model` of a restoration network, for any number and size of slices.

    Args:
        module: in evaluation mode, on the CPU.
        in_halves: for a graph that is run in bfloat16, see `models.layers.ImageConv2d`; in float32 it gives
            the same.

    Returns:
        float32, (N, C, H, W) in network units to (N, 1, H, W): input `image`, output `restored`.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    openvino = openvino_library()
    plain = flipped(module)
    for layer in plain.modules():
        if isinstance(layer, ImageConv2d):
            layer.in_halves = in_halves
    with warnings.catch_warnings():
        # Tracing runs the checks of the image's size once, and warns that it will not repeat them.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(plain, example_input=example_input(module))
    model.input(0).set_names({INPUT})
    model.output(0).set_names({OUTPUT})
    return model


def quantised(model: Any, calibration: Sequence[Tensor]) -> Any:
    """A copy of a graph with int8 layers: post-training quantisation (Jacob et al. 2018, arXiv:1712.05877).

    Weights have a scale per filter, activations one per layer. Not quantised are the first and the last
    layer, the input's way to the last sum, and the sum: the CT numbers themselves are never rounded, only
    what is added to them. Of a network with steps down only the coarsest scale is quantised, between the last
    step down and the first step up, and no sum of features there: what every layer adds to would be rounded
    time and again, and the finer scales carry the edges.

    Args:
        model: see `converted`.
        calibration: (1, C, H, W) each, in network units; decide the ranges of the activations.

    Raises:
        ConfigError: NNCF is not installed.
        ValueError: no calibration slice.
    """
    if not calibration:
        raise ValueError("int8 needs calibration slices, got none")
    nncf = nncf_library()
    exact = nncf.IgnoredScope(names=sorted(_kept_in_float(model)), validate=False)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # its progress bars
        warnings.simplefilter("ignore")
        return nncf.quantize(
            model,
            nncf.Dataset([image.numpy() for image in calibration]),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=exact,
        )


def _kept_in_float(model: Any) -> set[str]:
    """Names of all operations that `quantised` leaves as they are."""
    nodes = model.get_ordered_ops()
    layers = {node.get_friendly_name() for node in nodes if node.get_type_name() in _LAYERS}
    down = [node.get_friendly_name() for node in nodes if _steps(node, "Convolution")]
    up = [node.get_friendly_name() for node in nodes if _steps(node, "ConvolutionBackpropData")]
    behind = _as_far_as(set(down[-1:]) or layers, model.get_parameters(), _consumers)
    before = _as_far_as(set(up[:1]) or layers, model.get_results(), _producers)
    sums = {node.get_friendly_name() for node in nodes if (down or up) and _is_sum_of_features(node)}
    return behind | before | sums


def _steps(node: Any, layer: str) -> bool:
    """Whether a node is a `layer` that leaves features on another raster than it is given."""
    return node.get_type_name() == layer and any(step > 1 for step in node.get_attributes()["strides"])


def _is_sum_of_features(node: Any) -> bool:
    """A bias is a sum, too, but with a constant."""
    constant = any(source.get_type_name() == "Constant" for source in _producers(node))
    return node.get_type_name() == "Add" and not constant


def _as_far_as(ends: set[str], start: Iterable[Any], neighbours: Callable[[Any], Iterable[Any]]) -> set[str]:
    """Names of the operations that are reached without passing through one of `ends`; these are included."""
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        for node in neighbours(waiting.pop()):
            name = node.get_friendly_name()
            if name in seen or node.get_type_name() in _NO_OPERATION:
                continue
            seen.add(name)
            if name not in ends:
                waiting.append(node)
    return seen


def _consumers(node: Any) -> Iterable[Any]:
    return (target.get_node() for output in node.outputs() for target in output.get_target_inputs())


def _producers(node: Any) -> Iterable[Any]:
    return (source.get_node() for source in node.input_values())

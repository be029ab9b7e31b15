"""A network that OpenVINO computes on the CPU, as the module that `models.apply` knows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.export.agreement import Precision
from pipeline.export.graph import converted, quantised
from pipeline.export.libraries import openvino_core
from pipeline.models.apply import neighbours_of, receptive_radius, takes_noise_map
from pipeline.models.precision import preferred_precision

_SHAPES_KEPT: Final = 4
"""Compiled networks that are kept, one per shape of input: whole slices, tiles, and a last smaller batch."""
_HINTS: Final[dict[str, str]] = {"fp32": "f32", "bf16": "bf16"}
"""How OpenVINO calls them. Without a hint it takes bfloat16 wherever the CPU has it."""


class OpenVINONetwork(nn.Module):
    """An OpenVINO graph as a restoration network; it is compiled once per shape of input.

    Args:
        model: `openvino.Model`, (N, C, H, W) to (N, 1, H, W) in network units.
        like: the network that it was made of, for its attributes.
        precision: of its layers; in `int8` those that are not quantised compute in `beside_int8()`.
        threads: that a pass may use; None: as many as torch.

    Attributes:
        neighbours: see `models.inputs`.
        noise_map: see `models.inputs`.
        receptive_radius: see `models.tiles`; None where the original states none.
        smallest_side: shortest side of an image that passes through.
        strides: of the steps down, whose product is the raster that tiles lie on; empty for none.

    Raises:
        ConfigError: OpenVINO is not installed.
    """

    def __init__(
        self, model: Any, *, like: nn.Module, precision: Precision, threads: int | None = None
    ) -> None:
        super().__init__()
        self.neighbours = neighbours_of(like)
        self.noise_map = takes_noise_map(like)
        self.receptive_radius = receptive_radius(like)
        self.smallest_side = int(getattr(like, "smallest_side", 1))
        self.strides: tuple[int, ...] = tuple(getattr(like, "strides", ()))
        self.precision: Precision = precision
        self._model = model
        self._core = openvino_core()
        self._threads = threads or torch.get_num_threads()
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Restore the middle slice of `image` (N, C, H, W) float32, network units, on the CPU.

        Returns:
            (N, 1, H, W) float32, whatever the precision: the input skip and its sum are float32.

        Raises:
            ConfigError: this CPU does not compute in the precision asked for, or the graph does not compile.
        """
        compiled = self._compiled_for(tuple(image.shape))
        restored = compiled(image.detach().contiguous().numpy(), share_inputs=True)[0]
        return torch.from_numpy(restored.copy())  # the next pass reuses the memory

    def in_precision(self, precision: Precision) -> OpenVINONetwork:
        """The same graph in other arithmetic; layers that are quantised stay so."""
        return OpenVINONetwork(self._model, like=self, precision=precision, threads=self._threads)

    def _compiled_for(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
            if len(self._compiled) > _SHAPES_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        """For one shape: a graph of unknown size is slower."""
        fixed = self._model.clone()
        fixed.reshape(list(shape))
        hint = _HINTS[beside_int8() if self.precision == "int8" else self.precision]
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # two runs on one machine would share the same cores
        }
        try:
            compiled = self._core.compile_model(fixed, "CPU", settings)
        except RuntimeError as refused:
            reason = next(iter(str(refused).strip().splitlines()), "no reason given")[:200]
            raise ConfigError(
                f"precision {self.precision}: OpenVINO cannot compile the network for this CPU ({reason}); "
                "use --engine torch or another --precision"
            ) from refused
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if taken != hint:
            raise ConfigError(
                f"precision {self.precision}: OpenVINO computes in {taken} on this CPU; use fp32"
            )
        return compiled


def beside_int8() -> Literal["fp32", "bf16"]:
    """Arithmetic of the first and the last layer in int8: bfloat16 where this CPU has it.

    RED-CNN with 32 features spends half of its time in these two if they are float32, and the int8 between
    them hides the difference.
    """
    return preferred_precision(torch.device("cpu"))


def openvino_module(
    module: nn.Module,
    *,
    precision: Precision,
    calibration: Sequence[Tensor] = (),
    threads: int | None = None,
) -> OpenVINONetwork:
    """A restoration network, computed by OpenVINO.

    Args:
        module: in evaluation mode, on the CPU.
        precision: of the layers, see `OpenVINONetwork`.
        calibration: for `int8`: (1, C, H, W) each, in network units, e.g. `phantom_inputs`.
        threads: that a pass may use; None: as many as torch.

    Raises:
        ConfigError: OpenVINO, or for int8 NNCF, is not installed.
        ValueError: int8 without calibration slices.
    """
    model = converted(module, in_halves=precision != "fp32")
    if precision == "int8":
        model = quantised(model, calibration)
    return OpenVINONetwork(model, like=module, precision=precision, threads=threads)

"""What computes a network, and in which arithmetic, where the user leaves it open."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.export import (
    TOLERANCE,
    adds_its_input,
    beside_int8,
    compare,
    installed,
    loads,
    nncf_version,
    not_installed,
    openvino_module,
    openvino_version,
    phantom_inputs,
    ramp_input,
)
from pipeline.models.precision import preferred_precision

Engine = Literal["torch", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
EngineChoice = Literal["auto", "torch", "openvino"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "int8"]

_INSTRUCTIONS: Final = {"avx512_bf16": "BF16", "avx512_vnni": "VNNI", "amx_tile": "AMX"}
"""Those that round and sum otherwise than plain AVX does, as `torch.cpu.get_capabilities` calls them."""


def choose_engine(
    engine: EngineChoice, precision: PrecisionChoice, *, bundle: Bundle, device: torch.device
) -> tuple[Engine, Precision]:
    """The engine and precision of one network.

    `auto` takes OpenVINO where it is installed, loads and the network runs on a CPU, else torch; and bfloat16
    where the hardware has it and the bundle was trained in it, never anything coarser: int8 has to be asked
    for. bfloat16 that is named on a CPU without it is torch's, which emulates it.
    Segmenters run in torch, whatever is asked, and in their automatic precision where int8 is. A denoiser
    without an input skip runs in OpenVINO in float32 only: its last layer makes the image itself, which torch
    keeps in float32 and OpenVINO would round to steps of up to 8 HU.

    Args:
        engine: `auto` or what the user names.
        precision: `auto` or what the user names.
        bundle: whose network it is.
        device: where torch would run it.

    Raises:
        ConfigError: the two exclude each other or the device, or a library is missing.
    """
    automatic = _automatic(bundle, device)
    if bundle.kind != "denoiser":
        return "torch", automatic if precision == "auto" or precision == "int8" else precision
    chosen: Precision = automatic if precision == "auto" else precision
    _check(engine, chosen, bundle, device)
    if engine != "auto":
        return engine, chosen
    if chosen == "int8":
        return "openvino", chosen
    fits = device.type == "cpu" and (
        chosen == "fp32" or (adds_its_input(bundle) and preferred_precision(device) == "bf16")
    )
    return ("openvino" if fits and installed("openvino") and loads("openvino") else "torch"), chosen


def in_openvino(bundle: Bundle, precision: Precision) -> nn.Module:
    """A denoiser as OpenVINO computes it; in int8 calibrated on phantom slices.

    Raises:
        BundleError: the weights do not fit the architecture.
        ConfigError: the bundle is no denoiser's, a library is missing or does not load, this CPU does not
            compute in the precision, the conversion does not give what torch gives, or int8 is too far from
            that (`export.agreement`).
    """
    if bundle.scale is None:
        raise ConfigError(f"bundle {bundle.name}: holds a {bundle.kind}; OpenVINO computes denoisers only")
    module = bundle.model()
    calibration = phantom_inputs(module, bundle.scale) if precision == "int8" else ()
    network = openvino_module(module, precision=precision, calibration=calibration)
    if precision == "int8":
        judged, images = network, [_middle(image) for image in calibration]
    else:  # in float32, where any difference is a fault: what bfloat16 rounds away depends on the network
        judged, images = network.in_precision("fp32"), [ramp_input(module, bundle.scale)]
        network(images[0])  # a CPU that cannot compute so says it now, not at the first series
    agreement = compare(module, judged, images, unit_hu=bundle.scale.unit_hu)
    if not agreement.within(judged.precision):
        raise ConfigError(
            f"bundle {bundle.name}: OpenVINO in {judged.precision} is too far from torch: {agreement}, at "
            f"most {100 * TOLERANCE[judged.precision]:g} %; use --engine torch or another --precision"
        )
    return network


def engine_in_words(engine: Engine, precision: Precision, device: torch.device) -> str:
    """What computes, as far as it may change the last bits, e.g. `torch 2.13.0+cpu on cpu in fp32`.

    Below float32 the CPU's instructions decide how is rounded and summed, and the first layer takes the image
    in halves (`models.layers.ImageConv2d`): `on cpu (AVX512 BF16 VNNI AMX) in bf16, image in halves`.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu" and precision != "fp32":
        name = f"{name} ({_instructions()})"
    version = torch.__version__ if engine == "torch" else openvino_version()
    beside = f" and {beside_int8()}, by nncf {nncf_version()} on phantoms" if precision == "int8" else ""
    halves = ", image in halves" if precision != "fp32" else ""
    return f"{engine} {version} on {name} in {precision}{beside}{halves}"


def _instructions() -> str:
    """What this CPU computes bfloat16 and int8 with, e.g. `AVX512 BF16 VNNI AMX`."""
    flags = torch.cpu.get_capabilities()
    return " ".join(
        [
            torch.backends.cpu.get_cpu_capability(),
            *(word for flag, word in _INSTRUCTIONS.items() if flags.get(flag)),
        ]
    )


def _middle(image: Tensor) -> Tensor:
    """The inner quarter of a slice: as telling as all of it, in a quarter of the time."""
    rows, columns = image.shape[-2:]
    return image[..., rows // 4 : -rows // 4, columns // 4 : -columns // 4]


def _automatic(bundle: Bundle, device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the hardware has it and the bundle was trained in it: never coarser than that."""
    return preferred_precision(device) if bundle.precision == "bf16" else "fp32"


def _check(engine: EngineChoice, precision: Precision, bundle: Bundle, device: torch.device) -> None:
    if precision == "int8" and engine == "torch":
        raise ConfigError("--precision int8 needs --engine openvino; torch computes in fp32 or bf16")
    if engine != "openvino" and precision != "int8":
        return
    if precision != "fp32" and not adds_its_input(bundle):
        raise ConfigError(
            f"--precision {precision}: {bundle.architecture} has no input skip, so OpenVINO would round the "
            "image itself to steps of up to 8 HU; use --engine torch or --precision fp32"
        )
    if device.type != "cpu":
        named = "--engine openvino" if engine == "openvino" else "--precision int8"
        raise ConfigError(
            f"{named}: OpenVINO computes on the CPU, and networks run on {device.type} here; use "
            "--engine torch with fp32 or bf16, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    for name in ("openvino", "nncf") if precision == "int8" else ("openvino",):
        if not installed(name):
            raise not_installed(name)

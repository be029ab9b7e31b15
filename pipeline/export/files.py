"""Denoisers written as ONNX and OpenVINO files, each read back and compared with torch before it stays."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import Dim

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.export.agreement import TOLERANCE, Agreement, Precision, compare
from pipeline.export.flip import flipped
from pipeline.export.graph import INPUT, OUTPUT, converted, example_input, quantised
from pipeline.export.libraries import check_onnx, openvino_core, openvino_library
from pipeline.export.openvino import OpenVINONetwork
from pipeline.hu import HUScale
from pipeline.models.apply import neighbours_of, takes_noise_map

METADATA: Final = "ldct"
"""Key of the metadata entries: `ldct` in ONNX, and the folder of entries `ldct` in OpenVINO's."""
OPSET: Final = 18
"""ONNX operator set: what torch writes without converting, and runtimes from 2023 on read."""


def export_onnx(bundle: Bundle, path: Path, *, check_on: Sequence[Tensor], opset: int = OPSET) -> Agreement:
    """Write a denoiser as ONNX in float32, for any number and size of slices.

    The input `image` (N, C, H, W) is in network units, (HU - zero_hu) / unit_hu, with its channels as in
    `models.inputs`; the output `restored` (N, 1, H, W) goes back the same way. The bundle's header, with that
    scale, is the metadata entry `ldct`, and the only one: no file names a folder of this machine.

    Args:
        bundle: of a denoiser.
        path: of the file; replaced whole or not at all.
        check_on: (1, C, H, W) each, in network units: slices that the file is compared on, by OpenVINO.
        opset: of the file.

    Returns:
        How far the file is from torch.

    Raises:
        ConfigError: no denoiser, a library is missing, or the file is too far from torch; then none is left.
    """
    module, scale = _denoiser(bundle)
    check_onnx()
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=_folder(path)) as scratch:
        written = Path(scratch) / path.name
        words = _input_in_words(module, scale)
        _write_onnx(module, written, opset, header=bundle.header, input_in_words=words)
        agreement = _check(written, module, scale, "fp32", check_on, path=path)
        written.replace(path)
    return agreement


def export_openvino(
    bundle: Bundle,
    path: Path,
    *,
    precision: Precision,
    check_on: Sequence[Tensor],
    calibration: Sequence[Tensor] = (),
) -> Agreement:
    """Write a denoiser as OpenVINO IR, `path` and its weights beside it as `.bin`.

    Input, output and metadata are those of `export_onnx`; the entry is `ldct/header`. A graph does not say in
    which precision it is to be run: the entry `ldct/precision` does, and `ldct/inference_precision_hint` what
    to set, because OpenVINO without a hint computes float32 graphs in bfloat16 where the CPU has it.

    Args:
        bundle: of a denoiser.
        path: of the `.xml`; both files are replaced whole or not at all.
        precision: `bf16` writes float32 weights to be run in bfloat16, `int8` see `graph.quantised`.
        check_on: slices that the file is compared on, as in `export_onnx`.
        calibration: slices for `int8`.

    Returns:
        How far the file, in its precision, is from torch in float32.

    Raises:
        ConfigError: no denoiser, or one without input skip in less than fp32; a library is missing; this CPU
            does not compute in the precision; or the file cannot be written or is too far from torch, and
            none is left.
        ValueError: int8 without calibration slices.
    """
    module, scale = _denoiser(bundle)
    if precision != "fp32" and not adds_its_input(bundle):
        raise ConfigError(
            f"--precision {precision}: {bundle.architecture} has no input skip, so OpenVINO would round the "
            "image itself to steps of up to 8 HU; use fp32"
        )
    model = converted(module, in_halves=precision != "fp32")
    if precision == "int8":
        model = quantised(model, calibration)
    entries = {
        "header": bundle.header,
        "precision": precision,
        "inference_precision_hint": "f32" if precision == "fp32" else "bf16",
        "input": _input_in_words(module, scale),
    }
    for name, text in entries.items():
        model.set_rt_info(text, [METADATA, name])
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=_folder(path)) as scratch:
        written = Path(scratch) / path.name
        try:
            openvino_library().save_model(model, written, compress_to_fp16=False)
        except RuntimeError as failure:  # e.g. `iostream error`, of a full disk
            reason = " ".join(str(failure).split())
            raise ConfigError(
                f"{path}: OpenVINO cannot write here ({reason}); make room, or name another folder"
            ) from None
        agreement = _check(written, module, scale, precision, check_on, path=path)
        for part in (written.with_suffix(".bin"), written):
            part.replace(path.with_name(part.name))
    return agreement


def adds_its_input(bundle: Bundle) -> bool:
    """Whether a denoiser's layers make a correction of its input, and not the image itself."""
    return bool(bundle.arguments.get("residual", bundle.architecture != "cnn10"))


def _denoiser(bundle: Bundle) -> tuple[nn.Module, HUScale]:
    if bundle.scale is None:
        raise ConfigError(f"bundle {bundle.name}: holds a {bundle.kind}; only denoisers are exported")
    return bundle.model(), bundle.scale


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent


def _write_onnx(module: nn.Module, path: Path, opset: int, *, header: str, input_in_words: str) -> None:
    # Its exporter warns of itself, and of libraries that no denoiser needs.
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            flipped(module),
            (example_input(module),),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        _forget_its_making(program.model)
        program.model.metadata_props[METADATA] = header
        program.model.doc_string = input_in_words
        program.save(path, external_data=False)


def _forget_its_making(model: Any) -> None:
    """Of every node and value the exporter notes lines of source, with the folders of who exports."""
    for graph in (model.graph, *model.functions.values()):
        nodes = list(graph.all_nodes())
        values = [
            *graph.inputs,
            *graph.initializers.values(),
            *(one for node in nodes for one in node.outputs),
        ]
        for noted in (graph, *nodes, *values):
            noted.metadata_props.clear()


def _input_in_words(module: nn.Module, scale: HUScale) -> str:
    slices = 2 * neighbours_of(module) + 1
    noise = "; last channel: the noise's SD in HU / unit_hu" if takes_noise_map(module) else ""
    return (
        f"image (N, C, H, W): {slices} slice(s), the middle one is restored, as (HU - zero_hu) / unit_hu "
        f"with zero_hu {scale.zero_hu:g} and unit_hu {scale.unit_hu:g}{noise}; padding outside the field "
        "of view as air, -1000 HU. restored (N, 1, H, W): HU = restored * unit_hu + zero_hu."
    )


def _check(
    written: Path,
    module: nn.Module,
    scale: HUScale,
    precision: Precision,
    images: Sequence[Tensor],
    *,
    path: Path,
) -> Agreement:
    """The file as it was written, beside torch; `path` is where it is to go."""
    model = openvino_core().read_model(written)
    network = OpenVINONetwork(model, like=module, precision=precision)
    agreement = compare(module, network, images, unit_hu=scale.unit_hu)
    if not agreement.within(precision):
        raise ConfigError(
            f"{path}: not written, in {precision} it is too far from torch: {agreement}, at most "
            f"{100 * TOLERANCE[precision]:g} %; choose another precision or other calibration slices"
        )
    return agreement

"""How fast each engine denoises a slice, and how far it is from float32: `python benchmarks/engines.py`.

    python benchmarks/engines.py [--bundle FILE ...] [--rounds 5] [--features 96 32] [--pixels 512]

One slice goes through RED-CNN in eager float32, as public code does it, and through torch and OpenVINO as
`ldct predict` uses them, in turns: a busy moment hits all. A speed is the median, over the rounds, of the
baseline's time divided by the engine's. RED-CNN, and DRUNet at its default size, have
random weights: time does not depend on them.

Agreement needs trained weights: of each `--bundle` (the shipped denoiser, if none is named) on slices of
phantoms that int8 was not calibrated on, with white and with correlated noise: RMS of the difference to eager
float32 over the correction's RMS, change of the PSNR against the noise-free phantom, and what is left of a
ramp with steps of 0.5 HU through the same network with its last layer at zero.

Writes `benchmarks/results/engines.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from run import CHECKOUT, machine
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pipeline.bundle import Bundle, load_bundle
from pipeline.export import installed, network_inputs, openvino_module, openvino_version, phantom_inputs
from pipeline.hu import WATER_CENTRED, HUScale
from pipeline.models import build_model
from pipeline.models.apply import neighbours_of
from pipeline.simulate import make_phantom

BASELINE = "torch fp32 NCHW"
PRECISIONS = ("fp32", "bf16", "int8")
CT_SEED = 2
NOISE_SD_HU = 25.0
RAMP_STEP_HU = 0.5

Run = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure, print the numbers and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--features", type=int, nargs="*", default=[96, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pixels", type=int, default=512)
    options = parser.parse_args()
    bundles = [load_bundle(path, "denoiser") for path in options.bundle or shipped_bundles()]
    named = {f"{bundle.name} {bundle.model_hash[:12]}": bundle for bundle in bundles}
    models = {
        f"redcnn {features} features": drawn("redcnn", features=features) for features in options.features
    }
    models |= {"drunet": drawn("drunet")} | {name: bundle.model() for name, bundle in named.items()}
    result = {
        "machine": machine() | {"openvino": version_here(), "torch_threads": torch.get_num_threads()},
        "slice": f"{options.pixels}x{options.pixels}",
        "baseline": BASELINE,
        "speed": {name: speeds(model, options.pixels, options.rounds) for name, model in models.items()},
        "agreement": {name: agreement(bundle, options.pixels) for name, bundle in named.items()},
        "gpu": "not measured",
    }
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "engines.json").write_text(text, encoding="utf-8")
    print(text, end="")


def version_here() -> str:
    """Of OpenVINO; without it torch alone is measured."""
    return openvino_version() if installed("openvino") else "not installed"


def shipped_bundles() -> list[Path]:
    """The denoisers in the package."""
    return sorted((CHECKOUT / "pipeline" / "weights").glob("*.safetensors"))


def drawn(name: str, **arguments: int) -> nn.Module:
    """A network with random weights, the last layer's too: untrained it is zero, and zeros are quick."""
    torch.manual_seed(0)
    model = build_model(name, **arguments).eval()
    nn.init.normal_(last_layer(model).weight, std=1e-3)
    return model


def last_layer(model: nn.Module) -> nn.Module:
    """Of a restoration network: what makes the correction."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]


def engines(model: nn.Module, scale: HUScale) -> dict[str, Run]:
    """Every way to run a network, by name; slices in HU in and out."""
    nchw = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    ways: dict[str, Run] = {
        BASELINE: lambda image: nchw(image),
        "torch fp32 channels-last": lambda image: restored(last, image),
        "torch bf16 channels-last": lambda image: restored(last, image, bf16=True),
    }
    if installed("openvino", "nncf"):
        calibration = phantom_inputs(model, scale)
        for precision in PRECISIONS:
            network = openvino_module(model, precision=precision, calibration=calibration)
            ways[f"openvino {precision}"] = network
    return ways


def restored(model: nn.Module, image: Tensor, *, bf16: bool = False) -> Tensor:
    """As `models.apply` runs it."""
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=bf16):
        return model(image.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def speeds(model: nn.Module, pixels: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds and speed of each engine, from alternating rounds."""
    (image, *_) = phantom_inputs(model, WATER_CENTRED, pixels=pixels)
    ways = engines(model, WATER_CENTRED)
    for run in ways.values():  # compiles, fills caches
        run(image)
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(seconds(run, image))
    return {
        name: {
            "median_ms": round(1000 * statistics.median(taken), 1),
            "times_faster": round(
                statistics.median(b / t for b, t in zip(times[BASELINE], taken, strict=True)), 2
            ),
        }
        for name, taken in times.items()
    }


def seconds(run: Run, image: Tensor) -> float:
    """Of one pass."""
    began = time.perf_counter()
    run(image)
    return time.perf_counter() - began


@torch.no_grad()
def agreement(bundle: Bundle, pixels: int) -> dict[str, dict[str, float]]:
    """Each engine beside eager float32 on phantom slices that nothing was calibrated on."""
    scale, model = bundle.scale, bundle.model()
    ways, ramps = engines(model, scale), engines(without_correction(model), scale)
    truth_hu, noisy_hu, images = unseen_slices(model, scale, pixels)
    restored_hu = {
        name: scale.to_hu(torch.cat([run(image) for image in images])) for name, run in ways.items()
    }
    exact_hu = restored_hu[BASELINE]
    return {
        name: {
            "difference_percent_of_correction": round(
                100 * rms(given_hu - exact_hu) / rms(exact_hu - noisy_hu), 3
            ),
            "largest_difference_hu": round((given_hu - exact_hu).abs().max().item(), 3),
            "psnr_change_db": round(20 * math.log10(rms(exact_hu - truth_hu) / rms(given_hu - truth_hu)), 4),
            "ramp_error_hu": round(ramp_error_hu(ramps[name], model, scale, pixels), 4),
        }
        for name, given_hu in restored_hu.items()
    }


def unseen_slices(model: nn.Module, scale: HUScale, pixels: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Chest and abdomen of patients that calibration has not seen, with white and with correlated noise.

    Returns:
        (4, 1, H, W) HU without and with noise, and the four inputs (1, C, H, W) in network units.
    """
    rng = np.random.default_rng(CT_SEED)
    slices = 2 * neighbours_of(model) + 1
    truth, noisy, images = [], [], []
    for region, width_pixels in product(("chest", "abdomen"), (0.0, 0.8)):
        spacing_mm = (3.0, 380 / pixels, 380 / pixels)
        hu = make_phantom(region, rng, shape=(slices, pixels, pixels), spacing_mm=spacing_mm).hu
        noise = gaussian_filter(rng.standard_normal(hu.shape), (0, width_pixels, width_pixels))
        low_dose_hu = (hu + NOISE_SD_HU * noise / noise.std()).astype(np.float32)
        images += network_inputs(model, scale, low_dose_hu[None], noise_sd_hu=NOISE_SD_HU)
        for kept, volume in ((truth, hu), (noisy, low_dose_hu)):
            kept.append(torch.from_numpy(volume[slices // 2])[None, None])
    return torch.cat(truth), torch.cat(noisy), images


def without_correction(model: nn.Module) -> nn.Module:
    """The same network with its last layer at zero: only the input skip is left."""
    emptied = copy.deepcopy(model)
    for parameter in last_layer(emptied).parameters():
        nn.init.zeros_(parameter)
    return emptied


def ramp_error_hu(run: Run, model: nn.Module, scale: HUScale, pixels: int) -> float:
    """Largest error of a ramp from 1000 HU up in steps of 0.5 HU, where bfloat16 knows steps of 4 to 8."""
    ramp_hu = 1000 + RAMP_STEP_HU * np.arange(pixels, dtype=np.float32)
    shape = (1, 2 * neighbours_of(model) + 1, pixels, pixels)
    (image,) = network_inputs(model, scale, np.broadcast_to(ramp_hu, shape).copy(), noise_sd_hu=NOISE_SD_HU)
    return float((scale.to_hu(run(image).float()) - torch.from_numpy(ramp_hu)).abs().max())


def rms(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()


if __name__ == "__main__":
    main()

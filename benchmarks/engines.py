"""How fast each engine denoises a slice, and how far it is from float32: `python benchmarks/engines.py`.

    python benchmarks/engines.py [--bundle FILE ...] [--rounds 5] [--features 96 32] [--pixels 512]
                                 [--held-out models/reference data/reference/cases]

One slice goes through RED-CNN in eager float32, as public code does it, and through torch and OpenVINO as
`ldct predict` uses them, in turns: a busy moment hits all. The baseline has a process of its own, because
`ldct predict` changes how its process gets memory. A speed is the median, over the rounds, of the baseline's
time divided by the engine's. RED-CNN, and DRUNet at its default size, have random weights: time does not
depend on them.

Agreement needs trained weights: of each `--bundle` (the shipped denoiser, if none is named) on slices of
phantoms that int8 was not calibrated on, with white and with correlated noise: RMS of the difference to eager
float32 over the correction's RMS, change of the PSNR against the noise-free phantom, and what is left of a
ramp with steps of 0.5 HU through the same network with its last layer at zero. With `--held-out` also of each
training without a source (`denoiser_without_*`) on that source, at 25 and 10 % of its dose: the PSNR is then
against the normal dose, the mean over slices and the slice that loses most.

Writes `benchmarks/results/engines.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from run import CHECKOUT, machine
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pipeline.bundle import Bundle, load_bundle
from pipeline.config.evaluate import MadeDoseSettings
from pipeline.data import read_cases
from pipeline.data.patches import spread_slices
from pipeline.export import installed, network_inputs, openvino_module, openvino_version, phantom_inputs
from pipeline.hu import WATER_CENTRED, HUScale
from pipeline.inference.restoration.memory import keep_freed_memory
from pipeline.models import build_model
from pipeline.models.apply import neighbours_of, takes_noise_map
from pipeline.simulate import make_phantom
from pipeline.stages.evaluation.restoration.low_doses import Scan, scans_of

BASELINE = "torch fp32 NCHW"
PRECISIONS = ("fp32", "bf16", "int8")
CT_SEED = 2
NOISE_SD_HU = 25.0
RAMP_STEP_HU = 0.5
LOW_DOSES = MadeDoseSettings(dose_fractions=(0.25, 0.1), assumed_cutoff_per_mm=0.8)
SLICES_PER_CASE = 3

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
    parser.add_argument("--held-out", type=Path, nargs=2, metavar=("MODELS", "CASES"))
    options = parser.parse_args()
    keep_freed_memory()
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
        "held_out": held_out(*options.held_out) if options.held_out else "not measured",
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
    del ways[BASELINE]
    times = {name: [] for name in (BASELINE, *ways)}
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=prepare_baseline, initargs=(model, torch.get_num_threads())
    ) as elsewhere:
        elsewhere.submit(baseline_seconds, image).result()
        for run in ways.values():  # compiles, fills caches
            run(image)
        for _ in range(rounds):
            times[BASELINE].append(elsewhere.submit(baseline_seconds, image).result())
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


def prepare_baseline(model: nn.Module, threads: int) -> None:
    """In the process of the baseline."""
    torch.set_num_threads(threads)
    globals()["baseline"] = model.to(memory_format=torch.contiguous_format)


@torch.no_grad()
def baseline_seconds(image: Tensor) -> float:
    """In the process of the baseline: of one pass."""
    return seconds(globals()["baseline"], image)


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


@torch.no_grad()
def held_out(models: Path, cases: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By source: each engine beside eager float32 on low doses of a source that the training did not see."""
    bundles = [
        load_bundle(path, "denoiser") for path in sorted(models.glob("denoiser_without_*/bundle.safetensors"))
    ]
    return {", ".join(bundle.training["left_out"]): agreement_on(bundle, cases) for bundle in bundles}


def agreement_on(bundle: Bundle, folder: Path) -> dict[str, dict[str, float]]:
    """On what the bundle's training left out."""
    scale, model = bundle.scale, bundle.model()
    ways = engines(model, scale)
    cases = [case for case in read_cases(folder) if case.source in bundle.training["left_out"]]
    scans = scans_of(
        cases, LOW_DOSES, noise_levels=takes_noise_map(model), seed=0, device=torch.device("cpu")
    )
    differences, corrections = {name: [] for name in ways}, []
    psnr_changes = {name: [] for name in ways}
    for normal_hu, low_hu, image in low_dose_inputs(model, scale, scans):
        exact_hu = scale.to_hu(ways[BASELINE](image))
        corrections.append(rms(exact_hu - low_hu))
        for name, run in ways.items():
            given_hu = scale.to_hu(run(image))
            differences[name].append(rms(given_hu - exact_hu))
            psnr_changes[name].append(20 * math.log10(rms(exact_hu - normal_hu) / rms(given_hu - normal_hu)))
    return {
        name: {
            "slices": len(corrections),
            "difference_percent_of_correction": round(
                100 * math.hypot(*differences[name]) / math.hypot(*corrections), 3
            ),
            "psnr_change_db": round(statistics.mean(psnr_changes[name]), 4),
            "psnr_change_db_of_worst_slice": round(min(psnr_changes[name]), 4),
        }
        for name in ways
    }


def low_dose_inputs(
    model: nn.Module, scale: HUScale, scans: Iterator[object]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Normal dose and low dose (1, 1, H, W) HU, and the input, of some slices of each usable scan."""
    for scan in scans:
        if not isinstance(scan, Scan):
            continue
        for index, dose in product(
            spread_slices(scan.case.shape[0], SLICES_PER_CASE), LOW_DOSES.dose_fractions
        ):
            low_hu = scan.low_dose(index, dose, torch.device("cpu"))[None, None]
            (image,) = network_inputs(model, scale, low_hu, noise_sd_hu=scan.noise_sd_hu(dose))
            normal_hu = scan.case.normal_dose()[index].astype(np.float32)[None, None]
            yield torch.from_numpy(normal_hu), torch.from_numpy(low_hu), image


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

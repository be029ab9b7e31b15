"""How many slices a GPU denoises in a second, and how much of the card that is: `python benchmarks/gpu.py`.

    python benchmarks/gpu.py [--features 96 32] [--rounds 7] [--pixels 512] [--out FILE]

Slices go through RED-CNN with random weights, and through the shipped denoiser, in turns: in eager float32
and PyTorch's own layout, as public code does it, with TF32 off and on; and as `ldct predict` computes them,
which chooses engine, precision, layout and batch itself. Of that there are two figures: the network alone, on
slices that are on the card, and all of `inference.restoration.networks.denoise`, with the way to the card and
back. Everything takes the batch that `ldct predict` takes. A speed is the median, over the rounds, of the
baseline's time divided by this one's. Nothing sets `cudnn.benchmark`: it is off, as in `ldct predict`.

Large bfloat16 matrices take part in the turns: the floating-point operations of the network, counted in its
plain float32 form, over those of the matrices in the same time say how much of the card is used. Where the
card's name is known, its datasheet's rate stands beside that.

Without a GPU it ends at once. `--device cpu --pixels 64 --features 8 --rounds 1` goes through the same code
and proves nothing else; its numbers are kept only with `--out`. Otherwise it writes
`benchmarks/results/gpu.json`. Trainings on a GPU are measured by `benchmarks/train.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predict import write_bundle
from run import CHECKOUT, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bundle import Bundle, load_bundle
from pipeline.inference.restoration.engines import choose_engine
from pipeline.inference.restoration.memory import keep_freed_memory
from pipeline.inference.restoration.networks import Network, Volume, denoise
from pipeline.models.apply import network_input, restore_hu, with_neighbours
from pipeline.models.precision import ieee_float32
from pipeline.simulate import make_phantom
from pipeline.weights import shipped

TF32_OFF = "eager fp32 NCHW, TF32 off"
TF32_ON = "eager fp32 NCHW, TF32 on"
NETWORK = "ldct predict, network alone"
WHOLE = "ldct predict, with copies to the card and back"
BASELINES = (TF32_OFF, TF32_ON)
MATRICES = "bf16 matrices"

AIM_OF_MATRICES = 0.5
MATRIX_SIDE = {"cuda": 8192, "cpu": 128}
TURN_S = {"cuda": 0.5, "cpu": 0.0}
WARM_UP = 5
NOISE_SD_HU = 25.0
SXM_DENSE_BF16_TFLOPS = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H200": 989}
"""NVIDIA's datasheets, without sparsity, of the modules that give these names; of no other card."""
GIB = 2**30

Run = Callable[[], Tensor | Volume]


def main() -> None:
    """Measure, print the numbers and keep them."""
    options = command_line()
    device = torch.device(options.device)
    if device.type == "cuda":
        keep_freed_memory()  # as `ldct predict` does
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result = {
        "machine": machine() | versions(name),
        "slice": f"{options.pixels}x{options.pixels}",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matrix_side": MATRIX_SIDE[device.type],
        "datasheet_bf16_tflops": SXM_DENSE_BF16_TFLOPS.get(name, "unknown"),
        "aim_of_matrices": AIM_OF_MATRICES,
        "networks": {
            title: measure(bundle, device, options.pixels, options.rounds)
            for title, bundle in bundles(options.features)
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    kept = CHECKOUT / "benchmarks" / "results" / "gpu.json" if device.type == "cuda" else None
    if out := options.out or kept:
        out.write_text(text, encoding="utf-8")
    print(text, end="")


def command_line() -> argparse.Namespace:
    """The options; without the device that they name it ends here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, nargs="*", default=[96, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu.py: needs a CUDA device; --device cpu --pixels 64 --features 8 --rounds 1 only rehearses",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return options


def versions(device_name: str) -> dict[str, str]:
    """What the numbers depend on, beside the machine."""
    return {
        "device": device_name,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def bundles(features: list[int]) -> Iterator[tuple[str, Bundle]]:
    """Each network with its name."""
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        for count in features:
            path = Path(scratch) / f"{count}.safetensors"
            write_bundle(path, count)
            yield f"redcnn {count} features", load_bundle(path, "denoiser")
    if path := shipped("plain"):
        bundle = load_bundle(path, "denoiser")
        yield f"{bundle.name} {bundle.model_hash[:12]}", bundle


@torch.no_grad()
def measure(bundle: Bundle, device: torch.device, pixels: int, rounds: int) -> dict[str, Any]:
    """One network in all ways."""
    network = as_predicted(bundle, device)
    eager = bundle.model().to(device)
    hu = noisy_slices(network.batch_slices, pixels)
    images_hu = with_neighbours(torch.from_numpy(hu).to(device), network.neighbours)
    image = eager_input(network, images_hu)
    runs = ways(network, eager, hu, images_hu, image)
    flop = flop_of(eager, image[:1])
    prepared = {name: prepare(run, device) for name, run in runs.items()}
    times = in_turns(runs, {name: passes for name, (passes, _) in prepared.items()}, device, rounds)
    facts = {
        "engine": network.engine,
        "batch": network.batch_slices,
        "gflop_per_slice": round(flop / 1e9, 3),
        "ways": {
            name: speed(times, name, network.batch_slices) | {"peak_gpu_memory_gib": prepared[name][1]}
            for name in runs
            if name != MATRICES
        },
        **use_of_card(times, network.batch_slices * flop, MATRIX_SIDE[device.type]),
        "difference_percent_of_correction": difference_percent(runs, bundle, hu),
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return facts


def as_predicted(bundle: Bundle, device: torch.device) -> Network:
    """As `ldct predict` loads it without options; a rehearsal stays in torch, which is what a GPU has."""
    asked = "auto" if device.type == "cuda" else "torch"
    engine, precision = choose_engine(asked, "auto", bundle=bundle, device=device)
    return Network.load(bundle, device=device, precision=precision, engine=engine)


def noisy_slices(count: int, pixels: int) -> Volume:
    """(count, pixels, pixels) HU of a phantom patient with white noise."""
    rng = np.random.default_rng(0)
    shape = (count, pixels, pixels)
    hu = make_phantom("abdomen", rng, shape=shape, spacing_mm=(3.0, 380 / pixels, 380 / pixels)).hu
    return (hu + NOISE_SD_HU * rng.standard_normal(shape)).astype(np.float32)


def eager_input(network: Network, images_hu: Tensor) -> Tensor:
    """(N, C, H, W) in network units, in PyTorch's own layout."""
    image = network_input(network.module, images_hu, network.bundle.scale, noise_sd_hu=noise_of(images_hu))
    return image.contiguous(memory_format=torch.contiguous_format)


def noise_of(images_hu: Tensor) -> Tensor:
    """(N,) HU, for a network with a noise map."""
    return images_hu.new_full((len(images_hu),), NOISE_SD_HU)


def ways(network: Network, eager: nn.Module, hu: Volume, images_hu: Tensor, image: Tensor) -> dict[str, Run]:
    """One batch in each way, by name, and the matrices."""
    padding, noise_sd_hu = np.zeros(hu.shape, bool), noise_of(images_hu)
    side = MATRIX_SIDE[network.device.type]
    left, right = torch.randn(2, side, side, device=network.device).bfloat16()

    @ieee_float32()
    def exactly() -> Tensor:
        return eager(image)

    @tf32()
    def coarsely() -> Tensor:
        return eager(image)

    @ieee_float32()
    def alone() -> Tensor:
        return restore_hu(
            network.module,
            images_hu,
            network.bundle.scale,
            noise_sd_hu=noise_sd_hu,
            bf16=network.bf16,
            tile_pixels=network.tile_pixels,
        )

    return {
        TF32_OFF: exactly,
        TF32_ON: coarsely,
        NETWORK: alone,
        WHOLE: lambda: denoise(network, hu, padding, noise_sd_hu=NOISE_SD_HU),
        MATRICES: lambda: left @ right,
    }


@contextmanager
def tf32() -> Iterator[None]:
    """TF32 in convolutions and matrix products; the opposite of `ieee_float32`, by the same switches."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions


def flop_of(network: nn.Module, image: Tensor) -> float:
    """Floating-point operations of one pass."""
    with FlopCounterMode(display=False) as counter:
        network(image)
    return float(counter.get_total_flops())


def prepare(run: Run, device: torch.device) -> tuple[int, float | None]:
    """Warm up; how many passes make a turn, and the most memory that tensors took in GiB."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds(run, device, WARM_UP)
    peak_gib = round(torch.cuda.max_memory_allocated() / GIB, 2) if device.type == "cuda" else None
    return max(1, math.ceil(TURN_S[device.type] / seconds(run, device, 1))), peak_gib


def in_turns(
    runs: Mapping[str, Run], passes: Mapping[str, int], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Seconds of a pass of each, round by round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds(run, device, 1)  # the one before left other blocks in the caches
            times[name].append(seconds(run, device, passes[name]))
    return times


def seconds(run: Run, device: torch.device, passes: int) -> float:
    """Of one pass, until the device has finished."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(passes):
        run()
    synchronise(device)
    return (time.perf_counter() - began) / passes


def synchronise(device: torch.device) -> None:
    """Wait for the device; a CPU never runs behind."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def speed(times: Mapping[str, list[float]], name: str, batch: int) -> dict[str, float]:
    """Slices per second, and beside each baseline."""
    return {
        "slices_per_s": round(batch / statistics.median(times[name]), 2),
        **{
            f"times {baseline}": round(median_ratio(times[baseline], times[name]), 3)
            for baseline in BASELINES
            if name not in BASELINES
        },
    }


def use_of_card(times: Mapping[str, list[float]], flop: float, side: int) -> dict[str, float]:
    """What the network alone reaches on the card, beside the matrices of the same rounds."""
    of_matrices = 2 * side**3
    return {
        "tflops": round(flop / statistics.median(times[NETWORK]) / 1e12, 3),
        "tflops_of_matrices": round(of_matrices / statistics.median(times[MATRICES]) / 1e12, 3),
        "of_matrices": round(flop / of_matrices * median_ratio(times[MATRICES], times[NETWORK]), 4),
    }


def median_ratio(longer: list[float], shorter: list[float]) -> float:
    """Of two lists of seconds, round by round."""
    return statistics.median(a / b for a, b in zip(longer, shorter, strict=True))


def difference_percent(runs: Mapping[str, Run], bundle: Bundle, hu: Volume) -> float:
    """RMS of what `ldct predict` gives less what IEEE float32 gives, of the RMS of the correction."""
    exact_hu = bundle.scale.to_hu(runs[TF32_OFF]())[:, 0].cpu().numpy()
    return round(float(100 * rms(runs[WHOLE]() - exact_hu) / rms(exact_hu - hu)), 3)


def rms(values: Volume) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


if __name__ == "__main__":
    main()

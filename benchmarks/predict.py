"""How quickly a folder of CT is denoised, DICOM to DICOM, beside the straightforward path of public code.

    python benchmarks/predict.py [--slices 200] [--features 96] [--long 1000] [--precisions auto int8]

Both paths denoise the same uncompressed 512² series with the same RED-CNN. The public path is what most
repositories do: pydicom in a loop, each slice through the eager float32 network, pydicom again to write. Ours
is `ldct predict` as a command, start-up, checks and read-back included. Then a series of `--long` slices goes
through a network too small to matter: what remains is everything but the network, and its peak memory.
Writes `benchmarks/results/predict.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
import torch
from dose import write_series
from run import CHECKOUT, environment, machine, peak_memory

from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.hu import WATER_CENTRED
from pipeline.models import build_model

PRECISIONS = ("auto", "fp32", "bf16", "int8")
TINY_FEATURES = 1


def main() -> None:
    """Measure, print the numbers and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--features", type=int, default=96)
    parser.add_argument("--long", type=int, default=1000, help="0 leaves the long series out")
    parser.add_argument("--precisions", choices=PRECISIONS, nargs="+", default=["auto", "int8"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ldct-benchmark-") as scratch:
        root = Path(scratch)
        result: dict[str, object] = {"machine": machine(), "slice": "512x512"}
        result["folder_to_folder"] = compare(root, options.slices, options.features, options.precisions)
        if options.long:
            result["long_series"] = long_series(root, options.long)
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "predict.json").write_text(text, encoding="utf-8")
    print(text, end="")


def compare(root: Path, slices: int, features: int, precisions: list[str]) -> dict[str, object]:
    """The public path on one series, and ours in each precision."""
    source, weights = root / "source", root / "weights.safetensors"
    write_series(source, slices)
    write_bundle(weights, features)
    public_s = timed_public_path(source, root / "public", weights)
    return {
        "slices": slices,
        "features": features,
        "public_path_s": round(public_s, 1),
        "ours": {name: ours(source, root / name, weights, name, public_s) for name in precisions},
    }


def ours(source: Path, target: Path, weights: Path, precision: str, public_s: float) -> dict[str, object]:
    """`ldct predict` beside the public path, and what it spends outside the network."""
    ours_s, peak_mib, record = predict(source, target, weights, precision)
    timings = record["timings_s"]
    network_s = timings["denoise"]
    return {
        "engine": record["recipe"]["denoiser"]["engine"],
        "precision": record["recipe"]["denoiser"]["precision"],
        "seconds": round(ours_s, 1),
        "times_faster": round(public_s / ours_s, 2),
        "network_s": round(network_s, 1),
        "all_but_the_network_percent": round(100 * (1 - network_s / timings["total"]), 1),
        "all_but_the_network_with_start_percent": round(100 * (1 - network_s / ours_s), 1),
        "peak_memory_mib": peak_mib,
    }


def long_series(root: Path, slices: int) -> dict[str, float | str]:
    """A network of one feature on many slices."""
    source, weights = root / "long", root / "tiny.safetensors"
    write_series(source, slices)
    write_bundle(weights, TINY_FEATURES)
    seconds, peak_mib, record = predict(source, root / "long_ours", weights, "auto")
    rest_s = record["timings_s"]["total"] - record["timings_s"]["denoise"]
    return {
        "slices": slices,
        "engine": record["recipe"]["denoiser"]["engine"],
        "seconds": round(seconds, 1),
        "all_but_the_network_ms_per_slice": round(1000 * rest_s / slices, 1),
        "peak_memory_mib": peak_mib,
    }


def write_bundle(path: Path, features: int) -> None:
    """An untrained denoiser whose last layer is not zero, as after training."""
    network = build_model("redcnn", features=features)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * 1e-3 if tensor.count_nonzero() == 0 else tensor
        for name, tensor in network.state_dict().items()
    }
    bundle = Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments={"features": features},
        name="redcnn",
        scale=WATER_CENTRED,
        precision="bf16",
        tensors=tensors,
        score={},
        config_digest="",
        data_digest="",
    )
    save_bundle(path, bundle)


@torch.no_grad()
def timed_public_path(source: Path, target: Path, weights: Path) -> float:
    """Seconds of read, HU, eager float32 network, back to stored values, write: one slice after the other."""
    bundle = load_bundle(weights)
    network = bundle.model()
    target.mkdir()
    began = time.perf_counter()
    for path in sorted(source.iterdir()):
        dataset = pydicom.dcmread(path)
        hu = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(
            dataset.RescaleIntercept
        )
        image = bundle.scale.to_network(torch.from_numpy(hu)[None, None])
        restored = bundle.scale.to_hu(network(image))[0, 0].numpy()
        stored = (restored - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
        dataset.PixelData = np.round(stored).astype(dataset.pixel_array.dtype).tobytes()
        dataset.save_as(target / path.name)
    return time.perf_counter() - began


def predict(source: Path, target: Path, weights: Path, precision: str) -> tuple[float, int, dict]:
    """Seconds and peak memory of `ldct predict`, and the record of its one series."""
    command = [sys.executable, "-m", "pipeline", "predict", str(source), str(target)]
    began = time.perf_counter()
    with peak_memory() as peak_mib:
        subprocess.run(
            [*command, "--denoiser", str(weights), "--precision", precision], env=environment(), check=True
        )
    seconds = time.perf_counter() - began
    (record,) = target.glob("*/*/series.json")
    return seconds, round(peak_mib[0]), json.loads(record.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

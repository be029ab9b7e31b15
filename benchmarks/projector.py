"""Time per slice of forward projection, its gradient and filtered back-projection, in both beams.

python benchmarks/projector.py [--size 512] [--batch 16] [--device cpu]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch

from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam, filtered_back_projection, project


def main() -> None:
    """Print one line per operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"{options.size}², batch {options.batch}, {device}, {torch.get_num_threads()} threads")
    images = torch.rand(options.batch, options.size, options.size, device=device)
    for beam in (ParallelBeam(options.size, pixel_mm=0.75), FanBeam(options.size, pixel_mm=0.75)):
        for name, seconds in times(images, beam).items():
            title = f"{type(beam).__name__}, {beam.views} views, {name}"
            print(f"{title:<60}{1000 * seconds / len(images):7.1f} ms per slice")
    print(f"peak memory {peak_megabytes(device):.0f} MB")


def times(images: torch.Tensor, beam: Beam) -> dict[str, float]:
    """Least seconds of each operation on the whole batch."""
    kernel = Kernel(0.5 / beam.pixel_mm)
    sinograms = project(images, beam)

    def gradient() -> None:
        leaf = images.clone().requires_grad_()
        project(leaf, beam).sum().backward()

    return {
        "forward projection": best_seconds(lambda: project(images, beam), images.device),
        "filtered back-projection": best_seconds(
            lambda: filtered_back_projection(sinograms, beam, kernel=kernel), images.device
        ),
        "forward projection and its gradient": best_seconds(gradient, images.device, repeats=1),
    }


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The least of several wall-clock times."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_megabytes(device: torch.device) -> float:
    """Most memory held: of the GPU's tensors, or of this process with Python and torch."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()

"""Time per slice of the forward projection and of filtered back-projection.

python benchmarks/projector.py [--size 512] [--views 720] [--batch 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from pipeline.projector import ParallelBeam, filtered_back_projection, project


def main() -> None:
    """Print one line per operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=720)
    parser.add_argument("--batch", type=int, default=10)
    options = parser.parse_args()
    beam = ParallelBeam(options.size, pixel_mm=0.75, views=options.views)
    images = torch.rand(options.batch, options.size, options.size)
    sinograms = project(images, beam)
    forward = best_seconds(lambda: project(images, beam)) / options.batch
    fbp = best_seconds(lambda: filtered_back_projection(sinograms, beam, hann_cutoff=1.0)) / options.batch
    print(f"{options.size}², {options.views} views, batch {options.batch}, {torch.get_num_threads()} threads")
    print(f"forward projection        {1000 * forward:7.1f} ms per slice")
    print(f"filtered back-projection  {1000 * fbp:7.1f} ms per slice")


def best_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least of several wall-clock times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()

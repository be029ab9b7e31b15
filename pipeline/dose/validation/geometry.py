"""Is the projector right? Exact line integrals both ways, scikit-image as a reference, and the transpose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from skimage.transform import iradon, radon

from pipeline.dose.photons import attenuation_per_mm, attenuation_to_hu
from pipeline.dose.validation.check import Check, Image, Measure, Plot
from pipeline.dose.validation.objects import HIPS, Ellipse, coverage, line_integrals_of, paint_hu
from pipeline.hu import AIR_HU
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam, filtered_back_projection, project

Array = npt.NDArray[np.float64]

ADJOINT_LIMIT: Final = 1e-5
LINE_INTEGRAL_LIMIT: Final = 0.002
"""Mean error of a line integral, as a share of the largest."""
UNIFORM_LIMIT_HU: Final = 2.0
EDGES_LIMIT_HU: Final = 8.0
"""Where edges count: a quarter of a detector cell in the wrong place gives 13."""
RADON_LIMIT: Final = 0.005
WATER_LIMIT_HU: Final = 1.0
PLAIN_RAMP: Final = Kernel(cutoff_per_mm=math.inf)
SCIKIT_IMAGE_SIZE: Final = 129
_INSERTS: Final = (
    Ellipse(120, 90, x_mm=5, y_mm=-10),
    Ellipse(8, 8, 500, x_mm=-95, y_mm=-10),
    Ellipse(8, 8, 500, x_mm=80, y_mm=-45),
    Ellipse(8, 8, 500, x_mm=20, y_mm=55),
)
_OFF_CENTRE: Final = (Ellipse(62, 40, x_mm=9, y_mm=-16), Ellipse(12, 12, 800, x_mm=-18, y_mm=-10))


def adjointness(beams: Mapping[str, Beam], generator: torch.Generator) -> Check:
    """⟨P x, y⟩ = ⟨x, Pᵀ y⟩ with the transpose from autograd, for projection and filtered back-projection."""
    measures = []
    for name, beam in beams.items():
        image = torch.rand(1, beam.size, beam.size, generator=generator)
        sinogram = torch.rand(1, *beam.sinogram_shape, generator=generator)
        for what, domain, codomain in (("projection", image, sinogram), ("FBP", sinogram, image)):
            source = domain.clone().requires_grad_()
            result = (
                project(source, beam)
                if what == "projection"
                else filtered_back_projection(source, beam, kernel=PLAIN_RAMP)
            )
            (transposed,) = torch.autograd.grad(result, source, codomain)
            forward = _dot(result.detach(), codomain)
            error = abs(forward - _dot(domain, transposed)) / abs(forward)
            measures.append(Measure(f"{what}, {name}", error, high=ADJOINT_LIMIT))
    return Check(
        key="adjointness",
        title="Autograd gives the exact transpose",
        proves="Adjointness: ⟨P x, y⟩ equals ⟨x, Pᵀ y⟩ for random positive x and y, so that gradients "
        "through projection and filtered back-projection are exact. Whether the geometry is right, the "
        "checks before show.",
        quantity="relative error",
        measures=measures,
    )


def analytic_line_integrals(beams: Mapping[str, Beam]) -> Check:
    """Ray sums through a painted object against the chords of its ellipses."""
    measures = []
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name, beam in beams.items():
        exact = scan_of(HIPS, beam)
        found = project(attenuation_per_mm(paint_hu(HIPS, beam.size, beam.pixel_mm)), beam)
        error = float((found - exact).abs().mean() / exact.max())
        measures.append(Measure(name, error, high=LINE_INTEGRAL_LIMIT))
        offsets = beam.ray_offsets_mm().tolist()
        curves |= {f"{name}, exact": (offsets, exact[0, 0].tolist())}
        curves |= {f"{name}, projected": (offsets, found[0, 0].tolist())}
    return Check(
        key="line-integrals",
        title="Line integrals of ellipses",
        proves="Rays run where the geometry says, in every view: projections of a painted pelvis against the "
        "exact chords of its ellipses. Mean absolute error over the largest line integral.",
        quantity="relative error",
        measures=measures,
        plots=[Plot("Line integrals of the first view", "distance from the isocentre [mm]", curves)],
    )


def analytic_reconstruction(beams: Mapping[str, Beam], kernel: Kernel) -> Check:
    """Reconstructions of exact line integrals against the object, blurred by the kernel's window."""
    measures, images = [], []
    for name, beam in beams.items():
        scan = scan_of(_INSERTS, beam)
        found_hu = attenuation_to_hu(filtered_back_projection(scan, beam, kernel=kernel)[0])
        difference_hu = found_hu - _blurred(paint_hu(_INSERTS, beam.size, beam.pixel_mm)[0], beam, kernel)
        for where, pixels, limit_hu in (
            ("water", _water(beam), UNIFORM_LIMIT_HU),
            ("with all edges", beam.inside(), EDGES_LIMIT_HU),
        ):
            error_hu = float(difference_hu[pixels].square().mean().sqrt())
            measures.append(Measure(f"{name}, {where}", error_hu, high=limit_hu))
        images.append(Image(f"{name}: error", (difference_hu * beam.inside()).numpy(), 50.0))
    return Check(
        key="reconstruction",
        title="Reconstruction of ellipses",
        proves="Back-projection puts values where the geometry says, in both beams: images of exact line "
        "integrals of water with inserts far off centre, against the object blurred by the kernel's window.",
        quantity="RMS error [HU]",
        measures=measures,
        images=images,
    )


def scikit_image_reference(beams: Mapping[str, Beam]) -> Check:
    """The same object through `skimage.transform.radon` and `iradon` (parallel rays, 1 mm)."""
    size = SCIKIT_IMAGE_SIZE
    beam = ParallelBeam(size, pixel_mm=1.5, views=360)
    hu = paint_hu(_OFF_CENTRE, size, beam.pixel_mm)
    degrees = -beam.angles().rad2deg().numpy()  # scikit-image turns the other way
    projected: Array = radon(attenuation_per_mm(hu)[0].numpy(), degrees, circle=True)  # type: ignore[no-untyped-call]
    theirs = torch.from_numpy(projected.T * beam.pixel_mm)
    ours = project(attenuation_per_mm(hu), beam)[0]
    error = float((ours - theirs).abs().mean() / theirs.max())
    exact = scan_of(_OFF_CENTRE, beam)[0]
    inverse: Array = iradon(exact.T.numpy(), degrees, circle=True)  # type: ignore[no-untyped-call]
    reference_hu = attenuation_to_hu(torch.from_numpy(inverse).float() / beam.pixel_mm)
    measures = [Measure("radon, mean error over the largest line integral", error, high=RADON_LIMIT)]
    profiles = {"iradon": _profile(reference_hu, beam)}
    for name, scan in beams.items():
        image = filtered_back_projection(scan_of(_OFF_CENTRE, scan), scan, kernel=PLAIN_RAMP)[0]
        image_hu = attenuation_to_hu(image)
        water = _mean_water(image_hu, scan) - _mean_water(reference_hu, beam)
        measures.append(
            Measure(f"iradon, water [HU], {name}", water, low=-WATER_LIMIT_HU, high=WATER_LIMIT_HU)
        )
        profiles[name] = _profile(image_hu, scan)
    return Check(
        key="scikit-image",
        title="scikit-image as reference",
        proves="An independent library projects to the same line integrals (radon) and reconstructs the same "
        "water from exact ones (iradon, plain ramp); the fan beam's image has to agree with it too.",
        quantity="relative error, HU",
        measures=measures,
        plots=[Plot("Profile through the insert [HU]", "x [mm]", profiles)],
    )


def scan_of(ellipses: Sequence[Ellipse], beam: Beam) -> torch.Tensor:
    """Exact line integrals of the object in the scan's rays, `(1, views, cells)`."""
    if isinstance(beam, FanBeam):
        fan = torch.asin(beam.ray_offsets_mm().double() / beam.source_mm)
        normals = beam.angles().double()[:, None] + fan
    else:
        normals = beam.angles()[:, None]
    return line_integrals_of(ellipses, normals, beam.ray_offsets_mm())


def _blurred(image_hu: torch.Tensor, beam: Beam, kernel: Kernel) -> torch.Tensor:
    """What an ideal scan with this kernel shows of an object in air."""
    frequency_per_mm = torch.fft.fftfreq(beam.size, beam.pixel_mm)
    gain = kernel.gain(torch.hypot(frequency_per_mm[:, None], frequency_per_mm[None, :]))
    blurred: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(image_hu - AIR_HU) * gain).real + AIR_HU
    return blurred


def _water(beam: Beam) -> torch.Tensor:
    """`(size, size)` bool: pixels of the body that are 8 mm or more from any edge."""
    body, *inserts = _INSERTS
    inside = Ellipse(body.half_width_mm - 8, body.half_height_mm - 8, x_mm=body.x_mm, y_mm=body.y_mm)
    water = coverage(inside, beam.size, beam.pixel_mm) == 1
    for insert in inserts:
        around = Ellipse(16, 16, x_mm=insert.x_mm, y_mm=insert.y_mm)
        water &= coverage(around, beam.size, beam.pixel_mm) == 0
    return water


def _dot(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first.double() * second.double()).sum())


def _profile(hu: torch.Tensor, beam: Beam) -> tuple[list[float], list[float]]:
    """The row through the insert."""
    row = round((beam.size - 1) / 2 + _OFF_CENTRE[1].y_mm / beam.pixel_mm)
    x_mm = (torch.arange(beam.size) - (beam.size - 1) / 2) * beam.pixel_mm
    return x_mm.tolist(), hu[row].tolist()


def _mean_water(hu: torch.Tensor, beam: Beam) -> float:
    """Mean HU right of the insert, well inside the ellipse."""
    flat = coverage(Ellipse(20, 20, x_mm=35, y_mm=-16), beam.size, beam.pixel_mm) == 1
    return float(hu[flat].mean())

"""Generative models: what a VAE's bound is made of, and how far samples are from real slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.data import Case
from pipeline.data.patches import centred_slices
from pipeline.figures import save_grid
from pipeline.hu import HUWindow
from pipeline.losses import gaussian_reconstruction, kl_divergence, kl_per_dimension
from pipeline.metrics import detail, rbf_mmd
from pipeline.models import ConvVAE, DCGANGenerator
from pipeline.models.precision import device_of, ieee_float32
from pipeline.models.vae import reparameterise
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import Context, Metrics, ready

COLUMNS: Final = 8
GRID: Final = 64
INTERPOLATION_ROWS: Final = 4
ACTIVE_VARIANCE: Final = 0.01
"""A latent dimension is active when its posterior mean varies more (Burda et al. 2016, arXiv:1509.00519)."""
SPACE: Final = (
    "pixels in [0, 1], detail = pixels less their 5x5 mean; "
    "RBF kernel, bandwidth = median distance of the test slices; unbiased"
)


@ieee_float32()
@torch.no_grad()
def evaluate_vae(bundle: Bundle, context: Context) -> Metrics:
    """Bound and its terms on the test slices, active latent dimensions, and the distance of prior samples.

    Args:
        bundle: of a VAE; it holds the view of a slice and the SD of a pixel.
        context: cases, settings and where tables and pictures go.
    """
    window, generator = _window(bundle), torch.Generator().manual_seed(context.settings.seed)
    vae = cast(ConvVAE, ready(bundle))
    real = _real_slices(bundle, context.test)
    image = window.to_unit(real).to(device_of(vae))
    mean, log_variance = vae.encode(image)
    reconstruction = vae.decode(mean)
    samples = vae.decode(_codes(vae.latent_dimensions, generator, vae, context)).cpu()
    activity = mean.var(dim=0)
    table = {
        "dimension": range(vae.latent_dimensions),
        "kl_nats": kl_per_dimension(mean, log_variance).cpu(),
        "posterior_mean_variance": activity.cpu(),
    }
    pd.DataFrame(table).round(4).to_csv(context.folder / "latent.csv", index=False, lineterminator="\n")
    _draw_vae(vae, window, real, reconstruction.cpu(), samples, context)
    return {
        "slices": len(real),
        **_bound(vae, image, mean, log_variance, generator, noise_sd=bundle.training["noise_sd"]),
        "active_dimensions": int((activity > ACTIVE_VARIANCE).sum()),
        "latent_dimensions": vae.latent_dimensions,
        "reconstruction_rmse_hu": float((reconstruction - image).square().mean().sqrt()) * window.width,
        **_distances(samples, bundle, context),
    }


@ieee_float32()
@torch.no_grad()
def evaluate_gan(bundle: Bundle, context: Context) -> Metrics:
    """Distance between samples and test slices, with the distance between real slices as its floor.

    Args:
        bundle: of a GAN; it holds the view of a slice.
        context: cases, settings and where tables and pictures go.
    """
    window, generator = _window(bundle), torch.Generator().manual_seed(context.settings.seed)
    network = cast(DCGANGenerator, ready(bundle))
    samples = (network(_codes(network.latent_dimensions, generator, network, context)).cpu() + 1) / 2
    real = _real_slices(bundle, context.test)
    _save(context, "samples.png", samples[:GRID], window, "samples of the generator")
    _save(context, "real.png", window.to_unit(_spread(real, GRID)), window, "real slices of test patients")
    return {"slices": len(real), **_distances(samples, bundle, context)}


def _bound(
    vae: ConvVAE,
    image: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    generator: torch.Generator,
    *,
    noise_sd: float,
) -> Metrics:
    """Negative ELBO at β = 1 in nats per image, with one draw per image."""
    code = reparameterise(mean.cpu(), log_variance.cpu(), generator).to(mean.device)
    misfit = float(gaussian_reconstruction(vae.decode(code), image, noise_sd=noise_sd))
    kl = float(kl_divergence(mean, log_variance))
    return {"reconstruction_nats": misfit, "kl_nats": kl, "negative_elbo_nats": misfit + kl}


def _distances(samples: Tensor, bundle: Bundle, context: Context) -> Metrics:
    """MMD² of samples (N, 1, S, S) in [0, 1] to test slices, and that of validation slices as the floor."""
    window = _window(bundle)
    test = window.to_unit(_real_slices(bundle, context.test))[:, 0].numpy()
    validation = window.to_unit(_real_slices(bundle, context.validation))[:, 0].numpy()
    drawn = samples[:, 0].numpy()
    return {
        "mmd2": rbf_mmd(drawn, test),
        "mmd2_real_vs_real": rbf_mmd(validation, test),
        "mmd2_detail": rbf_mmd(detail(drawn), detail(test)),
        "mmd2_detail_real_vs_real": rbf_mmd(detail(validation), detail(test)),
        "mmd2_space": SPACE,
        "diversity": _mean_distance(drawn) / _mean_distance(test),
        "samples": len(drawn),
    }


def _mean_distance(images: npt.NDArray[np.float32]) -> float:
    return float(np.mean(pdist(images.reshape(len(images), -1))))


def _draw_vae(
    vae: ConvVAE, window: HUWindow, real: Tensor, reconstruction: Tensor, samples: Tensor, context: Context
) -> None:
    originals, copies = _spread(window.to_unit(real), 2 * COLUMNS), _spread(reconstruction, 2 * COLUMNS)
    rows = [
        part
        for pair in zip(torch.split(originals, COLUMNS), torch.split(copies, COLUMNS), strict=True)
        for part in pair
    ]
    if len(originals) < 2 * COLUMNS:
        rows = [originals, copies]
    _save(
        context,
        "reconstructions.png",
        torch.cat(rows),
        window,
        "test slices above their reconstructions",
        columns=len(rows[0]),
    )
    _save(context, "samples.png", samples[:GRID], window, "samples from the prior")
    _save(
        context, "interpolations.png", _interpolations(vae, real, window), window, "between two test slices"
    )


def _interpolations(vae: ConvVAE, real: Tensor, window: HUWindow) -> Tensor:
    """Rows of decoded codes on the straight line between the posterior means of two slices."""
    ends = _spread(window.to_unit(real), 2 * INTERPOLATION_ROWS).to(device_of(vae))
    mean, _ = vae.encode(ends)
    half = len(mean) // 2
    share = torch.linspace(0, 1, COLUMNS, device=mean.device)[None, :, None]
    codes = mean[:half, None] * (1 - share) + mean[half : 2 * half, None] * share
    return vae.decode(codes.flatten(0, 1)).cpu()


def _spread(images: Tensor, count: int) -> Tensor:
    """At most `count` of the images, evenly spread."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()]


def _codes(length: int, generator: torch.Generator, network: nn.Module, context: Context) -> Tensor:
    """Standard normal codes (samples, length), the same on every device."""
    count = context.settings.generative.samples
    return torch.randn((count, length), generator=generator).to(device_of(network))


def _save(
    context: Context, name: str, unit: Tensor, window: HUWindow, title: str, columns: int = COLUMNS
) -> None:
    """Write images (N, 1, S, S) in [0, 1] as a grid."""
    images_hu = window.from_unit(unit[:, 0].cpu()).numpy()
    save_grid(context.folder / name, images_hu, window, columns=columns, title=title)


def _window(bundle: Bundle) -> HUWindow:
    if bundle.window is None:
        raise ValueError(f"a generative model is needed, got a bundle of kind {bundle.kind}")
    return bundle.window


def _real_slices(bundle: Bundle, cases: Sequence[Case]) -> Tensor:
    """All normal-dose slices of the cases as the model sees them: (N, 1, S, S) HU."""
    image_size, field_of_view_mm = bundle.arguments["image_size"], bundle.training["field_of_view_mm"]
    views = [
        centred_slices(case, image_size=image_size, field_of_view_mm=field_of_view_mm)
        for case in progress(cases, "reading slices")
    ]
    return torch.cat(views)

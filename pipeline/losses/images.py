"""How far a restored image is from its target, in network units; every term is a mean over the batch.

All are computed in float32, whatever precision the network ran in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

SSIM_TAPS = 11
SSIM_SIGMA_PIXELS = 1.5


def mean_squared_error(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of (r − t)²; its best answer is the mean of all normal doses that fit, hence smooth.

    Args:
        restored: (N, 1, H, W) in network units.
        target: the same shape.

    Raises:
        ValueError: shapes differ.
    """
    return mse_loss(*_alike(restored, target))


def absolute_error(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of |r − t|, for the median where the squared error asks for the mean; arguments as there."""
    return l1_loss(*_alike(restored, target))


def charbonnier(restored: Tensor, target: Tensor, *, epsilon: float) -> Tensor:
    """Mean of √((r − t)² + ε²): |r − t| with a rounded tip, which is ε at its lowest.

    Charbonnier et al. 1994, doi:10.1109/ICIP.1994.413553; arguments as in `mean_squared_error`.

    Args:
        restored: (N, 1, H, W) in network units.
        target: the same shape.
        epsilon: difference below which the loss is about quadratic, in network units.

    Raises:
        ValueError: shapes differ, or `epsilon` is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    one, other = _alike(restored, target)
    return ((one - other).square() + epsilon**2).sqrt().mean()


def gradient_difference(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of |∂(r − t)| along the rows plus that along the columns, forward differences of one pixel.

    Blind to an offset, so it needs a term on the values beside it. Arguments as in `mean_squared_error`.

    Raises:
        ValueError: shapes differ, or a side is shorter than 2 pixels.
    """
    one, other = _alike(restored, target)
    if min(one.shape[-2:]) < 2:
        raise ValueError(f"a gradient needs 2x2 pixels or more, got {tuple(one.shape)}")
    difference = one - other
    return difference.diff(dim=-2).abs().mean() + difference.diff(dim=-1).abs().mean()


def structural_dissimilarity(restored: Tensor, target: Tensor, *, data_range: float, lowest: float) -> Tensor:
    """1 − mean SSIM, with an 11×11 Gaussian window (σ 1.5 pixels) that stays inside the image.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861. SSIM is defined for values from 0 upwards, while a network
    scale is signed: local means are counted from `lowest`, the same for every image. Nothing is clipped:
    values outside a window have gradients as well.

    Local means are products with banded matrices, not convolutions: cuDNN convolves in TF32 unless told
    otherwise, and the cancellation in mean(x²) − mean(x)² then leaves no digit of a CT's local variance.

    Args:
        restored: (N, 1, H, W) in network units.
        target: the same shape.
        data_range: width of the window of interest, in network units: it sets how large a difference counts.
        lowest: network value that SSIM takes for 0, e.g. that of -1024 HU.

    Raises:
        ValueError: shapes differ, a side is shorter than 11 pixels, or `data_range` is not positive.
    """
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range}")
    x, y = _alike(restored, target)
    if min(x.shape[-2:]) < SSIM_TAPS:
        raise ValueError(f"SSIM needs {SSIM_TAPS}x{SSIM_TAPS} pixels or more, got {tuple(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        return 1 - _similarity(x, y, data_range, lowest).mean()


def _alike(restored: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if restored.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(restored.shape)} and {tuple(target.shape)}")
    return restored.float(), target.float()


def _similarity(x: Tensor, y: Tensor, data_range: float, lowest: float) -> Tensor:
    """SSIM of every window, (N, 1, H − 10, W − 10).

    Variances do not depend on `lowest`; taken of values near 0, as tissue has, they lose fewer digits.
    """
    rows, columns = (_gaussian_means(size, x) for size in x.shape[-2:])
    images = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = rows @ images @ columns.T
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x - lowest, mean_y - lowest
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity: Tensor = luminance * (2 * covariance + c2) / (variances + c2)
    return similarity


def _gaussian_means(size: int, like: Tensor) -> Tensor:
    """(size − 10, size): row i is the Gaussian window that begins at pixel i."""
    window = torch.arange(size, device=like.device) - torch.arange(
        size - SSIM_TAPS + 1, device=like.device
    ).unsqueeze(1)
    centred = window - SSIM_TAPS // 2
    weights = torch.exp(-(centred.to(like.dtype) ** 2) / (2 * SSIM_SIGMA_PIXELS**2))
    weights = weights * ((window >= 0) & (window < SSIM_TAPS))
    return weights / weights.sum(dim=1, keepdim=True)

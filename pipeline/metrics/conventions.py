"""Named conventions: what a PSNR, SSIM or RMSE of CT images refers to.

The same images differ by 20 dB between conventions, so no score is computed or printed without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from pipeline.errors import ConfigError
from pipeline.hu import HEAD, LUNG, HUWindow

ANY_ANATOMY: Final = "any"


class SSIMKernel(Enum):
    """How local means and variances are taken."""

    GAUSSIAN_11 = "11x11 Gaussian, sigma 1.5"
    """Wang et al. 2004, doi:10.1109/TIP.2003.819861; the border of 5 pixels is left out of the mean."""
    GAUSSIAN_11_ZERO_PADDED = "11x11 Gaussian, sigma 1.5, zero-padded, on raw HU"
    """The widely copied RED-CNN code: zeros (water, where values are HU) surround the image."""
    UNIFORM_7 = "7x7 uniform"
    """scikit-image's default, with sample covariance; the border of 3 pixels is left out of the mean."""


@dataclass(frozen=True)
class Convention:
    """A window, to which both images are clipped and whose width is the data range, and an SSIM kernel.

    Attributes:
        name: key in `CONVENTIONS`.
        windows: HU window for each anatomy; `any` stands for all that are not listed.
        ssim_kernel: how SSIM is computed.
    """

    name: str
    windows: Mapping[str, HUWindow]
    ssim_kernel: SSIMKernel

    def window(self, anatomy: str | None = None) -> HUWindow:
        """The window scored for an anatomy.

        Raises:
            ValueError: the convention needs an anatomy that it knows.
        """
        window = self.windows.get(anatomy or ANY_ANATOMY, self.windows.get(ANY_ANATOMY))
        if window is None:
            raise ValueError(
                f"convention {self.name} has windows for {', '.join(self.windows)}, got anatomy {anatomy!r}"
            )
        return window

    def describe(self) -> str:
        """One line for tables, e.g. `[-160, 240] HU, SSIM 11x11 Gaussian, sigma 1.5`."""
        windows = ", ".join(
            ("" if anatomy == ANY_ANATOMY else f"{anatomy} ") + f"[{window.low:g}, {window.high:g}]"
            for anatomy, window in self.windows.items()
        )
        return f"{windows} HU, SSIM {self.ssim_kernel.value}"


def _one_window(name: str, low: float, high: float, kernel: SSIMKernel) -> Convention:
    return Convention(name, MappingProxyType({ANY_ANATOMY: HUWindow(low, high)}), kernel)


_LDCT_BENCHMARK_WINDOWS: Final = MappingProxyType(
    {"chest": LUNG, "abdomen": HUWindow.from_level_width(level=50, width=400), "head": HEAD}
)

CONVENTIONS: Final[dict[str, Convention]] = {
    entry.name: entry
    for entry in (
        _one_window("redcnn", -160, 240, SSIMKernel.GAUSSIAN_11),
        _one_window("redcnn-legacy", -160, 240, SSIMKernel.GAUSSIAN_11_ZERO_PADDED),
        Convention("ldctbench", _LDCT_BENCHMARK_WINDOWS, SSIMKernel.UNIFORM_7),
        _one_window("dugan", -300, 300, SSIMKernel.GAUSSIAN_11),
        _one_window("wide", -1000, 1000, SSIMKernel.GAUSSIAN_11),
        _one_window("full", -1024, 3072, SSIMKernel.GAUSSIAN_11),
    )
}
"""RED-CNN's public code (`redcnn`, as scikit-image computes it, and `redcnn-legacy`, to the letter), the LDCT
benchmark (Eulig et al. 2024, doi:10.1002/mp.17379), DU-GAN (Huang et al. 2022, doi:10.1109/TIM.2021.3128703),
CoreDiff (`wide`; Gao et al. 2024, doi:10.1109/TMI.2023.3320812), the range of the RED-CNN paper (`full`)."""


def convention(name: str) -> Convention:
    """The convention called `name`.

    Raises:
        ConfigError: no such convention.
    """
    try:
        return CONVENTIONS[name]
    except KeyError:
        raise ConfigError(f"unknown metric convention {name!r}; known: {', '.join(CONVENTIONS)}") from None

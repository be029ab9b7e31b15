"""Settings of `ldct predict` (`configs/<preset>/predict.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Settings


class PredictSettings(Settings):
    """How a folder of series is processed; the defaults hold where there is no settings file."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the denoiser's correction that is applied: 0 leaves every pixel as it was, 1 applies all."""
    noise_sd_hu: Literal["auto"] | Annotated[float, Field(gt=0.0, le=2000.0)] = "auto"
    """Noise of every series, for a denoiser that is told it; `auto`: as measured in each."""
    not_for_diagnosis: bool = True
    """Whether the written series says that it is not for diagnostic use."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the networks; `auto`: OpenVINO on a CPU where it is installed, else torch."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the networks; `auto`: bf16 where the hardware has it and the bundle was trained in it."""
    batch_slices: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Slices that go through a network at once. `auto`: what fills a GPU; one on a CPU, where more only cost
    memory."""
    tile_pixels: int = Field(default=512, ge=64)
    """Side of the largest slice that the denoiser takes whole; a larger one goes through it in overlapping
    tiles, which gives the same values to rounding. The usual matrix is whole, none needs more memory."""
    on_unfamiliar: Literal["warn", "pass", "refuse"] = "warn"
    """What becomes of a series unlike the training: treated with a warning, its files passed on as they are,
    or refused."""
    nifti: bool = False
    """Whether volumes are written as NIfTI too, beside the DICOM."""

"""Settings of `ldct predict` (`configs/<preset>/predict.yaml`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.base import Settings


class PredictSettings(Settings):
    """How a folder of series is processed; the defaults hold where there is no settings file."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the denoiser's correction that is applied: 0 leaves every pixel as it was, 1 applies all."""
    not_for_diagnosis: bool = True
    """Whether the written series says that it is not for diagnostic use."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks; `auto`: bf16 where the hardware has it and the bundle was trained in it."""
    batch_slices: int = Field(default=4, ge=1)
    """Slices that go through a network at once: memory against speed."""

"""What is done to every series, and everything that decides its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import __version__
from pipeline.dicom import Derivation, Task
from pipeline.inference.networks import Network


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """The networks that a folder goes through.

    Attributes:
        denoiser: network of a denoiser's bundle, or None.
        segmenter: network of a segmenter's bundle, or None; it sees the denoised slices if there are any.
        strength: share of the denoiser's correction, 0..1.
        not_for_diagnosis: write "not for diagnostic use" into the results.

    Raises:
        ValueError: there is neither a denoiser nor a segmenter.
    """

    denoiser: Network | None
    segmenter: Network | None
    strength: float = 1.0
    not_for_diagnosis: bool = True

    def __post_init__(self) -> None:
        if self.denoiser is None and self.segmenter is None:
            raise ValueError("a treatment needs a denoiser, a segmenter or both")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What a series must be fit for."""
        wanted = ((Task.DENOISE, self.denoiser), (Task.SEGMENT, self.segmenter))
        return tuple(task for task, network in wanted if network is not None)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the written files, as JSON; series finished with the same one are kept."""
        return {
            "denoiser": None if self.denoiser is None else _describe(self.denoiser),
            "segmenter": None if self.segmenter is None else _describe(self.segmenter),
            "strength": None if self.denoiser is None else self.strength,
            "not_for_diagnosis": self.not_for_diagnosis,
            "product_version": __version__,
        }

    def derivation(self, network: Network) -> Derivation:
        """How an object written by `network` says where it comes from."""
        settings: dict[str, str | float] = {
            "engine": f"torch-{network.device.type}",
            "precision": network.precision,
        }
        if self.denoiser is not None:
            settings["strength"] = self.strength
            if network is not self.denoiser:
                settings["denoiser"] = self.denoiser.bundle.model_hash
        return Derivation(
            model_name=network.bundle.name,
            model_version=network.bundle.model_hash[:12],
            model_hash=network.bundle.model_hash,
            settings=settings,
            product_version=__version__,
            not_for_diagnosis=self.not_for_diagnosis,
        )


def _describe(network: Network) -> dict[str, str]:
    return {
        "name": network.bundle.name,
        "model_hash": network.bundle.model_hash,
        "engine": f"torch-{network.device.type}",
        "precision": network.precision,
    }

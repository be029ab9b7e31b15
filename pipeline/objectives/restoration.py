"""Supervised restoration: low dose, or a degraded normal dose, in; normal dose out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline.degradations import Degradation, degrade
from pipeline.figures import Panel, save_panels
from pipeline.hu import ABDOMEN, HUScale, HUWindow
from pipeline.metrics import CONVENTIONS, psnr
from pipeline.models.apply import restore_hu
from pipeline.models.precision import device_of
from pipeline.objectives.base import Batch, Networks, Score, Turn

CONVENTION = "redcnn"
PAIRS_DRAWN = 3
DIFFERENCE = HUWindow(-30, 30)


@dataclass(frozen=True)
class RestorationPair:
    """A whole validation slice as the network meets it, and at normal dose; (H, W) HU."""

    degraded: npt.NDArray[np.int16 | np.float32]
    normal_dose: npt.NDArray[np.int16]

    @classmethod
    def from_normal_dose(
        cls,
        normal_dose: npt.NDArray[np.int16],
        degradation: Sequence[Degradation],
        *,
        pixel_mm: float,
        generator: torch.Generator,
    ) -> RestorationPair:
        """Degrade a slice on the CPU (and with its generator): the same wherever the training runs."""
        image = torch.from_numpy(normal_dose.astype(np.float32))[None, None]
        made = degrade(image, degradation, pixel_mm=torch.tensor([pixel_mm]), generator=generator)
        return cls(made.hu[0, 0].numpy(), normal_dose)


class Restoration:
    """Mean squared error on the network scale between the restored and the normal-dose patch.

    The network adds its correction to its own input (RED-CNN's input skip), so this is residual learning.
    Validation is PSNR under the convention `redcnn`, against the normal dose, averaged over whole slices.
    Where the input is degraded, the convention goes on with how: such scores compare with no others.

    Args:
        scale: HU to network units.
        validation: whole slices of validation patients, always the same, already degraded.
        degradation: makes the input from the normal dose; without a step it is the stored low dose.
    """

    product = "denoiser"

    def __init__(
        self,
        scale: HUScale,
        validation: Sequence[RestorationPair],
        *,
        degradation: Sequence[Degradation] = (),
    ) -> None:
        self._scale = scale
        self._validation = validation
        self._degradation = degradation

    def turns(
        self,
        networks: Networks,
        batch: Batch,
        *,
        step: int,  # noqa: ARG002 (the contract of Objective)
        generator: torch.Generator,
    ) -> Iterator[Turn]:
        """One turn for a batch of `low_dose` and `normal_dose` patches, (N, 1, P, P) HU.

        A degradation needs `pixel_mm` (N,) in place of the low dose.
        """
        restored = networks[self.product](self._scale.to_network(self._degraded(batch, generator)))
        target = self._scale.to_network(batch["normal_dose"])
        yield Turn(self.product, mse_loss(restored.float(), target))

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """PSNR of the restored slices; the details hold the input's own score and the gain."""
        restored = [self._restore(networks, pair.degraded, bf16=bf16) for pair in self._validation]
        value = _mean_psnr(restored, self._validation)
        before = _mean_psnr([pair.degraded for pair in self._validation], self._validation)
        details = {"input_psnr_db": before, "gain_db": value - before}
        return Score("psnr_db", value, self._convention(), higher_is_better=True, details=details)

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """Input, restored, normal dose and what was removed, for slices spread over the validation."""
        name = "degraded" if self._degradation else "low dose"
        rows = []
        for pair in _spread(self._validation, PAIRS_DRAWN):
            restored = self._restore(networks, pair.degraded, bf16=bf16)
            rows.append(
                [
                    Panel(pair.degraded, ABDOMEN, name),
                    Panel(restored, ABDOMEN, "restored"),
                    Panel(pair.normal_dose, ABDOMEN, "normal dose"),
                    Panel(pair.degraded - restored, DIFFERENCE, f"{name} − restored", diverging=True),
                ]
            )
        save_panels(path, rows)

    def _degraded(self, batch: Batch, generator: torch.Generator) -> Tensor:
        if not self._degradation:
            return batch["low_dose"]
        normal_dose, pixel_mm = batch["normal_dose"], batch["pixel_mm"]
        return degrade(normal_dose, self._degradation, pixel_mm=pixel_mm, generator=generator).hu

    def _convention(self) -> str:
        if not self._degradation:
            return CONVENTION
        return f"{CONVENTION}, input: normal dose after {', '.join(map(repr, self._degradation))}"

    def _restore(
        self, networks: Networks, degraded: npt.NDArray[np.int16 | np.float32], *, bf16: bool
    ) -> npt.NDArray[np.float32]:
        network = networks[self.product]
        image = torch.from_numpy(degraded.astype(np.float32))[None, None].to(device_of(network))
        restored: npt.NDArray[np.float32] = (
            restore_hu(network, image, self._scale, bf16=bf16)[0, 0].cpu().numpy()
        )
        return restored


def _spread(pairs: Sequence[RestorationPair], most: int) -> list[RestorationPair]:
    """At most so many of the pairs, each from the middle of an equal share: they lie in order of patient."""
    count = min(most, len(pairs))
    return [pairs[(2 * index + 1) * len(pairs) // (2 * count)] for index in range(count)]


def _mean_psnr(images: Sequence[npt.NDArray[np.generic]], pairs: Sequence[RestorationPair]) -> float:
    convention = CONVENTIONS[CONVENTION]
    return float(
        np.mean(
            [
                psnr(image.astype(np.float32), pair.normal_dose.astype(np.float32), convention)
                for image, pair in zip(images, pairs, strict=True)
            ]
        )
    )

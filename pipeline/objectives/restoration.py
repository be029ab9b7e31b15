"""Supervised restoration: low dose in, normal dose out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import mse_loss

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
    """A whole validation slice at both doses, (H, W) HU."""

    low_dose: npt.NDArray[np.int16]
    normal_dose: npt.NDArray[np.int16]


class Restoration:
    """Mean squared error on the network scale between the restored and the normal-dose patch.

    The network adds its correction to its own input (RED-CNN's input skip), so this is residual learning.
    Validation is PSNR under the convention `redcnn`, against the normal dose, averaged over whole slices.

    Args:
        scale: HU to network units.
        validation: whole slices of validation patients, always the same.
    """

    product = "denoiser"

    def __init__(self, scale: HUScale, validation: Sequence[RestorationPair]) -> None:
        self._scale = scale
        self._validation = validation

    def turns(
        self,
        networks: Networks,
        batch: Batch,
        *,
        step: int,  # noqa: ARG002 (the contract of Objective)
        generator: torch.Generator,  # noqa: ARG002
    ) -> Iterator[Turn]:
        """One turn for a batch of `low_dose` and `normal_dose` patches, (N, 1, P, P) HU."""
        restored = networks[self.product](self._scale.to_network(batch["low_dose"]))
        target = self._scale.to_network(batch["normal_dose"])
        yield Turn(self.product, mse_loss(restored.float(), target))

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """PSNR of the restored slices; the details hold the input's own score and the gain."""
        restored = [self._restore(networks, pair.low_dose, bf16=bf16) for pair in self._validation]
        value = _mean_psnr(restored, self._validation)
        before = _mean_psnr([pair.low_dose for pair in self._validation], self._validation)
        details = {"input_psnr_db": before, "gain_db": value - before}
        return Score("psnr_db", value, CONVENTION, higher_is_better=True, details=details)

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """Low dose, restored, normal dose and what was removed, for slices spread over the validation."""
        rows = []
        for pair in _spread(self._validation, PAIRS_DRAWN):
            restored = self._restore(networks, pair.low_dose, bf16=bf16)
            rows.append(
                [
                    Panel(pair.low_dose, ABDOMEN, "low dose"),
                    Panel(restored, ABDOMEN, "restored"),
                    Panel(pair.normal_dose, ABDOMEN, "normal dose"),
                    Panel(pair.low_dose - restored, DIFFERENCE, "low dose − restored", diverging=True),
                ]
            )
        save_panels(path, rows)

    def _restore(
        self, networks: Networks, low_dose: npt.NDArray[np.int16], *, bf16: bool
    ) -> npt.NDArray[np.float32]:
        network = networks[self.product]
        image = torch.from_numpy(low_dose.astype(np.float32))[None, None].to(device_of(network))
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

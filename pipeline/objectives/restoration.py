"""Supervised restoration: low dose, or a degraded normal dose, in; normal dose out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.data.patches import spread_slices
from pipeline.degradations import Degradation, degrade
from pipeline.figures import Panel, save_panels
from pipeline.hu import ABDOMEN, HUScale, HUWindow
from pipeline.losses import MSE, LossTerm
from pipeline.metrics import CONVENTIONS, psnr, ssim
from pipeline.models.apply import network_input, restore_hu
from pipeline.models.precision import device_of
from pipeline.objectives.base import Batch, Networks, Score, Turn

CONVENTION = "redcnn"
PAIRS_DRAWN = 3
DIFFERENCE = HUWindow(-30, 30)


@dataclass(frozen=True)
class RestorationPair:
    """A whole validation slice as the network meets it, and at normal dose.

    Attributes:
        degraded: (2k + 1, H, W) HU, the slice between its k neighbours on either side; (H, W) is a slice
            alone and becomes (1, H, W).
        normal_dose: (H, W) HU.
        noise_sd_hu: SD of the degraded slice's noise, for networks with a noise map.
        patient: pseudonym; slices of the same one are averaged first.

    Raises:
        ValueError: the two do not fit together.
    """

    degraded: npt.NDArray[np.int16 | np.float32]
    normal_dose: npt.NDArray[np.int16]
    noise_sd_hu: float | None = None
    patient: str = ""

    def __post_init__(self) -> None:
        if self.degraded.ndim == 2:
            object.__setattr__(self, "degraded", self.degraded[None])
        slices, *grid = self.degraded.shape
        if len(grid) != 2 or slices % 2 == 0 or tuple(grid) != self.normal_dose.shape:
            raise ValueError(
                f"a pair is (2k + 1, H, W) and (H, W), got {self.degraded.shape} and {self.normal_dose.shape}"
            )

    @property
    def degraded_slice(self) -> npt.NDArray[np.int16 | np.float32]:
        """(H, W) HU, the slice to restore without its neighbours."""
        middle: npt.NDArray[np.int16 | np.float32] = self.degraded[len(self.degraded) // 2]
        return middle

    @classmethod
    def from_normal_dose(
        cls,
        normal_dose: npt.NDArray[np.int16],
        degradation: Sequence[Degradation],
        *,
        pixel_mm: float,
        generator: torch.Generator,
        patient: str = "",
    ) -> RestorationPair:
        """Degrade a slice (H, W) on the CPU (and with its generator): the same wherever the training runs."""
        image = torch.from_numpy(normal_dose.astype(np.float32))[None, None]
        made = degrade(image, degradation, pixel_mm=torch.tensor([pixel_mm]), generator=generator)
        return cls(made.hu[0].numpy(), normal_dose, patient=patient)


class Restoration:
    """Weighted sum of losses on the network scale between the restored and the normal-dose patch.

    Whether the network draws the image or a correction of its input is the network's business (`residual`).
    Validation is PSNR under the convention `redcnn`, against the normal dose, of whole slices, averaged over
    each patient's slices and then over patients: one with few slices counts as much as one with many.
    Where the input is made from the normal dose, the convention goes on with how: such scores compare with no
    others.

    Args:
        scale: HU to network units.
        validation: whole slices of validation patients, always the same, already degraded.
        losses: the terms; the mean squared error unless others are given.
        degradation: makes the input from the normal dose; without a step it is the batch's low dose.
        input_words: what the validation's input is, for the convention, where it is neither a stored low dose
            nor made by `degradation`.
        per_noise: the losses see both images divided by the noise SD of the sample's series, so every dose
            and scanner counts alike. Without it a squared error is that of the noisiest samples: 5 % of a
            sharp kernel's dose weighs some hundred times as much as 50 % of a smooth one's.

    Raises:
        ValueError: `losses` is empty.
    """

    product = "denoiser"

    def __init__(
        self,
        scale: HUScale,
        validation: Sequence[RestorationPair],
        *,
        losses: Sequence[LossTerm] = (MSE,),
        degradation: Sequence[Degradation] = (),
        input_words: str | None = None,
        per_noise: bool = False,
    ) -> None:
        if not losses:
            raise ValueError("a restoration needs at least one loss")
        self._scale = scale
        self._validation = validation
        self._losses = losses
        self._degradation = degradation
        self._per_noise = per_noise
        if degradation and input_words is None:
            input_words = f"normal dose after {', '.join(map(repr, degradation))}"
        self._convention = CONVENTION if input_words is None else f"{CONVENTION}, input: {input_words}"

    def turns(
        self,
        networks: Networks,
        batch: Batch,
        *,
        step: int,  # noqa: ARG002 (the contract of Objective)
        generator: torch.Generator,
    ) -> Iterator[Turn]:
        """One turn; see `prepare` for the batch and `misfit` for the curves."""
        network = networks[self.product]
        image, target = self.prepare(network, batch, generator)
        loss, logs = self.misfit(network(image), target, batch)
        yield Turn(self.product, loss, logs)

    def prepare(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the network is given for a batch, (N, C, P, P), and its target, (N, 1, P, P): network units.

        Args:
            network: the product.
            batch: `low_dose` (N, 2k + 1, P, P) and `normal_dose` (N, 1, P, P) HU, and `noise_sd_hu` (N,) for
                a network with a noise map. A degradation needs `pixel_mm` (N,) in place of the low dose.
            generator: draws the degradation.

        Raises:
            ValueError: the batch does not fit the network, or the network needs more than a degradation can
                give: neighbouring slices or a noise level.
        """
        target = self._scale.to_network(batch["normal_dose"].float())
        if not self._degradation:
            low_dose, noise_sd_hu = batch["low_dose"], batch.get("noise_sd_hu")
            return network_input(network, low_dose, self._scale, noise_sd_hu=noise_sd_hu), target
        degraded = degrade(
            batch["normal_dose"], self._degradation, pixel_mm=batch["pixel_mm"], generator=generator
        )
        return network_input(network, degraded.hu, self._scale, noise_sd_hu=None), target

    def misfit(self, restored: Tensor, target: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and `loss_<name>` of each term without its weight.

        Args:
            restored: (N, 1, P, P) in network units.
            target: the same shape.
            batch: that they belong to, with `noise_sd_hu` (N,) where errors count per noise.
        """
        restored, target = self.in_error_units(restored, batch), self.in_error_units(target, batch)
        values = {term.name: term.function(restored, target) for term in self._losses}
        weighted = [term.weight * values[term.name] for term in self._losses]
        return torch.stack(weighted).sum(), {f"loss_{name}": value.detach() for name, value in values.items()}

    def in_error_units(self, image: Tensor, batch: Batch) -> Tensor:
        """(N, 1, P, P) float32 in network units, or, where errors count per noise, in noise SDs.

        Args:
            image: in network units.
            batch: that it belongs to.
        """
        if not self._per_noise:
            return image.float()
        return image.float() * (self._scale.unit_hu / batch["noise_sd_hu"].float())[:, None, None, None]

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """PSNR of the restored slices; the details hold the input's own score, the gain, and SSIM of both."""
        restored = [self._restore(networks, pair, bf16=bf16) for pair in self._validation]
        value, similarity = _mean_scores(restored, self._validation)
        before, similarity_before = self._scores_of_the_input
        details = {
            "input_psnr_db": before,
            "gain_db": value - before,
            "ssim": similarity,
            "input_ssim": similarity_before,
        }
        return Score("psnr_db", value, self._convention, higher_is_better=True, details=details)

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """Input, restored, normal dose and what was removed, for slices spread over the validation."""
        name = "degraded" if self._degradation else "low dose"
        rows = []
        for position in spread_slices(len(self._validation), PAIRS_DRAWN):  # they lie in order of patient
            pair = self._validation[position]
            restored = self._restore(networks, pair, bf16=bf16)
            removed = pair.degraded_slice - restored
            rows.append(
                [
                    Panel(pair.degraded_slice, ABDOMEN, name),
                    Panel(restored, ABDOMEN, "restored"),
                    Panel(pair.normal_dose, ABDOMEN, "normal dose"),
                    Panel(removed, DIFFERENCE, f"{name} − restored", diverging=True),
                ]
            )
        save_panels(path, rows)

    @cached_property
    def _scores_of_the_input(self) -> tuple[float, float]:
        return _mean_scores([pair.degraded_slice for pair in self._validation], self._validation)

    def _restore(self, networks: Networks, pair: RestorationPair, *, bf16: bool) -> npt.NDArray[np.float32]:
        network = networks[self.product]
        device = device_of(network)
        image = torch.from_numpy(pair.degraded.astype(np.float32))[None].to(device)
        level = None if pair.noise_sd_hu is None else torch.tensor([pair.noise_sd_hu], device=device)
        restored = restore_hu(network, image, self._scale, noise_sd_hu=level, bf16=bf16)
        values: npt.NDArray[np.float32] = restored[0, 0].cpu().numpy()
        return values


def _mean_scores(images: Sequence[npt.NDArray[Any]], pairs: Sequence[RestorationPair]) -> tuple[float, float]:
    """PSNR in dB and SSIM: the mean over patients of the mean over each one's slices."""
    convention = CONVENTIONS[CONVENTION]
    both = [(image, pair.normal_dose) for image, pair in zip(images, pairs, strict=True)]
    decibels = [psnr(image, normal_dose, convention) for image, normal_dose in both]
    similarities = [ssim(image, normal_dose, convention) for image, normal_dose in both]
    return _mean_over_patients(decibels, pairs), _mean_over_patients(similarities, pairs)


def _mean_over_patients(scores: Sequence[float], pairs: Sequence[RestorationPair]) -> float:
    of_patient: dict[str, list[float]] = {}
    for score, pair in zip(scores, pairs, strict=True):
        of_patient.setdefault(pair.patient, []).append(score)
    return float(np.mean([np.mean(some) for some in of_patient.values()]))

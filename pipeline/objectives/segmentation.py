"""Supervised segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.losses.dice import DiceCELoss

from pipeline.figures import Panel, save_panels
from pipeline.hu import ABDOMEN, HUWindow
from pipeline.metrics import dice
from pipeline.models.apply import class_logits
from pipeline.models.precision import device_of
from pipeline.objectives.base import Batch, Networks, Score, Turn

CONVENTION = "mean Dice of the whole body and each listed organ, validation slices pooled"


@dataclass(frozen=True)
class LabelledSlice:
    """A whole validation slice on its own grid: (H, W) HU, its classes, and its (row, column) spacing."""

    image: npt.NDArray[np.int16]
    classes: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float]


class Segmentation:
    """Dice plus cross-entropy on all classes, background included.

    Validation is the mean of the Dice coefficients of the whole body (all classes above 0) and of every class
    but class 1, the rest of the body, pooled over the validation slices at their own resolution.

    Args:
        classes: name of each class above 0; the first is the body without the listed organs.
        window: HU range that the network sees as [0, 1].
        input_spacing_mm: pixel step of the network's images.
        colours: (red, green, blue) of each class above 0, for pictures.
        validation: slices of validation patients, always the same.
    """

    product = "segmenter"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        window: HUWindow,
        input_spacing_mm: float,
        colours: Mapping[int, Sequence[int]],
        validation: Sequence[LabelledSlice],
    ) -> None:
        self._classes = classes
        self._window = window
        self._input_spacing_mm = input_spacing_mm
        self._colours = colours
        self._validation = validation
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)

    def turns(
        self,
        networks: Networks,
        batch: Batch,
        *,
        step: int,  # noqa: ARG002 (the contract of Objective)
        generator: torch.Generator,  # noqa: ARG002
    ) -> Iterator[Turn]:
        """One turn for a batch of `image` (N, 1, S, S) HU and `classes` (N, 1, S, S) int64."""
        logits = networks[self.product](self._window.to_unit(batch["image"]))
        yield Turn(self.product, self._loss(logits.float(), batch["classes"]))

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """Mean Dice; the details hold the Dice of each class."""
        predicted = np.concatenate(
            [self._predict(networks, example, bf16=bf16).ravel() for example in self._validation]
        )
        target = np.concatenate([example.classes.ravel() for example in self._validation])
        dices = {f"dice_{self._classes[0]}": dice(predicted > 0, target > 0)}
        for value, name in enumerate(self._classes[1:], start=2):
            if (target == value).any():
                dices[f"dice_{name}"] = dice(predicted == value, target == value)
        mean = float(np.mean(list(dices.values())))
        return Score("dice", mean, CONVENTION, higher_is_better=True, details=dices)

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """Image, reference and prediction of up to four validation slices."""
        rows = []
        for example in self._validation[:: max(1, len(self._validation) // 4)][:4]:
            predicted = self._predict(networks, example, bf16=bf16)
            rows.append(
                [
                    Panel(example.image, ABDOMEN, "normal dose"),
                    Panel(example.image, ABDOMEN, "reference", example.classes, self._colours),
                    Panel(example.image, ABDOMEN, "predicted", predicted, self._colours),
                ]
            )
        save_panels(path, rows)

    def _predict(self, networks: Networks, example: LabelledSlice, *, bf16: bool) -> npt.NDArray[np.uint8]:
        network = networks[self.product]
        image = torch.from_numpy(example.image.astype(np.float32))[None, None].to(device_of(network))
        logits = class_logits(
            network,
            image,
            window=self._window,
            spacing_mm=example.spacing_mm,
            input_spacing_mm=self._input_spacing_mm,
            bf16=bf16,
        )
        predicted: npt.NDArray[np.uint8] = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        return predicted

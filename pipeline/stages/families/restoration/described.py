"""An objective whose score says how its validation images were made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.objectives import Batch, Networks, Objective, Score, Turn


class DescribedInput:
    """Another objective, with words added to the convention of its score: such scores compare with no others.

    Args:
        objective: what is optimised and validated.
        words: what its validation input is.
    """

    def __init__(self, objective: Objective, words: str) -> None:
        self.product = objective.product
        self._objective = objective
        self._words = words

    def turns(
        self, networks: Networks, batch: Batch, *, step: int, generator: torch.Generator
    ) -> Iterator[Turn]:
        """The objective's turns."""
        return self._objective.turns(networks, batch, step=step, generator=generator)

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """The objective's score."""
        score = self._objective.validate(networks, bf16=bf16)
        return replace(score, convention=f"{score.convention}, input: {self._words}")

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """The objective's picture."""
        self._objective.draw(networks, path, bf16=bf16)

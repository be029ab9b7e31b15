"""What a step of a training on made low doses shows: everything random but the noise itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.data.batches import Part
from pipeline.data.noise_textures import CUTOFFS_PER_MM
from pipeline.data.patches import SliceOrder
from pipeline.transforms.batch import ORIENTATIONS, TissueVariety


@dataclass(frozen=True)
class Choices:
    """What a part of a batch shows.

    Attributes:
        places: (slices, 2) case and position of each slice.
        doses: (slices,) share of the normal dose.
        textures: (slices,) number of the noise's texture, 0 for the case's own.
        corners: (samples, 2) first row and column of each window.
        turns: (samples,) number of the turn.
        zooms: (samples,) number of the magnification.
        tissue: shift and contrast of the samples, see `TissueVariety`.
    """

    places: npt.NDArray[np.int64]
    doses: npt.NDArray[np.float64]
    textures: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    zooms: npt.NDArray[np.int64]
    tissue: dict[str, Tensor]


class Chooser:
    """Makes the choices of any part, by seed and step alone (Philox, as `PatchBatches`).

    Args:
        shapes: (slices, rows, columns) of each case.
        seed: of the run.
        batch_size: samples of a whole batch, all parts together.
        patches_per_slice: samples that share a slice.
        dose_fractions: lowest and highest share of the normal dose, drawn evenly.
        window: pixels per side of the windows cut.
        zooms: how many magnifications there are.
        varied_kernels: whether half of the slices get another texture than their own.
        tissue: how far CT numbers vary.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        *,
        seed: int,
        batch_size: int,
        patches_per_slice: int,
        dose_fractions: tuple[float, float],
        window: int,
        zooms: int,
        varied_kernels: bool,
        tissue: TissueVariety,
    ) -> None:
        self._shapes = np.array(shapes)
        self._order = SliceOrder([slices for slices, *_ in shapes], seed)
        self._seed = seed
        self._batch_size, self._patches_per_slice = batch_size, patches_per_slice
        self._lowest, self._highest = dose_fractions
        self._window, self._zooms = window, zooms
        self._varied_kernels, self._tissue = varied_kernels, tissue

    def __call__(self, part: Part) -> Choices:
        """The choices of a part, the same on every call.

        Raises:
            ValueError: the batch cannot be cut so, or the part would cut a slice's patches apart.
        """
        share, each = part.share(self._batch_size), self._patches_per_slice
        if len(share) % each:
            raise ValueError(
                f"{part.count} parts of a batch of {self._batch_size} have {len(share)} samples each, no "
                f"multiple of patches_per_slice {each}"
            )
        samples = slice(share.start, share.stop)
        slices = slice(share.start // each, share.stop // each)
        count = self._batch_size // each
        # What came later is drawn last, so that trainings without it stay what they were.
        draws = np.random.Generator(np.random.Philox(key=[self._seed, part.step]))
        corners = draws.random((self._batch_size, 2))[samples]
        turns = draws.integers(ORIENTATIONS, size=self._batch_size)[samples]
        zooms = draws.integers(self._zooms, size=self._batch_size)[samples]
        doses = draws.uniform(self._lowest, self._highest, size=count)[slices]
        textures = self._textures(draws, count)[slices]
        tissue = self._tissue.draw(draws, samples, count=self._batch_size)
        places = np.array([self._order[part.step * count + place] for place in range(count)[slices]])
        room = self._shapes[places[:, 0].repeat(each), 1:] - self._window + 1
        return Choices(places, doses, textures, (corners * room).astype(np.int64), turns, zooms, tissue)

    def _textures(self, draws: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """0, the own kernel, half of the time, else the number of another one."""
        if not self._varied_kernels:
            return np.zeros(count, np.int64)
        others = len(CUTOFFS_PER_MM)
        return np.maximum(draws.integers(2 * others, size=count) - others + 1, 0)

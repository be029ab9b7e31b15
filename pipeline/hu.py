"""Hounsfield units: named windows and the scale that networks see, each value beside its inverse."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Image = TypeVar("Image", npt.NDArray[np.float32], "torch.Tensor")

AIR_HU: Final = -1000.0
"""CT number of air; padding outside the field of view reaches the network as air."""

LOWEST_HU: Final = -1024
"""Lowest HU that is an image value; anything below is padding (scanners write -1500 to -3024)."""


@dataclass(frozen=True)
class HUWindow:
    """A range of CT numbers, e.g. what a display or a score looks at.

    Raises:
        ValueError: `low` is not below `high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"an HU window needs low < high, got low={self.low}, high={self.high}")

    @classmethod
    def from_level_width(cls, level: float, width: float) -> HUWindow:
        """The window a radiologist names, e.g. level 40, width 400."""
        return cls(low=level - width / 2, high=level + width / 2)

    @property
    def width(self) -> float:
        """HU from the lower to the upper edge."""
        return self.high - self.low

    def clip(self, hu: Image) -> Image:
        """`hu` limited to the window, in HU."""
        return hu.clip(self.low, self.high)

    def to_unit(self, hu: Image) -> Image:
        """HU to [0, 1]; values outside the window are clipped."""
        return (self.clip(hu) - self.low) / self.width

    def from_unit(self, unit: Image) -> Image:
        """[0, 1] back to HU."""
        return unit * self.width + self.low


@dataclass(frozen=True)
class HUScale:
    """The linear scale on which a network sees CT numbers: `network = (hu - zero_hu) / unit_hu`.

    Nothing is clipped: metal above 3072 HU passes through.

    Raises:
        ValueError: `unit_hu` is not positive.
    """

    zero_hu: float
    unit_hu: float

    def __post_init__(self) -> None:
        if not self.unit_hu > 0:
            raise ValueError(f"unit_hu must be positive, got {self.unit_hu}")

    def to_network(self, hu: Image) -> Image:
        """HU to network units."""
        return (hu - self.zero_hu) / self.unit_hu

    def to_hu(self, network: Image) -> Image:
        """Network units back to HU."""
        return network * self.unit_hu + self.zero_hu


ABDOMEN: Final = HUWindow.from_level_width(level=40, width=400)
LUNG: Final = HUWindow.from_level_width(level=-600, width=1500)
HEAD: Final = HUWindow.from_level_width(level=40, width=80)

WATER_CENTRED: Final = HUScale(zero_hu=0.0, unit_hu=1000.0)
"""Water is 0 and air -1: in bfloat16 the steps are at most 0.24 HU over 0 to 100 HU."""

RED_CNN_PAPER: Final = HUScale(zero_hu=-1024.0, unit_hu=4096.0)
"""[-1024, 3072] HU to [0, 1], as published (Chen et al. 2017, doi:10.1109/TMI.2017.2715284)."""


_REGIONS: Final = {
    "spine": r"(?<!\bc)(?<!\bc[- ])(?<!cervical )spine|lumbar|vertebra|sacrum|coccyx",
    "chest": r"chest|thora|lung|heart|cardi|breast|mediast|esophag|clavicle",
    "abdomen": r"abd|liver|kidney|pancrea|spleen|stomach|bowel|colon",
    "pelvis": r"pelvi|hip|bladder|prostate|uterus|cervix|ovary|rectum",
    "extremity": r"extremity|shoulder|elbow|wrist|hand|thigh|knee|ankle|foot|\b(fore)?arms?\b|\blegs?\b"
    r"|humerus|femur|tibia|fibula",
    "head": r"head|brain|skull|neuro|face|sinus|orbit|temporal|jaw|\bears?\b|\beyes?\b|\btmj\b|\biac\b"
    r"|crani|occipit|mandib|maxill|mastoid|zygoma|\bsella|\bnose\b|\bnasal|\bmouth\b|\btongue\b",
    "neck": r"neck|thyroid|larynx|\bc[- ]?spine|cervical spine",
}
"""What BodyPartExamined says of each region: PS3.16 annex L and the words of public collections.

The first region named counts; the head is late because its window and bowtie do not fit a scan that goes on
into the body."""


def body_region(body_part: str | None) -> str:
    """The region of the body that a BodyPartExamined names, whatever its spelling.

    Returns:
        `chest`, `abdomen`, `pelvis`, `head`, `neck`, `spine` or `extremity`; `unknown` for all other text,
        none of which is repeated: it may name a person.
    """
    text = (body_part or "").lower().replace("_", " ")
    return next((region for region, words in _REGIONS.items() if re.search(words, text)), "unknown")


def display_window(body_part: str | None) -> HUWindow:
    """The window in which a body part is drawn.

    The abdomen's for all but the head: it shows the noise of a chest better than the lung window.
    """
    return HEAD if body_region(body_part) == "head" else ABDOMEN

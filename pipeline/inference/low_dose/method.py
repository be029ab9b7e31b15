"""What a user chooses about simulated doses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

FluxChoice: TypeAlias = float | Literal["image", "tags"]
GeometryChoice = Literal["fan", "parallel"]
BowtieChoice = Literal["auto", "body", "head", "none"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the noise of lower doses is computed.

    Attributes:
        dose_fractions: shares of the dose to keep, each between 0 and 1.
        flux: photons per ray at normal dose, or where to read them: the image's own noise, or the tags.
        kernel: `image` for that of the image's own texture, or a name for `dose.texture.parse_kernel`.
        geometry: fan or parallel rays.
        bowtie: the filter; `auto` goes by the body part.
        seed: of the noise.
    """

    dose_fractions: tuple[float, ...]
    flux: FluxChoice
    kernel: str
    geometry: GeometryChoice
    bowtie: BowtieChoice
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As the recipe of a series."""
        return asdict(self) | {"dose_fractions": list(self.dose_fractions)}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Method:
        """The choices in the recipe of a finished series."""
        chosen = {field.name: recipe[field.name] for field in fields(cls)}
        return cls(**chosen | {"dose_fractions": tuple(chosen["dose_fractions"])})

    def command_line(self) -> str:
        """The options that name these choices."""
        doses = " ".join(f"--dose {dose}" for dose in self.dose_fractions)
        return (
            f"{doses} --flux {self.flux} --kernel {self.kernel} --geometry {self.geometry} "
            f"--bowtie {self.bowtie} --seed {self.seed}"
        )

    def series_seed(self, series_uid: str, pixel_digests: Sequence[str]) -> int:
        """A seed of its own for each series, from what it is and not from where it lies."""
        content = json.dumps([self.seed, series_uid, *pixel_digests]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:7], "big")

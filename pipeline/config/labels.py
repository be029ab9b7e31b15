"""The label table: what the values of a mask mean, in words, SNOMED codes and colours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from pydantic import Field, model_validator

from pipeline.config.base import Settings, load_settings

LABELS: Final = Path("configs") / "labels.yaml"

Code = tuple[str, str, str]
"""Code value, coding scheme, meaning."""


class Label(Settings):
    """One structure.

    Attributes:
        name: how settings and tables call it.
        value: its value in a mask.
        category: SNOMED CT code of what kind of thing it is (DICOM PS3.16 CID 7150).
        type: SNOMED CT code of the structure itself (CID 7151 and its kin).
        rgb: the colour in which it is drawn.
    """

    name: str = Field(pattern=r"[a-z][a-z_]*")
    value: int = Field(ge=0, le=255)
    category: Code
    type: Code
    rgb: tuple[int, int, int]


class LabelTable(Settings):
    """All structures of a mask.

    Attributes:
        labels: structures in the body, with their mask values.
        body: what the union of all structures is called; its value is no mask value.
        outside: mask values that are not the patient.
    """

    labels: tuple[Label, ...] = Field(min_length=1)
    body: Label
    outside: tuple[int, ...]

    @model_validator(mode="after")
    def _check_unique(self) -> LabelTable:
        names = [label.name for label in (*self.labels, self.body)]
        values = [*(label.value for label in self.labels), *self.outside]
        for kind, counts in (("name", Counter(names)), ("value", Counter(map(str, values)))):
            repeated = [item for item, count in counts.items() if count > 1]
            if repeated:
                raise ValueError(f"{kind} {', '.join(repeated)} occurs twice")
        return self


def load_labels(path: Path = LABELS) -> LabelTable:
    """Read the label table.

    Raises:
        ConfigError: the file is missing or invalid.
    """
    return load_settings(path, LabelTable)

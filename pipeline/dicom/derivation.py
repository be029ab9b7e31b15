"""What was done to a series, in words, codes and numbers that tell its results apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as CodedEntry

from pipeline.dicom.discovery import SeriesEntry
from pipeline.dicom.uids import sha256_hex
from pipeline.dicom.writing import PRODUCT

_DENOISED_NUMBER_OFFSET: Final = 9000
_NUMBER_OFFSET_PER_PERCENT: Final = 10_000


@dataclass(frozen=True)
class Derivation:
    """What made the new pixels; everything but `not_for_diagnosis` names the method.

    Args:
        model_name: name of the weights, or of the physics.
        model_version: version of the weights; empty for physics, which has the product's.
        model_hash: SHA-256 of the weights, hexadecimal; empty for physics.
        settings: whatever changes the result: strength, engine, precision; geometry, kernel, photons, seed.
        product_version: version of this package.
        not_for_diagnosis: say so in ImageComments.
    """

    model_name: str
    model_version: str
    model_hash: str
    settings: Mapping[str, str | float]
    product_version: str
    not_for_diagnosis: bool = True

    def description(self, action: str) -> str:
        """One ASCII line for people, at most 1024 characters (DerivationDescription, ST)."""
        model = " ".join(part for part in (self.model_name, self.model_version) if part)
        weights = f" (sha256 {self.model_hash[:16]})" if self.model_hash else ""
        settings = ", ".join(f"{key} {value}" for key, value in sorted(self.settings.items()))
        line = f"{action} by {PRODUCT} {self.product_version} with {model}{weights}; {settings}"
        return line.encode("ascii", "replace").decode().replace("\\", "/")[:1024]

    def identity(self) -> str:
        """Canonical text of everything that decides the content, as a part of deterministic UIDs."""
        return json.dumps(
            {
                "model": [self.model_name, self.model_version, self.model_hash],
                "settings": dict(self.settings),
                "product_version": self.product_version,
                "not_for_diagnosis": self.not_for_diagnosis,
            },
            sort_keys=True,
        )


@dataclass(frozen=True)
class Purpose:
    """What a derived series is for, and how it says so; see `DENOISED` and `simulated_dose`.

    Args:
        identity: its part of deterministic UIDs.
        action: how DerivationDescription begins.
        description_suffix: how SeriesDescription ends.
        series_number_offset: added to the source's SeriesNumber.
        derivation_code: what CID 7203 (PS3.16) calls it; None where it has no such concept.
    """

    identity: str
    action: str
    description_suffix: str
    series_number_offset: int
    derivation_code: CodedEntry | None


DENOISED: Final = Purpose(
    identity="derived series",
    action="Denoised",
    description_suffix=" (denoised)",
    series_number_offset=_DENOISED_NUMBER_OFFSET,
    derivation_code=codes.DCM.Smoothing,
)


def simulated_dose(dose_fraction: float) -> Purpose:
    """A partner of the source as it would look at `dose_fraction` of its dose.

    CID 7203 has no concept for added noise, so none is claimed. Series 3 at 25 % becomes series 250003: doses
    of one study differ, and so do its series at one dose.

    Args:
        dose_fraction: dose over the source's, above 0 and below 1.

    Raises:
        ValueError: `dose_fraction` is outside that range.
    """
    if not 0 < dose_fraction < 1:
        raise ValueError(f"a simulated dose must be above 0 and below 1 of the source's, got {dose_fraction}")
    percent = 100 * dose_fraction
    return Purpose(
        identity=f"simulated dose {float(dose_fraction)!r}",
        action=f"SIMULATED low dose: {percent:g} % of the source image's dose, noise added",
        description_suffix=f" SIMULATED {percent:g}% dose",
        series_number_offset=round(percent * _NUMBER_OFFSET_PER_PERCENT),
        derivation_code=None,
    )


def source_identity(entry: SeriesEntry, content_digests: Sequence[str]) -> tuple[str, str]:
    """The source as parts of a deterministic UID: its SeriesInstanceUID and a digest of all else.

    That is patient, study, images, and the pixels and header of each, as `content_digests` have them.
    """
    names = [
        uid if frame is None else f"{uid} frame {frame + 1}"
        for uid, frame in zip(entry.sop_instance_uids, entry.frames, strict=True)
    ]
    content = json.dumps([entry.patient_key, entry.study_uid, names, list(content_digests)])
    return entry.series_uid, sha256_hex(content.encode())

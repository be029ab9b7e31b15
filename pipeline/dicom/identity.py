"""Keep back DICOM texts that repeat who the patient is: operators type names into any field."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import pydicom
from pydicom.tag import BaseTag, Tag

from pipeline.dicom.elements import clean

IDENTITY_KEYWORDS: Final = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientTelecomInformation",
    "MilitaryRank",
    "MedicalRecordLocator",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "AdmissionID",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "ReferringPhysicianAddress",
    "ReferringPhysicianTelephoneNumbers",
    "ConsultingPhysicianName",
    "PerformingPhysicianName",
    "RequestingPhysician",
    "ScheduledPerformingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "CurrentPatientLocation",
    "PatientInstitutionResidence",
    "StationName",
    "DeviceSerialNumber",
)
"""Elements of the Basic Application Level Confidentiality Profile (PS3.15 Table E.1-1) that name a patient, a
member of staff, a place or a device."""

_PLACES: Final = frozenset(
    {
        "ResponsibleOrganization",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "CurrentPatientLocation",
        "PatientInstitutionResidence",
        "StationName",
    }
)
_PLACE_WORDS: Final = re.compile(
    r"\b(and|canon|center|centre|clinic|department|diagnostic|electric|ge|general|health|healthcare|healthineers"
    r"|hospital|imaging|medical|of|philips|radiology|scanner|siemens|systems|the|toshiba|university)\b",
    re.IGNORECASE,
)
"""Words that tell no place from another: a MEDICAL CENTER must not hide the maker's MEDICAL SYSTEMS."""

_BODY_PART: Final = re.compile(
    r"head|skull|brain|face|neck|[ctls]?spine|chest|thorax|breast|heart|lung|abdomen|liver|kidney|colon|pelvis"
    r"|hip|extremity|shoulder|arm|elbow|forearm|wrist|hand|leg|thigh|knee|calf|ankle|foot|(whole ?)?body",
    re.IGNORECASE,
)
"""Defined terms of BodyPartExamined (PS3.16 Annex L): they tell of nobody, whoever is called so, and how a
dose is simulated depends on them."""

_KEYWORD_OF_TAG: Final = {Tag(keyword): keyword for keyword in IDENTITY_KEYWORDS}
_BIRTH_DATE: Final = re.compile(r"((?:18|19|20)\d\d)\D?(\d\d)\D?(\d\d)")
_SHORTEST_WORD: Final = 3
"""Shorter words repeat by chance, CT among them."""
_SHORTEST_PART: Final = 4
"""So many characters of an identity are found even inside a longer word."""
_SHORTEST_CUT: Final = 8
"""A text of so many characters that an identity contains is that identity cut short (VR SH holds 16)."""


def shown(text: str | None, dataset: pydicom.Dataset) -> str | None:
    """A DICOM text as `clean` leaves it, for tables and log lines; None when it repeats an identity.

    Case, accents and what separates words do not matter. Where chance and repetition look alike the text is
    kept back: of a patient called STANDARD the kernel STANDARD is not shown. Names of body parts always are.

    Args:
        text: value of an element, cleaned or not.
        dataset: the header it comes from, read with `IDENTITY_KEYWORDS`; malformed values are compared as
            they stand.
    """
    harmless = clean(text or "")
    if text is None or harmless is None or _BODY_PART.fullmatch(harmless):
        return harmless
    words = _words(text)
    whole = {_joined(spelling) for spelling in _spellings(text)}
    return None if any(_repeats(words, whole, value) for value in _identities(dataset)) else harmless


def _repeats(words: frozenset[str], whole: set[str], identity: frozenset[str]) -> bool:
    if not words.isdisjoint(identity):
        return True
    return any(
        (len(name) >= _SHORTEST_PART and name in text) or (len(text) >= _SHORTEST_CUT and text in name)
        for name in identity
        for text in whole
    )


def _identities(dataset: pydicom.Dataset) -> Iterator[frozenset[str]]:
    """The words of each identity value of a header."""
    for tag in dataset.keys() & _KEYWORD_OF_TAG.keys():
        keyword = _KEYWORD_OF_TAG[tag]
        for text in _texts(dataset, tag):
            yield _words(_PLACE_WORDS.sub(" ", text) if keyword in _PLACES else text)
            if keyword == "PatientBirthDate":
                yield _dates(text)


def _texts(dataset: pydicom.Dataset, tag: BaseTag) -> list[str]:
    """The values of an element: its bytes as they lie in the file, as a wrong VR would make them numbers."""
    value = getattr(dataset.get_item(tag), "value", None)
    if isinstance(value, bytes):
        return list(_texts_of(value))
    try:
        return list(_texts_of(dataset[tag].value))
    except Exception:  # noqa: BLE001  what does not convert cannot be read by anybody
        return []


def _texts_of(value: Any) -> Iterator[str]:
    """Text in any single-byte character set, and in UTF-8; both agree with the others on ASCII letters."""
    if isinstance(value, bytes):
        yield from value.decode("latin-1").split("\\")
        yield from value.decode("utf-8", errors="ignore").split("\\")
    elif isinstance(value, pydicom.Dataset):
        for tag in value.keys():  # noqa: SIM118  a dataset iterates over converted values, which may raise
            yield from _texts(value, tag)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _texts_of(one)
    elif value is not None:
        yield str(value)


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    """Words of a text in every spelling, and all of them joined, so that AB-12 equals ab12."""
    spelled = _spellings(text)
    words = {word for one in spelled for word in re.findall("[^\\W_]+", one)}
    words |= {_joined(one) for one in spelled}
    return frozenset(word for word in words if len(word) >= _SHORTEST_WORD)


def _spellings(text: str) -> set[str]:
    """As it stands, without accents, with ae for ä, and without any letter that `clean` drops."""
    folded = unicodedata.normalize("NFC", text).casefold()
    german = folded.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
    plain = "".join(char for char in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(char))
    ascii_only = (clean(text) or "").casefold()
    return {folded, german, plain, ascii_only}


def _joined(text: str) -> str:
    return re.sub("[\\W_]+", "", text)


def _dates(text: str) -> frozenset[str]:
    """A birth date in the orders of its parts that people write, and its year."""
    found = _BIRTH_DATE.search(text)
    if found is None:
        return frozenset()
    year, month, day = found.groups()
    return frozenset({year, year + month + day, day + month + year, month + day + year})

"""Texts that repeat who the patient is are kept back, whatever the header holds."""

from __future__ import annotations

from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pipeline.dicom.identity import IDENTITY_KEYWORDS, shown


def header(**attributes: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def raw_header(keyword: str, vr: str, value: bytes, charset: str = "ISO_IR 100") -> pydicom.Dataset:
    """A header as it comes from a file: bytes that were not looked at so far."""
    tag = Tag(keyword)
    dataset = header(SpecificCharacterSet=charset)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return dataset


@pytest.mark.parametrize("text", ["B30f", "SIEMENS", "GE MEDICAL SYSTEMS", "CHEST", "CT"])
def test_an_ordinary_text_is_shown(text: str) -> None:
    someone = header(
        PatientName="DOE^JANE",
        PatientID="CT-4711",
        PatientBirthDate="19600314",
        StationName="SIEMENS1",
        InstitutionName="GE Medical Systems, University Hospital of Elsewhere",
    )
    assert shown(text, someone) == text


@pytest.mark.parametrize("text", [None, "", " \t", "^=^"])
def test_nothing_stays_nothing(text: str | None) -> None:
    assert shown(text, header(PatientName="DOE^JANE")) is None


def test_what_is_shown_is_harmless() -> None:
    assert shown("B30f\x1b[31m\n" + "x" * 99, header()) == "B30f 31m " + "x" * 55


@pytest.mark.parametrize(
    "text",
    [
        "DOE",
        "for jane",
        "Jane.Doe",
        "doe=jane",
        "B30f DOE-JANE",
        "xjanex",
        "MÜLLER",
        "mueller",
        "Muller",
        "M LLER",
        "M\u00c3\u00bcLLER",  # UTF-8 taken for Latin-1
        "Mu\u0308ller",  # decomposed
        "AB 12/99",
        "ab1299",
        "19600314",
        "1960-03-14",
        "14.03.1960",
        "born 1960",
        "ELSEWHERE",
        "x" * 80 + " DOE",  # would be cut anyway
    ],
)
def test_what_repeats_an_identity_is_kept_back(text: str) -> None:
    someone = header(
        PatientName="DOE-MÜLLER^JANE",
        PatientID="AB-12.99",
        PatientBirthDate="19600314",
        InstitutionAddress="Clinic of Elsewhere",
    )
    assert shown(text, someone) is None


@pytest.mark.parametrize("keyword", IDENTITY_KEYWORDS)
def test_every_identity_element_counts(keyword: str) -> None:
    someone = pydicom.Dataset()
    if dictionary_VR(keyword) == "SQ":
        setattr(someone, keyword, [header(PatientID="zz4711"), header(IssuerOfPatientID="zebra")])
    else:
        someone = raw_header(keyword, dictionary_VR(keyword), b"zebra ")
    assert shown("ZEBRA B30f", someone) is None
    assert shown("B30f", someone) == "B30f"


def test_all_values_of_an_element_count() -> None:
    assert shown("four", header(OtherPatientIDs=["one", "two", "three", "four"])) is None


def test_a_name_cut_to_the_length_of_its_element_is_kept_back() -> None:
    assert shown("WOLFESCHLEGELSTE", header(PatientName="Wolfeschlegelsteinhausen^Hubert")) is None


def test_what_looks_like_the_name_by_chance_is_kept_back_except_body_parts() -> None:
    phantom = header(PatientName="PHANTOM^chest-01", OperatorsName="STANDARD")
    assert shown("STANDARD", phantom) is None
    assert shown("CHEST", phantom) == "CHEST"


@pytest.mark.parametrize("vr", ["PN", "LO", "UN", "OB", "DS", "IS", "DA", "US", "FD", "SQ", "AT", "UI", "??"])
@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "NO SUCH SET"])
@pytest.mark.filterwarnings("ignore")
def test_a_name_of_any_type_and_character_set_is_still_a_name(vr: str, charset: str) -> None:
    name = b"ZEBRA^SECRET"
    assert shown("SECRET", raw_header("PatientName", vr, name, charset)) is None
    with_accents = "MÜLLER-ZEBRA^JÖRG".encode("latin-1")
    assert shown("zebra", raw_header("PatientName", vr, with_accents, charset)) is None


@pytest.mark.filterwarnings("ignore")
@given(
    keyword=st.sampled_from(IDENTITY_KEYWORDS),
    vr=st.sampled_from(["PN", "LO", "DS", "IS", "DA", "SQ", "UN", "US", "OB", "AT", "??"]),
    value=st.binary(max_size=40),
    charset=st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 149", "\\"]),
    text=st.text(max_size=30),
)
def test_no_value_is_an_error(keyword: str, vr: str, value: bytes, charset: str, text: str) -> None:
    answer = shown(text, raw_header(keyword, vr, value, charset))
    assert answer is None or answer.isascii()


def test_the_identity_elements_are_those_of_the_standard() -> None:
    assert all(tag_for_keyword(keyword) for keyword in IDENTITY_KEYWORDS)

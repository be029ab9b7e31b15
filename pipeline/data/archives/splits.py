"""Splits of a scanned archive: the published ones of a known collection, and a default hold-out for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.data.archives.layouts import Layout
from pipeline.manifest import ROLES, ManifestCase, holdout_roles

DEFAULT: Final = "holdout"
_SEED: Final = 0
_USUAL_TEST_PATIENT: Final = "L506"
"""Of the challenge; the literature's hold-out."""

_BENCHMARK_HELD_OUT: Final = {
    "test": "C121 C249 C170 C135 C280 L241 L107 L006 L221 L220 N176 N138 N153 N284 N090",
    "validation": "C202 C219 C227 C258 C067 C295 C190 C232 C052 C107 "
    "L033 L187 L123 L058 L212 L077 L179 L014 L186 L193 "
    "N056 N024 N079 N139 N300 N198 N279 N047 N188 N252",
}
"""Of the LDCT benchmark (Eulig et al. 2024, doi:10.1002/mp.17379, `ldctbench/data/info.yml`); its 105
training patients are all the others that have low-dose images."""
_BENCHMARK_ROLES: Final = {
    patient: role for role, patients in _BENCHMARK_HELD_OUT.items() for patient in patients.split()
}


def make_splits(cases: Sequence[ManifestCase], layouts: Mapping[str, Layout]) -> dict[str, dict[str, str]]:
    """Roles of all cases by name of split; `holdout` is always there.

    - Challenge: `leave-out-<patient>` for each patient, who tests; the next one by name (after the last the
      first) validates. `holdout` is `leave-out-L506`.
    - TCIA: `benchmark`, the published split. `holdout` is the same.
    - All else, a folder of several collections, and where a published split leaves a role empty: `holdout`
      is `manifest.holdout_roles` with seed 0.

    Args:
        cases: the manifest.
        layouts: layout of each case_id.
    """
    kinds = {layouts[case.case_id] for case in cases}
    splits: dict[str, dict[str, str]] = {}
    usual = ""
    if kinds == {Layout.MAYO_2016}:
        patients = sorted({case.patient_id for case in cases})
        splits = {f"leave-out-{patient}": _leave_out(patient, patients, cases) for patient in patients}
        usual = f"leave-out-{_USUAL_TEST_PATIENT}"
    elif kinds == {Layout.TCIA}:
        splits = {
            "benchmark": {case.case_id: _BENCHMARK_ROLES.get(case.patient_id, "train") for case in cases}
        }
        usual = "benchmark"
    splits = {name: roles for name, roles in splits.items() if set(roles.values()) == set(ROLES)}
    return {DEFAULT: splits.get(usual) or holdout_roles(cases, _SEED), **splits}


def patients_in_both(cases: Sequence[ManifestCase], layouts: Mapping[str, Layout]) -> tuple[str, ...] | None:
    """Patients of the challenge whose id is in the TCIA collection too; None unless both are there.

    13 of the 20 test patients of the challenge are in the TCIA collection
    (cancerimagingarchive.net/collection/ldct-and-projection-data): what was trained on them there must not be
    tested on them here.
    """
    challenge, tcia = (
        {case.patient_id for case in cases if layouts[case.case_id] is layout}
        for layout in (Layout.MAYO_2016, Layout.TCIA)
    )
    return tuple(sorted(challenge & tcia)) if challenge and tcia else None


def _leave_out(patient: str, patients: Sequence[str], cases: Sequence[ManifestCase]) -> dict[str, str]:
    following = patients[(patients.index(patient) + 1) % len(patients)]
    roles = {following: "validation", patient: "test"}
    return {case.case_id: roles.get(case.patient_id, "train") for case in cases}

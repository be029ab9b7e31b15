"""Scores whose parts are whole but cannot be of one evaluation, as where some of them were taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pipeline.report.card.scores import (
    BIAS,
    GROUPINGS,
    INPUT,
    NORMAL_DOSE,
    RESTORED,
    WORST_BIAS,
    AtDose,
    Scores,
)


def faults(scores: Scores) -> Iterator[str]:
    """What contradicts the rest, each as `key: what`; none where all is of one evaluation."""
    yield from _together("doses", scores.doses, "by_patient", scores.by_patient)
    for key, patients in scores.by_patient.items():
        if len(patients) != scores.patients:
            yield f"by_patient.{key}: {len(patients)} patients, the evaluation has {scores.patients}"
    for key, own in scores.doses.items():
        yield from _faults_at(f"doses.{key}", own, scores)
        if own.slices_below_input != (listed := len(scores.below_input.get(key, {}))):
            yield f"below_input.{key}: {listed} listed, doses.{key} counts {own.slices_below_input}"
    yield from _faults_of_intervals(scores)
    yield from _faults_of_lesions(scores)
    yield from _faults_of_edges(scores)


def unlike(where: str, found: Iterable[str], wanted: Iterable[str]) -> Iterator[str]:
    """Names below a key that are missing, and those that do not belong there."""
    names, known = list(found), list(wanted)
    yield from (f"{where}.{name}: missing" for name in known if name not in names)
    yield from (f"{where}.{name}: not of this evaluation" for name in names if name not in known)


def _together(where: str, found: Iterable[str], other: str, others: Iterable[str]) -> Iterator[str]:
    """Names below one of two keys that are missing below the other."""
    names, known = list(found), list(others)
    yield from (f"{where}.{name}: missing" for name in known if name not in names)
    yield from (f"{other}.{name}: missing" for name in names if name not in known)


def _faults_at(where: str, own: AtDose, scores: Scores) -> Iterator[str]:
    methods = [INPUT, RESTORED, *own.baselines]
    yield from unlike(f"{where}.against_normal_dose", own.against_normal_dose, scores.conventions)
    for name, against in own.against_normal_dose.items():
        yield from unlike(f"{where}.against_normal_dose.{name}", against.by_name, methods)
    yield from _faults_of_tissues(where, own, [NORMAL_DOSE, *methods])
    if own.noise_texture:
        yield from unlike(f"{where}.noise_texture", own.noise_texture, [NORMAL_DOSE, *methods])
    for grouping in GROUPINGS:
        groups = own.groups(grouping)
        for name, group in groups.items():
            yield from unlike(f"{where}.by_{grouping}.{name}", group.gains, scores.conventions)
        if (counted := sum(group.slices for group in groups.values())) != scores.slices:
            yield f"{where}.by_{grouping}: {counted} slices, the evaluation has {scores.slices}"


def _faults_of_intervals(scores: Scores) -> Iterator[str]:
    """All gains have one, or none where patients are too few."""
    gained = {
        f"doses.{key}.against_normal_dose.{name}.{method}": own.model_fields_set
        for key, at_dose in scores.doses.items()
        for name, methods in at_dose.against_normal_dose.items()
        for method, own in methods.gained.items()
    }
    for where, own in gained.items():
        yield from unlike(where, own, sorted(set().union(*gained.values())))


def _faults_of_tissues(where: str, own: AtDose, methods: list[str]) -> Iterator[str]:
    biases, worst = own.bias_against_normal_dose_hu, own.worst_patient_bias_against_normal_dose_hu
    if worst and not biases:
        yield f"{where}.{BIAS}: missing"
        return
    yield from _together(f"{where}.{BIAS}", biases, f"{where}.{WORST_BIAS}", worst)
    for key, tissues in ((BIAS, biases), (WORST_BIAS, worst)):
        for tissue, by_method in tissues.items():
            yield from unlike(f"{where}.{key}.{tissue}", by_method, methods)


def _faults_of_lesions(scores: Scores) -> Iterator[str]:
    found = scores.detectability
    if found is None:
        return
    yield from _together("detectability.by_dose", found.by_dose, "detectability.verdict", found.verdict)
    for dose, observers in found.by_dose.items():
        where = f"detectability.by_dose.{dose}"
        yield from unlike(where, observers, found.observers)
        for observer, own in observers.items():
            yield from unlike(f"{where}.{observer}", own.baselines, _baselines(scores, dose))
            if found.verdict.get(dose, {}).get(observer) != own.restored.verdict:
                yield f"detectability.verdict.{dose}.{observer}: not that of by_dose"


def _faults_of_edges(scores: Scores) -> Iterator[str]:
    if scores.ttf is None:
        return
    wanted = [f"{dose:g}" for dose in scores.by_dose]
    yield from unlike("ttf.by_dose", scores.ttf.by_dose, wanted)
    contrasts = dict.fromkeys(name for own in scores.ttf.by_dose.values() for name in own)
    for dose, own in scores.ttf.by_dose.items():
        where = f"ttf.by_dose.{dose}"
        yield from unlike(where, own, contrasts)
        for contrast, by_method in own.items():
            yield from unlike(f"{where}.{contrast}", by_method, [RESTORED, *_baselines(scores, dose)])


def _baselines(scores: Scores, dose: str) -> Mapping[str, float]:
    own = scores.by_dose.get(float(dose))
    return {} if own is None else own.baselines

"""The first chapter: each result in one sentence, with its convention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pipeline.report.numbers import text, words
from pipeline.report.page import Finding, Picture, Section
from pipeline.report.tables import Results

ALARM: Final = "WORSE"
"""A denoiser's verdict that begins so is bad news."""
WRITTEN: Final = ("done", "slicewise")
UNFIT: Final = ("refused", "failed")
INPUT: Final = "input"
RESTORED: Final = "restored"
BODY: Final = "body"


def summary(
    scores: Mapping[str, Results | None], journal: Sequence[Results] | None, pictures: Sequence[Picture]
) -> Section:
    """What came out.

    Args:
        scores: of each evaluation, by name; None: not made.
        journal: of `ldct predict`; None: not made.
        pictures: before and after, and a prediction.
    """
    missing = [
        f"the scores of {name}; run ldct evaluate {name}" for name, found in scores.items() if found is None
    ]
    if journal is None:
        missing.append("predictions; run ldct predict")
    if not pictures:
        missing.append("pictures of a result")
    made = {name: found for name, found in scores.items() if found is not None}
    findings = [*_on_denoisers(made), *_on_segmentation(made), *_on_generators(made)]
    if journal is not None:
        findings.append(Finding(predicted(journal), "Prediction", is_alarming=_count(journal, UNFIT) > 0))
    return Section("summary", "Summary", findings, missing, pictures)


def predicted(journal: Sequence[Results]) -> str:
    """How many series were written, refused and skipped."""
    written, unfit = _count(journal, WRITTEN), _count(journal, UNFIT)
    return f"{written} series done, {unfit} refused or failed, {len(journal) - written - unfit} skipped."


def is_denoiser(scores: Results | None) -> bool:
    """Whether these are a denoiser's scores."""
    return scores is not None and "against_normal_dose" in scores


def _on_denoisers(scores: Mapping[str, Results]) -> Iterator[Finding]:
    for name, found in scores.items():
        if is_denoiser(found):
            yield _fidelity(name, found)
            yield from _bias(name, found)


def _on_segmentation(scores: Mapping[str, Results]) -> Iterator[Finding]:
    """The widest comparison: what has Dice on several doses says all that the normal dose alone does."""
    doses = {name: len(found["dice"]) for name, found in scores.items() if "dice" in found}
    for name, count in doses.items():
        if count == max(doses.values()):
            yield _dice(name, scores[name])


def _on_generators(scores: Mapping[str, Results]) -> Iterator[Finding]:
    for name, found in scores.items():
        if "mmd2" in found:
            yield _distance(name, found)


def _fidelity(name: str, scores: Results) -> Finding:
    convention, meaning = next(iter(scores["conventions"].items()))
    rows = scores["against_normal_dose"][convention]
    before, after = (f"{text(rows[row]['psnr_db'], 'db')} dB" for row in (INPUT, RESTORED))
    return Finding(
        f"{scores['verdict']}: {before} before, {after} after, against the normal dose, whose own noise "
        f"limits the gain to {text(scores['gain_ceiling_db'], 'db')} dB (convention {convention}: {meaning}; "
        f"mean over {scores['patients']} patients).",
        f"Denoiser {name}",
        is_alarming=str(scores["verdict"]).startswith(ALARM),
    )


def _bias(name: str, scores: Results) -> Iterator[Finding]:
    """Against the truth where it is known, else against the normal dose."""
    found = [ref for ref in ("truth", "normal_dose") if BODY in scores.get(f"bias_against_{ref}_hu", {})]
    if not found:
        return
    by_tissue = scores[f"bias_against_{found[0]}_hu"]
    worst = max(by_tissue, key=lambda tissue: abs(by_tissue[tissue][RESTORED]))
    body, tissue = (
        f"{_signed(by_tissue[region][RESTORED])} HU (its input: {_signed(by_tissue[region][INPUT])} HU)"
        for region in (BODY, worst)
    )
    yield Finding(
        f"mean difference from the {words(found[0])} {body} over the body, "
        f"and at worst, in {words(worst)}, {tissue}.",
        f"HU bias of {name}",
    )


def _dice(name: str, scores: Results) -> Finding:
    means = ", ".join(
        f"{text(row['mean'], 'dice')} on {words(dose)}{' images' if dose == RESTORED else ''}"
        for dose, row in scores["dice"].items()
    )
    return Finding(f"mean Dice over organs {means} ({scores['aggregation']}).", f"Segmentation, {name}")


def _distance(name: str, scores: Results) -> Finding:
    floors = (
        f"{text(scores[key], key)} for {what} "
        f"(floor, real against real: {text(scores[f'{key}_real_vs_real'], key)})"
        for key, what in (("mmd2", "whole slices"), ("mmd2_detail", "fine detail"))
        if key in scores
    )
    return Finding(
        f"squared distance (MMD²) of samples to real test slices {' and '.join(floors)}; "
        f"{scores['mmd2_space']}.",
        f"Generator {name}",
    )


def _count(journal: Sequence[Results], verdicts: Sequence[str]) -> int:
    return sum(line["verdict"] in verdicts for line in journal)


def _signed(value: float) -> str:
    number = text(value, "hu")
    return f"+{number}" if float(number) > 0 else number

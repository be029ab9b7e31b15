"""The page of `ldct simulate validate`: every proof with its figures, limits and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.dose.validation import Check, Measure
from pipeline.report.page import Finding, Page, Picture, Section, Table


def validation_page(checks: Sequence[Check], pictures: Mapping[str, Sequence[Picture]], version: str) -> Page:
    """A summary and a chapter per check.

    Args:
        checks: what was measured.
        pictures: by the key of their check.
        version: of the product.
    """
    return Page(
        title="Validation of the dose physics",
        subtitle=f"ldct-pipeline {version}: what `ldct simulate dose` rests on, measured on this machine",
        sections=[_summary(checks), *(_chapter(check, pictures.get(check.key, ())) for check in checks)],
    )


def figure(value: float) -> str:
    """A measured number as it is printed."""
    return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _summary(checks: Sequence[Check]) -> Section:
    failed = [check.title for check in checks if not check.passed]
    headline = (
        Finding(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}", is_alarming=True)
        if failed
        else Finding(f"All {len(checks)} checks hold.")
    )
    rows = [
        [
            check.title,
            _verdict(check.passed),
            figure(check.worst.value),
            check.worst.limit,
            f"{check.quantity}: {check.worst.what}",
        ]
        for check in checks
    ]
    table = Table(
        title="Each check by its worst figure",
        columns=["check", "result", "worst", "limit", "what it is"],
        rows=rows,
        note="Direct simulation: every photon counted at the low dose, no code shared with the insertion.",
    )
    return Section("summary", "Summary", findings=[headline], tables=[table])


def _chapter(check: Check, pictures: Sequence[Picture]) -> Section:
    table = Table(
        title=check.quantity,
        columns=["where", "measured", "limit", "result"],
        rows=[_row(measure) for measure in check.measures],
        is_folded=check.passed,
    )
    verdict = Finding(check.proves, label=_verdict(check.passed).capitalize(), is_alarming=not check.passed)
    return Section(check.key, check.title, findings=[verdict], pictures=pictures, tables=[table])


def _row(measure: Measure) -> list[str]:
    measured = figure(measure.value)
    if measure.standard_error is not None:
        measured += f" ± {figure(measure.standard_error)}"
    return [measure.what, measured, measure.limit, _verdict(measure.holds)]


def _verdict(holds: bool) -> str:
    return "holds" if holds else "FAILED"

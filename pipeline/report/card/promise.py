"""Whether a slice comes out worse than it went in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pipeline.report.card.facts import ASSUMED, FULL, Card, Model
from pipeline.report.card.markdown import NOT_MEASURED, gap, percent, signed, table
from pipeline.report.card.scores import fraction_of

MOST_LISTED: Final = 12
MARK: Final = "¹"
"""Beside a ceiling where some of the scans were assumed."""


def promise(card: Card) -> str:
    """Whether the promise is kept, from the numbers."""
    limit = percent(card.promised_up_to)
    says = (
        f"At doses up to {limit} no slice of any held-out source falls below its input (convention {FULL}, "
        f"by more than {card.rounding_db:g} dB, which is rounding): "
    )
    if not card.folds:
        return f"{says}**{NOT_MEASURED}**, no training leaves a source out."
    counts = {fold.held_out: _promised(card, fold) for fold in card.folds}
    wanted = {dose for dose in card.dose_fractions if dose <= card.promised_up_to}
    unknown = [name for name, found in counts.items() if not found or wanted - {dose for dose, *_ in found}]
    others = [fold.held_out for fold in card.folds if card.scored_otherwise(fold)]
    gaps = _gaps(unknown, others)
    broken = [
        f"{name} {count} of {slices} at {percent(dose)}"
        for name, found in counts.items()
        for dose, count, slices in found
        if count
    ]
    if broken:
        return f"{says}**NOT met**. Below their input: {', '.join(broken)}.{gaps}"
    if unknown or others:
        rest = " None does on the rest." if len({*unknown, *others}) < len(counts) else ""
        return f"{says}**not decided**.{gaps}{rest}"
    doses = sorted({dose for found in counts.values() for dose, _, _ in found}, reverse=True)
    slices = sum(fold.slices for fold in card.folds)
    left_out = sum(len(fold.scores.cases_left_out) for fold in card.folds if fold.scores is not None)
    but = f"; {left_out} cases could not be scored" if left_out else ""
    at = ", ".join(map(percent, doses))
    return f"{says}**met** at {at}, by each of the {slices} slices scored{but}."


def promise_by_scan(card: Card) -> Iterator[str]:
    """The same slices by how their scans were found, with the lowest margin of each; none where unknown."""
    counts = slices_by_scan(card.folds)
    read, assumed = sum(counts.values()) - counts[ASSUMED], counts[ASSUMED]
    if not read + assumed:
        return
    limit = percent(card.promised_up_to)
    yield (
        f"By scan, up to {limit}: {read} slices are of scans whose photons were read from their images"
        f"{_margin(card, is_assumed=False)}, {assumed} of scans that were assumed"
        f"{_margin(card, is_assumed=True)}"
        + (f". For the assumed ones the dose named is an upper bound: at most {limit}." if assumed else ".")
    )


def slices_by_scan(folds: Sequence[Model]) -> Counter[str]:
    """Slices by how the scan behind their noise was found, over all folds, each slice once."""
    counts: Counter[str] = Counter()
    for fold in folds:
        for scores in list(fold.by_dose.values())[:1]:
            counts.update({name: found.slices for name, found in scores.by_scan.items()})
    return counts


def ceiling_mark(model: Model) -> str:
    """Stands after a ceiling that does not hold for all slices."""
    return f" {MARK}" if slices_by_scan([model])[ASSUMED] else ""


def footnote(models: Mapping[str, Model]) -> Iterator[str]:
    """What the mark means; none where no scan was assumed.

    Args:
        models: by what they are called in the table.
    """
    counts = {name: slices_by_scan([model])[ASSUMED] for name, model in models.items()}
    mixed = [f"{count} of {models[name].slices} slices of {name}" for name, count in counts.items() if count]
    if mixed:
        yield f"{MARK} Of scans that were assumed: {', '.join(mixed)}. The ceiling holds for the others only."


def _margin(card: Card, *, is_assumed: bool) -> str:
    """Where all slices of the promise are known one by one: the lowest gain, whose, and at which dose."""
    if not all(fold.lowest_gain_db for fold in card.folds if fold.by_dose):
        return ""
    gains = [
        (gain_db, fold.held_out, dose)
        for fold in card.folds
        for (dose, scan), gain_db in fold.lowest_gain_db.items()
        if dose <= card.promised_up_to and (scan == ASSUMED) == is_assumed
    ]
    if not gains:
        return ""
    gain_db, source, dose = min(gains)
    return f" (lowest margin {signed(gain_db)} dB: {source}, {percent(dose)})"


def _gaps(unknown: Sequence[str], others: Sequence[str]) -> str:
    """Sources that were not scored as promised, and those scored with other weights or settings."""
    found = ""
    if unknown:
        found += f" {NOT_MEASURED.capitalize()}, or not at all these doses, on {', '.join(unknown)}."
    if others:
        found += f" **Scores of other weights or settings**: {', '.join(others)}."
    return found


def below_input(card: Card) -> Iterator[str]:
    """How many of each source at each dose, which are the worst, and their pictures."""
    heads = ["held out", "dose", f"slices below ({FULL})", "lowest gain of a slice [dB]"]
    rows = []
    for fold in card.folds:
        for dose, scores in fold.by_dose.items():
            count = f"{scores.slices_below_input} of {fold.slices}"
            rows.append([fold.held_out, percent(dose), count, signed(scores.worst_gain_db)])
        if not fold.by_dose:
            rows.append(gap(fold.held_out, card.dose_fractions, len(heads)))
    yield table(heads, rows)
    listed = sorted(listed_below(card.folds), key=lambda one: -math.inf if one[0] is None else one[0])
    if listed:
        shown = [[name, percent(dose), place, signed(gain)] for gain, name, dose, place in listed]
        yield table(["held out", "dose", "case/slice", "gain [dB]"], shown[:MOST_LISTED])
        if len(listed) > MOST_LISTED:
            yield (
                f"{len(listed) - MOST_LISTED} more, and every slice with its gain: "
                f"`evaluation/{card.preset}/<training>/worst.csv`."
            )
    for file_name, caption in card.pictures.items():
        yield f"![{caption}](model_card/pictures/{file_name})"
        yield f"*{caption}*"


def listed_below(folds: Sequence[Model]) -> Iterator[tuple[float | None, str, float, str]]:
    """Gain, source, dose and place of every slice below its input; no gain where the input has no error."""
    for fold in folds:
        for key, slices in ({} if fold.scores is None else fold.scores.below_input).items():
            for place, gain_db in slices.items():
                yield gain_db, fold.held_out, fraction_of(key), place


def _promised(card: Card, fold: Model) -> list[tuple[float, int, int]]:
    """Dose, slices below their input and slices, where something is promised."""
    return [
        (dose, scores.slices_below_input, fold.slices)
        for dose, scores in fold.by_dose.items()
        if dose <= card.promised_up_to
    ]

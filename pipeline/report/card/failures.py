"""What the numbers themselves say goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.report.card.facts import INPUT, RESTORED, Card, Model, against_normal_dose, baselines_of, get
from pipeline.report.card.groups import GROUPINGS, groups
from pipeline.report.card.markdown import percent, signed
from pipeline.report.card.quality import WORST_BIAS, told

BIAS_WORTH_SAYING_HU: Final = 1.0
EDGE_LEFT: Final = 0.9
"""Below this share of f50 an edge counts as blurred."""
SHIFT_WORTH_SAYING_PER_MM: Final = 0.02


def failures(card: Card) -> Iterator[str]:
    """A line each; nothing where nothing was measured."""
    yield from _harmed(card)
    yield from _beaten(card)
    yield from _weakest_groups(card)
    yield from _biased(card)
    yield from _smoothed(card)
    yield from _lost(card)
    yield from _left_out(card)
    yield from _grid_ends(card)


def _harmed(card: Card) -> Iterator[str]:
    for model in card.models:
        counts = {dose: get(scores, "slices_below_input") for dose, scores in model.by_dose.items()}
        harmed = [f"{count} of {model.slices} at {percent(dose)}" for dose, count in counts.items() if count]
        if harmed:
            yield f"{told(model)}: slices worse than their input (PSNR, full): {', '.join(harmed)}."


def _beaten(card: Card) -> Iterator[str]:
    for model in card.models:
        beaten = [
            f"{rival} at {percent(dose)} ({', '.join(names)})"
            for dose in model.by_dose
            for rival, names in _rivals(model, dose, card.conventions).items()
        ]
        if beaten:
            yield f"{told(model)}: no better than {', '.join(beaten)}, by PSNR."


def _rivals(model: Model, dose: float, conventions: Sequence[str]) -> dict[str, list[str]]:
    """The conventions by which each method, or the input itself, is as good as the network."""
    found: dict[str, list[str]] = {}
    scores = model.by_dose[dose]
    for name in conventions:
        own = against_normal_dose(scores, name, RESTORED, "psnr_db")
        for rival in (INPUT, *baselines_of(scores, name)):
            psnr_db = against_normal_dose(scores, name, rival, "psnr_db")
            if own is not None and psnr_db is not None and psnr_db >= own:
                found.setdefault(rival, []).append(name)
    return found


def _weakest_groups(card: Card) -> Iterator[str]:
    """Of each grouping with a choice the group with the lowest gain at any dose."""
    first = card.conventions[0]
    for grouping in GROUPINGS:
        found = groups(card, grouping)
        if len(found) < 2:
            continue
        gains = [
            (gain_db, name, dose)
            for name, own in found.items()
            for (dose, convention), gain_db in own.gain_db.items()
            if convention == first
        ]
        if gains:
            gain_db, name, dose = min(gains)
            own = found[name]
            yield (
                f"Least is gained, by {grouping}, with {name}: {signed(gain_db)} dB at {percent(dose)} "
                f"(PSNR, {first}; held-out patients: {own.patients})."
            )


def _biased(card: Card) -> Iterator[str]:
    for model in card.models:
        worst = [
            (abs(found[RESTORED]), found[RESTORED], tissue, dose)
            for dose, scores in model.by_dose.items()
            for tissue, found in (get(scores, WORST_BIAS) or {}).items()
            if found.get(RESTORED) is not None
        ]
        if worst and max(worst)[0] > BIAS_WORTH_SAYING_HU:
            _, bias_hu, tissue, dose = max(worst)
            where = tissue.replace("_", " ")
            most = f"{signed(bias_hu)} HU in {where} at {percent(dose)}"
            yield f"{told(model)}: CT numbers move, in the worst patient by {most}."


def _smoothed(card: Card) -> Iterator[str]:
    """The network's own share of the shift: what the input has not."""
    for model in card.models:
        shifts = [
            (restored - before, dose)
            for dose, scores in model.by_dose.items()
            if (restored := get(scores, "noise_texture", RESTORED, "mean_shift_per_mm")) is not None
            and (before := get(scores, "noise_texture", INPUT, "mean_shift_per_mm")) is not None
        ]
        if shifts and min(shifts)[0] < -SHIFT_WORTH_SAYING_PER_MM:
            shift, dose = min(shifts)
            yield (
                f"{told(model)}: the noise that is left is smoother than the input's, or less of it lies "
                f"over the same anatomy: mean frequency {signed(shift, 3)} /mm at {percent(dose)}."
            )


def _lost(card: Card) -> Iterator[str]:
    for model in card.models:
        verdicts = get(model.scores, "detectability", "verdict") or {}
        for dose, observers in verdicts.items():
            lost = [observer.upper() for observer, verdict in observers.items() if verdict == "lost"]
            if lost:
                who = f"{told(model)} at {percent(float(dose))}"
                yield f"{who}: low-contrast lesions are harder to see than before, to {' and '.join(lost)}."
        for dose, contrasts in (get(model.scores, "ttf", "by_dose") or {}).items():
            shares = {name: get(found, RESTORED, "f50_share") for name, found in contrasts.items()}
            blurred = [
                f"{name} HU to {share:.2f}"
                for name, share in shares.items()
                if share is not None and share < EDGE_LEFT
            ]
            if blurred:
                yield (
                    f"{told(model)} at {percent(float(dose))}: edges blurred, f50 of contrasts of "
                    f"{', '.join(blurred)} of the input's."
                )


def _left_out(card: Card) -> Iterator[str]:
    for model in card.models:
        reasons = get(model.scores, "cases_left_out") or {}
        if reasons:
            yield f"{told(model)}: not scored, because no low dose could be made: {', '.join(reasons)}."
        if untuned := get(model.scores, "tuning_cases_left_out"):
            yield f"{told(model)}: baselines tuned without {', '.join(untuned)}: no low dose could be made."
        if model.held_out and get(model.scores, "patients") == 1:
            yield f"{told(model)}: one patient, so it says little of other patients of such scans."


def _grid_ends(card: Card) -> Iterator[str]:
    ends: Counter[str] = Counter()
    for model in card.models:
        ends.update(_ends(model))
    if ends:
        names = ", ".join(f"{name} ({count} times)" for name, count in ends.items())
        yield f"Baselines whose best value is the end of its grid, so that a better one may exist: {names}."


def _ends(model: Model) -> Iterator[str]:
    for scores in model.by_dose.values():
        yield from get(scores, "baselines_at_grid_end") or {}

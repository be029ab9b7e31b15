"""What the numbers themselves say goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.report.card.facts import (
    ASSUMED,
    INPUT,
    RESTORED,
    Card,
    Model,
    against_normal_dose,
    baselines_of,
    get,
)
from pipeline.report.card.groups import GROUPINGS, groups
from pipeline.report.card.markdown import percent, signed
from pipeline.report.card.quality import WORST_BIAS, told

SCORES: Final = {"psnr_db": "PSNR", "ssim": "SSIM", "rmse_hu": "RMSE"}
FEW_PATIENTS: Final = 3
BIAS_WORTH_SAYING_HU: Final = 1.0
EDGE_LEFT: Final = 0.9
"""Below this share of f50 an edge counts as blurred."""
SHIFT_WORTH_SAYING_PER_MM: Final = 0.02


def failures(card: Card) -> Iterator[str]:
    """A line each; nothing where nothing was measured."""
    yield from _harmed(card)
    yield from _beaten(card)
    yield from _weakest_group(card)
    yield from _thin_evidence(card)
    yield from _biased(card)
    yield from _smoothed(card)
    yield from _lost(card)
    yield from _seen_better(card)
    yield from _blurred(card)
    yield from _left_out(card)
    yield from _grid_ends(card)


def _harmed(card: Card) -> Iterator[str]:
    for model in card.models:
        counts = {dose: get(scores, "slices_below_input") for dose, scores in model.by_dose.items()}
        harmed = [f"{count} of {model.slices} at {percent(dose)}" for dose, count in counts.items() if count]
        if harmed:
            yield f"{told(model)}: slices worse than their input (PSNR, full): {', '.join(harmed)}."


def _beaten(card: Card) -> Iterator[str]:
    """By PSNR, SSIM and RMSE: a method may be ahead by one and behind by another."""
    for model in card.models:
        for score, name in SCORES.items():
            beaten = [
                f"{rival} at {percent(dose)} ({', '.join(names)})"
                for dose in model.by_dose
                for rival, names in _rivals(model, dose, card.conventions, score).items()
            ]
            if beaten:
                yield f"{told(model)}: no better than {', '.join(beaten)}, by {name}."


def _rivals(model: Model, dose: float, conventions: Sequence[str], score: str) -> dict[str, list[str]]:
    """The conventions by which each method, or the input itself, is as good as the network."""
    found: dict[str, list[str]] = {}
    scores = model.by_dose[dose]
    sign = -1 if score == "rmse_hu" else 1
    for name in conventions:
        own = against_normal_dose(scores, name, RESTORED, score)
        for rival in (INPUT, *baselines_of(scores, name)):
            other = against_normal_dose(scores, name, rival, score)
            if own is not None and other is not None and sign * other >= sign * own:
                found.setdefault(rival, []).append(name)
    return found


def _weakest_group(card: Card) -> Iterator[str]:
    """Of all groups in a choice of groups the one that comes least near to its ceiling."""
    first = card.conventions[0]
    ceilings = {
        dose: ceiling_db
        for fold in card.folds
        for dose, scores in fold.by_dose.items()
        if (ceiling_db := get(scores, "gain_ceiling_db"))
    }
    shares = [
        (gain_db / ceilings[dose], dose, f"{grouping} {name}", own.patients, gain_db)
        for grouping in GROUPINGS
        if len(found := groups(card, grouping)) > 1
        for name, own in found.items()
        for (dose, convention), gain_db in own.gain_db.items()
        if convention == first and dose in ceilings and name != ASSUMED
    ]
    if shares:
        _, dose, name, patients, gain_db = min(shares)
        yield (
            f"Of all groups the least is gained, as a share of a read scan's ceiling, with {name}: "
            f"{signed(gain_db)} of {signed(ceilings[dose])} dB at {percent(dose)} (PSNR, {first}; held-out "
            f"patients: {patients})."
        )


def _thin_evidence(card: Card) -> Iterator[str]:
    """Groups of anatomy, thickness and texture of which few patients were held out."""
    few = [
        f"{grouping} {name} ({own.patients} {'patient' if own.patients == 1 else 'patients'}, "
        f"{own.slices} slices)"
        for grouping in ("anatomy", "thickness", "texture")
        for name, own in groups(card, grouping).items()
        if own.patients <= FEW_PATIENTS
    ]
    if few:
        yield f"What is said of these groups rests on few held-out patients: {', '.join(few)}."


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


def _seen_better(card: Card) -> Iterator[str]:
    """Where the d' of a tuned baseline is above the network's, at the digits shown; the best of them."""
    for model in card.models:
        better = []
        for dose, observers in (get(model.scores, "detectability", "by_dose") or {}).items():
            for observer, methods in observers.items():
                rivals = {
                    name: d_prime
                    for name, found in methods.items()
                    if name not in (INPUT, RESTORED) and (d_prime := get(found, "d_prime")) is not None
                }
                own = get(methods, RESTORED, "d_prime")
                best = max(rivals, key=lambda name: rivals[name], default=None)
                if own is not None and best is not None and round(rivals[best], 2) > round(own, 2):
                    who = f"{best} to {observer.upper()} at {percent(float(dose))}"
                    better.append(f"{who} ({rivals[best]:.2f} against {own:.2f})")
        if better:
            seen = "a tuned baseline shows low-contrast lesions better, by d' alone"
            yield f"{told(model)}: {seen}: {', '.join(better)}."


def _blurred(card: Card) -> Iterator[str]:
    """The worst edge of each model; the table has all."""
    for model in card.models:
        shares = [
            (share, float(dose), contrast)
            for dose, contrasts in (get(model.scores, "ttf", "by_dose") or {}).items()
            for contrast, found in contrasts.items()
            if (share := get(found, RESTORED, "f50_share")) is not None
        ]
        if shares and min(shares)[0] < EDGE_LEFT:
            share, dose, contrast = min(shares)
            yield (
                f"{told(model)}: edges blurred, most at {percent(dose)} and {contrast} HU of contrast: f50 "
                f"falls to {share:.2f} of the disc's own."
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

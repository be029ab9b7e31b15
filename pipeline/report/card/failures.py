"""What the numbers themselves say goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pipeline.report.card.facts import ASSUMED, Card, Model, against_normal_dose
from pipeline.report.card.groups import TITLES, groups
from pipeline.report.card.markdown import percent, signed
from pipeline.report.card.quality import told
from pipeline.report.card.scores import INPUT, RESTORED, Detectability

SCORES: Final = {"psnr_db": "PSNR", "ssim": "SSIM", "rmse_hu": "RMSE"}
FEW_PATIENTS: Final = 3
BIAS_WORTH_SAYING_HU: Final = 1.0
EDGE_LEFT: Final = 0.9
"""Below this share of f50 an edge counts as blurred."""
SHIFT_WORTH_SAYING_PER_MM: Final = 0.02
UNSCORED: Final = "no low dose could be made, or its noise level not measured"


def failures(card: Card) -> Iterator[str]:
    """A line for each kind, with the models that it is true of; nothing where nothing was measured."""
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


def _line(kind: str, found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """One line of what was found, by model."""
    listed = [f"{model} {', '.join(cases)}" for model, cases in found.items() if cases]
    if listed:
        yield f"{kind}: {'; '.join(listed)}."


def _harmed(card: Card) -> Iterator[str]:
    found = {
        told(model): [
            f"{count} of {model.slices} at {percent(dose)}"
            for dose, scores in model.by_dose.items()
            if (count := scores.slices_below_input)
        ]
        for model in card.models
    }
    yield from _line("Slices worse than their input (PSNR, full)", found)


def _beaten(card: Card) -> Iterator[str]:
    """By PSNR, SSIM and RMSE: a method may be ahead by one and behind by another."""
    for score, name in SCORES.items():
        found = {
            told(model): [
                f"{rival} at {percent(dose)} ({', '.join(names)})"
                for dose in model.by_dose
                for rival, names in _rivals(model, dose, card.conventions, score).items()
            ]
            for model in card.models
        }
        yield from _line(f"By {name} no better than another method", found)


def _rivals(model: Model, dose: float, conventions: Sequence[str], score: str) -> dict[str, list[str]]:
    """The conventions by which each method, or the input itself, is as good as the network."""
    found: dict[str, list[str]] = {}
    scores = model.by_dose[dose]
    sign = -1 if score == "rmse_hu" else 1
    for name in conventions:
        own = against_normal_dose(scores, name, RESTORED, score)
        for rival in (INPUT, *scores.baselines):
            other = against_normal_dose(scores, name, rival, score)
            if own is not None and other is not None and sign * other >= sign * own:
                found.setdefault(rival, []).append(name)
    return found


def _weakest_group(card: Card) -> Iterator[str]:
    """Of all groups in a choice of groups the one that comes least near to its ceiling."""
    first = card.conventions[0]
    ceilings = {dose: scores.gain_ceiling_db for fold in card.folds for dose, scores in fold.by_dose.items()}
    shares = [
        (gain_db / ceilings[dose], dose, f"{grouping} {name}", own.patients, gain_db)
        for grouping in TITLES
        if len(found := groups(card, grouping)) > 1
        for name, own in found.items()
        for (dose, convention), gain_db in own.gain_db.items()
        if convention == first and name != ASSUMED
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
    found = {}
    for model in card.models:
        worst = [
            (abs(moved[RESTORED]), moved[RESTORED], tissue, dose)
            for dose, scores in model.by_dose.items()
            for tissue, moved in scores.worst_patient_bias_against_normal_dose_hu.items()
        ]
        if worst and max(worst)[0] > BIAS_WORTH_SAYING_HU:
            _, bias_hu, tissue, dose = max(worst)
            found[told(model)] = [f"{signed(bias_hu)} HU in {tissue.replace('_', ' ')} at {percent(dose)}"]
    yield from _line("CT numbers move, in the worst patient by", found)


def _smoothed(card: Card) -> Iterator[str]:
    """The network's own share of the shift: what the input has not."""
    found = {}
    for model in card.models:
        shifts = [
            (restored - before, dose)
            for dose, scores in model.by_dose.items()
            if scores.noise_texture
            and (restored := scores.noise_texture[RESTORED].mean_shift_per_mm) is not None
            and (before := scores.noise_texture[INPUT].mean_shift_per_mm) is not None
        ]
        if shifts and min(shifts)[0] < -SHIFT_WORTH_SAYING_PER_MM:
            shift, dose = min(shifts)
            found[told(model)] = [f"{signed(shift, 3)} /mm at {percent(dose)}"]
    yield from _line(
        "The noise that is left is smoother than the input's, or less of it lies over the same anatomy; its "
        "mean frequency moves, at most by",
        found,
    )


def _lost(card: Card) -> Iterator[str]:
    found = {
        told(model): [
            f"to {observer.upper()} at {percent(float(dose))}"
            for dose, observers in model.detectability.verdict.items()
            for observer, verdict in observers.items()
            if verdict == "lost"
        ]
        for model in card.models
        if model.detectability is not None
    }
    yield from _line("Low-contrast lesions are harder to see than before", found)


def _seen_better(card: Card) -> Iterator[str]:
    """Where the d' of a tuned baseline is above the network's, at the digits shown; the best of them."""
    found = {told(model): list(_better_seen(own)) for model in card.models if (own := model.detectability)}
    yield from _line("A tuned baseline shows low-contrast lesions better, by d' alone", found)


def _better_seen(lesions: Detectability) -> Iterator[str]:
    for dose, observers in lesions.by_dose.items():
        for observer, methods in observers.items():
            rivals = {
                name: found.d_prime for name, found in methods.baselines.items() if found.d_prime is not None
            }
            own = methods.restored.d_prime
            best = max(rivals, key=lambda name: rivals[name], default=None)
            if own is not None and best is not None and round(rivals[best], 2) > round(own, 2):
                who = f"{best} to {observer.upper()} at {percent(float(dose))}"
                yield f"{who} ({rivals[best]:.2f} against {own:.2f})"


def _blurred(card: Card) -> Iterator[str]:
    """The worst edge of each model; the table has all."""
    found = {}
    for model in card.models:
        shares = [
            (share, float(dose), contrast)
            for dose, contrasts in ({} if model.ttf is None else model.ttf.by_dose).items()
            for contrast, measured in contrasts.items()
            if (share := measured[RESTORED].f50_share) is not None
        ]
        if shares and min(shares)[0] < EDGE_LEFT:
            share, dose, contrast = min(shares)
            found[told(model)] = [f"{share:.2f} at {percent(dose)} and {contrast} HU of contrast"]
    yield from _line("Edges are blurred; of the disc's own f50 is left, at worst", found)


def _left_out(card: Card) -> Iterator[str]:
    scored = {told(model): model.scores for model in card.models if model.scores is not None}
    untested = {name: list(scores.cases_left_out) for name, scores in scored.items()}
    yield from _line(f"Not scored ({UNSCORED})", untested)
    untuned = {name: list(scores.tuning_cases_left_out) for name, scores in scored.items()}
    yield from _line(f"Baselines tuned without ({UNSCORED})", untuned)
    alone = [told(fold) for fold in card.folds if fold.patients == 1]
    if alone:
        yield f"One patient each, so they say little of other patients of such scans: {', '.join(alone)}."


def _grid_ends(card: Card) -> Iterator[str]:
    ends: Counter[str] = Counter()
    for model in card.models:
        for scores in model.by_dose.values():
            ends.update(list(scores.baselines_at_grid_end))
    if ends:
        names = ", ".join(f"{name} ({count} times)" for name, count in ends.items())
        yield f"Baselines whose best value is the end of its grid, so that a better one may exist: {names}."

"""Scores on sources that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.report.card.facts import INPUT, RESTORED, Card, Model, against_normal_dose, baselines_of, get
from pipeline.report.card.groups import GROUPINGS, groups_table
from pipeline.report.card.markdown import NOT_MEASURED, gap, interval, number, percent, signed, table
from pipeline.report.card.promise import below_input, promise

IN_WORDS: Final = {RESTORED: "network", INPUT: "input"}
GAIN: Final = "model_card/pictures/gain.png"


def held_out(card: Card) -> Iterator[str]:
    """The section, paragraph by paragraph."""
    steps = {model.settings.get("steps", "") for model in (card.plain, *card.folds)}
    yield (
        "Each source in turn was left out of a training like that of the denoiser, and all its cases were "
        f"scored, all slices of each up to {card.slices_per_case}. These are scores of those "
        "trainings, not of the shipped weights, which have seen all sources."
        + (" The trainings differ in length, see above." if len(steps) > 1 else "")
    )
    yield (
        "Ceiling: the best possible gain, because the normal dose is noisy itself; clean: the gain of an "
        "output without any noise ([metrics.md](metrics.md)). Both hold where the scan's noise could be "
        "read. In brackets 95 % bootstrap intervals over patients; a source of one patient has none."
    )
    yield promise(card)
    if any(fold.by_dose for fold in card.folds):
        yield f"![gain of each method by dose, one plot for each held-out source, beside the ceiling]({GAIN})"
    for name in card.conventions:
        yield f"### PSNR, SSIM and RMSE (convention `{name}`)"
        yield table(_SCORE_HEADS, list(_score_rows(card, name)))
    for name in card.conventions:
        tuned = f"tuned at each dose under `{card.conventions[0]}`"
        yield f"### Gain in PSNR of other methods, {tuned} (convention `{name}`, dB)"
        yield _baselines(card, name)
    for grouping, title in GROUPINGS.items():
        yield f"### {title}"
        yield groups_table(card, grouping)
    yield "### Slices below their input"
    yield from below_input(card)


_SCORE_HEADS: Final = (
    "held out",
    "dose",
    "patients, slices",
    "PSNR input [dB]",
    "restored",
    "gain",
    "ceiling",
    "clean",
    "SSIM input → restored",
    "RMSE input → restored [HU]",
)


def _score_rows(card: Card, convention: str) -> Iterator[list[str]]:
    for fold in card.folds:
        yield from (_score_row(fold, dose, convention) for dose in fold.by_dose)
        if not fold.by_dose:
            yield gap(fold.held_out, card.dose_fractions, len(_SCORE_HEADS))


def _score_row(fold: Model, dose: float, convention: str) -> list[str]:
    scores = fold.by_dose[dose]

    def of(method: str, score: str) -> float | None:
        return against_normal_dose(scores, convention, method, score)

    low, high = of(RESTORED, "gain_95_low_db"), of(RESTORED, "gain_95_high_db")
    return [
        fold.held_out,
        percent(dose),
        f"{get(fold.scores, 'patients')}, {fold.slices}",
        number(of(INPUT, "psnr_db")),
        number(of(RESTORED, "psnr_db")),
        interval(of(RESTORED, "gain_db"), low, high),
        number(get(scores, "gain_ceiling_db")),
        number(get(scores, "clean_output_gain_db")),
        f"{number(of(INPUT, 'ssim'), 4)} → {number(of(RESTORED, 'ssim'), 4)}",
        f"{number(of(INPUT, 'rmse_hu'), 1)} → {number(of(RESTORED, 'rmse_hu'), 1)}",
    ]


def _baselines(card: Card, convention: str) -> str:
    found = {
        name: None
        for fold in card.folds
        for scores in fold.by_dose.values()
        for name in baselines_of(scores, convention)
    }
    names = list(dict.fromkeys(["gaussian", "nlm", "tv", "bm3d", *found]))
    heads = ["held out", "dose", "network", *names, "best"]
    rows = []
    for fold in card.folds:
        rows += [_gains(fold, dose, convention, names) for dose in fold.by_dose]
        if not fold.by_dose:
            rows.append(gap(fold.held_out, card.dose_fractions, len(heads)))
    return table(heads, rows)


def _gains(fold: Model, dose: float, convention: str, names: Sequence[str]) -> list[str]:
    gains = {
        name: against_normal_dose(fold.by_dose[dose], convention, name, "gain_db")
        for name in (RESTORED, *names)
    }
    known = {name: gain for name, gain in gains.items() if gain is not None}
    best = max(known, key=lambda name: known[name], default=NOT_MEASURED)
    return [fold.held_out, percent(dose), *map(signed, gains.values()), IN_WORDS.get(best, best)]

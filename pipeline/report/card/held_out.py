"""Scores on sources that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pipeline.report.card.facts import Card, Model, against_normal_dose
from pipeline.report.card.groups import TITLES, groups_table
from pipeline.report.card.markdown import NOT_MEASURED, gap, interval, number, percent, signed, table
from pipeline.report.card.promise import below_input, ceiling_mark, footnote, promise, promise_by_scan
from pipeline.report.card.scores import INPUT, RESTORED

USUAL: Final = ("gaussian", "nlm", "tv", "bm3d")
"""Order of the baselines' columns."""
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
        "Ceiling: the best gain where the normal dose has all of its own noise; clean: the gain of an output "
        "without any noise ([metrics.md](metrics.md)). Both hold where the scan's noise could be read. In "
        "brackets 95 % bootstrap intervals over patients; a source of one patient has none."
    )
    yield from _above_ceiling(card)
    yield promise(card)
    yield from promise_by_scan(card)
    if any(fold.by_dose for fold in card.folds):
        gain = f"gain in PSNR (convention {card.conventions[0]}) of each method by dose"
        yield f"![{gain}, one plot for each held-out source, beside the ceiling]({GAIN})"
    for name in card.conventions:
        yield f"### PSNR, SSIM and RMSE (convention `{name}`)"
        yield table(_SCORE_HEADS, list(_score_rows(card, name)))
    yield from footnote({fold.held_out: fold for fold in card.folds})
    for name in card.conventions:
        tuned = f"tuned at each dose under `{card.conventions[0]}`"
        yield f"### Beside other methods, {tuned} (convention `{name}`)"
        yield "Each cell: gain in PSNR [dB] / SSIM / RMSE [HU]."
        yield _baselines(card, name)
    for grouping, title in TITLES.items():
        yield f"### {title}"
        yield groups_table(card, grouping)
    yield "### Slices below their input"
    yield from below_input(card)


def _above_ceiling(card: Card) -> Iterator[str]:
    """Gains that the rule of the ceiling does not explain."""
    above = [
        f"{fold.held_out} at {percent(dose)} ({name}: {signed(gain_db)} of {signed(ceiling_db)} dB)"
        for name in card.conventions
        for fold in card.folds
        for dose, scores in fold.by_dose.items()
        if (gain_db := against_normal_dose(scores, name, RESTORED, "gain_db")) is not None
        and gain_db > (ceiling_db := scores.gain_ceiling_db)
    ]
    if above:
        yield (
            f"Above the ceiling: {', '.join(above)}. That is no feat: it points to a normal dose that "
            "lacks some of its own noise, see *Known failures*."
        )


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
    mark = ceiling_mark(fold)
    return [
        fold.held_out,
        percent(dose),
        f"{fold.patients}, {fold.slices}",
        number(of(INPUT, "psnr_db")),
        number(of(RESTORED, "psnr_db")),
        interval(of(RESTORED, "gain_db"), low, high),
        number(scores.gain_ceiling_db) + mark,
        number(scores.clean_output_gain_db) + mark,
        f"{number(of(INPUT, 'ssim'), 4)} → {number(of(RESTORED, 'ssim'), 4)}",
        f"{number(of(INPUT, 'rmse_hu'), 1)} → {number(of(RESTORED, 'rmse_hu'), 1)}",
    ]


_SHOWN: Final[Mapping[str, Callable[[float | None], str]]] = {
    "gain_db": signed,
    "ssim": lambda value: number(value, 4),
    "rmse_hu": lambda value: number(value, 1),
}
"""Scores in a cell of the baselines' table."""
_BEST: Final = {"gain_db": "best PSNR", "ssim": "best SSIM", "rmse_hu": "best RMSE"}


def _baselines(card: Card, convention: str) -> str:
    """Network and baselines side by side; a baseline that no source has gets no column."""
    found = {
        name: None for fold in card.folds for scores in fold.by_dose.values() for name in scores.baselines
    }
    names = list(dict.fromkeys([*(name for name in USUAL if name in found), *found]))
    heads = ["held out", "dose", "network", *names, *_BEST.values()]
    rows = []
    for fold in card.folds:
        rows += [_beside(fold, dose, convention, names) for dose in fold.by_dose]
        if not fold.by_dose:
            rows.append(gap(fold.held_out, card.dose_fractions, len(heads)))
    return table(heads, rows)


def _beside(fold: Model, dose: float, convention: str, names: Sequence[str]) -> list[str]:
    found = {
        name: [against_normal_dose(fold.by_dose[dose], convention, name, score) for score in _SHOWN]
        for name in (RESTORED, *names)
    }
    cells = [
        NOT_MEASURED
        if None in values
        else " / ".join(show(value) for show, value in zip(_SHOWN.values(), values, strict=True))
        for values in found.values()
    ]
    bests = [
        best_of({name: values[index] for name, values in found.items()}, score)
        for index, score in enumerate(_SHOWN)
    ]
    return [fold.held_out, percent(dose), *cells, *bests]


def best_of(values: Mapping[str, float | None], score: str) -> str:
    """Who has the best value: the lowest RMSE, the highest of all else; all of them where they are level."""
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return NOT_MEASURED
    best = (min if score == "rmse_hu" else max)(known.values())
    return ", ".join(IN_WORDS.get(name, name) for name, value in known.items() if value == best)

"""What PSNR does not tell: HU bias, noise texture, edges, lesions, and noise of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.report.card.facts import (
    BIAS,
    INPUT,
    RESTORED,
    TISSUES,
    Card,
    Model,
    Scores,
    get,
)
from pipeline.report.card.markdown import (
    NOT_MEASURED,
    gap,
    interval,
    number,
    percent,
    signed,
    table,
)

Cells = Callable[[Model, Scores], list[str]]
HEAD_PHANTOM: Final = (
    "Images: philips_head_phantom_kernel_pairs of "
    "[neurolabusc/dcm_qa_ct](https://github.com/neurolabusc/dcm_qa_ct), BSD-2-Clause."
)
WORST_BIAS: Final = f"worst_patient_{BIAS}"
_TEXTURE_HEADS: Final = (
    "scores of",
    "dose",
    "squares",
    "noise SD normal dose / input / restored [HU]",
    "peak shift input / restored [1/mm]",
    "mean frequency of the normal dose [1/mm]",
    "its shift input / restored [1/mm]",
    "L1 distance input / restored",
)


def told(model: Model) -> str:
    """What its scores are of."""
    return f"{model.held_out} (held out)" if model.held_out else f"{model.name} (test patients)"


def bias(card: Card) -> Iterator[str]:
    """By tissue."""
    yield (
        "Mean of restored minus normal dose in HU, in brackets that of the input. The regions are cut from "
        "the smoothed normal dose (from the truth where there is one): a mask cut from noise would fake "
        "a bias."
    )
    heads = ["scores of", "dose", *(tissue.replace("_", " ") for tissue in TISSUES)]
    yield by_dose(card, card.models, heads, lambda _, scores: _bias(scores))


def _bias(scores: Scores) -> list[str]:
    found = [get(scores, BIAS, tissue) for tissue in TISSUES]
    return [
        "none scored" if one is None else f"{signed(one.get(RESTORED))} ({signed(one.get(INPUT))})"
        for one in found
    ]


def texture(card: Card) -> Iterator[str]:
    """Of the noise that is left."""
    yield (
        "The radial noise power spectrum in squares of uniform tissue, against that of the normal dose in "
        "the same squares; few squares leave the peak uncertain, less so the mean frequency. L1: distance of "
        "the two normalised spectra, 0 the same, 2 at most. The spectra are those of the whole image: "
        "anatomy in the squares adds low frequencies, and its share rises as the noise falls, so a shift of "
        "the restored image is in part that."
    )
    yield by_dose(card, card.models, _TEXTURE_HEADS, lambda _, scores: _texture(get(scores, "noise_texture")))
    yield from _phantom_squares(card)
    yield from _nearer(card)


def _phantom_squares(card: Card) -> Iterator[str]:
    squares = card.plain.squares
    phantoms = sum(squares.get(source.name, 0) for source in card.sources if source.is_phantom)
    if phantoms:
        yield f"Of the {sum(squares.values())} squares of the test patients {phantoms} are of phantoms."


def _nearer(card: Card) -> Iterator[str]:
    """At which doses the texture variant's spectrum beats that of its input, or of the plain variant only."""
    if card.texture is None:
        return
    told_of: dict[str, list[str]] = {}
    for dose, scores in card.texture.by_dose.items():
        own, before, plain = (
            get(found, "noise_texture", method, "l1_distance")
            for found, method in (
                (scores, RESTORED),
                (scores, INPUT),
                (card.plain.by_dose.get(dose), RESTORED),
            )
        )
        if own is not None and before is not None and plain is not None:
            told_of.setdefault(_rank(own, before, plain), []).append(percent(dose))
    if told_of:
        parts = [f"{words} at {', '.join(doses)}" for words, doses in told_of.items()]
        whose = f"The spectrum of {told(card.texture)}, by L1 distance to the normal dose's"
        yield f"{whose}: {'; '.join(parts)}."


def _rank(own: float, before: float, plain: float) -> str:
    if own < before:
        return "nearer than the input's and the plain variant's" if own < plain else "nearer than the input's"
    return "nearer only than the plain variant's" if own < plain else "nearer than neither"


def _texture(found: Scores | None) -> list[str]:
    def both(key: str, digits: int, *methods: str) -> str:
        show = signed if "shift" in key else number
        values = [get(found, method, key) for method in methods]
        return NOT_MEASURED if None in values else " / ".join(show(value, digits) for value in values)

    regions = get(found, RESTORED, "regions")
    return [
        NOT_MEASURED if regions is None else str(regions),
        both("noise_sd_hu", 1, "normal_dose", INPUT, RESTORED),
        both("peak_shift_per_mm", 3, INPUT, RESTORED),
        both("mean_per_mm", 3, "normal_dose"),
        both("mean_shift_per_mm", 3, INPUT, RESTORED),
        both("l1_distance", 3, INPUT, RESTORED),
    ]


def edges(card: Card) -> Iterator[str]:
    """The TTF."""
    measured = [model for model in card.models if get(model.scores, "ttf", "by_dose")]
    yield from _not_measured(card, "ttf")
    if not measured:
        return
    about = measured[0].scores or {}
    disc = about["ttf"].get("disc", {})
    yield (
        f"Discs of {disc.get('radius_mm')} mm radius in {disc.get('background_hu')} HU, blurred by "
        f"{disc.get('blurred_by')}, in the noise of each dose; {about['ttf'].get('realisations')} restored "
        "images averaged. Shares of the disc's own f50 (where the TTF falls to a half) and of its contrast; "
        "1 is untouched, a disc that is lost counts 0."
    )
    heads = ["scores of", "dose", "contrast [HU]", "cases", "f50, share", "contrast, share"]
    rows = []
    for model in measured:
        found = get(model.scores, "ttf")
        for dose, contrasts in found["by_dose"].items():
            for contrast, methods in contrasts.items():
                shares = [number(get(methods, RESTORED, key)) for key in ("f50_share", "contrast_share")]
                cases = str(len(found.get("by_case", {})))
                rows.append([told(model), percent(float(dose)), contrast, cases, *shares])
    yield table(heads, rows)


def lesions(card: Card) -> Iterator[str]:
    """Detectability."""
    measured = [model for model in card.models if get(model.scores, "detectability", "by_dose")]
    yield from _not_measured(card, "detectability")
    if not measured:
        return
    found = get(measured[0].scores, "detectability")
    lesion, observers = found.get("lesion", {}), found.get("observers", {})
    yield (
        f"A disc of {lesion.get('contrast_hu')} HU and {lesion.get('diameter_mm')} mm, blurred by "
        f"{lesion.get('blurred_by')}, in uniform tissue, {found.get('realisations')} images with and without "
        "it at each place. "
        + "; ".join(f"{name.upper()}: {meaning}" for name, meaning in observers.items())
        + ". In brackets 95 % intervals: they cover realisations of the noise, not patients. The change is "
        "that of d' against the input. The normal dose's own noise counts as background, so the input's d' "
        "is 1/√(1 − dose) times that of a new scan; by how much the network's differs is not known."
    )
    heads = ["scores of", "dose", "observer", "places", "d' input", "d' restored", "change", "AUC", "verdict"]
    rows = [row for model in measured for row in _lesion_rows(model)]
    yield table(heads, rows)


def _lesion_rows(model: Model) -> Iterator[list[str]]:
    found: Any = get(model.scores, "detectability")
    for dose, observers in found["by_dose"].items():
        for observer, methods in observers.items():
            before, after = methods.get(INPUT), methods.get(RESTORED)
            yield [
                told(model),
                percent(float(dose)),
                observer.upper(),
                str(found.get("places")),
                _estimate(before, "d_prime"),
                _estimate(after, "d_prime"),
                _estimate(after, "change", sign=True),
                f"{number(get(before, 'auc'), 3)} → {number(get(after, 'auc'), 3)}",
                str(get(after, "verdict") or NOT_MEASURED),
            ]


def _estimate(found: Scores | None, key: str, *, sign: bool = False) -> str:
    value, low, high = (get(found, name) for name in (key, f"{key}_95_low", f"{key}_95_high"))
    if sign:
        return interval(value, low, high)
    bounds = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return number(value) + bounds


def _not_measured(card: Card, key: str) -> Iterator[str]:
    """Whose scores lack it, and why where that is known."""
    others = [model for model in card.models if not get(model.scores, key, "by_dose")]
    whys = {told(model): get(model.scores, key, NOT_MEASURED.replace(" ", "_")) for model in others}
    if others:
        names = [f"{name} ({why})" if why else name for name, why in whys.items()]
        yield f"{NOT_MEASURED.capitalize()}: {', '.join(names)}."


def kernel_pairs(card: Card) -> Iterator[str]:
    """Noise that was not trained for."""
    found = card.kernel_pairs
    if found is None:
        yield (
            f"{NOT_MEASURED.capitalize()}: pairs of one head-phantom scan with a smooth and a sharp kernel, "
            "a real difference by kernel and not by dose."
        )
        return
    yield HEAD_PHANTOM
    if card.are_kernel_pairs_of_other_weights:
        yield "**Measured with other weights than those of this card.**"
    yield str(found["text"])
    rows = [dict(zip(found.get("columns", []), row, strict=True)) for row in found.get("rows", [])]
    yield from _distances(rows)
    if "rows" in found:
        yield table(found["columns"], [[_cell(cell) for cell in row] for row in found["rows"]])


def _distances(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How far the images are from the smooth one, in words; that is 0 for itself."""
    for column in rows[0] if rows else ():
        if "RMSE" in column:
            shown = [f"{next(iter(row.values()))} {_cell(row[column])}" for row in rows if row[column]]
            yield f"{column}: {'; '.join(shown)}."


def _cell(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def by_dose(card: Card, models: Sequence[Model], heads: Sequence[str], cells: Cells) -> str:
    """A row per model and dose, one row for a model that was not scored."""
    rows = []
    for model in models:
        rows += [[told(model), percent(dose), *cells(model, own)] for dose, own in model.by_dose.items()]
        if not model.by_dose:
            rows.append(gap(told(model), card.dose_fractions, len(heads)))
    return table(heads, rows)

"""What PSNR does not tell: HU bias, noise texture, edges, lesions, and noise of another kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.report.card.facts import TISSUES, Card, Model
from pipeline.report.card.markdown import (
    NOT_MEASURED,
    gap,
    interval,
    number,
    percent,
    signed,
    table,
)
from pipeline.report.card.scores import (
    INPUT,
    NORMAL_DOSE,
    RESTORED,
    AtDose,
    Detectability,
    Seen,
    Texture,
)

Cells = Callable[[Model, AtDose], list[str]]
HEAD_PHANTOM: Final = (
    "Images: philips_head_phantom_kernel_pairs of "
    "[neurolabusc/dcm_qa_ct](https://github.com/neurolabusc/dcm_qa_ct), BSD-2-Clause."
)
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


def _bias(scores: AtDose) -> list[str]:
    found = [scores.bias_against_normal_dose_hu.get(tissue) for tissue in TISSUES]
    return [
        "none scored" if one is None else f"{signed(one[RESTORED])} ({signed(one[INPUT])})" for one in found
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
    yield by_dose(card, card.models, _TEXTURE_HEADS, lambda _, scores: _texture(scores.noise_texture))
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
        plain_scores = card.plain.by_dose.get(dose)
        own, before = (_l1_distance(scores, method) for method in (RESTORED, INPUT))
        plain = None if plain_scores is None else _l1_distance(plain_scores, RESTORED)
        if own is not None and before is not None and plain is not None:
            told_of.setdefault(_rank(own, before, plain), []).append(percent(dose))
    if told_of:
        parts = [f"{words} at {', '.join(doses)}" for words, doses in told_of.items()]
        whose = f"The spectrum of {told(card.texture)}, by L1 distance to the normal dose's"
        yield f"{whose}: {'; '.join(parts)}."


def _l1_distance(scores: AtDose, method: str) -> float | None:
    return scores.noise_texture[method].l1_distance if scores.noise_texture else None


def _rank(own: float, before: float, plain: float) -> str:
    if own < before:
        return "nearer than the input's and the plain variant's" if own < plain else "nearer than the input's"
    return "nearer only than the plain variant's" if own < plain else "nearer than neither"


def _texture(found: Mapping[str, Texture]) -> list[str]:
    if not found:
        return [NOT_MEASURED] * (len(_TEXTURE_HEADS) - 2)

    def both(key: str, digits: int, *methods: str) -> str:
        show = signed if "shift" in key else number
        values = [getattr(found[method], key) for method in methods]
        return NOT_MEASURED if None in values else " / ".join(show(value, digits) for value in values)

    return [
        str(found[RESTORED].regions),
        both("noise_sd_hu", 1, NORMAL_DOSE, INPUT, RESTORED),
        both("peak_shift_per_mm", 3, INPUT, RESTORED),
        both("mean_per_mm", 3, NORMAL_DOSE),
        both("mean_shift_per_mm", 3, INPUT, RESTORED),
        both("l1_distance", 3, INPUT, RESTORED),
    ]


def edges(card: Card) -> Iterator[str]:
    """The TTF."""
    measured = {told(model): model.ttf for model in card.models if model.ttf is not None}
    yield from _not_measured(card, "ttf", measured)
    if not measured:
        return
    about = next(iter(measured.values()))
    yield (
        f"Discs of {about.disc.radius_mm} mm radius in {about.disc.background_hu} HU, blurred by "
        f"{about.disc.blurred_by}, in the noise of each dose; {about.realisations} restored "
        "images averaged. Shares of the disc's own f50 (where the TTF falls to a half) and of its contrast; "
        "1 is untouched, a disc that is lost counts 0."
    )
    heads = ["scores of", "dose", "contrast [HU]", "cases", "f50, share", "contrast, share"]
    rows = []
    for name, found in measured.items():
        for dose, contrasts in found.by_dose.items():
            for contrast, methods in contrasts.items():
                left = methods[RESTORED]
                shares = [number(left.f50_share), number(left.contrast_share)]
                rows.append([name, percent(float(dose)), contrast, str(len(found.by_case)), *shares])
    yield table(heads, rows)


def lesions(card: Card) -> Iterator[str]:
    """Detectability."""
    measured = {told(model): model.detectability for model in card.models if model.detectability is not None}
    yield from _not_measured(card, "detectability", measured)
    if not measured:
        return
    about = next(iter(measured.values()))
    yield (
        f"A disc of {about.lesion.contrast_hu} HU and {about.lesion.diameter_mm} mm, blurred by "
        f"{about.lesion.blurred_by}, in uniform tissue, {about.realisations} images with and without "
        "it at each place. "
        + "; ".join(f"{name.upper()}: {meaning}" for name, meaning in about.observers.items())
        + ". In brackets 95 % intervals: they cover realisations of the noise, not patients. The change is "
        "that of d' against the input. The normal dose's own noise counts as background, so the input's d' "
        "is 1/√(1 − dose) times that of a new scan; by how much the network's differs is not known."
    )
    heads = ["scores of", "dose", "observer", "places", "d' input", "d' restored", "change", "AUC", "verdict"]
    rows = [row for name, found in measured.items() for row in _lesion_rows(name, found)]
    yield table(heads, rows)


def _lesion_rows(name: str, found: Detectability) -> Iterator[list[str]]:
    for dose, observers in found.by_dose.items():
        for observer, methods in observers.items():
            before, after = methods.input, methods.restored
            yield [
                name,
                percent(float(dose)),
                observer.upper(),
                str(found.places),
                _d_prime(before),
                _d_prime(after),
                interval(after.change, after.change_95_low, after.change_95_high),
                f"{number(before.auc, 3)} → {number(after.auc, 3)}",
                after.verdict,
            ]


def _d_prime(found: Seen) -> str:
    low, high = found.d_prime_95_low, found.d_prime_95_high
    bounds = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return number(found.d_prime) + bounds


def _not_measured(card: Card, key: str, measured: Collection[str]) -> Iterator[str]:
    """Whose scores lack it, and why where that is known."""
    names = []
    for model in card.models:
        why = "" if model.scores is None else model.scores.not_measured.get(key, "")
        if told(model) not in measured:
            names.append(f"{told(model)} ({why})" if why else told(model))
    if names:
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
    yield found.text
    yield from _distances([dict(zip(found.columns, row, strict=True)) for row in found.rows])
    yield table(found.columns, [[_cell(cell) for cell in row] for row in found.rows])


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

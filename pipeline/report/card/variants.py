"""The plain and the texture variant beside each other, on test patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from pipeline.report.card.facts import Card, Model, against_normal_dose
from pipeline.report.card.gate import whether_texture_ships
from pipeline.report.card.groups import mean_gain_db
from pipeline.report.card.markdown import NOT_MEASURED, number, percent, signed, table
from pipeline.report.card.promise import ceiling_mark, footnote
from pipeline.report.card.quality import by_dose, told
from pipeline.report.card.scores import RESTORED, AtDose, Group


def variants(card: Card) -> Iterator[str]:
    """Both on test patients, which of these are real, and whether the one for texture ships."""
    yield (
        "On patients that did not train them but are of sources that did: read the held-out sources for "
        "scans from elsewhere. The texture variant (`ldct predict --texture`) is made to leave noise like "
        "that of the normal dose."
    )
    yield from _price(card)
    first = card.conventions[0]
    heads = ["weights", "dose", "patients, slices", f"gain {' / '.join(card.conventions)} [dB]", "ceiling"]
    heads += [f"SSIM ({first})", f"RMSE ({first}) [HU]", "slices below their input"]
    yield by_dose(card, card.variants, heads, partial(_variant, card))
    yield from footnote({told(model): model for model in card.variants})
    yield from _real_and_phantom(card)
    if card.texture is None:
        yield f"The texture variant: {NOT_MEASURED}, the preset has none."
    else:
        yield from whether_texture_ships(card)


def _price(card: Card) -> Iterator[str]:
    """What the texture variant gains less or more than the plain one."""
    first = card.conventions[0]
    changes = []
    for dose, scores in (card.texture.by_dose if card.texture else {}).items():
        gains = [
            against_normal_dose(found, first, RESTORED, "gain_db")
            for found in (scores, card.plain.by_dose.get(dose))
        ]
        if gains[0] is not None and gains[1] is not None:
            change_db = round(gains[0], 2) - round(gains[1], 2)  # as the table shows them
            changes.append(f"{signed(change_db)} dB at {percent(dose)}")
    if changes:
        yield f"Its gain less that of the plain variant: {', '.join(changes)} (PSNR, {first})."


def _variant(card: Card, model: Model, scores: AtDose) -> list[str]:
    first = card.conventions[0]
    gains = [signed(against_normal_dose(scores, name, RESTORED, "gain_db")) for name in card.conventions]
    return [
        f"{model.patients}, {model.slices}",
        " / ".join(gains),
        number(scores.gain_ceiling_db) + ceiling_mark(model),
        number(against_normal_dose(scores, first, RESTORED, "ssim"), 4),
        number(against_normal_dose(scores, first, RESTORED, "rmse_hu"), 1),
        str(scores.slices_below_input),
    ]


def _real_and_phantom(card: Card) -> Iterator[str]:
    """The same gains for real patients and phantoms apart, where there are some of both."""
    phantoms = {source.name for source in card.sources if source.is_phantom}
    rows, counts = [], ""
    for model in card.variants:
        for dose, scores in model.by_dose.items():
            kinds = [
                {name: own for name, own in scores.by_source.items() if (name in phantoms) == is_phantom}
                for is_phantom in (False, True)
            ]
            if all(kinds):
                cells = [cell for kind in kinds for cell in _kind(kind, card.conventions)]
                rows.append([told(model), percent(dose), *cells])
                counts = counts or _counts(model, kinds)
    if rows:
        yield counts
        gain = f"gain {' / '.join(card.conventions)} [dB]"
        heads = ["weights", "dose", "real patients, slices", gain, "phantoms, slices", gain]
        yield table(heads, rows)


def _kind(sources: Mapping[str, Group], conventions: Sequence[str]) -> list[str]:
    """Patients and slices of some sources, and their gain as a mean over patients."""
    own = list(sources.values())
    gains = [signed(mean_gain_db(own, name)) for name in conventions]
    return [f"{sum(one.patients for one in own)}, {sum(one.slices for one in own)}", " / ".join(gains)]


def _counts(model: Model, kinds: Sequence[Mapping[str, Group]]) -> str:
    """How much of what follows is phantoms."""
    said = []
    for own, name in zip(kinds, ("real", "phantoms"), strict=True):
        patients = sum(found.patients for found in own.values())
        slices = sum(found.slices for found in own.values())
        squares = sum(model.squares.get(source, 0) for source in own)
        noise = f", {squares} squares of the noise spectra" if model.squares else ""
        said.append(f"{patients} {name} ({slices} slices{noise})")
    return f"Test patients are {' and '.join(said)}. Their scores are means over both; apart they gain:"

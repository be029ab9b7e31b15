"""Whether the texture variant ships: its scores beside those of the plain one.

The rules were written before any texture variant had been scored, so that no result chose them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pipeline.report.card.facts import TISSUES, Card
from pipeline.report.card.markdown import bullets, percent, signed
from pipeline.report.card.scores import RESTORED, AtDose, Scores, Verdict, fraction_of

LARGEST_BIAS_HU: Final = 1.0
"""A mean shift that is allowed in any tissue, however small the plain variant's."""
_BEST_FIRST: Final = ("gained", "kept", "lost")

RULES: Final = (
    "At every dose that both variants were scored at, (1) its noise spectrum must be nearer to the normal "
    "dose's than that of the plain variant (L1 distance), (2) its mean HU bias in "
    f"{', '.join(tissue.replace('_', ' ') for tissue in TISSUES)} must be at most {LARGEST_BIAS_HU:g} HU, or "
    "that of the plain variant where this is larger, and (3) no observer's verdict on low-contrast lesions "
    f"may be worse ({', '.join(_BEST_FIRST)}); a missing number counts as a broken rule."
)


def broken_rules(plain: Scores, texture: Scores) -> list[str]:
    """One line for each of `RULES` that a dose breaks; none where the texture variant ships.

    Args:
        plain: of the plain variant.
        texture: of the texture variant, under the same settings and so at the same doses.
    """
    ours, plains = texture.by_dose, plain.by_dose
    at_doses = [
        f"{percent(dose)} dose, {line}"
        for dose in plains
        for rule in (_noise_texture, _bias)
        for line in rule(plains[dose], ours[dose])
    ]
    return [*at_doses, *_lesions(plain, texture)]


def whether_texture_ships(card: Card) -> Iterator[str]:
    """What the card says of it: the verdict of `ldct publish`, its rules, and which are broken."""
    judged, command = card.texture_gate, f"`ldct publish --preset {card.preset}`"
    others = [
        model.name
        for model in card.variants
        if model.weights is not None
        and (judged is None or judged.model_hash.get(model.name) != model.weights.model_hash)
    ]
    if judged is None:
        yield f"Whether the texture variant ships has **not been judged** yet: {command}. {RULES}"
    elif others:
        names = " and ".join(others)
        yield f"Whether the texture variant ships was judged with **other weights** of {names}: {command}."
        yield RULES
    elif judged.ships:
        yield f"**The texture variant ships**: it keeps the rules, set before it was scored. {RULES}"
    else:
        yield f"**The texture variant does NOT ship**, by rules set before it was scored. {RULES} Broken:"
        yield bullets(judged.broken)


def _noise_texture(plain: AtDose, texture: AtDose) -> Iterator[str]:
    theirs, ours = (
        one.noise_texture[RESTORED].l1_distance if one.noise_texture else None for one in (plain, texture)
    )
    if theirs is None or ours is None:
        yield _missing("noise texture, L1 distance", theirs, ours)
    elif ours >= theirs:
        yield f"noise texture: L1 distance {ours:g}, not below the plain variant's {theirs:g}"


def _bias(plain: AtDose, texture: AtDose) -> Iterator[str]:
    """Tissues that neither was scored in are left out."""
    plains, others = (
        {tissue: moved[RESTORED] for tissue, moved in one.bias_against_normal_dose_hu.items()}
        for one in (plain, texture)
    )
    tissues = [name for name in TISSUES if name in plains or name in others]
    if not tissues:
        yield "HU bias: no tissue was scored"
    for name in tissues:
        what = f"HU bias in {name.replace('_', ' ')}"
        theirs, ours = plains.get(name), others.get(name)
        if theirs is None or ours is None:
            yield _missing(what, theirs, ours)
        elif abs(ours) > max(LARGEST_BIAS_HU, abs(theirs)):
            limit = f"{LARGEST_BIAS_HU:g} HU and the plain variant's {signed(theirs)} HU"
            yield f"{what}: {signed(ours)} HU, larger than {limit}"


def _lesions(plain: Scores, texture: Scores) -> Iterator[str]:
    """Doses at which neither was measured are left out, but not all of them."""
    plains, ours = (_verdicts(one) for one in (plain, texture))
    looked = sorted({*plains, *ours}, key=lambda one: (-one[0], one[1]))
    if not looked:
        yield "detectability: measured at no dose"
    for dose, observer in looked:
        what = f"{percent(dose)} dose, detectability to {observer.upper()}"
        before, after = plains.get((dose, observer)), ours.get((dose, observer))
        if before is None or after is None:
            yield _missing(what, before, after)
        elif _BEST_FIRST.index(after) > _BEST_FIRST.index(before):
            yield f"{what}: {after}, the plain variant's: {before}"


def _verdicts(scores: Scores) -> dict[tuple[float, str], Verdict]:
    """By dose and observer; none where no lesion could be looked for."""
    found = {} if scores.detectability is None else scores.detectability.by_dose
    return {
        (fraction_of(dose), observer): methods.restored.verdict
        for dose, observers in found.items()
        for observer, methods in observers.items()
    }


def _missing(what: str, plain: Any, texture: Any) -> str:
    lacking = [name for name, value in (("plain", plain), ("texture", texture)) if value is None]
    return f"{what}: missing for the {' and the '.join(lacking)} variant"

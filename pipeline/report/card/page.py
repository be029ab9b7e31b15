"""The page: sections in order, and what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from pipeline.report.card import about, quality, variants
from pipeline.report.card.facts import Card, against_normal_dose
from pipeline.report.card.failures import failures
from pipeline.report.card.groups import doses_of
from pipeline.report.card.held_out import held_out
from pipeline.report.card.markdown import NOT_MEASURED, bullets, percent, signed
from pipeline.report.card.promise import promise, promise_by_scan
from pipeline.report.card.quality import told
from pipeline.report.card.scores import RESTORED

Section = Callable[[Card], Iterator[str]]

SECTIONS: Final[tuple[tuple[str, Section], ...]] = (
    ("What it is", about.architecture),
    ("Intended use, and what is none", about.uses),
    ("Data", about.data),
    ("Training, and how to make it again", about.training),
    ("Scores on sources that were held out", held_out),
    ("Plain and texture variant", variants.variants),
    ("HU bias", quality.bias),
    ("Noise texture", quality.texture),
    ("Edges (TTF)", quality.edges),
    ("Low-contrast lesions", quality.lesions),
    ("Noise of another kind: kernel pairs", quality.kernel_pairs),
)


def render(card: Card) -> str:
    """The page in Markdown, to lie in `docs/`."""
    parts = [
        "# Model card: the denoiser in the package",
        f"Written by `ldct card --preset {card.preset}` from `metrics/{card.preset}/`, the headers of the "
        "weights and the manifests; only *why* and *known* are written by hand (`docs/model_card/`). PSNR, "
        "SSIM and RMSE: means over patients against the normal dose ([metrics.md](metrics.md)).",
        *_summary(card),
    ]
    for title, section in SECTIONS:
        parts += [f"## {title}", *section(card)]
    parts += ["## Known failures", *_known(card), "## Engines and precision", *about.engines(card)]
    return "\n\n".join(parts) + "\n"


def summary(card: Card) -> str:
    """What a registry says of the model: the sentences at the top of the page, without a link."""
    return "\n\n".join(_summary(card))


def _summary(card: Card) -> Iterator[str]:
    first = card.conventions[0]
    lines = [promise(card), *promise_by_scan(card)]
    for dose in doses_of(card) or card.dose_fractions:
        gains = {
            fold.held_out: against_normal_dose(fold.by_dose.get(dose), first, RESTORED, "gain_db")
            for fold in card.folds
        }
        known = {name: gain_db for name, gain_db in gains.items() if gain_db is not None}
        if not known:
            lines.append(f"{percent(dose)} dose, held-out sources: {NOT_MEASURED}.")
            continue
        low, high = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
        ceiling = next(fold.by_dose[dose].gain_ceiling_db for fold in card.folds if dose in fold.by_dose)
        lines.append(
            f"{percent(dose)} dose, {len(known)} of {len(gains)} held-out sources: gains from "
            f"{signed(known[low])} dB ({low}) to {signed(known[high])} dB ({high}), ceiling "
            f"where the scan was read {signed(ceiling)} dB (PSNR, {first})."
        )
    lines.append("Research only, chest and abdomen, not for diagnosis.")
    yield bullets(lines)
    if missing := list(_missing(card)):
        yield "**Missing or out of date**"
        yield bullets(missing)


def _missing(card: Card) -> Iterator[str]:
    """Each with the command that makes it."""
    for model in card.models:
        if model.weights is None and model.scores is None:
            train, evaluate = card.command("train", model.name), card.command("evaluate", model.name)
            yield f"{model.name}: {train}, then {evaluate}"
        elif model.scores is None:
            yield f"scores of {model.name}: {card.command('evaluate', model.name)}"
        elif other := card.scored_otherwise(model):
            again = card.command("evaluate", model.name)
            yield f"{model.name} as it is: the scores below are of other {other}, {again}"
    scored = {told(model): model.scores for model in card.models if model.scores is not None}
    if lacking := [name for name, scores in scored.items() if scores.detectability is None]:
        yield f"low-contrast detectability of {', '.join(lacking)}"
    if lacking := [name for name, scores in scored.items() if scores.ttf is None]:
        yield f"TTF of {', '.join(lacking)}"
    if card.kernel_pairs is None:
        yield f"the head-phantom kernel pairs: no `metrics/{card.preset}/kernel_pairs.json`"
    elif card.are_kernel_pairs_of_other_weights:
        yield (
            "the head-phantom kernel pairs as they are: other weights, `python benchmarks/kernel_pairs.py` "
            "(takes those in the package, others with `--bundle`)"
        )
    if not _has_bm3d(card):
        yield "BM3D on all slices (its package is for non-commercial use); on some: `benchmarks/README.md`"


def _has_bm3d(card: Card) -> bool:
    return any("bm3d" in scores.baselines for fold in card.folds for scores in fold.by_dose.values())


def _known(card: Card) -> Iterator[str]:
    found = list(failures(card))
    if found:
        yield "From the numbers:"
        yield bullets(found)
    elif any(model.scores for model in card.models):
        yield "The numbers show none; what they do not cover is above."
    else:
        yield f"From the numbers: {NOT_MEASURED}."
    if card.known:
        yield "By hand:"
        yield card.known

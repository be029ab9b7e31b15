"""`ldct card`: scores, headers and manifests of a preset to the model card in `docs/`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console

from pipeline import tracking
from pipeline.bundle import Bundle, load_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.ingest import IngestSettings, SourceSettings
from pipeline.config.layout import EXPERIMENT, Layout
from pipeline.config.restoration import RestorationSettings
from pipeline.config.sources import SourceOrigin, SourceOrigins
from pipeline.data import Case, read_cases, read_fingerprint
from pipeline.data.cases import INDEX
from pipeline.errors import ConfigError, DataError
from pipeline.figures import save_curve_panels
from pipeline.hu import display_window
from pipeline.manifest import ROLES, file_sha256, folder_sha256
from pipeline.report.card import (
    Card,
    Model,
    Source,
    Weights,
    first_rows,
    gain_panels,
    lowest_gains,
    render,
    small_png,
    squares_of,
    summary,
    worst_of_each_dose,
)
from pipeline.report.card.scores import Gate, KernelPairs
from pipeline.stages.denoiser_scores import read_scores
from pipeline.stages.evaluation.restoration.findings import WORST_DRAWN
from pipeline.stages.evaluation.restoration.pictures import DIFFERENCE
from pipeline.stages.evaluation.restoration.verdicts import PROMISED_UP_TO, ROUNDING_DB
from pipeline.stages.scores import read_checked
from pipeline.stages.shipping import PLAIN, TEXTURE, TEXTURE_GATE, write_whole
from pipeline.weights import Variant, shipped

WITHOUT: Final = "denoiser_without_"
VARIANT_OF: Final[dict[str, Variant]] = {PLAIN: "plain", TEXTURE: "texture"}
PAGE: Final = Path("docs/model_card.md")
NOTES: Final = Path("docs/model_card")
PICTURES: Final = NOTES / "pictures"
GAIN: Final = PICTURES / "gain.png"
ORIGINS: Final = Path("data_manifests/sources.yaml")
REPRODUCE: Final = "dvc repro pipeline/weights/dvc.yaml"


@dataclass(frozen=True)
class Picture:
    """One of the card, not yet written.

    Attributes:
        name: of the file.
        caption: that stands below it.
        png: content of the file.
    """

    name: str
    caption: str
    png: bytes


def run(preset: str) -> None:
    """Write `docs/model_card.md` and its pictures, log them, and let the registered models lead to them.

    What has not been trained or measured is said to be so, with the command that does it.

    Raises:
        BundleError: a bundle is damaged.
        ConfigError: the preset has no denoiser, settings cannot be used, or scores are here without the cases
            and tables that belong to them, as after a clone.
        DataError: a file of scores is damaged, or a manifest is missing.
        TrackingError: the MLflow store cannot be used.
    """
    layout = Layout(preset)
    if not layout.config(PLAIN).is_file():
        raise ConfigError(
            f"{layout.config(PLAIN)}: no such file; a card is about the model of that name: "
            "ldct card --preset reference"
        )
    card = _card(layout)
    _check_complete(layout, card)
    plain = card.plain.weights
    with tracking.start_run(
        experiment=EXPERIMENT,
        name=f"card-{preset}",
        stage="card",
        config=layout.config("evaluate"),
        data_digest="" if plain is None else plain.data_sha256,
    ) as tracked:
        _write(layout, card)
        tracking.log_card(tracked, PAGE, PICTURES)
        for model in card.variants:
            if model.weights is not None:
                tracking.describe_bundle(
                    tracked,
                    kind="denoiser",
                    model_hash=model.weights.model_hash,
                    description=summary(card),
                    page=PAGE,
                    pictures=PICTURES,
                )
    Console(highlight=False, soft_wrap=True).print(f"{summary(card)}\ncard: {PAGE}", markup=False)


def _check_complete(layout: Layout, card: Card) -> None:
    """Refuse to replace a whole card by one without the cases, tables and pictures behind its scores."""
    scored = [model.name for model in card.models if model.scores is not None]
    for name in scored:
        if not layout.evaluation(name).is_dir():
            raise ConfigError(
                f"{layout.evaluation(name)}: no such folder, but {layout.metrics(name)} is there; {PAGE} "
                f"and its pictures stay: ldct evaluate {name} --preset {layout.preset}, or {REPRODUCE}"
            )
    if scored and not (layout.cases / INDEX).is_file():
        raise ConfigError(
            f"{layout.cases / INDEX}: no such file, but {layout.metrics(scored[0])} is there; {PAGE} and its "
            f"pictures stay: ldct ingest --preset {layout.preset}, or {REPRODUCE}"
        )


def _card(layout: Layout) -> Card:
    evaluation = load_settings(layout.config("evaluate"), EvaluateSettings)
    settings = evaluation.restoration
    if settings.low_dose is None:
        raise ConfigError(
            f"{layout.config('evaluate')}: restoration.low_dose is not set; a card tells scores by dose"
        )
    listed = load_settings(layout.config("ingest"), IngestSettings).sources
    held_out = [one.name for one in listed if layout.config(f"{WITHOUT}{one.name}").is_file()]
    return Card(
        preset=layout.preset,
        plain=_model(layout, PLAIN, evaluation),
        texture=_model(layout, TEXTURE, evaluation) if layout.config(TEXTURE).is_file() else None,
        folds=[_model(layout, f"{WITHOUT}{name}", evaluation, held_out=name) for name in held_out],
        sources=list(_sources(layout, listed)),
        dose_fractions=sorted(settings.low_dose.dose_fractions, reverse=True),
        conventions=settings.conventions,
        promised_up_to=PROMISED_UP_TO,
        rounding_db=ROUNDING_DB,
        settings_sha256=file_sha256(layout.config("evaluate")),
        slices_per_case=evaluation.slices_per_case,
        texture_gate=read_checked(
            layout.metrics(TEXTURE_GATE), Gate, again=f"ldct publish --preset {layout.preset}"
        ),
        kernel_pairs=read_checked(
            layout.metrics("kernel_pairs"), KernelPairs, again="python benchmarks/kernel_pairs.py"
        ),
        why=_note("why"),
        known=_note("known"),
    )


def _model(layout: Layout, name: str, evaluation: EvaluateSettings, *, held_out: str = "") -> Model:
    config, folder = layout.config(name), layout.evaluation(name)
    scores = read_scores(layout, name, evaluation)
    with _naming(folder / "worst.csv"):
        lowest_gain_db = lowest_gains(_text(folder / "worst.csv"), scores)
    with _naming(folder / "texture.csv"):
        squares = squares_of(_text(folder / "texture.csv"), scores)
    return Model(
        name=name,
        held_out=held_out,
        settings=dict(_settings(load_settings(config, RestorationSettings))),
        config_sha256=file_sha256(config),
        weights=_weights(layout, name),
        scores=scores,
        lowest_gain_db=lowest_gain_db,
        squares=squares,
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What a damaged table of another stage makes fail is told as damage of that table."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as damaged:
        why = f"{type(damaged).__name__}: {damaged}"
        raise DataError(f"{path}: damaged ({why}); run its stage again") from None


def _settings(settings: RestorationSettings) -> Iterator[tuple[str, str]]:
    yield "steps", f"{settings.steps:,}"
    yield "batch", f"{settings.batch_size} of {settings.data.patch_size}²"
    yield "seed", str(settings.seed)
    unit = " in noise SDs" if settings.error_unit == "noise_sd" else ""
    yield "loss", " + ".join(term.kind for term in settings.losses) + unit
    yield "adversarial", "no" if settings.adversarial is None else settings.adversarial.game
    yield "learning rate", f"{settings.optim.lr:g}"
    yield "pixel zooms", ", ".join(f"{zoom:g}" for zoom in settings.data.zooms)
    if settings.low_dose is not None:
        low, high = settings.low_dose.dose_fractions
        yield "doses", f"{100 * low:g} to {100 * high:g} %"
        yield "kernels", settings.low_dose.kernels


def _weights(layout: Layout, name: str) -> Weights | None:
    """Of the preset's training; where it is not there, as after a clone, those in the package."""
    packaged = shipped(VARIANT_OF[name]) if name in VARIANT_OF else None
    path = layout.bundle(name) if layout.bundle(name).is_file() else packaged
    if path is None:
        return None
    bundle = load_bundle(path, "denoiser")
    return Weights(
        path=path.as_posix(),
        model_hash=bundle.model_hash,
        is_shipped=_is_shipped(bundle, packaged),
        architecture=bundle.architecture,
        arguments=bundle.arguments,
        parameters=sum(tensor.numel() for tensor in bundle.tensors.values()),
        size_bytes=path.stat().st_size,
        precision=bundle.precision,
        config_sha256=bundle.config_digest,
        data_sha256=bundle.data_digest,
        score=bundle.score,
        noise_sd_hu=bundle.made_noise_sd_hu,
        slice_thickness_mm=bundle.fingerprint.get("slice_thickness_mm"),
        pixel_mm=bundle.fingerprint.get("row_spacing_mm"),
    )


def _is_shipped(bundle: Bundle, packaged: Path | None) -> bool:
    return packaged is not None and load_bundle(packaged, "denoiser").model_hash == bundle.model_hash


def _sources(layout: Layout, listed: tuple[SourceSettings, ...]) -> Iterator[Source]:
    origins = load_settings(ORIGINS, SourceOrigins).sources
    cases = read_cases(layout.cases) if (layout.cases / INDEX).is_file() else ()
    for one in listed:
        if one.name not in origins:
            raise ConfigError(f"{ORIGINS}: says nothing of {one.name}; add where it is from and its licence")
        own = [case for case in cases if case.source == one.name]
        yield _source(one, origins[one.name], own)


def _source(listed: SourceSettings, origin: SourceOrigin, cases: list[Case]) -> Source:
    return Source(
        name=listed.name,
        title=origin.title,
        dois=origin.dois,
        repository=origin.repository,
        licence=origin.licence,
        attribution=origin.attribution,
        manifest_sha256=folder_sha256(listed.manifest) if listed.manifest.is_dir() else "not made here",
        cases=read_fingerprint(cases) if cases else None,
        roles={role: sum(case.role == role for case in cases) for role in ROLES} if cases else None,
    )


def _write(layout: Layout, card: Card) -> None:
    """Make everything, then write, then remove the pictures that the page no longer shows."""
    slices = list(_worst_slices(layout, card))
    page = render(replace(card, pictures={one.name: one.caption for one in slices}))
    files = {one.name: one.png for one in slices} | _gains(card)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, png in files.items():
        write_whole(PICTURES / name, png)
    write_whole(PAGE, page.encode())
    for old in PICTURES.glob("*.png"):
        if old.name not in files:
            old.unlink()


def _gains(card: Card) -> dict[str, bytes]:
    """The plot of gains by file name; none where nothing was scored."""
    panels = gain_panels(card)
    if not panels:
        return {}
    with tempfile.TemporaryDirectory(prefix="ldct-card-") as scratch:
        drawn = Path(scratch, GAIN.name)
        save_curve_panels(drawn, panels, x_label="dose [%]", columns=3)
        return {GAIN.name: drawn.read_bytes()}


def _worst_slices(layout: Layout, card: Card) -> Iterator[Picture]:
    """The worst slices of each dose, then those of the other sources."""
    owners = {one.name: f"{one.attribution} ({one.licence})" for one in card.sources}
    worst = worst_of_each_dose(card)
    for dose, fold in worst:
        name = f"worst_dose_{dose:g}.png"
        drawn = layout.evaluation(fold.name) / name
        if drawn.is_file():
            what = f"The slices of {fold.held_out} with the lowest gain at {100 * dose:g} % dose."
            caption = f"{what} {_shown(card, [fold.held_out])} CT: {owners[fold.held_out]}"
            yield Picture(name, caption, small_png(drawn.read_bytes()))
    yield from _other_sources(layout, card, dict(worst), owners)


def _other_sources(
    layout: Layout, card: Card, worst: Mapping[float, Model], owners: Mapping[str, str]
) -> Iterator[Picture]:
    """The worst slice of each source that is not drawn as the worst of all, at the highest promised dose."""
    dose = max((dose for dose in worst if dose <= card.promised_up_to), default=None)
    if dose is None:
        return
    drawn = [
        (fold, path.read_bytes())
        for fold in card.folds
        if fold.name != worst[dose].name
        and (path := layout.evaluation(fold.name) / f"worst_dose_{dose:g}.png").is_file()
    ]
    if drawn:
        name = f"others_dose_{dose:g}.png"
        sheet = first_rows([(png, min(WORST_DRAWN, fold.slices or 1)) for fold, png in drawn])
        sources = [fold.held_out for fold, _ in drawn]
        named = "; ".join(owners[source] for source in sources)
        what = f"The slice with the lowest gain at {100 * dose:g} % dose of each other source, in this order:"
        caption = f"{what} {', '.join(sources)}. {_shown(card, sources)} CT: {named}"
        yield Picture(name, caption, small_png(sheet))


def _shown(card: Card, sources: Sequence[str]) -> str:
    """Between which HU the pictures of these sources are drawn."""
    anatomies = {
        anatomy
        for one in card.sources
        if one.name in sources and one.cases is not None
        for anatomy in one.cases["anatomies"]
    }
    windows = {display_window(anatomy) for anatomy in anatomies or {None}}
    ct = " or ".join(f"from {window.low:g} to {window.high:g} HU" for window in windows)
    return f"Window {ct}, of the difference from {DIFFERENCE.low:g} to {DIFFERENCE.high:g} HU."


def _text(path: Path) -> str:
    """Empty where there is no such file, as after a clone."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _note(name: str) -> str:
    path = NOTES / f"{name}.md"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

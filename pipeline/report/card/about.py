"""What the denoiser is, what it is for, what it learnt from, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.report.card.facts import Card, Model, Source
from pipeline.report.card.markdown import NOT_MEASURED, bullets, number, table

DOI: Final = "https://doi.org/"
USES: Final = (
    "Research on CT at reduced dose: chest and abdomen, axial slices, what the sources below cover.",
    "A baseline that others can rebuild and compare with.",
)
NOT_USES: Final = (
    "Diagnosis, or any use on patients. This is no medical device; every series that it writes says so.",
    "Head, neck, extremities, cone-beam CT, photon-counting CT, spectral images: no source shows any. "
    "`ldct predict` warns of a series unlike the training, or does as `--on-unfamiliar` says.",
    "Scans denoised already, and metal: the same.",
    "Children: no source is known to show one.",
    "Claims about real low-dose scans: every low dose here is a normal dose with the missing noise added.",
)


def architecture(card: Card) -> Iterator[str]:
    """A column for each variant."""
    trained = [(model, model.weights) for model in card.variants if model.weights is not None]
    for model in card.variants:
        if model.weights is None:
            yield f"Weights of {model.name}: not there; {card.command('train', model.name)} makes them."
    if trained:
        columns = [dict(_facts(model)) for model, _ in trained]
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        yield table(["", *(model.name for model, _ in trained)], rows)
    yield "### Why this network"
    yield card.why or f"{NOT_MEASURED.capitalize()}."


def _facts(model: Model) -> Iterator[tuple[str, str]]:
    weights = model.weights
    if weights is None:
        return
    arguments = json.dumps(weights.arguments, sort_keys=True)
    yield "network", f"`{weights.architecture}` {arguments}"
    yield "parameters", f"{weights.parameters:,}"
    yield "file", f"{weights.size_bytes / 1e6:.2f} MB, safetensors, no pickle"
    yield "model hash (SHA-256)", f"`{weights.model_hash}`"
    yield "in the package", "this very model" if weights.is_shipped else "**NOT this model**, or none"
    yield "input", "one axial slice in HU and its noise level, which `ldct predict` measures"
    yield "trained at noise of", _noise(weights.noise_sd_hu)
    yield "trained at slice thickness of", _range(weights.slice_thickness_mm, " mm")
    yield "trained at pixels of", _range(weights.pixel_mm, " mm")
    yield "arithmetic in training", weights.precision
    yield "validation", _validation(weights.score)
    yield "cases (SHA-256)", f"`{weights.data_sha256}`"


def _noise(range_hu: tuple[float, float] | None) -> str:
    return NOT_MEASURED if range_hu is None else f"{range_hu[0]:.0f} to {range_hu[1]:.0f} HU (SD)"


def _validation(score: Mapping[str, Any]) -> str:
    if "value" not in score:
        return NOT_MEASURED
    metric, convention = (score.get(key, "unnamed") for key in ("metric", "convention"))
    return f"{metric} {number(score['value'])} ({convention})"


def uses(_: Card) -> Iterator[str]:
    """Intended use, and what is none."""
    yield bullets([f"For: {one}" for one in USES])
    yield bullets([f"Not for: {one}" for one in NOT_USES])


def data(card: Card) -> Iterator[str]:
    """Sources with where they are from, and what they hold."""
    yield table(
        ["source", "what", "from", "licence", "attribution"],
        [[one.name, one.title, _where(one), one.licence, one.attribution] for one in card.sources],
    )
    heads = ["source", "cases (train, validation, test)", "slices", "anatomy", "kernels", "thickness [mm]"]
    heads += ["pixel [mm]", "noise SD of the normal dose [HU]"]
    yield table(heads, [_held(one) for one in card.sources])
    yield "SHA-256 of each manifest (`cases.csv`, which holds that of every series, and the splits):"
    yield bullets([f"{one.name}: `{one.manifest_sha256}`" for one in card.sources])
    yield (
        "Low doses are made while training and scoring, by inserting the missing noise into the ray sums "
        "([dose.md](dose.md)): flux and kernel are read from the image's own noise, so the noise is "
        "correlated, not stationary, and like the kernel's. They share the noise of the normal dose. No "
        "real source has a stored low dose; that of the phantoms is not used."
    )


def _where(source: Source) -> str:
    links = [f"[{doi}]({DOI}{doi})" for doi in source.dois]
    return ", ".join([*links, *([source.repository] if source.repository else [])])


def _held(source: Source) -> list[str]:
    cases, roles = source.cases, source.roles
    if cases is None or roles is None:
        return [source.name, *["not ingested here"] * 7]
    counts = ", ".join(str(roles.get(role, 0)) for role in ("train", "validation", "test"))
    return [
        source.name,
        f"{cases['cases']} ({counts})",
        str(cases["slices"]),
        _counted(cases["anatomies"]),
        _counted(cases["kernels"]),
        _range(cases["slice_thickness_mm"]),
        _range(cases["row_spacing_mm"]),
        _range(cases["noise_sd_hu"]["normal_dose"]),
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "unknown"


def _range(bounds: Sequence[float] | None, unit: str = "") -> str:
    if bounds is None:
        return "unknown"
    low, high = (f"{bound:.3g}" for bound in bounds)
    return (low if low == high else f"{low} to {high}") + unit


def training(card: Card) -> Iterator[str]:
    """Settings, seeds and digests of every training, and the command that does it all again."""
    yield (
        "`dvc repro pipeline/weights/dvc.yaml` makes all of it again, from phantoms and "
        "`$LDCT_REAL_DATA` to these weights and this page. The same seed gives the same weights on the same "
        "machine ([training.md](training.md))."
    )
    names = list(dict.fromkeys(name for model in card.models for name in model.settings))
    rows = [
        [model.name, *(model.settings.get(name, "") for name in names), _settings_digest(model)]
        for model in card.models
    ]
    yield table(["training", *names, "settings (SHA-256)"], rows)


def _settings_digest(model: Model) -> str:
    if model.weights is None:
        return f"`{model.config_sha256[:12]}`, not trained"
    if model.weights.config_sha256 != model.config_sha256:
        return f"`{model.weights.config_sha256[:12]}`, **changed since**"
    return f"`{model.config_sha256[:12]}`"


def engines(_: Card) -> Iterator[str]:
    """Where speed and precision are told."""
    yield (
        "torch (fp32, bf16) and OpenVINO (fp32, bf16, int8); the scores above are torch's. What the others "
        "differ by, and how that is checked: [export.md](export.md). Engine and precision of every result "
        "stand in its journal and its derived UIDs. Speed: [benchmarks](../benchmarks/README.md)."
    )

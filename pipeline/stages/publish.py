"""`ldct publish`: weights of a preset into the package, the texture variant only if its scores allow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from rich.console import Console

from pipeline.bundle import Bundle, save_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.layout import Layout
from pipeline.errors import ConfigError, DataError
from pipeline.report.card.gate import broken_rules
from pipeline.report.card.scores import Scores
from pipeline.stages.denoiser_scores import evaluate_command, read_scores
from pipeline.stages.earlier import trained_bundle
from pipeline.stages.shipping import PLAIN, TEXTURE, TEXTURE_GATE, write_whole

WEIGHTS: Final = Path("pipeline/weights")
"""Of the checkout that is worked in; `pipeline.weights` reads them from the package that is installed."""


def run(preset: str) -> None:
    """Write the bundles to `pipeline/weights/` and the verdict to `metrics/<preset>/texture_gate.json`.

    A texture variant that breaks a rule of `report.card.gate` is taken out of the package; one line each says
    which. That is a result, no failure. Nothing is written unless all files belong together.

    Raises:
        BundleError: a bundle is missing or damaged.
        ConfigError: the preset has no denoiser, texture variant or settings of evaluations, or this is no
            checkout of the project.
        DataError: scores are missing, damaged, of other weights, or of different settings or doses.
    """
    layout = Layout(preset)
    for name in (PLAIN, TEXTURE):
        if not layout.config(name).is_file():
            raise ConfigError(
                f"{layout.config(name)}: no such file; the models of that name ship: "
                "ldct publish --preset reference"
            )
    if not WEIGHTS.is_dir():
        raise ConfigError(f"{WEIGHTS}: no such folder here; run this in a checkout of ldct-pipeline")
    plain, texture = (trained_bundle(layout, name, "denoiser") for name in (PLAIN, TEXTURE))
    broken = _judge(layout, plain, texture)
    save_bundle(_packaged(PLAIN), plain)
    if broken:
        _packaged(TEXTURE).unlink(missing_ok=True)
    else:
        save_bundle(_packaged(TEXTURE), texture)
    verdict = {
        "ships": not broken,
        "broken": broken,
        "model_hash": {PLAIN: plain.model_hash, TEXTURE: texture.model_hash},
    }
    text = json.dumps(verdict, indent=2, ensure_ascii=False) + "\n"
    write_whole(layout.metrics(TEXTURE_GATE), text.encode())
    Console(highlight=False, soft_wrap=True).print(_told(plain, texture, broken), markup=False)


def _judge(layout: Layout, plain: Bundle, texture: Bundle) -> list[str]:
    """The rules that the texture variant breaks."""
    settings = load_settings(layout.config("evaluate"), EvaluateSettings)
    plain_scores = _scores(layout, PLAIN, plain, settings)
    texture_scores = _scores(layout, TEXTURE, texture, settings)
    both = (plain_scores, texture_scores)
    for what, found in (
        ("with other settings", {one.settings_sha256 for one in both}),
        ("at other doses", {frozenset(one.doses) for one in both}),
    ):
        if len(found) > 1:
            raise DataError(
                f"{layout.metrics(TEXTURE)}: scored {what} than {layout.metrics(PLAIN)}; "
                f"run {evaluate_command(layout, PLAIN)}, and the same for {TEXTURE}"
            )
    return broken_rules(plain_scores, texture_scores)


def _scores(layout: Layout, name: str, bundle: Bundle, settings: EvaluateSettings) -> Scores:
    path, again = layout.metrics(name), f"run {evaluate_command(layout, name)}"
    scores = read_scores(layout, name, settings)
    if scores is None:
        raise DataError(f"{path}: no such file; {again}")
    if scores.model_hash != bundle.model_hash:
        raise DataError(
            f"{path}: scores of model {scores.model_hash[:12]}, {layout.bundle(name)} is "
            f"{bundle.model_hash[:12]}; {again}"
        )
    return scores


def _packaged(name: str) -> Path:
    """Where `pipeline.weights` looks for it."""
    return WEIGHTS / f"{name}.safetensors"


def _told(plain: Bundle, texture: Bundle, broken: list[str]) -> str:
    lines = [f"{_packaged(PLAIN)}: {PLAIN} {plain.model_hash[:12]}"]
    if not broken:
        return "\n".join([*lines, f"{_packaged(TEXTURE)}: {TEXTURE} {texture.model_hash[:12]}"])
    lines.append(f"{TEXTURE} {texture.model_hash[:12]} does not ship; {len(broken)} broken:")
    return "\n".join([*lines, *(f"  {line}" for line in broken)])

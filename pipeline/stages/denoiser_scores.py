"""Scores of a preset's denoisers, which `ldct card` and `ldct publish` read: whole, or refused."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.layout import Layout
from pipeline.manifest import file_sha256
from pipeline.report.card.faults import faults, unlike
from pipeline.report.card.scores import Scores
from pipeline.stages.scores import damaged_file, read_checked


def read_scores(layout: Layout, name: str, settings: EvaluateSettings) -> Scores | None:
    """What `ldct evaluate` wrote of a denoiser; None where there is no such file.

    Args:
        layout: of the preset.
        name: of the denoiser.
        settings: of the preset's evaluations as they are now; scores of others may hold other doses.

    Raises:
        DataError: the file is damaged, or lacks what these settings score.
    """
    path, again = layout.metrics(name), evaluate_command(layout, name)
    scores = read_checked(path, Scores, again=again)
    if scores is None:
        return None
    is_of_now = scores.settings_sha256 == file_sha256(layout.config("evaluate"))
    found = [*(_not_as_set(scores, settings) if is_of_now else ()), *faults(scores)]
    if found:
        raise damaged_file(path, found[0], again)
    return scores


def evaluate_command(layout: Layout, name: str) -> str:
    """What makes the scores."""
    return f"ldct evaluate {name} --preset {layout.preset}"


def _not_as_set(scores: Scores, settings: EvaluateSettings) -> Iterator[str]:
    """What these settings score and the file lacks, or the other way round: `key: what`."""
    asked = settings.restoration
    doses = () if asked.low_dose is None else asked.low_dose.dose_fractions
    yield from unlike("doses", scores.doses, [f"dose_{dose:g}" for dose in doses])
    yield from unlike("conventions", scores.conventions, asked.conventions)
    for key, at_dose in scores.doses.items():
        yield from unlike(f"doses.{key}.baselines", at_dose.baselines, asked.baselines)
    lesions, edges = asked.detectability, asked.sharpness
    for key, wanted, found in (
        ("detectability", lesions, scores.detectability),
        ("ttf", edges, scores.ttf),
    ):
        if wanted is not None and found is None and key not in scores.not_measured:
            yield f"{key}: missing"
    if lesions is not None and scores.detectability is not None:
        fractions = [f"{dose:g}" for dose in lesions.dose_fractions]
        yield from unlike("detectability.by_dose", scores.detectability.by_dose, fractions)
    if edges is not None and scores.ttf is not None:
        contrasts = [f"{contrast_hu:g}" for contrast_hu in edges.contrasts_hu]
        for dose, own in scores.ttf.by_dose.items():
            yield from unlike(f"ttf.by_dose.{dose}", own, contrasts)

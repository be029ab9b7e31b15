"""The chapters of the page after the summary, from plain results; what is missing is said to be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.report.numbers import text, words
from pipeline.report.page import Finding, Picture, Section, Table
from pipeline.report.summary import ALARM, UNFIT, WRITTEN, predicted
from pipeline.report.tables import Results, comparison_table, facts_table, matrix_table, tables_of

_NOT_IN_TABLES = ("verdict", "conventions")


def evaluation(name: str, scores: Results | None, pictures: Sequence[Picture], note: str = "") -> Section:
    """Scores on test patients with their conventions, and a verdict in words."""
    anchor, title = f"evaluate-{name}", f"Evaluation: {name}"
    if scores is None:
        return Section(anchor, title, missing=[f"the scores of {name}; run ldct evaluate {name}"])
    verdict = str(scores.get("verdict", ""))
    headline = Finding(verdict[:1].upper() + verdict[1:], is_alarming=verdict.startswith(ALARM))
    return Section(
        anchor,
        title,
        findings=[headline] if verdict else [],
        missing=[] if pictures or note else ["pictures of this evaluation"],
        pictures=pictures,
        tables=_score_tables(scores),
        note=note,
    )


def predictions(journal: Sequence[Results] | None, previews: Sequence[Picture], note: str = "") -> Section:
    """The journal of `ldct predict`, a row per series."""
    anchor, title = "predict", "Prediction: DICOM in, DICOM out"
    if journal is None:
        return Section(anchor, title, missing=["the journal; run ldct predict"])
    finished = [line for line in journal if line["verdict"] in WRITTEN]
    other = [line for line in journal if line["verdict"] not in WRITTEN]
    tables = [_finished_table(finished)] if finished else []
    if volumes := {line["series"]: line["volumes_ml"] for line in finished if line.get("volumes_ml")}:
        tables.append(matrix_table(volumes, "volume of each segment [ml]", quantity="volumes_ml"))
    if other:
        tables.append(_other_table(other))
    is_alarming = any(line["verdict"] in UNFIT for line in other)
    return Section(
        anchor,
        title,
        findings=[Finding(predicted(journal), is_alarming=is_alarming)],
        missing=[] if previews or note or not finished else ["previews of the written series"],
        pictures=previews,
        tables=tables,
        note=note,
    )


def training(name: str, score: Results | None, pictures: Sequence[Picture]) -> Section:
    """Best validation score and curves of one model."""
    missing = [] if score is not None else [f"the bundle of {name}; run ldct train {name}"]
    if not pictures:
        missing.append("training curves")
    tables = [facts_table(score, "best validation score and model")] if score is not None else []
    return Section(f"train-{name}", f"Training: {name}", missing=missing, pictures=pictures, tables=tables)


def data(fingerprint: Results | None, pictures: Sequence[Picture], not_shown: int) -> Section:
    """What the models learned from and were tested on."""
    missing = [] if fingerprint is not None else ["the fingerprint of the cases; run ldct ingest"]
    if not pictures:
        missing.append("the quality pictures of the cases")
    note = f"{not_shown} more quality pictures lie beside the cases." if not_shown else ""
    title = "cases of each role; a range is from the lowest to the highest case"
    tables = [comparison_table(fingerprint["roles"], title)] if fingerprint is not None else []
    return Section("data", "The data", missing=missing, pictures=pictures, tables=tables, note=note)


def provenance(facts: Results, settings: Mapping[str, str], digests: Mapping[str, str]) -> Section:
    """Where the page comes from, folded.

    Args:
        facts: preset, commit, versions and hardware.
        settings: digests of the settings files.
        digests: of the cases and the models.
    """
    tables = [
        facts_table(facts, "this run"),
        Table("results", ("", "digest"), list(digests.items())),
        Table("settings (SHA-256)", ("file", "digest"), list(settings.items())),
    ]
    return Section("provenance", "Provenance", tables=tables, is_folded=True)


def _score_tables(scores: Results) -> list[Table]:
    """Below each table of a convention stands what it means, and how far a gain over the input can go."""
    notes = {
        name: f"Convention {name}: {text(meaning).rstrip('.')}."
        for name, meaning in scores.get("conventions", {}).items()
    }
    tables = tables_of({key: scores[key] for key in scores if key not in _NOT_IN_TABLES}, notes=notes)
    if "gain_ceiling_db" not in scores:
        return tables
    limit = (
        f"Best possible gain {text(scores['gain_ceiling_db'], 'db')} dB; "
        f"a perfectly clean output gains {text(scores['clean_output_gain_db'], 'db')} dB."
    )
    return [
        replace(table, note=f"{table.note} {limit}")
        if table.title.startswith("against normal dose")
        else table
        for table in tables
    ]


def _finished_table(lines: Sequence[Results]) -> Table:
    rows = []
    for line in lines:
        slices, height, width = line["shape"]
        noise = line["noise_sd_hu"]
        reasons = ", ".join(line["reason_codes"]) or "–"
        size = f"{slices} × {height} × {width}"
        before, after = (text(noise[when], "hu") for when in ("before", "after"))
        rows.append((line["series"], line["verdict"], reasons, size, before, after))
    heads = ("series (pseudonym)", "verdict", "reason", "slices × rows × columns", "noise before", "after")
    return Table(
        "written series",
        heads,
        rows,
        note="Noise: most frequent standard deviation of 9×9-pixel regions in soft tissue [HU].",
    )


def _other_table(lines: Sequence[Results]) -> Table:
    """A row per series; stray files are counted by reason."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        rows[line["series"] or "stray files", line["verdict"], ", ".join(line["reason_codes"])] += line[
            "files"
        ]
    heads = ("series (pseudonym)", "verdict", "reason", "files")
    return Table("not written", heads, [(*row, str(files)) for row, files in rows.items()])


_CAPTIONS = {
    "panels": "low dose, restored, normal dose and their difference",
    "methods": "detail: input, network and baselines side by side",
    "overlays": "segmentation over the images, beside the reference",
    "reconstructions": "input slices above their reconstructions",
    "interpolations": "images along straight lines between latent codes",
    "samples": "samples",
    "real": "real slices of test patients",
}


def evaluation_picture(image: bytes, name: str, stem: str) -> Picture:
    """A picture of an evaluation, told by its file name."""
    return picture(image, f"{name}: {_CAPTIONS.get(stem, words(stem))}")


def picture(image: bytes, caption: str, *, is_wide: bool = True) -> Picture:
    """A picture whose caption serves as its description."""
    return Picture(image, alt=caption, caption=caption, is_wide=is_wide)

"""The chapters of the page, each from plain results; what is missing is said to be missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.report.page import Picture, Section, Table
from pipeline.report.tables import Results, facts_table, matrix_table, tables_of, text, words

_ALARM = "WORSE"
_NOT_IN_TABLES = ("verdict", "conventions")


def what_ran(facts: Results, settings: Mapping[str, str]) -> Section:
    """Preset, commit, versions and hardware; `settings` are the digests of the settings files."""
    digests = Table("settings (SHA-256)", ("file", "digest"), list(settings.items()))
    return Section("run", "What ran", tables=[facts_table(facts, "this run"), digests])


def data(fingerprint: Results | None, pictures: Sequence[Picture], not_shown: int) -> Section:
    """What the models learned from and were tested on."""
    missing = [] if fingerprint is not None else ["the fingerprint of the cases; run ldct ingest"]
    if not pictures:
        missing.append("the quality pictures of the cases")
    summary = f"{not_shown} more quality pictures lie beside the cases." if not_shown else ""
    tables = tables_of(fingerprint, "fingerprint") if fingerprint else []
    return Section("data", "The data", summary, tables, pictures, missing)


def training(name: str, score: Results | None, pictures: Sequence[Picture]) -> Section:
    """Best validation score and curves of one model."""
    missing = [] if score is not None else [f"the bundle of {name}; run ldct train {name}"]
    if not pictures:
        missing.append("training curves")
    tables = [facts_table(score, "best validation score and model")] if score is not None else []
    return Section(f"train-{name}", f"Training: {name}", "", tables, pictures, missing)


def evaluation(name: str, scores: Results | None, pictures: Sequence[Picture]) -> Section:
    """Scores on test patients with their conventions, and a verdict in words."""
    anchor, title = f"evaluate-{name}", f"Evaluation: {name}"
    if scores is None:
        return Section(anchor, title, missing=[f"the scores of {name}; run ldct evaluate {name}"])
    verdict = str(scores.get("verdict", ""))
    return Section(
        anchor,
        title,
        summary=verdict[:1].upper() + verdict[1:],
        tables=_score_tables(scores),
        pictures=pictures,
        missing=[] if pictures else ["pictures of this evaluation"],
        is_alarming=verdict.startswith(_ALARM),
    )


def predictions(journal: Sequence[Results] | None, previews: Sequence[Picture]) -> Section:
    """The journal of `ldct predict`, a row per series."""
    title = "Prediction: DICOM in, DICOM out"
    if journal is None:
        return Section("predict", title, missing=["the journal; run ldct predict"])
    finished = [line for line in journal if line["verdict"] in ("done", "slicewise")]
    other = [line for line in journal if line["verdict"] not in ("done", "slicewise")]
    unfit = sum(line["verdict"] in ("refused", "failed") for line in other)
    tables = [_finished_table(finished)] if finished else []
    if volumes := {line["series"]: line["volumes_ml"] for line in finished if line.get("volumes_ml")}:
        tables.append(matrix_table(volumes, "volume of each segment [ml]"))
    if other:
        tables.append(_other_table(other))
    return Section(
        "predict",
        title,
        summary=f"{len(finished)} series written, {unfit} refused or failed, {len(other) - unfit} skipped.",
        tables=tables,
        pictures=previews,
        missing=[] if previews or not finished else ["previews of the written series"],
        is_alarming=unfit > 0,
    )


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
        f"Best possible gain {text(scores['gain_ceiling_db'])} dB; "
        f"a perfectly clean output gains {text(scores['clean_output_gain_db'])} dB."
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
        rows.append(
            (line["series"], line["verdict"], reasons, size, text(noise["before"]), text(noise["after"]))
        )
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


def evaluation_picture(png: bytes, name: str, stem: str) -> Picture:
    """A picture of an evaluation, told by its file name."""
    return picture(png, f"{name}: {_CAPTIONS.get(stem, words(stem))}")


def picture(png: bytes, caption: str, *, is_wide: bool = True) -> Picture:
    """A picture whose caption serves as its description."""
    return Picture(png, alt=caption, caption=caption, is_wide=is_wide)

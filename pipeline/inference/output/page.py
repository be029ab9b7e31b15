"""The journal as a page: what became of each series, with a picture of its middle slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.dicom import Verdict
from pipeline.inference.output.journal import PREVIEW, Json, Marker
from pipeline.inference.output.reasons import MEANINGS

_UNFAMILIAR: Final = ("UNFAMILIAR", "UNFAMILIAR_PASSED")
_BAD_NEWS_FIRST: Final = (
    Verdict.FAILED,
    Verdict.REFUSED,
    Verdict.SLICEWISE,
    Verdict.DONE,
    Verdict.SKIPPED,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A series as the page shows it, or all stray files of one kind.

    Attributes:
        name: pseudonym of the series; empty for stray files.
        study: pseudonym of its study.
        verdict: how it ended.
        reasons: its codes and what they mean.
        files: number of source files.
        shape: slices, rows and columns in words.
        noise: name and value of each noise, in HU.
        volumes: name and value of each segment, in ml.
        networks: kind of each network, and which one, computed by what.
        link: relative address of its folder, where it has one.
        preview: relative address of its picture, where it has one.
    """

    name: str
    study: str
    verdict: str
    reasons: tuple[tuple[str, str], ...]
    files: int
    shape: str = ""
    noise: tuple[tuple[str, str], ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    networks: tuple[tuple[str, str], ...] = ()
    link: str = ""
    preview: str = ""


def render_journal(target: Path, marker: Marker, lines: Sequence[Json]) -> str:
    """The page as HTML; every text is escaped, and it loads nothing but the pictures beside it.

    Args:
        target: folder that it will lie in.
        marker: of that folder.
        lines: of the journal, without its head.
    """
    rows = sorted([*_series(target, lines), *_stray_files(lines)], key=_bad_news_first)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("journal.html").render(
        command=marker.command,
        started=marker.started.strftime("%Y-%m-%d %H:%M %Z"),
        verdicts=Counter(line["verdict"] for line in lines),
        slices=sum(line["shape"][0] for line in lines if "shape" in line),
        files=sum(line["files"] for line in lines),
        rows=rows,
    )


def _series(target: Path, lines: Sequence[Json]) -> Iterator[Row]:
    for line in lines:
        if line["series"] is None:
            continue
        folder = Path(line["study"], line["series"])
        has_folder = (target / folder).is_dir()
        has_preview = (target / folder / PREVIEW).is_file()
        yield Row(
            name=line["series"],
            study=line["study"],
            verdict=line["verdict"],
            reasons=_reasons(line),
            files=line["files"],
            shape=" × ".join(str(extent) for extent in line.get("shape", ())),
            noise=_noise(line.get("noise_sd_hu", {})),
            volumes=tuple((name, f"{ml:.1f}") for name, ml in line.get("volumes_ml", {}).items()),
            networks=tuple(_networks(line.get("recipe", {}))),
            link=quote(f"{folder.as_posix()}/") if has_folder else "",
            preview=quote(f"{folder.as_posix()}/{PREVIEW}") if has_preview else "",
        )


def _stray_files(lines: Sequence[Json]) -> Iterator[Row]:
    """Files that belong to no series, counted by what is wrong with them."""
    files: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    for line in lines:
        if line["series"] is None:
            files[line["verdict"], _reasons(line)] += line["files"]
    for (verdict, reasons), count in files.items():
        yield Row(name="", study="", verdict=verdict, reasons=reasons, files=count)


def _reasons(line: Json) -> tuple[tuple[str, str], ...]:
    """Each code with its meaning; some warnings come with words of their own."""
    own_words = dict(line.get("simulated", {}).get("warnings", {}))
    if unfamiliar := line.get("unfamiliar"):
        own_words |= {code: f"{MEANINGS[code]}: {'; '.join(unfamiliar)}" for code in _UNFAMILIAR}
    return tuple((code, own_words.get(code) or MEANINGS.get(code, "")) for code in line["reason_codes"])


def _noise(noise_sd_hu: Mapping[str, float | None]) -> tuple[tuple[str, str], ...]:
    """That of the source comes first."""
    names = sorted(noise_sd_hu, key=lambda name: (name != "before", name))
    values = ((name, noise_sd_hu[name]) for name in names)
    return tuple((name.replace("_", " "), "–" if sd is None else f"{sd:.1f}") for name, sd in values)


def _networks(recipe: Json) -> Iterator[tuple[str, str]]:
    for kind in ("denoiser", "segmenter"):
        if network := recipe.get(kind):
            strength = recipe["strength"] if kind == "denoiser" else 1.0
            weaker = "" if strength == 1.0 else f", strength {strength:g}"
            yield kind, f"{network['name']} {network['model_hash'][:12]}{weaker}, {network['engine']}"


def _bad_news_first(row: Row) -> tuple[int, bool, str, str]:
    return _BAD_NEWS_FIRST.index(Verdict(row.verdict)), not row.name, row.study, row.name

"""The views of an output folder: what they tell, and that nothing in them gets out of hand."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import pipeline.inference
from pipeline.dicom.verdicts import Code, Verdict
from pipeline.inference.output import journal
from pipeline.inference.output.journal import Marker, Output, SeriesRecord, read_record, write_json
from pipeline.inference.output.locks import target_lock
from pipeline.inference.output.reasons import MEANINGS
from pipeline.inference.output.views import rebuild_views
from tests.batch_cases import run
from tests.predict_cases import NOW, PATIENT, Copying, write_source

MARKER = Marker(NOW, "key", "predict")
RECORD = SeriesRecord(
    study="study-1",
    series="series-1",
    verdict=Verdict.DONE,
    reason_codes=(),
    input_key="",
    source_files=7,
    source_sha256="",
    recipe={
        "denoiser": {"name": "drunet", "model_hash": "ab" * 32, "engine": "torch on cpu in bf16"},
        "segmenter": None,
        "strength": 0.7,
    },
    clock="",
    shape=(14, 32, 40),
    noise_sd_hu={"before": 20.04, "after": None},
    volumes_ml={"liver": 1500.06},
    timings_s={},
    outputs=(Output("preview.png", 3, ""),),
)
STRAY = {"study": None, "series": None, "verdict": "skipped", "reason_codes": ["NOT_DICOM"], "files": 2}
REFUSED = {
    "study": "study-2",
    "series": "series-2",
    "verdict": "refused",
    "reason_codes": ["NOT_HU"],
    "files": 5,
}


class Page(HTMLParser):
    """Text of each cell by row, and the addresses of links and pictures."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.links, self.pictures, self.tags = [], [], [], set()
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag == "a":
            self.links.append(dict(attrs)["href"])
        elif tag == "img":
            self.pictures.append(dict(attrs))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += f"{data.strip()} " if data.strip() else ""


def finish(target, record):
    folder = target / record.study / record.series
    folder.mkdir(parents=True)
    (folder / "preview.png").write_bytes(b"PNG")
    write_json(folder / "series.json", record.to_json())


def views_of(target, unfinished=()):
    target.mkdir(exist_ok=True)
    with target_lock(target):
        whole = rebuild_views(target, MARKER, list(unfinished))
    _, *lines = map(json.loads, (target / "journal.jsonl").read_text().splitlines())
    return whole, lines, Page((target / "journal.html").read_text())


def test_the_page_has_a_row_per_series_and_one_for_all_stray_files_of_a_kind(tmp_path):
    finish(tmp_path, RECORD)
    _, lines, page = views_of(tmp_path, [STRAY, REFUSED, STRAY])
    assert [line["files"] for line in lines] == [7, 2, 5, 2]
    made_by = "denoiser drunet abababababab, strength 0.7, torch on cpu in bf16"
    assert [[cell.strip() for cell in row] for row in page.rows[1:]] == [
        ["series-2 study-2", f"refused NOT_HU {MEANINGS['NOT_HU']}", "5", "", "", "", "", ""],
        ["series-1 study-1", "done", "7", "14 × 32 × 40", "before 20.0 after –", "liver 1500.1", made_by, ""],
        ["stray files", f"skipped NOT_DICOM {MEANINGS['NOT_DICOM']}", "4", "", "", "", "", ""],
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["verdicts"] == {"done": 1, "refused": 1, "skipped": 2}


def test_links_and_pictures_are_relative_and_lead_to_files(tmp_path):
    """The pseudonyms are made here; nothing that a folder may be called breaks out of its quotes."""
    for number, series in enumerate(("series-1", 'a "quoted" & <odd> name #1 %41', "späte Serie")):
        finish(tmp_path, replace(RECORD, series=series, study=f"study-{number}"))
    _, _, page = views_of(tmp_path)
    assert len(page.pictures) == 3
    assert len(page.links) == 6
    for address in (*page.links, *(picture["src"] for picture in page.pictures)):
        assert not re.match(r"[a-z]+:|/", address)
        assert (tmp_path / unquote(address)).exists()
    assert {picture["loading"] for picture in page.pictures} == {"lazy"}


def test_text_is_never_markup(tmp_path):
    finish(tmp_path, replace(RECORD, volumes_ml={"<script>alert(1)</script>": 1.0}))
    _, _, page = views_of(tmp_path, [{**REFUSED, "reason_codes": ["<iframe>"]}])
    assert page.tags.isdisjoint({"script", "iframe", "link"})
    assert "<script>alert(1)</script>" in page.rows[2][5]


def test_a_series_whose_files_are_gone_is_said_to_have_failed(tmp_path):
    finish(tmp_path, RECORD)
    (tmp_path / "study-1" / "series-1" / "preview.png").unlink()
    whole, (line,), page = views_of(tmp_path)
    assert whole == ()
    assert (line["verdict"], line["reason_codes"]) == ("failed", ["OUTPUT_MISSING"])
    assert page.pictures == []


def test_a_series_that_failed_again_has_one_line(tmp_path):
    finish(tmp_path, RECORD)
    failed = {**REFUSED, "study": "study-1", "series": "series-1", "verdict": "failed"}
    whole, lines, page = views_of(tmp_path, [failed])
    assert lines == [failed]
    assert whole == (RECORD,)
    assert len(page.pictures) == 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", b'{"study": 3}', b"other verdict"])
def test_a_damaged_record_is_no_record(tmp_path, damage):
    finish(tmp_path, RECORD)
    assert read_record(tmp_path / "study-1" / "series-1") == RECORD
    path = tmp_path / "study-1" / "series-1" / "series.json"
    path.write_bytes(path.read_bytes().replace(b"done", b"cured") if damage == b"other verdict" else damage)
    assert read_record(tmp_path / "study-1" / "series-1") is None
    assert views_of(tmp_path)[:2] == ((), [])


def test_a_view_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    finish(tmp_path, RECORD)
    views_of(tmp_path)
    before = (tmp_path / "journal.html").read_bytes()
    monkeypatch.setattr(journal.os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space"):
        views_of(tmp_path, [REFUSED])
    assert (tmp_path / "journal.html").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def _no_space(_):
    raise OSError(28, "No space left on device")


def test_every_reason_code_has_a_meaning():
    constants = re.compile(r'^([A-Z]+(?:_[A-Z]+)*)(?:: Final)? = "\1"$', re.MULTILINE)
    modules = Path(pipeline.inference.__file__).parent.rglob("*.py")
    of_runs = {name for module in modules for name in constants.findall(module.read_text())}
    assert {"DISK_FULL", "NOTHING_SEGMENTED", "FIELD_TOO_WIDE"} <= of_runs
    assert {str(code) for code in Code} | of_runs == set(MEANINGS)


def test_the_page_names_no_patient(tmp_path):
    write_source(tmp_path / PATIENT)
    (tmp_path / PATIENT / f"{PATIENT}.txt").write_text("notes")
    run(tmp_path / PATIENT, tmp_path / "out", Copying())
    text = (tmp_path / "out" / "journal.html").read_text()
    assert "series-" in text
    assert "DOE" not in text
    assert "1.2.3" not in text


def test_thousands_of_series_make_a_page(tmp_path):
    lines = [{**REFUSED, "series": f"series-{number}"} for number in range(5000)]
    _, _, page = views_of(tmp_path, lines)
    assert len(page.rows) == 5001

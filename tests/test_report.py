"""The report: everything inside one page, numbers as they are, gaps named."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from pipeline.errors import DataError
from pipeline.report import Page, Picture, Section, Table, render, sections
from pipeline.report.tables import tables_of, text, words
from pipeline.stages import report as stage

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
SCORES = {
    "verdict": "gains 4.50 dB over its input (PSNR, redcnn) and beats every baseline",
    "patients": 2,
    "conventions": {"redcnn": "clipped to [-160, 240] HU"},
    "gain_ceiling_db": 6.02,
    "clean_output_gain_db": 4.77,
    "against_normal_dose": {
        "redcnn": {
            "input": {"psnr_db": 32.1, "ssim": 0.81234},
            "restored": {"psnr_db": 36.6, "ssim": 0.9, "gain_db": 4.5},
        }
    },
}


class Outline(HTMLParser):
    """The elements, links and images of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.images = [], set(), [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids.add(attributes.get("id"))
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)


def test_a_page_lists_its_sections_and_describes_its_images():
    picture = Picture(PIXEL, alt="a slice", caption="a slice")
    page = Page("Title", "Subtitle", [Section("one", "One", pictures=[picture]), Section("two", "Two")])
    outline = Outline(render(page))
    assert outline.links == ["#one", "#two"]
    assert {"one", "two"} <= outline.ids
    assert outline.images[0]["alt"] == "a slice"
    assert base64.b64decode(outline.images[0]["src"].split(",")[1]) == PIXEL
    assert "script" not in outline.tags


def test_a_page_loads_nothing():
    html = render(Page("T", "S", [Section("a", "A", tables=tables_of(SCORES))]))
    assert not re.search(r"https?://|url\(|@import|<link", html)


def test_text_from_results_is_escaped():
    table = Table("scores", ("", "value"), [("<script>alert(1)</script>", "1 < 2")])
    html = render(Page("T", "S", [Section("a", "A", tables=[table])]))
    assert "<script>" not in html
    assert "1 &lt; 2" in html


def test_a_row_of_another_length_is_a_mistake():
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        Table("t", ("a", "b"), [("1",)])


def test_nested_results_become_facts_and_a_matrix():
    facts, matrix = tables_of({key: SCORES[key] for key in ("patients", "against_normal_dose")})
    assert facts.rows == [("patients", "2")]
    assert matrix.title == "against normal dose, redcnn"
    assert matrix.columns == ("", "PSNR [dB]", "SSIM", "gain [dB]")
    assert matrix.rows == [("input", "32.1", "0.8123", "–"), ("restored", "36.6", "0.9", "4.5")]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (0.87654, "0.8765"),
        (123456.78, "123,456.8"),
        ([1, 2.5], "1, 2.5"),
        (7, "7"),
    ],
)
def test_values_are_printed_with_four_digits(value, shown):
    assert text(value) == shown


def test_keys_are_printed_as_words_with_units():
    assert words("bias_against_truth_hu") == "bias against truth [HU]"
    assert words("redcnn") == "redcnn"


def test_scores_stand_beside_their_convention_and_ceiling():
    section = sections.evaluation("redcnn", SCORES, [])
    assert section.summary.startswith("Gains 4.50 dB")
    assert not section.is_alarming
    note = next(table.note for table in section.tables if table.title.endswith("redcnn"))
    assert note == (
        "Convention redcnn: clipped to [-160, 240] HU. Best possible gain 6.02 dB; "
        "a perfectly clean output gains 4.77 dB."
    )


def test_a_model_worse_than_its_input_is_an_alarm():
    scores = {"verdict": "WORSE THAN ITS INPUT by 1.00 dB (PSNR, redcnn): do not use this model"}
    section = sections.evaluation("redcnn", scores, [])
    assert section.is_alarming
    assert 'class="summary alarm"' in render(Page("T", "S", [section]))


def test_what_was_not_made_is_said_to_be_missing():
    assert "ldct evaluate gan" in sections.evaluation("gan", None, []).missing[0]
    assert "ldct train gan" in sections.training("gan", None, []).missing[0]
    assert "ldct ingest" in sections.data(None, [], 0).missing[0]
    assert "ldct predict" in sections.predictions(None, []).missing[0]


def test_the_journal_becomes_a_row_per_series():
    done = {
        "series": "series-1",
        "verdict": "done",
        "reason_codes": [],
        "shape": [3, 32, 40],
        "noise_sd_hu": {"before": 20.0, "after": 5.0},
        "volumes_ml": {"liver": 1500.0},
    }
    refused = {"series": None, "verdict": "refused", "reason_codes": ["NOT_HU"], "files": 2}
    section = sections.predictions([done, refused], [])
    assert section.summary == "1 series written, 1 refused or failed, 0 skipped."
    assert [table.rows[0] for table in section.tables] == [
        ("series-1", "done", "–", "3 × 32 × 40", "20", "5"),
        ("series-1", "1500"),
        ("stray files", "refused", "NOT_HU", "2"),
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project that has settings and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    (tmp_path / "configs" / "demo").mkdir(parents=True)
    (tmp_path / "configs" / "preset.yaml").write_text("preset: demo\n")
    for name in ("redcnn", "evaluate"):
        (tmp_path / "configs" / "demo" / f"{name}.yaml").write_text("a: 1\n")
    return tmp_path


def test_an_empty_project_gives_a_page_of_gaps(project):
    stage.run("demo")
    html = (project / "reports" / "demo" / "report.html").read_text()
    assert html.count('class="missing"') == 7
    assert [path.name for path in (project / "reports" / "demo").iterdir()] == ["report.html"]


def test_scores_pictures_and_curves_find_their_way_into_the_page(project):
    for folder in ("metrics/demo", "evaluation/demo/redcnn", "models/demo/redcnn", "data/demo/cases/qc"):
        (project / folder).mkdir(parents=True)
    (project / "metrics/demo/redcnn.json").write_text(json.dumps(SCORES))
    (project / "evaluation/demo/redcnn/panels.png").write_bytes(PIXEL)
    (project / "models/demo/redcnn/curves.csv").write_text(
        "step,redcnn_loss,validation_psnr_db\n1,2,\n2,1,33\n"
    )
    for number in range(9):
        (project / f"data/demo/cases/qc/case{number}.png").write_bytes(PIXEL)
    stage.run("demo")
    html = (project / "reports/demo/report.html").read_text()
    alts = [image["alt"] for image in Outline(html).images]
    assert alts == [f"case{n}" for n in (0, 1, 3, 4, 6, 8)] + [
        "redcnn loss",
        "validation PSNR [dB]",
        "redcnn: low dose, restored, normal dose and their difference",
    ]
    assert "3 more quality pictures" in html
    assert "32.1" in html


def test_a_damaged_results_file_is_named(project):
    (project / "metrics" / "demo").mkdir(parents=True)
    (project / "metrics/demo/redcnn.json").write_text("{")
    with pytest.raises(DataError, match=r"redcnn\.json: damaged"):
        stage.run("demo")
    assert not (project / "reports").exists()

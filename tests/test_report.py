"""The report: everything inside one page, numbers as they are, gaps named."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.report import Page, Picture, Section, Table, render, sections
from pipeline.report.curves import curve_panels
from pipeline.report.encoding import MAX_WIDTH, for_page
from pipeline.report.numbers import text, words
from pipeline.report.summary import summary
from pipeline.report.tables import comparison_table, matrix_table, tables_of
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
BIAS = {
    "bias_against_truth_hu": {
        "body": {"input": 0.02, "restored": 0.031},
        "lung": {"input": -1.7, "restored": -7.25},
    }
}
DICE = {"aggregation": "mean over patients", "dice": {"normal_dose": {"mean": 0.91}}}
TASK = {**DICE, "dice": {"normal_dose": {"mean": 0.91}, "low_dose": {"mean": 0.8}, "restored": {"mean": 0.9}}}
GAN = {
    "mmd2": 0.07,
    "mmd2_real_vs_real": 0.05,
    "mmd2_detail": 0.03,
    "mmd2_detail_real_vs_real": 0.04,
    "mmd2_space": "pixels",
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
    assert matrix.columns == ["", "PSNR [dB]", "SSIM", "gain [dB]"]
    assert matrix.rows == [["input", "32.10", "0.8123", "–"], ["restored", "36.60", "0.9000", "4.50"]]


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


@pytest.mark.parametrize(
    ("value", "quantity", "shown"),
    [
        (38.6745, "psnr_db", "38.67"),
        (0.95, "ssim", "0.9500"),
        (-0.0035, "bias_against_truth_hu_lung", "0.00"),
        (0.9, "dice_liver", "0.900"),
        (1007.72, "volumes_ml_liver", "1,007.7"),
        (4, "psnr_db", "4"),
    ],
)
def test_values_are_rounded_for_their_quantity(value, quantity, shown):
    assert text(value, quantity) == shown


def test_columns_of_numbers_are_told_from_columns_of_text():
    rows = [("a", "–", "-1,024.5 to 3", "none"), ("b", "0.5", "2", "1")]
    assert Table("t", ("", "x", "range", "y"), rows).text_columns == {0, 3}


def test_a_comparison_has_a_row_per_quantity_and_a_column_per_role():
    roles = {
        "train": {"cases": 14, "noise_sd_hu": {"low_dose": [8.375, 21.9]}, "slice_thickness_mm": [5.0, 5.0]},
        "test": {"cases": 4, "noise_sd_hu": {"low_dose": [9.125, 17.4]}},
    }
    table = comparison_table(roles, "cases")
    assert list(table.columns) == ["", "train", "test"]
    assert [tuple(row) for row in table.rows] == [
        ("cases", "14", "4"),
        ("noise SD [HU], low dose", "8.38 to 21.90", "9.12 to 17.40"),
        ("slice thickness [mm]", "5.00", "–"),
    ]


def test_methods_worse_than_the_input_or_a_baseline_are_marked_in_words():
    rows = {
        "input": {"psnr_db": 32.0, "ssim": 0.8, "rmse_hu": 8.0},
        "restored": {"psnr_db": 36.0, "ssim": 0.9, "rmse_hu": 5.0},
        "nlm": {"psnr_db": 36.5, "ssim": 0.85, "rmse_hu": 5.0},
        "tv": {"psnr_db": 31.0, "ssim": 0.85, "rmse_hu": 9.0},
    }
    table = matrix_table(rows, "scores", quantity="against_truth")
    assert table.columns[-1] == "remark"
    assert [row[-1] for row in table.rows] == [
        "",
        "worse than nlm (PSNR)",
        "",
        "worse than input (PSNR, RMSE)",
    ]


def test_a_bias_is_worse_farther_from_zero_and_equal_as_printed_is_not_worse():
    rows = {"lung": {"input": 1.7, "restored": -7.2}, "body": {"input": 0.051, "restored": 0.053}}
    table = matrix_table(rows, "bias", quantity="bias_against_truth_hu")
    assert [row[-1] for row in table.rows] == ["restored worse than input", ""]


def test_dice_on_restored_images_below_the_low_dose_is_marked():
    rows = {"low_dose": {"liver": 0.91, "spine": 0.8}, "restored": {"liver": 0.92, "spine": 0.7}}
    assert matrix_table(rows, "Dice", quantity="dice").rows[1][-1] == "worse than low dose (spine)"


def test_the_summary_tells_each_result_with_its_convention():
    scores = {"redcnn": {**SCORES, **BIAS}, "unet": DICE, "gan": GAN, "task": TASK}
    section = summary(scores, [{"verdict": "done"}, {"verdict": "refused"}], [Picture(PIXEL, "a", "a")])
    fidelity, bias, dice, distance, predictions = section.findings
    assert "32.10 dB before, 36.60 dB after" in fidelity.text
    assert "6.02 dB (convention redcnn: clipped to [-160, 240] HU" in fidelity.text
    assert "truth +0.03 HU (its input: +0.02 HU) over the body" in bias.text
    assert "in lung, -7.25 HU (its input: -1.70 HU)" in bias.text
    assert dice.text.startswith(
        "mean Dice over organs 0.910 on normal dose, 0.800 on low dose, 0.900 on restored images"
    )
    assert "0.0700 for whole slices (floor, real against real: 0.0500)" in distance.text
    assert predictions.text == "1 series done, 1 refused or failed, 0 skipped."
    assert predictions.is_alarming
    assert not section.missing


def test_the_summary_says_what_is_missing():
    assert summary({"redcnn": None}, None, []).missing == [
        "the scores of redcnn; run ldct evaluate redcnn",
        "predictions; run ldct predict",
        "pictures of a result",
    ]


def test_related_curves_share_a_panel_and_constant_ones_are_left_out():
    head = {"learning_rate": "0.1", "validation_input_psnr_db": "33", "validation_dice": "0.5"}
    rows = [
        {"step": "1", **head, "loss": "2", "validation_loss": "", "validation_psnr_db": "34"},
        {"step": "2", **head, "loss": "1", "validation_loss": "3", "validation_psnr_db": "35"},
    ]
    rows[1]["validation_dice"] = "0.6"
    rows[1]["validation_dice_liver"] = "0.7"
    panels = {panel.title: panel for panel in curve_panels(rows)}
    assert set(panels) == {"loss", "PSNR [dB]", "Dice"}
    assert panels["loss"].curves == {"training": ([1, 2], [2, 1]), "validation": ([2], [3])}
    assert set(panels["Dice"].curves) == {"validation", "liver"}
    assert panels["PSNR [dB]"].references == {"input": 33}


def test_a_wide_picture_becomes_a_small_webp_and_the_same_each_time():
    noise = np.random.default_rng(0).integers(0, 256, (100, 2 * MAX_WIDTH), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    small = for_page(stream.getvalue())
    assert small == for_page(stream.getvalue())
    assert Image.open(io.BytesIO(small)).size == (MAX_WIDTH, 50)
    assert Picture(small, "a", "a").data_uri.startswith("data:image/webp;")


def test_a_png_that_is_smaller_stays():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((64, 64)) < 0.5).save(stream, "PNG")
    assert for_page(stream.getvalue()) == stream.getvalue()


def test_keys_are_printed_as_words_with_units():
    assert words("bias_against_truth_hu") == "bias against truth [HU]"
    assert words("redcnn") == "redcnn"


def test_scores_stand_beside_their_convention_and_ceiling():
    section = sections.evaluation("redcnn", SCORES, [])
    assert section.findings[0].text.startswith("Gains 4.50 dB")
    assert not section.findings[0].is_alarming
    note = next(table.note for table in section.tables if table.title.endswith("redcnn"))
    assert note == (
        "Convention redcnn: clipped to [-160, 240] HU. Best possible gain 6.02 dB; "
        "a perfectly clean output gains 4.77 dB."
    )


def test_a_model_worse_than_its_input_is_an_alarm():
    scores = {"verdict": "WORSE THAN ITS INPUT by 1.00 dB (PSNR, redcnn): do not use this model"}
    section = sections.evaluation("redcnn", scores, [])
    assert section.findings[0].is_alarming
    assert 'class="summary alarm"' in render(Page("T", "S", [section]))


def test_what_was_not_made_is_said_to_be_missing():
    assert "ldct evaluate gan" in sections.evaluation("gan", None, []).missing[0]
    assert "ldct train gan" in sections.training("gan", None, []).missing[0]
    assert "ldct ingest" in sections.data(None, [], 0).missing[0]
    assert "ldct predict" in sections.predictions(None, []).missing[0]


def test_provenance_is_folded():
    html = render(
        Page("T", "S", [sections.provenance({"preset": "demo"}, {"a.yaml": "12"}, {"cases": "34"})])
    )
    assert "<details>" in html


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
    assert section.findings[0].text == "1 series done, 1 refused or failed, 0 skipped."
    assert [tuple(table.rows[0]) for table in section.tables] == [
        ("series-1", "done", "–", "3 × 32 × 40", "20.00", "5.00"),
        ("series-1", "1,500.0"),
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
    assert html.count('class="missing"') == 11
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
    assert alts == [
        "redcnn: low dose, restored, normal dose and their difference",
        "redcnn, training curves: redcnn loss, PSNR [dB]",
        *(f"case{n}" for n in (0, 1, 3, 4, 6, 8)),
    ]
    assert "3 more quality pictures" in html
    assert "32.1" in html


def test_a_damaged_results_file_is_named(project):
    (project / "metrics" / "demo").mkdir(parents=True)
    (project / "metrics/demo/redcnn.json").write_text("{")
    with pytest.raises(DataError, match=r"redcnn\.json: damaged"):
        stage.run("demo")
    assert not (project / "reports").exists()

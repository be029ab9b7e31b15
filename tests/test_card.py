"""The model card: what was measured stands on it, what was not is said to be so."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cli, tracking
from pipeline.bundle import save_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.layout import Layout
from pipeline.data import Case
from pipeline.data.cases import write_index
from pipeline.errors import ConfigError, DataError
from pipeline.manifest import file_sha256
from pipeline.report.card import first_rows, lowest_gains, small_png, squares_of, summary
from pipeline.report.card.groups import groups
from pipeline.report.card.scores import Scores
from pipeline.stages import card as stage
from pipeline.stages.denoiser_scores import read_scores
from tests.conftest import CHECKOUT
from tests.made_scores import BASELINES, damaged, edges, lesions, scores
from tests.tiny_bundles import denoiser_bundle

LAYOUT = Layout("reference")
FOLDS = ("lidc_0314", "lung_pet_ct_dx", "tcga_lung", "covid_ny_sbu", "totalsegmentator")
ELSEWHERE = Case(
    case_id="elsewhere_1",
    patient_id="1",
    role="test",
    anatomy="chest",
    dose_fraction=1.0,
    noise="independent",
    spacing_mm=(1.0, 1.0, 1.0),
    shape=(1, 8, 8),
    folder=Path("elsewhere_1"),
    has_mask=False,
    has_truth=False,
    source="elsewhere",
)
"""Of a source that the card does not tell of."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with settings, manifests and notes of the checkout; nothing trained or scored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.setattr(stage, "shipped", lambda _: None)
    shutil.copytree(CHECKOUT / "configs", "configs")
    shutil.copytree(CHECKOUT / "data_manifests", "data_manifests")
    for path in (*CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("docs/model_card/*.md")):
        target = Path(path.relative_to(CHECKOUT))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def write_scores(name, values):
    path = LAYOUT.metrics(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    LAYOUT.evaluation(name).mkdir(parents=True, exist_ok=True)
    LAYOUT.cases.mkdir(parents=True, exist_ok=True)
    write_index(LAYOUT.cases, [ELSEWHERE])


def write_all(**changes):
    """Scores of every training; `changes` by name."""
    for name in ("denoiser", "denoiser_texture", *(f"denoiser_without_{source}" for source in FOLDS)):
        write_scores(name, changes.get(name, scores()))


def write_bundle(name, **changes):
    bundle = replace(denoiser_bundle(), config_digest=file_sha256(LAYOUT.config(name)), **changes)
    save_bundle(LAYOUT.bundle(name), bundle)
    return bundle


def page():
    stage.run("reference")
    return stage.PAGE.read_text(encoding="utf-8")


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(text, start):
    return [line for line in text.splitlines() if line.startswith(f"| {start} |")]


def test_without_any_result_the_card_names_every_command_and_every_source(project):
    text = page()
    for name in ("denoiser", "denoiser_texture", *(f"denoiser_without_{source}" for source in FOLDS)):
        assert f"- {name}: `ldct train {name} --preset reference`, then `ldct evaluate {name} " in text
    assert "**not decided**. Not measured, or not at all these doses, on lidc_0314, lung_pet_ct_dx" in text
    assert "From the numbers: not measured." in text
    data = section(text, "Data")
    for source in FOLDS:
        assert rows(data, source)
        assert re.search(rf"- {source}: `[0-9a-f]{{64}}`", data)
    for doi in ("10.7937/K9/TCIA.2015.LO9QL9SX", "10.7937/TCIA.BBAG-2923", "CC BY 4.0", "Apache-2.0"):
        assert doi in data


def test_every_line_of_every_table_has_as_many_cells_as_its_head(project):
    write_all(denoiser=scores(detectability=lesions(), ttf=edges(0.95)))
    LAYOUT.metrics("denoiser_without_tcga_lung").unlink()
    for table in re.findall(r"(?:^\|.*\n)+", page(), flags=re.MULTILINE):
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1, table


def test_links_of_the_card_lead_somewhere(project):
    write_all()
    (project / "benchmarks").mkdir()
    shutil.copy(CHECKOUT / "benchmarks" / "README.md", "benchmarks")
    targets = re.findall(r"\]\(([^)#:]+)\)", page())
    assert "model_card/pictures/gain.png" in targets
    assert "![gain in PSNR (convention redcnn) of each method by dose" in stage.PAGE.read_text()
    assert [target for target in targets if not (project / "docs" / target).exists()] == []


@pytest.mark.parametrize(
    ("fold", "says"),
    [
        (scores(), "**met** at 40 %, 25 %, 10 %, by each of the 30 slices scored."),
        (
            scores(cases_left_out={"tcga-0001": "unreadable"}),
            "**met** at 40 %, 25 %, 10 %, by each of the 30 slices scored; 1 cases could not be scored.",
        ),
        (
            scores(below=2),
            "**NOT met**. Below their input: tcga_lung 2 of 6 at 40 %, tcga_lung 2 of 6 at 25 %",
        ),
        (None, "**not decided**. Not measured, or not at all these doses, on tcga_lung. None does on"),
    ],
)
def test_the_promise_is_met_or_not_by_the_numbers(project, fold, says):
    write_all(denoiser_without_tcga_lung=fold or {})
    if fold is None:
        LAYOUT.metrics("denoiser_without_tcga_lung").unlink()
    text = page()
    sentences = re.findall(
        r"falls below its input \(convention full, by more than 0.001 dB, which is rounding\): .*", text
    )
    assert len(sentences) == 2  # above, and in its section
    assert all(says in sentence for sentence in sentences)


def test_the_promise_is_open_while_a_promised_dose_is_missing(project):
    write_all(denoiser_without_tcga_lung=scores(doses=(0.25, 0.1), settings_sha256="other"))
    assert "**not decided**. Not measured, or not at all these doses, on tcga_lung." in page()


def test_slices_below_their_input_above_the_promised_dose_break_no_promise(project):
    settings = LAYOUT.config("evaluate")
    settings.write_text(settings.read_text().replace("dose_fractions: [0.4,", "dose_fractions: [0.6, 0.4,"))
    own = {"doses": (0.6, 0.4, 0.25, 0.1), "settings_sha256": file_sha256(settings)}
    high = scores(**own)
    high["doses"]["dose_0.6"]["slices_below_input"] = 6
    high["below_input"] = {"dose_0.6": {f"case/{index}": -0.1 for index in range(6)}}
    write_all(**{f"denoiser_without_{name}": scores(**own) for name in FOLDS})
    write_scores("denoiser_without_tcga_lung", high)
    text = page()
    assert "**met** at 40 %, 25 %, 10 %, by" in text
    assert "Slices worse than their input (PSNR, full): tcga_lung (held out) 6 of 6 at 60 %." in text


def test_scores_stand_beside_their_ceiling_and_the_tuned_baselines(project):
    write_all(denoiser_without_tcga_lung=scores(gain_db=5.25))
    text = section(page(), "Scores on sources that were held out")
    row = "| tcga_lung | 25 % | 2, 6 | 30.00 | 35.25 | +5.25 [+4.75, +5.75] | 6.02 | 5.02 |"
    assert f"{row} 0.8000 → 0.9500 | 20.0 → 11.0 |" in text
    beside = "+1.00 / 0.9000 / 12.0 | +1.50 / 0.9000 / 12.0 | +2.00 / 0.9000 / 12.0"
    network = "+5.25 / 0.9500 / 11.0"
    assert f"| tcga_lung | 25 % | {network} | {beside} | network | network | network |" in text
    assert "bm3d" not in text


def with_method(values, method, **changes):
    """The same scores with other numbers of one method, under all conventions at all doses."""
    changed = copy.deepcopy(values)
    for own in changed["doses"].values():
        for rows_of in own["against_normal_dose"].values():
            rows_of[method] |= changes
    return changed


def test_a_baseline_that_is_better_by_ssim_or_rmse_is_best_and_a_known_failure(project):
    ahead = with_method(scores(), "tv", ssim=0.96)
    write_all(
        denoiser_without_tcga_lung=ahead,
        denoiser_without_covid_ny_sbu=with_method(scores(), "nlm", rmse_hu=10.5),
    )
    text = page()
    told = section(text, "Scores on sources that were held out")
    assert "| +2.00 / 0.9600 / 12.0 | network | tv | network |" in told
    assert "| +1.50 / 0.9000 / 10.5 | +2.00 / 0.9000 / 12.0 | network | network | nlm |" in told
    known = section(text, "Known failures")
    at = "tv at 40 % (redcnn, full), tv at 25 % (redcnn, full), tv at 10 % (redcnn, full)"
    assert f"By SSIM no better than another method: tcga_lung (held out) {at}." in known
    assert (
        f"By RMSE no better than another method: covid_ny_sbu (held out) {at.replace('tv', 'nlm')}." in known
    )
    assert "By PSNR" not in known


def test_bm3d_has_a_column_where_it_was_measured(project):
    own = scores(baselines=BASELINES | {"bm3d": 2.5}, settings_sha256="other")
    measured = with_method(own, "bm3d", rmse_hu=11.5)
    write_all(denoiser_without_tcga_lung=measured)
    text = page()
    assert "| held out | dose | network | gaussian | nlm | tv | bm3d | best PSNR |" in text
    assert "+2.50 / 0.9000 / 11.5 | network | network | network |" in text
    assert "| +2.00 / 0.9000 / 12.0 | not measured | network | network | network |" in text


def by_scan(values, **slices):
    """The same scores of so many slices of each kind of scan."""
    changed = copy.deepcopy(values)
    for own in changed["doses"].values():
        group = own["by_anatomy"]["chest"]
        own["by_scan"] = {
            name.replace("_", " "): group | {"patients": count, "slices": count}
            for name, count in slices.items()
        }
    return changed


def write_worst(name, *lines):
    path = LAYOUT.evaluation(name) / "worst.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["dose_fraction,scan,gain_db", *lines]))


def test_the_promise_is_split_into_scans_that_were_read_and_assumed(project):
    own = by_scan(scores(), read_from_the_images=2, assumed=4)
    write_all(**{f"denoiser_without_{name}": by_scan(scores(), read_from_the_images=6) for name in FOLDS})
    write_scores("denoiser_without_tcga_lung", own)
    text = page()
    counts = (
        "By scan, up to 40 %: 26 slices are of scans whose photons were read from their images, 4 of scans"
    )
    assert f"{counts} that were assumed. For the assumed ones the dose named is an upper bound" in text
    assert "| +3.00 [+2.50, +3.50] | 3.98 ¹ | 2.98 ¹ |" in text
    assert "¹ Of scans that were assumed: 4 of 6 slices of tcga_lung." in text
    for name in FOLDS:
        extra = [f"{dose},assumed,2.5" for dose in (0.4, 0.25, 0.1)] if name == "tcga_lung" else []
        read = [f"{dose},read from the images,2.0" for dose in (0.4, 0.25, 0.1)]
        write_worst(f"denoiser_without_{name}", *read, *extra)
    assert "4 of scans that were assumed (lowest margin +2.50 dB: tcga_lung, 10 %)" in page()


def test_the_table_of_slices_is_of_the_scores_or_not_used():
    values = scores(doses=(0.4, 0.25))
    values["doses"]["dose_0.4"]["worst_gain_db"] = 0.0509
    values["doses"]["dose_0.25"]["worst_gain_db"] = 1.0
    values = Scores.model_validate(values)
    lines = [
        "dose_fraction,scan,gain_db",
        "0.4,assumed,0.13",
        "0.4,read,0.0509",
        "0.25,read,1.0",
        "0.25,read,2",
    ]
    expected = {(0.4, "assumed"): 0.13, (0.4, "read"): 0.0509, (0.25, "read"): 1.0}
    assert lowest_gains("\n".join(lines), values) == expected
    assert lowest_gains("\n".join(lines[:-2]), values) == {}
    assert lowest_gains("\n".join([*lines, "0.4,read,0.01"]), values) == {}
    assert lowest_gains("", values) == {}
    assert lowest_gains("", None) == {}


def test_a_gain_above_the_ceiling_is_pointed_out(project):
    write_all(denoiser_without_lidc_0314=scores(gain_db=4.25))
    text = page()
    assert (
        "Above the ceiling: lidc_0314 at 40 % (redcnn: +4.25 of +3.98 dB), lidc_0314 at 40 % (full:" in text
    )
    write_all()
    assert "Above the ceiling" not in page()


def test_the_ceiling_of_test_patients_is_marked_where_a_scan_was_assumed(project):
    write_all(denoiser=by_scan(scores(), read_from_the_images=5, assumed=1))
    told = section(page(), "Plain and texture variant")
    assert "| denoiser (test patients) | 40 % | 2, 6 | +3.00 / +3.00 | 3.98 ¹ |" in told
    assert "¹ Of scans that were assumed: 1 of 6 slices of denoiser (test patients)." in told
    assert "| denoiser_texture (test patients) | 40 % | 2, 6 | +3.00 / +3.00 | 3.98 |" in told


def test_groups_are_means_over_the_patients_of_all_sources(project):
    write_all(
        denoiser_without_tcga_lung=scores(gain_db=6, patients=3, kernel="B60f"),
        denoiser_without_covid_ny_sbu=scores(gain_db=2, patients=1, kernel="B60f"),
    )
    found = groups(stage._card(LAYOUT), "kernel")
    assert found["B60f"].gain_db[0.25, "full"] == pytest.approx((3 * 6 + 1 * 2) / 4)
    assert (found["B60f"].patients, found["B60f"].slices) == (4, 12)
    assert found["B60f"].sources == ("tcga_lung", "covid_ny_sbu")
    assert found["B40f"].patients == 6
    assert "| B60f | tcga_lung, covid_ny_sbu | 4, 12 | +5.00 / +5.00 | +5.00 / +5.00 |" in page()


def test_failures_are_told_from_the_numbers(project):
    failing = scores(
        baselines=BASELINES | {"tv": 3.5},
        bias_hu=-7.25,
        patients=1,
        detectability=lesions("lost"),
        ttf=edges(0.6),
    )
    failing["doses"]["dose_0.1"]["baselines_at_grid_end"] = {"tv": 160}
    failing["cases_left_out"] = {"tcga-0001": "its own noise cannot be read"}
    write_all(denoiser_without_tcga_lung=failing, denoiser_without_lidc_0314=scores(kernel="D", gain_db=0.5))
    known = section(page(), "Known failures")
    of_kind = dict(line.removeprefix("- ").split(": ", 1) for line in known.splitlines() if ": " in line)
    for kind, case in {
        "By PSNR no better than another method": "tv at 40 % (redcnn, full), tv at 25 % (redcnn, full)",
        "CT numbers move, in the worst patient by": "-14.50 HU in soft tissue at 40 %",
        "Low-contrast lesions are harder to see than before": "to NPW at 25 %",
        "Edges are blurred; of the disc's own f50 is left, at worst": "0.60 at 25 % and 50 HU of contrast",
        "Not scored (no low dose could be made, or its noise level not measured)": "tcga-0001",
    }.items():
        assert f"tcga_lung (held out) {case}" in of_kind[kind]
    assert (
        "One patient each, so they say little of other patients of such scans: tcga_lung (held out)." in known
    )
    assert "end of its grid, so that a better one may exist: tv (1 times)." in known
    assert "with kernel D: +0.50 of +10.00 dB at 10 % (PSNR, redcnn; held-out patients: 2)." in known
    assert known.count("Of all groups the least is gained") == 1
    assert "anatomy chest" not in known
    assert "tcga_lung (held out) -0.030 /mm at " in known
    assert "By hand:\n\n- Few patients" in known


def test_of_many_blurred_edges_the_worst_is_told(project):
    found = edges(0.6)
    for dose, contrast, share in (("0.4", "50", 0.7), ("0.1", "50", 0.43), ("0.1", "300", None)):
        found["by_dose"][dose][contrast]["restored"]["f50_share"] = share
    write_all(denoiser=scores(ttf=found))
    known = section(page(), "Known failures")
    assert "f50 is left, at worst: denoiser (test patients) 0.43 at 10 % and 50 HU of contrast." in known


def test_a_baseline_with_the_higher_d_prime_is_a_known_failure(project):
    found = lesions()
    level = lesions()
    for of_npw, gaussian, tv in (
        (found["by_dose"]["0.25"]["npw"], 2.35, 2.2),
        (level["by_dose"]["0.25"]["npw"], 2.001, None),
    ):
        of_npw["gaussian"]["d_prime"], of_npw["tv"]["d_prime"] = gaussian, tv
    write_all(
        denoiser_without_tcga_lung=scores(detectability=found),
        denoiser_without_lidc_0314=scores(detectability=level),
    )
    told = [line for line in section(page(), "Known failures").splitlines() if "shows low-contrast" in line]
    (line,) = told
    assert line.startswith(
        "- A tuned baseline shows low-contrast lesions better, by d' alone: tcga_lung (held"
    )
    assert line.endswith("out) gaussian to NPW at 25 % (2.35 against 2.00).")


def test_groups_of_few_patients_are_said_to_be_so(project):
    values = {f"denoiser_without_{name}": scores() for name in FOLDS}
    for own in values["denoiser_without_tcga_lung"]["doses"].values():
        own["by_thickness"] = {"below 2 mm": own["by_anatomy"]["chest"] | {"patients": 1}}
    write_all(**values)
    assert "rests on few held-out patients: thickness below 2 mm (1 patient, 6 slices)." in page()


def texture_scores(gain_db, own, before):
    """Test scores of real and phantom patients with L1 distances of restored and input."""
    values = scores(gain_db=gain_db)
    for found in values["doses"].values():
        found["noise_texture"] |= {
            name: found["noise_texture"][name] | {"l1_distance": distance}
            for name, distance in (("normal_dose", 0.0), ("input", before), ("restored", own))
        }
        group = found["by_anatomy"]["chest"] | {"slices": 2}
        found["by_source"] = {"phantom_reference": group}
        for source, count, gain_db in (("covid_ny_sbu", 1, 2.0), ("tcga_lung", 3, 4.0)):
            gains = {
                name: group[name] | {"gain_db": own_db}
                for name, own_db in (("full", gain_db), ("redcnn", gain_db + 0.5))
            }
            found["by_source"][source] = group | {"patients": count, "slices": count} | gains
    return values


def test_the_texture_variant_is_told_by_its_numbers_with_real_patients_apart(project):
    texture = texture_scores(3.06, 0.24, 0.17)
    texture["doses"]["dose_0.1"] = texture_scores(2.7, 0.16, 0.30)["doses"]["dose_0.1"]
    write_all(denoiser=texture_scores(3.0, 0.35, 0.17), denoiser_texture=texture)
    table = ["dose_fraction,source,method,regions"]
    table += ["0.4,covid_ny_sbu,restored,9", "0.4,phantom_reference,restored,31", "0.1,tcga_lung,restored,5"]
    for name in ("denoiser", "denoiser_texture"):
        folder = LAYOUT.evaluation(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "texture.csv").write_text("\n".join(table))
    text = page()
    told = section(text, "Plain and texture variant")
    assert "gives up PSNR" not in text
    change = "+0.06 dB at 40 %, +0.06 dB at 25 %, -0.30 dB at 10 % (PSNR, redcnn)"
    assert f"Its gain less that of the plain variant: {change}." in told
    noise = "squares of the noise spectra"
    assert f"Test patients are 4 real (4 slices, 9 {noise}) and 2 phantoms (2 slices, 31 {noise})." in told
    assert "| denoiser (test patients) | 40 % | 4, 4 | +4.00 / +3.50 | 2, 2 | +3.00 / +3.00 |" in told
    assert "Of the 40 squares of the test patients 31 are of phantoms." in section(text, "Noise texture")
    nearer = "nearer only than the plain variant's at 40 %, 25 %; nearer than the input's and the plain "
    assert f"{nearer}variant's at 10 %." in section(text, "Noise texture")


def test_squares_of_other_scores_are_not_used():
    values = scores(doses=(0.4,))
    values["doses"]["dose_0.4"]["noise_texture"]["restored"]["regions"] = 5
    values = Scores.model_validate(values)
    lines = [
        "dose_fraction,source,method,regions",
        "0.4,one,restored,2",
        "0.4,one,input,2",
        "0.4,two,restored,3",
    ]
    assert squares_of("\n".join(lines), values) == {"one": 2, "two": 3}
    assert squares_of("\n".join(lines[:-1]), values) == {}
    assert squares_of("", None) == {}


def test_an_edge_of_unknown_width_is_no_blurred_edge(project):
    write_all(denoiser=scores(ttf=edges(None)))
    assert "Edges are blurred" not in page()


def test_scores_of_other_weights_or_settings_are_said_to_be_so(project):
    bundle = write_bundle("denoiser")
    own = scores(model_hash=bundle.model_hash)
    write_all(denoiser=own, denoiser_without_tcga_lung=scores(settings_sha256="other"))
    text = page()
    assert (
        "**not decided**. **Scores of other weights or settings**: tcga_lung. None does on the rest." in text
    )
    assert "- denoiser_without_tcga_lung as it is: the scores below are of other settings, `ldct eval" in text
    assert "denoiser as it is" not in text
    write_scores("denoiser", scores(model_hash="other", settings_sha256="other"))
    assert "- denoiser as it is: the scores below are of other weights and settings, `ldct eval" in page()


def test_good_scores_have_no_failure_but_the_smoother_noise(project):
    good = scores()
    for found in good["doses"].values():
        found["noise_texture"]["restored"] = found["noise_texture"]["input"]
    write_all(**dict.fromkeys(("denoiser", "denoiser_texture"), good))
    known = section(page(), "Known failures")
    assert "denoiser (test patients)" not in known
    assert "tcga_lung (held out) -0.030 /mm at " in known


def test_lesions_and_edges_are_told_with_intervals_and_reasons(project):
    write_all(
        denoiser=scores(detectability=lesions(), ttf=edges(0.954)),
        denoiser_texture=scores(detectability={"not_measured": "no case"}),
    )
    text = page()
    told = section(text, "Low-contrast lesions")
    assert "| 25 % | NPW | 8 | 2.00 [1.80, 2.20] | 2.00 [1.80, 2.20] | -0.40 [-0.60, -0.20] |" in told
    assert (
        "Not measured: denoiser_texture (test patients) (no case), lidc_0314 (held out) (no uniform tissue),"
        in told
    )
    assert "| denoiser (test patients) | 25 % | 50 | 1 | 0.95 | 0.98 |" in section(text, "Edges (TTF)")


def write_pairs(**changes):
    write_scores(
        "kernel_pairs", {"text": "Told.", "columns": ["pair"], "rows": [], "model_hash": "", **changes}
    )


def test_kernel_pairs_are_told_where_they_were_measured(project):
    assert "Not measured" in section(page(), "Noise of another kind: kernel pairs")
    write_pairs(text="Sharp noise is halved.", columns=["pair", "SD [HU]"], rows=[["YA", 9.51234]])
    told = section(page(), "Noise of another kind: kernel pairs")
    assert "Sharp noise is halved." in told
    assert "neurolabusc/dcm_qa_ct" in told
    assert "BSD-2-Clause" in told
    assert "| YA | 9.512 |" in told


def test_kernel_pairs_of_other_weights_are_said_to_be_so(project):
    bundle = write_bundle("denoiser")
    write_pairs(model_hash=bundle.model_hash)
    assert "other weights" not in page()
    write_pairs(model_hash="other")
    text = page()
    missing = text.partition("**Missing or out of date**")[2].partition("\n## ")[0]
    assert "- the head-phantom kernel pairs as they are: other weights, `python benchmarks/k" in missing
    assert "**Measured with other weights" in section(text, "Noise of another kind: kernel pairs")


def test_the_rmse_of_kernel_pairs_stands_in_words(project):
    columns = ["image", "SD [HU]", "RMSE against the smooth kernel [HU]"]
    rows_of = [["sharp, restored", 7.76, 20.49], ["Gaussian", 6.79, 6.27], ["smooth", 4.55, 0.0]]
    write_pairs(columns=columns, rows=rows_of)
    assert "RMSE against the smooth kernel [HU]: sharp, restored 20.49; Gaussian 6.27." in page()


def test_the_weights_are_told_by_their_hash_and_whether_they_ship(project, monkeypatch):
    ranges = {"slice_thickness_mm": [1.0, 8.0], "row_spacing_mm": [0.547, 0.977]}
    bundle = write_bundle("denoiser", fingerprint=ranges)
    other = write_bundle("denoiser_texture", score={"metric": "psnr", "value": 31.2, "convention": "redcnn"})
    monkeypatch.setattr(stage, "shipped", lambda _: LAYOUT.bundle("denoiser"))
    text = page()
    assert f"| `{bundle.model_hash}` | `{other.model_hash}` |" in text
    assert "| validation | not measured | psnr 31.20 (redcnn) |" in text
    assert "| trained at slice thickness of | 1 to 8 mm | unknown |" in text
    assert "| trained at pixels of | 0.547 to 0.977 mm | unknown |" in text
    assert "| in the package | this very model | **NOT this model**, or none |" in text
    parameters = sum(tensor.numel() for tensor in bundle.tensors.values())
    assert f"| parameters | {parameters:,} | {parameters:,} |" in text
    LAYOUT.config("denoiser").write_text(LAYOUT.config("denoiser").read_text() + "# another\n")
    (row,) = rows(section(page(), "Training, and how to make it again"), "denoiser")
    assert "**changed since**" in row


def write_gate(*, broken=(), **model_hash):
    hashes = {name: denoiser_bundle().model_hash for name in ("denoiser", "denoiser_texture")}
    verdict = {"ships": not broken, "broken": list(broken), "model_hash": hashes | model_hash}
    write_scores("texture_gate", verdict)


def test_the_card_says_whether_the_texture_variant_ships_and_by_which_rules(project):
    def told():
        text = section(page(), "Plain and texture variant")
        assert text.count("HU bias in body, soft tissue, bone, lung, fat must be at most 1 HU") == 1
        return text

    assert "has **not been judged** yet: `ldct publish --preset reference`." in told()
    write_gate()
    assert "**The texture variant ships**" in told()
    write_gate(broken=["10 % dose, detectability to CHO: lost, the plain variant's: kept"])
    text = told()
    assert "**The texture variant does NOT ship**" in text
    assert "Broken:\n\n- 10 % dose, detectability to CHO: lost, the plain variant's: kept\n" in text


def test_a_verdict_on_other_weights_is_none_on_these(project):
    save_bundle(LAYOUT.bundle("denoiser_texture"), denoiser_bundle())
    write_gate()
    assert "**The texture variant ships**" in page()
    write_gate(denoiser_texture="other")
    text = page()
    assert "was judged with **other weights** of denoiser_texture: `ldct publish --preset reference`." in text
    assert "**The texture variant ships**" not in text


def test_after_a_clone_the_card_is_about_the_weights_in_the_package(project, monkeypatch):
    save_bundle(project / "shipped.safetensors", denoiser_bundle())
    monkeypatch.setattr(stage, "shipped", lambda _: project / "shipped.safetensors")
    text = page()
    assert text.count(denoiser_bundle().model_hash) == 2
    assert "- scores of denoiser: `ldct evaluate denoiser --preset reference`" in text


def test_the_worst_slices_are_shown_small_with_the_name_of_their_owner(project):
    write_all(denoiser_without_tcga_lung=scores(gain_db=1.0))
    folder = LAYOUT.evaluation("denoiser_without_tcga_lung")
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (600, 1800), np.uint8)
    Image.fromarray(noise).save(folder / "worst_dose_0.25.png")
    stale = stage.PICTURES / "worst_dose_0.6.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    text = page()
    assert (
        "![The slices of tcga_lung with the lowest gain at 25 % dose. Window from -160 to 240 HU, of " in text
    )
    assert "the difference from -30 to 30 HU. CT: Albertina B et al." in text
    assert "(CC BY 3.0)](model_card/pictures/worst_dose_0.25.png)" in text
    assert not stale.exists()
    with Image.open(stage.PICTURES / "worst_dose_0.25.png") as shown:
        assert shown.size == (900, 300)


def test_a_picture_keeps_its_greys_and_its_colours():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :, :] = np.linspace(0, 252, 64).astype(np.uint8)[:, None]
    picture[:8] = (200, 30, 30)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    with Image.open(io.BytesIO(small_png(stream.getvalue()))) as shown:
        found = np.asarray(shown.convert("RGB"), int)
    assert np.abs(found - picture).max() <= 4


def as_png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_dark_blue_stays_blue_beside_many_greys():
    picture = np.repeat(np.random.default_rng(0).integers(0, 256, (200, 200, 1), np.uint8), 3, axis=2)
    picture[:4, :4] = (5, 48, 97)
    picture[:4, 4:8] = (103, 0, 31)
    with Image.open(io.BytesIO(small_png(as_png(picture)))) as shown:
        found = np.asarray(shown.convert("RGB"), int)
    assert np.abs(found - picture).max() <= 4


def test_first_rows_of_pictures_lie_below_each_other():
    one, other = np.zeros((6, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    one[:2], other[:2] = 100, 200
    with Image.open(io.BytesIO(first_rows([(as_png(one), 3), (as_png(other), 2)]))) as sheet:
        assert np.asarray(sheet)[:, 0, 0].tolist() == [100, 100, 200, 200]


def test_the_worst_slices_of_the_other_sources_are_drawn_in_one_picture(project):
    write_all(denoiser_without_tcga_lung=scores(gain_db=1.0))
    for source, level in (("lidc_0314", 50), ("covid_ny_sbu", 150), ("tcga_lung", 250)):
        folder = LAYOUT.evaluation(f"denoiser_without_{source}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "worst_dose_0.4.png").write_bytes(as_png(np.full((30, 20, 3), level, np.uint8)))
    text = page()
    assert "of each other source, in this order: lidc_0314, covid_ny_sbu. Window" in text
    with Image.open(stage.PICTURES / "others_dose_0.4.png") as sheet:
        found = np.asarray(sheet.convert("L"), int)
    assert found.shape == (20, 20)
    assert np.abs(found[[0, 9, 10, 19], 0] - [50, 50, 150, 150]).max() <= 2


def test_a_preset_without_a_denoiser_and_damaged_scores_are_one_line(project):
    with pytest.raises(ConfigError, match=r"configs/demo/denoiser.yaml: no such file; .* --preset reference"):
        stage.run("demo")
    LAYOUT.metrics("denoiser").parent.mkdir(parents=True)
    LAYOUT.metrics("denoiser").write_text("{")
    with pytest.raises(DataError, match=r"metrics/reference/denoiser.json: damaged"):
        stage.run("reference")


def card_files():
    return {path: path.read_bytes() for path in (stage.PAGE, *stage.PICTURES.iterdir())}


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        (
            LAYOUT.evaluation("denoiser_texture"),
            r"evaluation/reference/denoiser_texture: no such folder, .* docs/model_card.md and its pictures "
            r"stay: ldct evaluate denoiser_texture --preset reference, or dvc repro pipeline/w",
        ),
        (
            LAYOUT.cases,
            r"cases/index.csv: no such file, .* stay: ldct ingest --preset reference, or dvc",
        ),
    ],
)
def test_after_a_clone_the_card_that_is_there_stays(project, gone, says):
    write_all()
    page()
    before = card_files()
    shutil.rmtree(gone)
    with pytest.raises(ConfigError, match=says):
        stage.run("reference")
    assert card_files() == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (LAYOUT.evaluation("denoiser") / "worst.csv", "dose_fraction,gain_db\n0.4,1.0\n"),
        (LAYOUT.evaluation("denoiser") / "texture.csv", "dose_fraction,method\n0.4,restored\n"),
    ],
)
def test_a_damaged_table_is_named_and_the_card_that_is_there_stays(project, path, text):
    write_all()
    page()
    before = card_files()
    path.write_text(text)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: damaged \(.*run its stage again$"):
        stage.run("reference")
    assert card_files() == before


WHOLE = scores(detectability=lesions(), ttf=edges(0.95))
AT_A_DOSE = ("doses", "dose_0.4")
GATE = {"ships": True, "broken": [], "model_hash": {}}
PAIRS = {"text": "Told.", "columns": ["image", "SD"], "rows": [["YA", 9.5]], "model_hash": ""}


@pytest.mark.parametrize(
    ("keys", "value", "fault"),
    [
        (("slices",), ..., "slices: missing"),
        (("slices",), "6", "slices: input should be a valid integer"),
        (("doses",), {}, "doses: dictionary should have at least 1 item"),
        (("doses",), None, "doses: input should be a valid dictionary"),
        (AT_A_DOSE, ..., "doses.dose_0.4: missing"),
        (("doses", "dose_low"), {}, "doses.dose_low: "),
        ((*AT_A_DOSE, "by_scan"), ..., "doses.dose_0.4.by_scan: missing"),
        (
            (*AT_A_DOSE, "by_scan", "assumed"),
            WHOLE["doses"]["dose_0.4"]["by_kernel"]["B40f"],
            "by_scan: 12 sl",
        ),
        ((*AT_A_DOSE, "slices_below_input"), ..., "doses.dose_0.4.slices_below_input: missing"),
        ((*AT_A_DOSE, "slices_below_input"), 3, "below_input.dose_0.4: 0 listed, doses.dose_0.4 counts 3"),
        ((*AT_A_DOSE, "by_anatomy", "chest", "patients"), None, "doses.dose_0.4.by_anatomy.chest.patients: "),
        ((*AT_A_DOSE, "by_anatomy", "chest", "full"), ..., "doses.dose_0.4.by_anatomy.chest.full: missing"),
        ((*AT_A_DOSE, "against_normal_dose", "redcnn", "tv"), ..., "against_normal_dose.redcnn.tv: missing"),
        (
            (*AT_A_DOSE, "gain_ceiling_db"),
            float("nan"),
            "doses.dose_0.4.gain_ceiling_db: input should be a finite",
        ),
        (("below_input",), [], "below_input: input should be a valid dictionary"),
        (("detectability",), ..., "detectability: missing"),
        (
            ("detectability", "by_dose", "0.25", "npw", "restored", "verdict"),
            "worse",
            "npw.restored.verdict: ",
        ),
        (("ttf", "by_dose", "0.1", "50"), ..., "ttf.by_dose.0.1.50: missing"),
        (("ttf", "disc"), 8.0, "ttf.disc: "),
    ],
)
def test_damage_at_any_depth_is_one_line_and_the_card_that_is_there_stays(
    project, capsys, keys, value, fault
):
    write_all(denoiser_without_tcga_lung=damaged(WHOLE, keys, value))
    before = stage.PAGE.read_bytes()
    with pytest.raises(SystemExit) as ended:
        cli.main(["card", "--preset", "reference"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert f"{LAYOUT.metrics('denoiser_without_tcga_lung')}: damaged (" in line
    assert fault in line
    assert line.endswith("); run ldct evaluate denoiser_without_tcga_lung --preset reference again")
    assert stage.PAGE.read_bytes() == before
    assert not stage.PICTURES.exists()


@pytest.mark.parametrize(
    ("name", "content", "again"),
    [
        ("denoiser", None, "ldct evaluate denoiser --preset reference"),
        ("texture_gate", None, "ldct publish --preset reference"),
        ("texture_gate", damaged(GATE, ["ships"], ...), "ldct publish --preset reference"),
        ("texture_gate", GATE | {"ships": False}, "ldct publish --preset reference"),
        ("texture_gate", GATE | {"broken": "none"}, "ldct publish --preset reference"),
        ("kernel_pairs", None, "python benchmarks/kernel_pairs.py"),
        ("kernel_pairs", [], "python benchmarks/kernel_pairs.py"),
        ("kernel_pairs", damaged(PAIRS, ["text"], ...), "python benchmarks/kernel_pairs.py"),
        ("kernel_pairs", PAIRS | {"rows": [["YA"]]}, "python benchmarks/kernel_pairs.py"),
    ],
)
def test_a_damaged_verdict_or_table_of_pairs_is_named_with_what_makes_it(project, name, content, again):
    write_all()
    before = stage.PAGE.read_bytes()
    LAYOUT.metrics(name).write_text(json.dumps(content))
    path = re.escape(str(LAYOUT.metrics(name)))
    with pytest.raises(DataError, match=rf"^{path}: damaged \(.*\); run {re.escape(again)} again$"):
        stage.run("reference")
    assert stage.PAGE.read_bytes() == before


def paths_of(values, before=()):
    for key, own in values.items():
        yield (*before, key)
        if isinstance(own, dict):
            yield from paths_of(own, (*before, key))


def test_scores_that_lack_any_key_are_refused_by_its_name(project):
    """But for names that nothing else knows."""
    settings = load_settings(LAYOUT.config("evaluate"), EvaluateSettings)
    refused = {}
    for keys in paths_of(WHOLE):
        write_scores("denoiser", damaged(WHOLE, keys, ...))
        try:
            read_scores(LAYOUT, "denoiser", settings)
        except DataError as one:
            refused[keys] = str(one)
    assert [keys for keys, line in refused.items() if not any(key in line for key in keys[-2:])] == []
    assert {line.partition("); ")[2] for line in refused.values()} == {
        "run ldct evaluate denoiser --preset reference again"
    }
    accepted = {keys[-1] for keys in paths_of(WHOLE) if keys not in refused}
    assert accepted == {"normal_dose", "one"}


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "metrics" / "reference").glob("denoiser*.json")), ids=lambda path: path.stem
)
def test_the_scores_in_git_are_whole(path, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    settings = load_settings(LAYOUT.config("evaluate"), EvaluateSettings)
    found = read_scores(LAYOUT, path.stem, settings)
    assert list(found.by_dose) == sorted(found.by_dose, reverse=True)


def test_scores_of_older_settings_may_lack_what_these_ask_for(project):
    write_all(denoiser=scores(doses=(0.25,), settings_sha256="other"))
    older = damaged(damaged(scores(settings_sha256="other"), ["detectability"], ...), ["ttf"], ...)
    write_scores("denoiser_texture", older)
    text = page()
    assert "- denoiser_texture as it is: the scores below are of other settings" in text
    assert "Not measured: denoiser (test patients) (no uniform tissue), denoiser_texture (test pat" in text


def test_numbers_that_an_evaluation_could_not_measure_are_told_so(project):
    """Equal images have an infinite PSNR, regions without noise no spectrum."""
    own = scores()
    for at_dose in own["doses"].values():
        at_dose["noise_texture"]["restored"]["l1_distance"] = None
        at_dose["by_kernel"]["B40f"]["full"]["gain_db"] = None
        at_dose["against_normal_dose"]["full"]["restored"] |= {"psnr_db": None, "gain_db": None}
    write_all(denoiser_without_tcga_lung=own)
    text = page()
    assert "| B40f |" in section(text, "Scores on sources that were held out")
    assert "+3.00 / not measured" in section(text, "Scores on sources that were held out")


def test_a_page_that_cannot_be_rendered_leaves_the_one_that_is_there(project, monkeypatch):
    write_all()
    page()
    before = card_files()
    monkeypatch.setattr(stage, "render", lambda _: {}["missing"])
    with pytest.raises(KeyError):
        stage.run("reference")
    assert card_files() == before


def test_the_summary_for_the_registry_has_no_link(project):
    assert "](" not in summary(stage._card(LAYOUT))


def test_a_source_of_unknown_origin_is_refused(project):
    text = stage.ORIGINS.read_text()
    stage.ORIGINS.write_text(text.replace("  tcga_lung:", "  tcga:"))
    with pytest.raises(ConfigError, match=r"sources.yaml: says nothing of tcga_lung; add where it is from"):
        stage.run("reference")


def test_the_command_takes_the_preset(project, monkeypatch):
    seen = []
    monkeypatch.setattr(stage, "run", seen.append)
    with pytest.raises(SystemExit) as ended:
        cli.main(["card", "--preset", "reference"])
    assert (ended.value.code, seen) == (0, ["reference"])


@pytest.mark.slow
def test_the_registered_model_carries_the_summary_and_leads_to_the_card(project, monkeypatch):
    monkeypatch.delenv("LDCT_TRACKING")
    monkeypatch.setenv("DVC_ROOT", str(project))
    write_all()
    bundle = write_bundle("denoiser")
    settings = {
        "experiment": "ldct",
        "stage": "train",
        "config": LAYOUT.config("denoiser"),
        "data_digest": "",
    }
    with tracking.start_run(name="reference-denoiser", **settings) as run:
        version = tracking.register_bundle(
            run,
            LAYOUT.bundle("denoiser"),
            kind="denoiser",
            model_hash=bundle.model_hash,
            score=30.0,
            higher_is_better=True,
            convention="psnr/redcnn",
            data_digest="",
            phantoms_alone=False,
        )
    stage.run("reference")
    from pipeline.tracking.store import connect

    registered = connect().get_model_version("ldct-denoiser", version)
    described = registered.description
    assert "no slice of any held-out source falls below its input" in described
    assert len(described) < 5000
    assert registered.tags["card.uri"] == f"runs:/{run.run_id}/card/model_card.md"
    assert registered.tags["card.sha256"] == file_sha256(stage.PAGE)
    kept = project / ".ldct" / "mlartifacts" / run.run_id / "artifacts" / "card"
    assert file_sha256(kept / stage.PAGE.name) == file_sha256(stage.PAGE)
    assert sorted(path.name for path in stage.PICTURES.iterdir()) == ["gain.png"]
    assert (kept / stage.GAIN.relative_to(stage.PAGE.parent)).read_bytes() == stage.GAIN.read_bytes()

"""The model card: what was measured stands on it, what was not is said to be so."""

from __future__ import annotations

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
from pipeline.config.layout import Layout
from pipeline.errors import ConfigError, DataError
from pipeline.manifest import file_sha256
from pipeline.report.card import small_png
from pipeline.report.card.groups import groups
from pipeline.stages import card as stage
from tests.conftest import CHECKOUT
from tests.tiny_bundles import denoiser_bundle

LAYOUT = Layout("reference")
FOLDS = ("lidc_0314", "lung_pet_ct_dx", "tcga_lung", "covid_ny_sbu", "totalsegmentator")
CONVENTIONS = ("redcnn", "full")


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


def scores(*, gain_db=3.0, tv_gain_db=2.0, below=0, bias_hu=0.4, patients=2, kernel="B40f", **more):
    """What `evaluate` writes of two patients with three slices each, at three doses."""
    doses = {}
    for dose, ceiling_db in ((0.4, 3.9794), (0.25, 6.0206), (0.1, 10.0)):
        gained = {"restored": gain_db, "gaussian": 1.0, "nlm": 1.5, "tv": tv_gain_db}
        rows = {"input": {"psnr_db": 30.0, "ssim": 0.8, "rmse_hu": 20.0}}
        rows |= {
            name: {"psnr_db": 30 + own, "ssim": 0.9, "rmse_hu": 12.0, "gain_db": own}
            for name, own in gained.items()
        }
        rows["restored"] |= {"gain_95_low_db": gain_db - 0.5, "gain_95_high_db": gain_db + 0.5}
        group = {"patients": patients, "slices": 3 * patients}
        group |= {
            name: {"input_psnr_db": 30.0, "restored_psnr_db": 30 + gain_db, "gain_db": gain_db}
            for name in CONVENTIONS
        }
        nps = {"regions": 40, "noise_sd_hu": 9.0, "peak_per_mm": 0.25, "peak_shift_per_mm": -0.01}
        nps |= {"mean_per_mm": 0.31, "mean_shift_per_mm": -0.03, "l1_distance": 0.12}
        doses[f"dose_{dose:g}"] = {
            "gain_ceiling_db": ceiling_db,
            "clean_output_gain_db": ceiling_db - 1,
            "baselines": {"gaussian": 0.7, "nlm": 20, "tv": 40},
            "baselines_at_grid_end": {},
            "slices_below_input": below,
            "worst_gain_db": gain_db - 1,
            "against_normal_dose": dict.fromkeys(CONVENTIONS, rows),
            "bias_against_normal_dose_hu": {
                "body": {"normal_dose": 0.0, "input": 0.1, "restored": bias_hu, "tv": 0.2}
            },
            "worst_patient_bias_against_normal_dose_hu": {
                "body": {"normal_dose": 0.0, "input": 0.1, "restored": 2 * bias_hu, "tv": 0.2}
            },
            "noise_texture": {
                "normal_dose": nps | {"mean_shift_per_mm": 0.0},
                "input": nps | {"mean_shift_per_mm": 0.0},
                "restored": nps,
            },
            "by_anatomy": {"chest": group},
            "by_kernel": {kernel: group},
        }
    listed = {f"case/{index}": -0.1 * (index + 1) for index in range(below)}
    return {
        "model_hash": denoiser_bundle().model_hash,
        "settings_sha256": file_sha256(CHECKOUT / "configs" / "reference" / "evaluate.yaml"),
        "verdict": "",
        "patients": patients,
        "slices": 3 * patients,
        "conventions": {},
        "doses": doses,
        "below_input": {"dose_0.1": listed} if below else {},
        "cases_left_out": {},
        **more,
    }


def lesions(verdict="kept"):
    method = {"d_prime": 2.0, "d_prime_95_low": 1.8, "d_prime_95_high": 2.2, "auc": 0.92}
    change = {"change": -0.4, "change_95_low": -0.6, "change_95_high": -0.2, "verdict": verdict}
    return {
        "lesion": {"contrast_hu": 10, "diameter_mm": 6, "blurred_by": "the scan's kernel"},
        "observers": {"npw": "matched filter"},
        "realisations": 100,
        "places": 8,
        "verdict": {"0.25": {"npw": verdict}},
        "by_dose": {"0.25": {"npw": {"input": method, "restored": method | change}}},
        "by_case": {},
        "left_out": {},
    }


def edges(f50_share):
    methods = {"restored": {"f50_share": f50_share, "contrast_share": 0.98}}
    return {
        "disc": {"radius_mm": 8.0, "background_hu": 40.0, "blurred_by": "the scan's kernel"},
        "realisations": 20,
        "by_dose": {"0.25": {"50": methods}},
        "by_case": {"one": {}},
        "left_out": {},
    }


def write_scores(name, values):
    path = LAYOUT.metrics(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


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
    partial = scores()
    del partial["doses"]["dose_0.4"]
    write_all(denoiser_without_tcga_lung=partial)
    assert "**not decided**. Not measured, or not at all these doses, on tcga_lung." in page()


def test_slices_below_their_input_above_the_promised_dose_break_no_promise(project):
    high = scores()
    high["doses"] = {"dose_0.6": high["doses"]["dose_0.4"] | {"slices_below_input": 6}} | high["doses"]
    write_all(denoiser_without_tcga_lung=high)
    text = page()
    assert "**met** at 40 %, 25 %, 10 %" in text
    assert "tcga_lung (held out): slices worse than their input (PSNR, full): 6 of 6 at 60 %." in text


def test_scores_stand_beside_their_ceiling_and_the_tuned_baselines(project):
    write_all(denoiser_without_tcga_lung=scores(gain_db=5.25))
    text = section(page(), "Scores on sources that were held out")
    row = "| tcga_lung | 25 % | 2, 6 | 30.00 | 35.25 | +5.25 [+4.75, +5.75] | 6.02 | 5.02 |"
    assert f"{row} 0.8000 → 0.9000 | 20.0 → 12.0 |" in text
    assert "| tcga_lung | 25 % | +5.25 | +1.00 | +1.50 | +2.00 | not measured | network |" in text


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
    failing = scores(tv_gain_db=3.5, bias_hu=-7.25, patients=1, detectability=lesions("lost"), ttf=edges(0.6))
    failing["doses"]["dose_0.1"]["baselines_at_grid_end"] = {"tv": 160}
    failing["cases_left_out"] = {"tcga-0001": "its own noise cannot be read"}
    write_all(denoiser_without_tcga_lung=failing, denoiser_without_lidc_0314=scores(kernel="D", gain_db=0.5))
    known = section(page(), "Known failures")
    assert (
        "tcga_lung (held out): no better than tv at 40 % (redcnn, full), tv at 25 % (redcnn, full), " in known
    )
    assert "CT numbers move, in the worst patient by -14.50 HU in body at 40 %." in known
    assert (
        "tcga_lung (held out) at 25 %: low-contrast lesions are harder to see than before, to NPW." in known
    )
    assert "edges blurred, f50 of contrasts of 50 HU to 0.60 of the input's." in known
    assert "no low dose could be made: tcga-0001." in known
    assert "tcga_lung (held out): one patient" in known
    assert "end of its grid, so that a better one may exist: tv (1 times)." in known
    assert "Least is gained, by kernel, with D: +0.50 dB" in known
    assert "over the same anatomy: mean frequency -0.030 /mm" in known
    assert "By hand:\n\n- Few patients" in known


def test_an_edge_of_unknown_width_is_no_blurred_edge(project):
    write_all(denoiser=scores(ttf=edges(None)))
    assert "edges blurred" not in page()


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
    assert "tcga_lung (held out): the noise that is left" in known


def test_lesions_and_edges_are_told_with_intervals_and_reasons(project):
    write_all(
        denoiser=scores(detectability=lesions(), ttf=edges(0.954)),
        denoiser_texture=scores(detectability={"not_measured": "no uniform tissue"}),
    )
    text = page()
    told = section(text, "Low-contrast lesions")
    assert "| 25 % | NPW | 8 | 2.00 [1.80, 2.20] | 2.00 [1.80, 2.20] | -0.40 [-0.60, -0.20] |" in told
    assert "Not measured: denoiser_texture (test patients) (no uniform tissue), lidc_0314 (held out)," in told
    assert "| denoiser (test patients) | 25 % | 50 | 1 | 0.95 | 0.98 |" in section(text, "Edges (TTF)")


def test_kernel_pairs_are_told_where_they_were_measured(project):
    assert "Not measured" in section(page(), "Noise of another kind: kernel pairs")
    pairs = {"text": "Sharp noise is halved.", "columns": ["pair", "SD [HU]"], "rows": [["YA", 9.51234]]}
    write_scores("kernel_pairs", pairs)
    told = section(page(), "Noise of another kind: kernel pairs")
    assert "Sharp noise is halved." in told
    assert "| YA | 9.512 |" in told


def test_the_weights_are_told_by_their_hash_and_whether_they_ship(project, monkeypatch):
    bundle = write_bundle("denoiser")
    other = write_bundle("denoiser_texture", score={"metric": "psnr", "value": 31.2, "convention": "redcnn"})
    monkeypatch.setattr(stage, "shipped", lambda _: LAYOUT.bundle("denoiser"))
    text = page()
    assert f"| `{bundle.model_hash}` | `{other.model_hash}` |" in text
    assert "| validation | not measured | psnr 31.20 (redcnn) |" in text
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
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (600, 1800), np.uint8)
    Image.fromarray(noise).save(folder / "worst_dose_0.25.png")
    stale = stage.PICTURES / "worst_dose_0.6.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    text = page()
    assert "![The slices of tcga_lung with the lowest gain at 25 % dose. CT: Albertina B et al." in text
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


def test_a_preset_without_a_denoiser_and_damaged_scores_are_one_line(project):
    with pytest.raises(ConfigError, match=r"configs/demo/denoiser.yaml: no such file; .* --preset reference"):
        stage.run("demo")
    LAYOUT.metrics("denoiser").parent.mkdir(parents=True)
    LAYOUT.metrics("denoiser").write_text("{")
    with pytest.raises(DataError, match=r"metrics/reference/denoiser.json: damaged"):
        stage.run("reference")


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
def test_the_registered_model_carries_the_summary(project, monkeypatch):
    monkeypatch.delenv("LDCT_TRACKING")
    monkeypatch.setenv("DVC_ROOT", str(project))
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
        )
    stage.run("reference")
    from pipeline.tracking.store import connect

    described = connect().get_model_version("ldct-denoiser", version).description
    assert "no slice of any held-out source falls below its input" in described
    assert len(described) < 5000

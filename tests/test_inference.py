"""Trained networks on folders of DICOM: what is written, kept, refused, and survived."""

import errno
import json
import stat
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pydicom
import pytest
import torch

from pipeline.dicom import DerivedSeriesWriter, Verdict, discover, read_series
from pipeline.errors import DataError
from pipeline.hu import AIR_HU
from pipeline.inference.folder import run_folder
from pipeline.inference.outcomes import Outcome, exit_code, plan_series
from pipeline.inference.output import staging
from pipeline.inference.output.locks import series_lock, target_lock
from pipeline.inference.output.pseudonyms import Pseudonyms, load_secret
from pipeline.inference.restoration.networks import Network, denoise, segment
from pipeline.inference.restoration.treatment import Restoration
from pipeline.inference.treatment import UnfitSeriesError
from pipeline.metrics.noise import global_noise_sd_hu
from tests.batch_cases import (
    PSEUDONYMS,
    Add,
    Threshold,
    bundle_of,
    network_of,
    restoration,
    run,
    the_series,
    tree,
)
from tests.predict_cases import NOW, PATIENT, Silent, write_source


def test_strength_blends_the_correction():
    hu = np.random.default_rng(0).normal(0, 50, (3, 24, 24)).astype(np.float32)
    padding = np.zeros(hu.shape, bool)
    network = network_of(Add(0.1))
    assert np.allclose(denoise(network, hu, padding, strength=0.3), hu + 30, atol=1e-3)
    assert np.array_equal(denoise(network, hu, padding, strength=0.0), hu)


def test_padding_is_air_for_the_network_and_unchanged_in_the_result():
    hu = np.full((1, 24, 24), 50, np.float32)
    padding = np.zeros(hu.shape, bool)
    padding[0, :4] = True
    hu[padding] = -2000
    seen = []
    network = network_of(Add(0.1))
    network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    denoised = denoise(network, hu, padding)
    assert (denoised[padding] == -2000).all()
    assert (seen[0][0, 0, :4] == -1).all()


def test_an_untrained_redcnn_returns_its_input_within_rounding():
    hu = np.linspace(-1000, 3000, 2 * 24 * 24, dtype=np.float32).reshape(2, 24, 24)
    network = Network.load(
        bundle_of("denoiser"), device=torch.device("cpu"), precision="bf16", batch_slices=1
    )
    assert np.abs(denoise(network, hu, np.zeros(hu.shape, bool)) - hu).max() < 1e-3


def test_a_denoiser_that_diverges_refuses_the_series():
    hu = np.zeros((1, 24, 24), np.float32)
    with pytest.raises(UnfitSeriesError, match="not finite"):
        denoise(network_of(Add(float("nan"))), hu, np.zeros(hu.shape, bool))


@pytest.mark.parametrize("kind", ["denoiser", "segmenter"])
def test_fp32_is_never_tf32(monkeypatch, kind):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    hu, allowed = np.zeros((1, 24, 24), np.float32), []
    network = network_of(Add(0) if kind == "denoiser" else Threshold(), kind)
    network.module.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    apply, options = (denoise, {}) if kind == "denoiser" else (segment, {"spacing_mm": (1, 1)})
    apply(network, hu, np.zeros(hu.shape, bool), **options)
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32


def test_segment_takes_the_likeliest_class_and_leaves_padding_out():
    hu = np.array([[[-900, 100, 800, 800]]], np.float32)
    padding = np.array([[[False, False, False, True]]])
    label_map = segment(network_of(Threshold(), "segmenter"), hu, padding, spacing_mm=(1, 1))
    assert label_map.tolist() == [[[0, 1, 2, 0]]]


def test_global_noise_is_the_sd_of_the_noise_in_uniform_tissue():
    hu = 40 + np.random.default_rng(0).normal(0, 12, (4, 96, 96))
    assert global_noise_sd_hu(hu, hu) == pytest.approx(12, rel=0.04)
    assert global_noise_sd_hu(hu, hu / 4) == pytest.approx(3, rel=0.05)
    air = np.full((1, 96, 96), AIR_HU)
    assert global_noise_sd_hu(air, air) is None


def test_pseudonyms_depend_on_the_secret_and_repeat():
    assert PSEUDONYMS.name("series", "1.2.3") == Pseudonyms(b"0" * 32).name("series", "1.2.3")
    assert PSEUDONYMS.name("series", "1.2.3") != Pseudonyms(b"1" * 32).name("series", "1.2.3")
    assert "0000" not in repr(PSEUDONYMS)


@pytest.mark.parametrize("keyword", ["patient_key", "study_uid", "series_uid", "part"])
def test_series_that_share_a_uid_have_names_of_their_own(tmp_path, keyword):
    write_source(tmp_path)
    (entry,) = discover(tmp_path).series
    other = replace(entry, **{keyword: 1 if keyword == "part" else "other"})
    names = {plan_series(one, restoration(), PSEUDONYMS).planned.series for one in (entry, other)}
    assert len(names) == 2


def test_a_lock_is_a_flock_or_an_error(tmp_path, monkeypatch):
    """A soft lock is held for as long as its file is there."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".locks").mkdir()
    for lock in (target_lock(tmp_path), series_lock(tmp_path, "series-1")):
        with pytest.raises(DataError, match="its file system has no locks") as refused, lock:
            pass
        assert "\n" not in str(refused.value)


def test_the_secret_is_made_once_and_private(tmp_path):
    path = tmp_path / ".ldct" / "secret"
    assert load_secret(path) == load_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="5 bytes are no pseudonym secret"):
        load_secret(path)


def test_a_folder_becomes_a_derived_series_a_segmentation_and_a_record(tmp_path):
    write_source(tmp_path / "in")
    observer = Silent()
    (outcome,) = run(tmp_path / "in", tmp_path / "out", observer=observer)
    series = the_series(tmp_path / "out")
    assert (outcome.verdict, outcome.reason_codes, observer.total, observer.seen) == ("done", (), 6, 6)
    assert sorted(path.name for path in series.iterdir()) == [
        "body.dcm",
        "denoised",
        "preview.png",
        "segmentation.dcm",
        "series.json",
    ]
    before = read_series(discover(tmp_path / "in").series[0])
    after = read_series(discover(series / "denoised").series[0])
    assert np.array_equal(after.hu, before.hu + 20)
    record = json.loads((series / "series.json").read_text())
    voxel_ml = 2.0 * 0.8 * 0.7 / 1000
    assert record["volumes_ml"]["bone"] == pytest.approx(3 * 4 * 4 * voxel_ml, abs=0.01)
    assert record["volumes_ml"]["body"] == pytest.approx(3 * 16 * 24 * voxel_ml, abs=0.01)
    assert {output["path"] for output in record["outputs"]} == set(tree(series)) - {"series.json"}
    assert not (tmp_path / "out" / ".staging").exists()


def test_strength_zero_writes_the_source_pixels_bit_for_bit(tmp_path):
    sources = write_source(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", restoration(strength=0.0))
    written = sorted((the_series(tmp_path / "out") / "denoised").iterdir())
    for source, result in zip(sources, written, strict=True):
        assert pydicom.dcmread(source).PixelData == pydicom.dcmread(result).PixelData


def test_nothing_outside_the_dicom_files_names_the_patient(tmp_path):
    write_source(tmp_path / PATIENT)
    (tmp_path / PATIENT / f"{PATIENT}.txt").write_text("notes")
    run(tmp_path / PATIENT, tmp_path / "out")
    for name, path in tree(tmp_path / "out").items():
        assert "DOE" not in name
        if path.suffix != ".dcm":
            assert b"DOE" not in path.read_bytes()
            assert b"1.2.3" not in path.read_bytes()


def test_a_rerun_keeps_what_is_finished_and_repairs_what_is_not(tmp_path):
    write_source(tmp_path / "in" / "a", "a")
    write_source(tmp_path / "in" / "b", "b")
    run(tmp_path / "in", tmp_path / "out")
    first = {name: path.read_bytes() for name, path in tree(tmp_path / "out").items()}
    lost = sorted(name for name in first if name.endswith("0002.dcm"))[0]
    (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / "journal.jsonl").unlink()
    outcomes = run(tmp_path / "in", tmp_path / "out", now=datetime(2030, 1, 1, tzinfo=UTC))
    assert sorted(outcome.reused for outcome in outcomes) == [False, True]
    again = {name: path.read_bytes() for name, path in tree(tmp_path / "out").items()}
    assert set(again) == set(first)
    assert [name for name in first if name.endswith(".dcm") and first[name] != again[name]] == []


@pytest.mark.parametrize("change", ["touched source", "other strength"])
def test_a_changed_input_or_recipe_is_processed_again(tmp_path, change):
    files = write_source(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    if change == "touched source":
        files[0].write_bytes(files[0].read_bytes())
        (outcome,) = run(tmp_path / "in", tmp_path / "out")
    else:
        (outcome,) = run(tmp_path / "in", tmp_path / "out", restoration(strength=0.5))
    assert not outcome.reused


def test_a_slice_that_is_missing_leaves_denoising_and_forbids_segmentation(tmp_path):
    files = write_source(tmp_path / "in", slices=5)
    files[1].unlink()
    (outcome,) = run(tmp_path / "in", tmp_path / "out")
    series = the_series(tmp_path / "out")
    assert (outcome.verdict, outcome.reason_codes) == (Verdict.SLICEWISE, ("MISSING_SLICE",))
    assert len(tree(series / "denoised")) == 4
    assert not (series / "segmentation.dcm").exists()


def test_without_a_denoiser_an_irregular_series_is_refused(tmp_path):
    files = write_source(tmp_path / "in", slices=5)
    files[1].unlink()
    only_segmenter = Restoration(denoiser=None, segmenter=network_of(Threshold(), "segmenter"))
    (outcome,) = run(tmp_path / "in", tmp_path / "out", only_segmenter)
    assert (outcome.verdict, exit_code([outcome])) == (Verdict.REFUSED, 1)


def test_a_series_without_any_organ_is_denoised_and_says_so(tmp_path):
    write_source(tmp_path / "in")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", restoration(units=-3.0))
    assert (outcome.verdict, outcome.reason_codes) == (Verdict.DONE, ("NOTHING_SEGMENTED",))


def test_one_failing_series_never_stops_the_batch(tmp_path, monkeypatch):
    write_source(tmp_path / "in" / "a", "a")
    write_source(tmp_path / "in" / "b", "b")
    treat = Restoration.treat

    def fail_once(self, entry, folder, **options):
        if entry.series_uid.endswith(str(ord("a"))):
            (folder / "half").write_text("written")
            raise OSError(28, "No space left on device", f"/data/{PATIENT}")
        assert not list(folder.parent.rglob("half")), "the leftovers still fill the disk"
        return treat(self, entry, folder, **options)

    monkeypatch.setattr(Restoration, "treat", fail_once)
    outcomes = run(tmp_path / "in", tmp_path / "out")
    assert sorted(outcome.verdict for outcome in outcomes) == ["done", "failed"]
    failed = next(outcome for outcome in outcomes if outcome.verdict == "failed")
    assert failed.message == "no space left for the results; free some and run again"
    assert exit_code(outcomes) == 3
    _, *lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason_codes"] for line in lines] == [[], ["DISK_FULL"]]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["verdicts"] == {"done": 1, "failed": 1}


def test_a_file_that_vanishes_during_the_run_is_named_by_its_name(tmp_path):
    gone = write_source(tmp_path / "in" / "a", "a")[1]
    write_source(tmp_path / "in" / "b", "b")

    class Remover(Silent):
        def planned(self, slices, series):
            super().planned(slices, series)
            gone.unlink()

    outcomes = run(tmp_path / "in", tmp_path / "out", observer=Remover())
    failed = next(outcome for outcome in outcomes if outcome.verdict == "failed")
    assert failed.reason_codes == ("SOURCE_VANISHED",)
    assert failed.message == f"{gone.name}: gone since the run began; bring it back, run again"
    assert [outcome.verdict for outcome in outcomes].count("done") == 1


def test_a_truncated_file_fails_its_series_alone(tmp_path):
    broken = write_source(tmp_path / "in" / "a", "a")[1]
    broken.write_bytes(broken.read_bytes()[:-500])
    write_source(tmp_path / "in" / "b", "b")
    outcomes = run(tmp_path / "in", tmp_path / "out")
    assert sorted((outcome.verdict, *outcome.reason_codes) for outcome in outcomes) == [
        ("done",),
        ("failed", "CORRUPT_PIXEL_DATA"),
    ]


def test_what_a_killed_run_left_behind_is_not_taken_for_done(tmp_path):
    write_source(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    series = the_series(tmp_path / "out")
    staged = tmp_path / "out" / ".staging" / series.name
    staged.parent.mkdir()
    series.rename(staged)
    (outcome,) = run(tmp_path / "in", tmp_path / "out")
    assert not outcome.reused
    assert the_series(tmp_path / "out") == series
    assert not staged.exists()


def test_a_written_series_that_reads_back_differently_is_dropped(tmp_path, monkeypatch):
    write_source(tmp_path / "in")
    write = DerivedSeriesWriter.write

    def flip_a_bit(self, index, source, hu):
        written = write(self, index, source, hu)
        if index == 1:
            content = bytearray(written.read_bytes())
            content[-100] ^= 1
            written.write_bytes(content)
        return written

    monkeypatch.setattr(DerivedSeriesWriter, "write", flip_a_bit)
    (outcome,) = run(tmp_path / "in", tmp_path / "out")
    assert outcome.verdict == Verdict.FAILED
    assert outcome.message.startswith("slice 2 of 3 reads back differently")
    assert set(tree(tmp_path / "out")) == {
        ".ldct.json",
        ".lock",
        f".locks/{outcome.series}.lock",
        "journal.html",
        "journal.jsonl",
        "summary.json",
    }


@pytest.mark.parametrize(
    ("source", "target", "complaint"),
    [
        ("absent", "out", "absent: no such folder"),
        ("file", "out", "file: a file; name the folder that it lies in"),
        ("in", "in/out", "in/out: overlaps the input"),
        ("in", ".", "overlaps the input"),
        ("in", "file", "file: a file"),
        ("in", "file/out", r"file/out: cannot write here \(Not a directory\); name another folder"),
        ("in", "foreign", "foreign: not empty and not written by ldct predict"),
        ("empty", "out", "empty: no DICOM files here; name a folder that holds CT images"),
        ("foreign", "out", "foreign: no CT series here, only 0 other series and 1 other files"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_in_one_line(tmp_path, source, target, complaint):
    write_source(tmp_path / "in")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=complaint) as refused:
        run(tmp_path / source, tmp_path / target)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("target", ["out", "new/out"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(tmp_path, monkeypatch, target):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    def refuse(**where):
        raise PermissionError(13, "Permission denied", str(where["dir"] / "tmp0"))

    monkeypatch.setattr(staging.tempfile, "TemporaryFile", refuse)
    with pytest.raises(DataError) as refused:
        run(tmp_path / "in", tmp_path / target)
    reason = "cannot write here (Permission denied); name another folder"
    assert str(refused.value) == f"{tmp_path / target}: {reason}"
    assert not (tmp_path / "new").exists()


def test_a_refused_folder_gets_no_lock_file(tmp_path):
    write_source(tmp_path / "in")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "readme.txt").touch()
    with pytest.raises(DataError, match="not written by ldct predict"):
        run(tmp_path / "in", tmp_path / "foreign")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["readme.txt"]


def test_a_folder_of_another_secret_is_refused(tmp_path):
    write_source(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="another secret"):
        run_folder(
            tmp_path / "in",
            tmp_path / "out",
            restoration(),
            pseudonyms=Pseudonyms(b"1" * 32),
            now=NOW,
            fixed_clock=None,
            observer=Silent(),
        )


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["done", "skipped"], 0),
        (["slicewise"], 0),
        (["done", "refused"], 3),
        (["done", "failed"], 3),
        (["refused", "skipped"], 1),
    ],
)
def test_exit_code(verdicts, code):
    outcomes = [
        Outcome(study=None, series=None, verdict=Verdict(verdict), reason_codes=(), files=1)
        for verdict in verdicts
    ]
    assert exit_code(outcomes) == code

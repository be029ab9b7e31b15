"""`ldct manifest conform` against scores of scikit-image, NumPy and PyTorch on a Mayo-like folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch.nn.functional import conv2d

from pipeline.cli import main
from pipeline.data.archives import make_splits, manifest_case, scan_archive
from pipeline.manifest import write_manifest, write_split
from pipeline.stages import conform
from tests.dicom_factory import make_slice, save

SLICES, SIDE = 5, 48
LOW_HU, HIGH_HU = -160, 240


@pytest.fixture
def challenge(tmp_path):
    """Two patients at both doses under the challenge's folder names; returns manifest, root and HU."""
    root, volumes = tmp_path / "mayo", {}
    for number, patient in enumerate(("L067", "L506")):
        rng = np.random.default_rng(number)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        body = np.where((rows - 24) ** 2 + (columns - 24) ** 2 < 400, 40 + 3 * rows, -1000)
        for dose, sd in (("full", 10), ("quarter", 20)):
            hu = np.rint(body + sd * rng.standard_normal((SLICES, SIDE, SIDE))).astype(np.int16)
            volumes[patient, dose] = hu
            write_series(root / patient / f"{dose}_3mm", hu)
    scan = scan_archive(root, pseudonym=lambda kind, *_: kind)
    cases = [manifest_case(pair, root) for pair in scan.pairs]
    manifest = tmp_path / "manifest"
    write_manifest(manifest, cases)
    for name, roles in make_splits(cases, {pair.case_id: pair.layout for pair in scan.pairs}).items():
        write_split(manifest, name, roles)
    return manifest, root, volumes


def write_series(folder: Path, hu: np.ndarray) -> None:
    """As the challenge stores it: 1024 above HU, slices in no order of names."""
    for index, image in enumerate(hu):
        slice_ = make_slice(
            (image + 1024).astype(np.int16),
            position=(0.0, 0.0, 3.0 * index),
            series=folder.as_posix(),
            RescaleIntercept=-1024,
            PatientID="Anonymous",
            PixelSpacing=[0.7, 0.7],
            SliceThickness=3.0,
            ConvolutionKernel="B30f",
        )
        save(slice_, folder / f"{(7 * index) % SLICES:03d}.IMA")


def public_code(low_hu: np.ndarray, normal_hu: np.ndarray) -> tuple[float, float, float]:
    """The protocol of the public code, from its description: float32, zero padding, mean over slices."""
    scores = []
    for pair in zip(low_hu, normal_hu, strict=True):
        low, normal = (np.clip(image.astype(np.float32), LOW_HU, HIGH_HU) for image in pair)
        scores.append(
            (
                peak_signal_noise_ratio(normal, low, data_range=HIGH_HU - LOW_HU),
                ssim_with_zeros(torch.from_numpy(low), torch.from_numpy(normal)),
                np.sqrt(np.mean((low - normal) ** 2)),
            )
        )
    return tuple(np.mean(scores, axis=0))


def ssim_with_zeros(x: torch.Tensor, y: torch.Tensor) -> float:
    offsets = torch.arange(11) - 5.0
    line = torch.exp(-(offsets**2) / 4.5)
    kernel = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(image):
        return conv2d(image[None, None], kernel, padding=5)[0, 0]

    c1, c2 = 4.0**2, 12.0**2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_the_scores_are_those_of_the_public_code(challenge):
    _, _, volumes = challenge
    pair = volumes["L506", "quarter"], volumes["L506", "full"]
    ours, theirs = conform.identity_scores(*pair), public_code(*pair)
    assert ours == pytest.approx(theirs, abs=2e-5)
    assert all(abs(a - b) < p.tolerance / 10 for a, b, p in zip(ours, theirs, conform.PUBLISHED, strict=True))


def test_scores_are_means_over_slices():
    normal = np.zeros((2, SIDE, SIDE), np.float32)
    low = np.stack([np.full((SIDE, SIDE), offset, np.float32) for offset in (4.0, 40.0)])
    psnr_db, _, rmse_hu = conform.identity_scores(low, normal)
    assert (psnr_db, rmse_hu) == (pytest.approx(30.0), pytest.approx(22.0))


def publish(monkeypatch, scores) -> None:
    values = zip(conform.PUBLISHED, scores, strict=True)
    monkeypatch.setattr(conform, "PUBLISHED", tuple(replace(entry, value=score) for entry, score in values))


def test_a_copy_with_the_published_scores_conforms(challenge, monkeypatch, capsys):
    manifest, root, volumes = challenge
    publish(monkeypatch, public_code(volumes["L506", "quarter"], volumes["L506", "full"]))
    assert conform.run(manifest, root) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "L506-3mm-B30  5 slices, 3 mm, kernel B30f"
    assert [line.split()[-1] for line in printed[1:4]] == ["agrees"] * 3
    assert printed[4].startswith("conforms: redcnn-legacy")


def test_another_patient_does_not_conform(challenge, capsys):
    manifest, root, _ = challenge
    assert conform.run(manifest, root, "L067-3mm-B30") == 1
    printed = capsys.readouterr().out
    assert printed.count("DIFFERS") == 3
    assert "published 29.2489 dB ± 0.0005" in printed
    assert "published 0.8759 ± 0.0001" in printed
    assert "published 14.2416 HU ± 0.0005" in printed
    assert "does not conform: not patient L506 at 3 mm with kernel B30 (it is 5 slices, 3 mm" in printed


def test_partners_one_slice_off_are_found_out(challenge):
    _, _, volumes = challenge
    low, normal = volumes["L506", "quarter"], volumes["L506", "full"]
    right, wrong = conform.identity_scores(low, normal), conform.identity_scores(np.roll(low, 1, 0), normal)
    assert abs(right[0] - wrong[0]) > conform.PUBLISHED[0].tolerance


def test_a_manifest_without_the_case_is_told_in_one_line(challenge, capsys):
    manifest, root, _ = challenge
    with pytest.raises(SystemExit) as ended:
        main(["manifest", "conform", str(manifest), str(root), "--case", "L999-3mm-B30"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert "no case L999-3mm-B30; it has L067-3mm-B30, L506-3mm-B30; if one of them is patient L506" in err
    assert err.count("\n") == 1


def test_the_command_ends_with_the_verdict(challenge, monkeypatch):
    manifest, root, volumes = challenge
    publish(monkeypatch, public_code(volumes["L506", "quarter"], volumes["L506", "full"]))
    with pytest.raises(SystemExit) as ended:
        main(["manifest", "conform", str(manifest), str(root)])
    assert ended.value.code in (0, None)

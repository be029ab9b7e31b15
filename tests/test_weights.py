"""The denoisers that ship with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import weights
from pipeline.bundle import load_bundle
from pipeline.weights import VARIANTS, shipped

_MOST_BYTES = 2 * 1024**2


def test_a_variant_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    assert shipped("plain") is None
    (tmp_path / "denoiser_texture.safetensors").touch()
    assert (shipped("plain"), shipped("texture")) == (None, tmp_path / "denoiser_texture.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shipped_file_is_a_small_denoiser_that_knows_its_training(variant: weights.Variant) -> None:
    path = shipped(variant)
    if path is None:
        pytest.skip("not trained yet")
    assert path.stat().st_size < _MOST_BYTES
    bundle = load_bundle(path, "denoiser")
    bundle.model()
    assert {"anatomies", "kernels", "normal_dose_hu_percentiles"} <= bundle.fingerprint.keys()
    assert bundle.made_noise_sd_hu is not None


def test_every_file_of_weights_is_a_variant() -> None:
    files = set(Path(weights.__file__).parent.glob("*.safetensors"))
    assert files == {path for variant in VARIANTS if (path := shipped(variant)) is not None}

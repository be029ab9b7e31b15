"""The settings of the reference denoiser: valid, and alike where they have to be."""

from pathlib import Path

import pytest

from pipeline.config.restoration import RestorationSettings
from pipeline.config.train import load_train_settings

FOLDER = Path(__file__).parents[1] / "configs" / "reference"
SOURCES = ("covid_ny_sbu", "lidc_0314", "lung_pet_ct_dx", "tcga_lung", "totalsegmentator")


def read(name):
    settings = load_train_settings(FOLDER / f"{name}.yaml")
    assert isinstance(settings, RestorationSettings)
    return settings.model_dump()


def test_every_source_is_left_out_once():
    assert sorted(path.stem for path in FOLDER.glob("denoiser_without_*.yaml")) == [
        f"denoiser_without_{source}" for source in SOURCES
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_a_held_out_training_is_the_reference_s_but_for_steps_and_source(source):
    own = {"steps": 6000, "leave_out": (source,)}
    assert read(f"denoiser_without_{source}") == read("denoiser") | own


def test_the_texture_variant_goes_on_from_the_reference_with_a_discriminator():
    plain, texture = read("denoiser"), read("denoiser_texture")
    for name in ("model", "data", "low_dose", "losses", "error_unit", "leave_out", "batch_size", "ema_decay"):
        assert texture[name] == plain[name]
    assert texture["start_from"] == "models/reference/denoiser/bundle.safetensors"
    assert texture["optim"]["lr"] <= plain["optim"]["lr"] / 10
    assert texture["adversarial"]["keep"] == "last"

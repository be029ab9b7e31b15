from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.bundle import SCHEMA_VERSION, Bundle, load_bundle, save_bundle, save_tensors
from pipeline.errors import BundleError
from pipeline.hu import ABDOMEN, WATER_CENTRED
from pipeline.models import RedCNN


@pytest.fixture
def bundle():
    torch.manual_seed(0)
    return Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments={"features": 2},
        name="redcnn",
        scale=WATER_CENTRED,
        fingerprint={"spacing_mm": [3.0, 0.7, 0.7]},
        score={"metric": "psnr_db", "value": 36.4, "convention": "redcnn"},
        config_digest="c" * 64,
        data_digest="d" * 64,
        tensors=RedCNN(features=2).state_dict(),
    )


def saved(tmp_path, bundle):
    path = tmp_path / "models" / "bundle.safetensors"
    save_bundle(path, bundle)
    return path


def test_a_saved_bundle_comes_back_equal_and_gives_the_same_images(tmp_path, bundle):
    loaded = load_bundle(saved(tmp_path, bundle), kind="denoiser")
    image = torch.randn(1, 1, 32, 32)
    assert (loaded.header, loaded.model_hash) == (bundle.header, bundle.model_hash)
    assert (loaded.scale, loaded.precision) == (WATER_CENTRED, "fp32")
    assert not loaded.model().training
    assert torch.equal(loaded.model()(image), bundle.model()(image))


def test_the_same_bundle_is_the_same_file(tmp_path, bundle):
    first = saved(tmp_path, bundle).read_bytes()
    assert (
        saved(tmp_path, replace(bundle, tensors=dict(reversed(bundle.tensors.items())))).read_bytes() == first
    )


def test_saving_leaves_nothing_but_the_file(tmp_path, bundle):
    assert [file.name for file in saved(tmp_path, bundle).parent.iterdir()] == ["bundle.safetensors"]


def test_channels_last_weights_hash_and_save_like_contiguous_ones(tmp_path, bundle):
    turned = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in bundle.tensors.items()
    }
    other = replace(bundle, tensors=turned)
    assert other.model_hash == bundle.model_hash
    assert load_bundle(saved(tmp_path, other)).model_hash == bundle.model_hash


def test_model_hash_changes_with_one_weight(bundle):
    tensors = {name: value.clone() for name, value in bundle.tensors.items()}
    tensors["encoder.0.bias"][1] += 1e-6
    assert replace(bundle, tensors=tensors).model_hash != bundle.model_hash


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"score": {"value": 1}}, {"data_digest": "e" * 64}, {"precision": "bf16"}]
)
def test_model_hash_changes_with_the_header(bundle, change):
    assert replace(bundle, **change).model_hash != bundle.model_hash


def test_refuses_another_kind(tmp_path, bundle):
    with pytest.raises(BundleError, match="holds a denoiser, a segmenter is needed"):
        load_bundle(saved(tmp_path, bundle), kind="segmenter")


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(BundleError, match=r"no such bundle; name one that ldct train wrote$"):
        load_bundle(tmp_path / "none.safetensors")


def test_refuses_what_is_not_safetensors(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04 a pickle in disguise")
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        load_bundle(path)


def test_refuses_safetensors_without_a_header(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(BundleError, match="no bundle"):
        load_bundle(tmp_path / "plain.safetensors")


def test_refuses_a_cut_file(tmp_path, bundle):
    path = saved(tmp_path, bundle)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        load_bundle(path)


def test_refuses_one_flipped_bit_in_the_weights(tmp_path, bundle):
    path = saved(tmp_path, bundle)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="weights and header disagree"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (f'"schema_version":{SCHEMA_VERSION}', '"schema_version":99', "bundle schema 99"),
        ('"architecture":"redcnn"', '"architecture":"rednot"', "unknown architecture 'rednot'"),
        ('"kind":"denoiser"', '"kind":"oracle"', "damaged bundle header"),
        ('"name":', '"nome":', "damaged bundle header"),
        ('{"architecture"', '"architecture"', "damaged bundle header"),
    ],
)
def test_refuses_a_header_it_cannot_read(tmp_path, bundle, before, after, message):
    assert before in bundle.header
    path = tmp_path / "bundle.safetensors"
    save_tensors(path, bundle.tensors, {"ldct": bundle.header.replace(before, after)})
    with pytest.raises(BundleError, match=message) as error:
        load_bundle(path)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_named(bundle):
    with pytest.raises(BundleError, match="does not fit redcnn") as error:
        replace(bundle, arguments={"features": 3}).model()
    assert "\n" not in str(error.value)


def test_a_denoiser_needs_its_scale_and_the_others_their_window(bundle):
    with pytest.raises(ValueError, match="needs its HU scale"):
        replace(bundle, scale=None)
    with pytest.raises(ValueError, match="needs its HU window"):
        replace(bundle, kind="vae")
    assert replace(bundle, kind="vae", window=ABDOMEN).window == ABDOMEN

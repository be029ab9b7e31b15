"""Which engine computes a network, and that journal and UIDs can tell."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.export import installed, openvino
from pipeline.inference.restoration import engines
from pipeline.inference.restoration.engines import choose_engine, in_openvino
from pipeline.inference.restoration.networks import Network, denoise
from pipeline.inference.restoration.treatment import Restoration
from pipeline.models.precision import preferred_precision
from tests.batch_cases import bundle_of
from tests.tiny_bundles import denoiser_bundle

needs_openvino = pytest.mark.skipif(not installed("openvino", "nncf"), reason="needs the extra openvino")

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ON_CPU = {"device": CPU}


@pytest.fixture
def libraries(monkeypatch):
    """Sets which optional libraries are installed."""

    def there(*names):
        monkeypatch.setattr(engines, "installed", lambda *wanted: set(wanted) <= set(names))
        monkeypatch.setattr(engines, "loads", lambda name: name in names)

    there("openvino", "nncf")
    return there


@pytest.fixture
def native_bf16(monkeypatch):
    monkeypatch.setattr(engines, "preferred_precision", lambda _: "bf16")


def trained_in(precision, **arguments):
    return replace(denoiser_bundle(**arguments), precision=precision)


def test_auto_is_openvino_on_a_cpu_that_has_it_and_torch_elsewhere(libraries, native_bf16):
    bundle = trained_in("bf16")
    assert choose_engine("auto", "auto", bundle=bundle, device=CPU) == ("openvino", "bf16")
    assert choose_engine("auto", "auto", bundle=bundle, device=GPU) == ("torch", "bf16")
    libraries()
    assert choose_engine("auto", "auto", bundle=bundle, device=CPU) == ("torch", "bf16")


def test_auto_is_never_coarser_than_the_training(libraries, native_bf16):
    for engine, chosen in (("auto", "openvino"), ("torch", "torch"), ("openvino", "openvino")):
        assert choose_engine(engine, "auto", bundle=trained_in("fp32"), device=CPU) == (chosen, "fp32")
        assert choose_engine(engine, "auto", bundle=trained_in("bf16"), device=CPU) == (chosen, "bf16")


def test_what_is_named_is_taken(libraries, native_bf16):
    bundle = trained_in("fp32")
    assert choose_engine("torch", "bf16", bundle=bundle, device=CPU) == ("torch", "bf16")
    assert choose_engine("auto", "bf16", bundle=bundle, device=CPU) == ("openvino", "bf16")
    assert choose_engine("auto", "int8", bundle=bundle, device=CPU) == ("openvino", "int8")
    assert choose_engine("openvino", "int8", bundle=bundle, device=CPU) == ("openvino", "int8")


def test_bf16_that_the_cpu_lacks_is_left_to_torch(libraries, monkeypatch):
    monkeypatch.setattr(engines, "preferred_precision", lambda _: "fp32")
    bundle = trained_in("bf16")
    assert choose_engine("auto", "bf16", bundle=bundle, device=CPU) == ("torch", "bf16")
    assert choose_engine("auto", "auto", bundle=bundle, device=CPU) == ("openvino", "fp32")


def test_auto_is_torch_where_openvino_is_installed_and_does_not_load(libraries, monkeypatch):
    monkeypatch.setattr(engines, "loads", lambda _: False)
    assert choose_engine("auto", "auto", bundle=trained_in("fp32"), device=CPU) == ("torch", "fp32")


@pytest.mark.parametrize(
    ("engine", "precision", "device", "there", "message"),
    [
        ("torch", "int8", CPU, ("openvino", "nncf"), "--precision int8 needs --engine openvino"),
        (
            "openvino",
            "auto",
            GPU,
            ("openvino", "nncf"),
            "--engine openvino: .* on the CPU, .* cuda",
        ),
        (
            "auto",
            "int8",
            GPU,
            ("openvino", "nncf"),
            "--precision int8: .* on the CPU, .* cuda",
        ),
        ("openvino", "fp32", CPU, (), "^openvino is not installed: pip install openvino$"),
        ("auto", "int8", CPU, (), "openvino is not installed"),
        ("auto", "int8", CPU, ("openvino",), "^nncf is not installed: pip install nncf$"),
    ],
)
def test_what_cannot_be_is_one_line(libraries, engine, precision, device, there, message):
    libraries(*there)
    with pytest.raises(ConfigError, match=message) as refused:
        choose_engine(engine, precision, bundle=trained_in("fp32"), device=device)
    assert "\n" not in str(refused.value)


def test_a_network_without_input_skip_runs_in_openvino_in_fp32_only(libraries, native_bf16):
    """Its last layer makes the image: in bfloat16 CT numbers above 1000 HU come in steps of 8."""
    direct = trained_in("bf16", residual=False)
    assert choose_engine("auto", "auto", bundle=direct, device=CPU) == ("torch", "bf16")
    assert choose_engine("auto", "fp32", bundle=direct, device=CPU) == ("openvino", "fp32")
    cnn10 = replace(direct, architecture="cnn10", arguments={})
    for bundle in (direct, cnn10):
        for engine, precision in (("openvino", "bf16"), ("openvino", "int8"), ("auto", "int8")):
            with pytest.raises(ConfigError, match="has no input skip"):
                choose_engine(engine, precision, bundle=bundle, device=CPU)


def test_a_segmenter_stays_in_torch(libraries, native_bf16):
    segmenter = replace(bundle_of("segmenter"), precision="bf16")
    for engine in ("auto", "torch", "openvino"):
        for precision, chosen in (("auto", "bf16"), ("fp32", "fp32"), ("int8", "bf16")):
            assert choose_engine(engine, precision, bundle=segmenter, device=CPU) == ("torch", chosen)


def test_the_smallest_tile_leaves_one_pixel_of_the_raster():
    bundle = denoiser_bundle()
    network = Network.load(bundle, precision="fp32", **ON_CPU, tile_pixels=41)
    assert (network.runtime, network.tile_pixels) == ("torch", 41)
    with pytest.raises(ConfigError, match=r"tile_pixels 40: .* share 40 pixels; name 41 or more"):
        Network.load(bundle, precision="fp32", **ON_CPU, tile_pixels=40)


@needs_openvino
def test_slices_denoised_by_openvino_are_those_of_torch():
    bundle = denoiser_bundle(weights_sd=0.05, neighbours=1, noise_map=True)
    hu = (40 + np.random.default_rng(0).normal(0, 20, (3, 45, 53))).astype(np.float32)
    padding = np.zeros(hu.shape, bool)
    padding[:, :4] = True
    torchs, openvinos = (
        denoise(
            Network.load(bundle, precision="fp32", engine=engine, **ON_CPU), hu, padding, noise_sd_hu=20.0
        )
        for engine in ("torch", "openvino")
    )
    assert np.abs(torchs - hu).max() > 1
    assert np.abs(openvinos - torchs).max() < 0.01
    assert np.array_equal(openvinos[padding], hu[padding])


def test_engine_and_precision_are_in_recipe_and_uids(monkeypatch):
    monkeypatch.setattr(engines, "openvino_version", lambda: "2026.4.1")
    monkeypatch.setattr(engines, "nncf_version", lambda: "3.4.0")
    network = Network.load(denoiser_bundle(), precision="fp32", **ON_CPU)
    pairs = [("torch", "bf16"), *(("openvino", precision) for precision in ("fp32", "bf16", "int8"))]
    others = [replace(network, precision=precision, runtime=engine) for engine, precision in pairs]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    capabilities = {"avx512_bf16": True, "avx512_vnni": True, "amx_tile": False, "avx512_f": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert [one.engine for one in (network, *others)] == [
        f"torch {torch.__version__} on cpu in fp32",
        f"torch {torch.__version__} on cpu (AVX512 BF16 VNNI) in bf16, image in halves",
        "openvino 2026.4.1 on cpu in fp32",
        "openvino 2026.4.1 on cpu (AVX512 BF16 VNNI) in bf16, image in halves",
        f"openvino 2026.4.1 on cpu (AVX512 BF16 VNNI) in int8 and {preferred_precision(CPU)}, "
        "by nncf 3.4.0 on phantoms, image in halves",
    ]
    recipes = {json.dumps(Restoration(denoiser=one, segmenter=None).recipe) for one in (network, *others)}
    assert len(recipes) == 5
    assert [one.bf16 for one in (network, *others)] == [False, True, False, False, False]
    capabilities["amx_tile"] = True
    assert (
        others[0].engine
        == f"torch {torch.__version__} on cpu (AVX512 BF16 VNNI AMX) in bf16, image in halves"
    )
    assert network.engine == f"torch {torch.__version__} on cpu in fp32"


@needs_openvino
def test_a_conversion_that_gives_something_else_is_refused(monkeypatch):

    class Brighter(nn.Module):
        precision = "fp32"

        def __init__(self, original):
            super().__init__()
            self.original = original

        def in_precision(self, _):
            return self

        def forward(self, image):
            return self.original(image) + 0.001

    monkeypatch.setattr(engines, "openvino_module", lambda module, **_: Brighter(module))
    for precision in ("fp32", "bf16"):
        with pytest.raises(
            ConfigError, match="OpenVINO in fp32 is too far from torch: largest difference 1 HU"
        ):
            in_openvino(denoiser_bundle(), precision)


@needs_openvino
def test_this_machine_computes_in_bf16_or_says_that_it_does_not():
    hu = np.full((1, 30, 30), 40, np.float32)
    if preferred_precision(CPU) == "bf16":
        network = Network.load(denoiser_bundle(), precision="bf16", engine="openvino", **ON_CPU)
        assert np.array_equal(denoise(network, hu, np.zeros(hu.shape, bool)), hu)
    else:
        with pytest.raises(
            ConfigError, match=r"OpenVINO computes in f32 on this CPU; use fp32|cannot compile"
        ):
            Network.load(denoiser_bundle(), precision="bf16", engine="openvino", **ON_CPU)


@needs_openvino
def test_a_network_that_does_not_compile_is_one_line_when_it_is_loaded(monkeypatch):
    class Core:
        def compile_model(self, model, device, settings):
            if settings["INFERENCE_PRECISION_HINT"] == "bf16":
                raise RuntimeError("Exception from src/core.cpp:111:\nunsupported")
            return real.compile_model(model, device, settings)

    real = openvino.openvino_core()
    monkeypatch.setattr(openvino, "openvino_core", Core)
    message = r"precision bf16: OpenVINO cannot compile .* \(Exception from src/core.cpp:111:\); use --engine"
    with pytest.raises(ConfigError, match=message) as refused:
        in_openvino(denoiser_bundle(), "bf16")
    assert "\n" not in str(refused.value)


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script by its name, so that the processes which it starts can, too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def test_the_benchmark_of_engines_runs_without_the_extra(benchmark, monkeypatch, tmp_path, capsys):
    script = benchmark("engines")
    monkeypatch.setattr(script, "installed", lambda *_: False)
    monkeypatch.setattr(script, "openvino_version", lambda: version("no-such-library"))
    monkeypatch.setattr(script, "CHECKOUT", tmp_path)
    monkeypatch.setattr(script, "drawn", lambda *_, **__: denoiser_bundle().model())
    monkeypatch.setattr(sys, "argv", ["engines.py", "--rounds", "1", "--features", "--pixels", "48"])
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    script.main()
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["openvino"] == "not installed"
    assert all(name.startswith("torch") for name in result["speed"]["drunet"])


def test_the_benchmark_of_predict_passes_the_precision_on(benchmark, monkeypatch, tmp_path):
    script, commands = benchmark("predict"), []

    def run(command, **_):
        commands.append(command)
        folder = tmp_path / "out" / "study" / "series"
        folder.mkdir(parents=True)
        (folder / "series.json").write_text("{}")

    monkeypatch.setattr(script.subprocess, "run", run)
    script.predict(tmp_path / "in", tmp_path / "out", tmp_path / "weights", "bf16")
    assert commands[0][-2:] == ["--precision", "bf16"]


@needs_openvino
@pytest.mark.slow
def test_int8_needs_no_data_and_stays_within_its_tolerance():
    bundle = denoiser_bundle(features=16, weights_sd=0.01)
    hu = (40 + np.random.default_rng(0).normal(0, 20, (1, 96, 96))).astype(np.float32)
    padding = np.zeros(hu.shape, bool)
    exact, coarse = (
        denoise(Network.load(bundle, precision=precision, engine=engine, **ON_CPU), hu, padding)
        for engine, precision in (("torch", "fp32"), ("openvino", "int8"))
    )
    assert np.std(coarse - exact) < 0.1 * np.std(exact - hu)

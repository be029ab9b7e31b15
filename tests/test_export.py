"""Denoisers in other engines: the same image, to the rounding that is stated."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.bundle import Bundle, save_bundle
from pipeline.errors import ConfigError, DataError
from pipeline.export import (
    TOLERANCE,
    Agreement,
    OpenVINONetwork,
    compare,
    export_onnx,
    export_openvino,
    files,
    flipped,
    installed,
    libraries,
    network_inputs,
    openvino_module,
    phantom_inputs,
    ramp_input,
)
from pipeline.export.graph import converted, quantised
from pipeline.export.libraries import nncf_library, openvino_library
from pipeline.hu import ABDOMEN, RED_CNN_PAPER, WATER_CENTRED
from pipeline.inference.output import staging
from pipeline.models import MODELS, build_model
from pipeline.models.apply import restore_hu
from pipeline.models.precision import preferred_precision
from pipeline.stages import export
from tests.conftest import CHECKOUT
from tests.predict_cases import write_source
from tests.tiny_bundles import COMMON, denoiser_bundle

pytestmark = pytest.mark.skipif(
    not installed("openvino", "nncf", "onnx", "onnxscript"), reason="needs the extra openvino"
)

DENOISERS = {
    "redcnn": {"features": 6},
    "rednet": {"depth": 10, "features": 6},
    "residual_cnn": {"depth": 5, "features": 6},
    "drunet": {"features": (4, 8), "blocks": 1},
}

QUICK = [("redcnn", "bf16"), ("redcnn", "int8"), ("drunet", "bf16")]


def drawn(name, **arguments):
    """A network whose weights are drawn, the last layer's too: it corrects by some HU."""
    torch.manual_seed(0)
    model = build_model(name, **(DENOISERS.get(name, {}) | arguments)).eval()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
    nn.init.normal_(last.weight, std=0.01)
    return model


def bundle_of(name, scale=WATER_CENTRED, **arguments):
    model = drawn(name, **arguments)
    return Bundle(
        kind="denoiser",
        architecture=name,
        arguments=DENOISERS.get(name, {}) | arguments,
        name=name,
        scale=scale,
        tensors=model.state_dict(),
        **COMMON,
    )


def noise(*shape, sd=0.02):
    return sd * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def slices():
    """Phantom slices for networks without neighbours or noise map."""
    return phantom_inputs(drawn("redcnn"), WATER_CENTRED, pixels=64)


@pytest.mark.parametrize(("groups", "dilation", "padding"), [(1, 1, 0), (1, 1, 2), (2, 1, 1), (3, 2, 3)])
def test_a_transposed_convolution_of_stride_1_is_a_flipped_one(groups, dilation, padding):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(6, 12, (5, 3), padding=padding, groups=groups, dilation=dilation)
    network = nn.Sequential(layer).double()
    plain = flipped(network)
    image = torch.randn(2, 6, 11, 13, dtype=torch.float64)
    assert [type(one) for one in plain] == [nn.Conv2d]
    torch.testing.assert_close(plain(image), network(image), rtol=1e-12, atol=1e-12)
    assert isinstance(network[0], nn.ConvTranspose2d)


def test_what_no_plain_convolution_says_stays_transposed():
    """A stride spreads the input; more padding than the kernel has would have to crop it."""
    network = nn.Sequential(nn.ConvTranspose2d(1, 1, 2, stride=2), nn.ConvTranspose2d(1, 1, 3, padding=3))
    assert [type(one) for one in flipped(network)] == 2 * [nn.ConvTranspose2d]


@pytest.mark.parametrize("name", ["redcnn", "rednet"])
def test_a_flipped_network_gives_the_same_image(name):
    model = drawn(name)
    plain = flipped(model)
    image = noise(1, 1, 37, 45, sd=1)
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in plain.modules())
    torch.testing.assert_close(plain(image), model(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("extra", [{}, {"neighbours": 1, "noise_map": True}], ids=["slice", "neighbours"])
def test_openvino_gives_what_torch_gives_at_any_size(name, extra):
    model = drawn(name, **({"noise_map": False} | extra))
    network = openvino_module(model, precision="fp32", threads=1)
    for sides in ((45, 53), (64, 64), (1 + getattr(model, "smallest_side", 1), 30)):
        image = noise(1, 4 if extra else 1, *sides, sd=1)
        torch.testing.assert_close(network(image), model(image), rtol=0, atol=1e-5)


def test_an_openvino_network_says_of_itself_what_the_original_says():
    model = drawn("drunet", neighbours=1)
    network = openvino_module(model, precision="fp32", threads=1)
    for name in ("neighbours", "noise_map", "receptive_radius", "smallest_side", "strides"):
        assert getattr(network, name) == getattr(model, name), name


def test_openvino_tiles_like_torch():
    model = drawn("drunet", noise_map=False)
    network = openvino_module(model, precision="fp32", threads=1)
    hu = 1000 * noise(1, 1, 130, 97)
    whole, tiled = (restore_hu(network, hu, WATER_CENTRED, tile_pixels=side) for side in (None, 80))
    assert (whole - tiled).abs().max() < 0.01


def test_a_shape_is_compiled_once(monkeypatch):
    network = openvino_module(drawn("redcnn"), precision="fp32", threads=1)
    compiled = []
    compile_for = network._compile
    monkeypatch.setattr(network, "_compile", lambda shape: compiled.append(shape) or compile_for(shape))
    for side in (30, 31, 30, 30, 31):
        network(noise(1, 1, side, side))
    assert compiled == [(1, 1, 30, 30), (1, 1, 31, 31)]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *QUICK,
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in product(DENOISERS, ("fp32", "bf16", "int8"))
            if pair not in QUICK
        ),
    ],
)
def test_a_ramp_of_half_a_hu_passes_unchanged(name, precision, slices):
    """The last layer is zero: what comes out is the input skip alone, where bfloat16 has steps of 4 HU."""
    torch.manual_seed(0)
    model = build_model(name, **(DENOISERS[name] | {"noise_map": False})).eval()
    network = openvino_module(model, precision=precision, calibration=slices, threads=1)
    ramp_hu = 1000 + 0.5 * torch.arange(64.0).expand(1, 1, 64, 64)
    restored = restore_hu(network, ramp_hu, WATER_CENTRED)
    assert (restored - ramp_hu).abs().max() < 0.001


@pytest.mark.skipif(preferred_precision(torch.device("cpu")) != "bf16", reason="needs a CPU with bf16")
@pytest.mark.parametrize("sides", [(64, 64), (63, 61)])
def test_openvino_in_bf16_weighs_air_as_exactly_as_float32(sides):
    """Noise of 20 HU on air, to filters that see differences as trained ones do; padded to the raster too."""
    model = drawn("drunet", features=(8, 8), noise_map=False)
    model.head.weight.data -= model.head.weight.data.mean((2, 3), keepdim=True)
    image = noise(1, 1, *sides) - 1
    plain = OpenVINONetwork(converted(model), like=model, precision="bf16", threads=1)
    halves = openvino_module(model, precision="bf16", threads=1)
    shares = [compare(model, network, [image], unit_hu=1000).share for network in (plain, halves)]
    assert shares[1] < 0.4 * shares[0]
    assert compare(model, halves.in_precision("fp32"), [image], unit_hu=1000).within("fp32")


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_bf16_and_int8_change_the_correction_by_a_few_percent(name, slices):
    model = drawn(name, noise_map=False)
    for precision in ("bf16", "int8"):
        network = openvino_module(model, precision=precision, calibration=slices, threads=1)
        agreement = compare(model, network, slices, unit_hu=1000)
        assert 0 < agreement.share < 0.1, (precision, str(agreement))


def test_first_and_last_layer_and_the_way_of_the_input_stay_float(slices):
    """Of a network without steps nothing else does: it rounds eight layers' inputs and those of two sums."""
    graph = quantised(converted(drawn("redcnn", features=8), in_halves=True), slices)
    assert sum(node.get_type_name() == "FakeQuantize" for node in graph.get_ordered_ops()) == 10
    layers = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution"]
    in_float = [node.input_value(1).get_node().get_type_name() == "Constant" for node in layers]
    assert in_float == [True] + 8 * [False] + [True]
    (result,) = graph.get_results()
    last_sum = result.input_value(0).get_node()
    sources = [last_sum.input_value(index).get_node() for index in (0, 1)]
    assert [node.get_type_name() for node in sources] == ["Slice", "Convolution"]
    assert sources[0].input_value(0).get_node().get_type_name() == "Parameter"


def quantised_layers(graph):
    """Side of what each convolution gives out on 32² pixels, and whether its weights are int8."""
    graph.reshape([1, 1, 32, 32])
    return [
        (node.output(0).shape[-1], node.input_value(1).get_node().get_type_name() != "Constant")
        for node in graph.get_ordered_ops()
        if node.get_type_name() in ("Convolution", "ConvolutionBackpropData")
    ]


def test_int8_is_for_the_coarsest_scale_of_a_network_with_steps_without_its_sums(slices):
    model = drawn("drunet", features=(4, 8, 8), noise_map=False)
    graph = quantised(converted(model, in_halves=True), slices)
    down = [(32, False)] * 3 + [(16, False)] * 3 + [(8, False)]
    up = [(16, False)] * 3 + [(32, False)] * 4
    assert quantised_layers(graph) == down + [(8, True)] * 2 + up
    rounded = [node.output(0) for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    readers = {target.get_node().get_type_name() for one in rounded for target in one.get_target_inputs()}
    assert {one.shape[-1] for one in rounded} == {8}
    assert readers == {"Convolution"}


def test_int8_without_calibration_is_refused():
    with pytest.raises(ValueError, match="int8 needs calibration slices"):
        openvino_module(drawn("redcnn"), precision="int8")


def test_phantom_slices_are_the_same_every_time():
    model = drawn("drunet")
    one, other = (phantom_inputs(model, WATER_CENTRED, pixels=48) for _ in range(2))
    assert [image.shape for image in one] == 4 * [(1, 2, 48, 48)]
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert [round(1000 * image[0, 1, 0, 0].item()) for image in one] == [12, 20, 80, 40]


def test_a_network_is_told_the_noise_of_its_slices():
    hu = np.zeros((2, 1, 30, 30), np.float32)
    images = network_inputs(drawn("redcnn", noise_map=True), WATER_CENTRED, hu, noise_sd_hu=17.0)
    assert [image[0, 1].unique().item() for image in images] == pytest.approx([0.017, 0.017])


def test_agreement_in_hand_values():
    class Shifted(nn.Module):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def forward(self, image):
            return image + self.units

    agreement = compare(Shifted(0.010), Shifted(0.0105), [torch.zeros(1, 1, 4, 4)], unit_hu=1000)
    assert agreement.max_hu == pytest.approx(0.5, rel=1e-3)
    assert agreement.share == pytest.approx(0.05, rel=1e-3)
    assert agreement.correction_rms_hu == pytest.approx(10)
    assert not agreement.within("fp32")


@pytest.mark.parametrize("rms_hu", [0.51, float("nan"), float("inf")])
def test_what_is_too_far_or_no_number_is_not_within(rms_hu):
    assert not Agreement(max_hu=1.0, rms_hu=rms_hu, correction_rms_hu=10.0).within("int8")
    assert Agreement(max_hu=1.0, rms_hu=0.49, correction_rms_hu=10.0).within("int8")
    assert Agreement(max_hu=0.1, rms_hu=0.01, correction_rms_hu=0.0).within("fp32")


def paths_in(file):
    """What an ONNX file says of the machine: folders of the checkout and its libraries, lines of source."""
    told = (CHECKOUT, Path(sysconfig.get_path("purelib")), "site-packages", 'File "')
    content = file.read_bytes()
    return [str(one) for one in told if str(one).encode() in content]


def test_onnx_tells_nothing_of_the_machine_and_is_the_same_from_any_folder(tmp_path, monkeypatch):
    bundle = bundle_of("redcnn", features=2)
    checked = [ramp_input(bundle.model(), WATER_CENTRED)]
    for folder in ("one", "another"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert export_onnx(bundle, Path("denoiser.onnx"), check_on=checked).within("fp32")
        assert paths_in(Path("denoiser.onnx")) == []
    one, another = ((tmp_path / folder / "denoiser.onnx").read_bytes() for folder in ("one", "another"))
    assert one == another


@pytest.mark.slow
def test_the_bytes_of_an_onnx_file_do_not_depend_on_where_the_program_lies(tmp_path, stored):
    """A copy of the package, as another user would have it: the nodes name its files, if they name any."""
    shutil.copytree(CHECKOUT / "pipeline", tmp_path / "home" / "pipeline")
    for root in (CHECKOUT, tmp_path / "home"):
        code = (
            "import pipeline; from pathlib import Path; from pipeline.stages import export; "
            f"assert Path(pipeline.__file__).is_relative_to({str(root)!r}); "
            f"export.run(Path({str(stored)!r}), Path({root.name + '.onnx'!r}))"
        )
        environment = os.environ | {"PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    copies = [tmp_path / f"{root.name}.onnx" for root in (CHECKOUT, tmp_path / "home")]
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert paths_in(copies[0]) == []


@pytest.mark.slow
def test_onnx_is_read_by_its_own_reference_and_carries_the_header(tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    bundle = bundle_of("redcnn", scale=RED_CNN_PAPER, neighbours=1, noise_map=True)
    model = bundle.model()
    path = tmp_path / "new" / "denoiser.onnx"
    agreement = export_onnx(bundle, path, check_on=[ramp_input(model, RED_CNN_PAPER)])
    assert agreement.rms_hu < 0.01
    assert [file.name for file in path.parent.iterdir()] == ["denoiser.onnx"]
    written = onnx.load(path)
    onnx.checker.check_model(written)
    entries = {entry.key: entry.value for entry in written.metadata_props}
    assert entries == {"ldct": bundle.header}
    assert json.loads(entries["ldct"])["scale"] == {"zero_hu": -1024.0, "unit_hu": 4096.0}
    assert "unit_hu 4096" in written.doc_string
    for shape in ((1, 4, 23, 31), (2, 4, 40, 22)):
        image = noise(*shape, sd=1)
        (restored,) = ReferenceEvaluator(written).run(None, {"image": image.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(restored, model(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_openvino_file_carries_header_and_precision(tmp_path, monkeypatch, precision, slices):
    import openvino

    monkeypatch.setitem(TOLERANCE, "int8", 0.1)  # of weights that were never trained
    bundle, path = bundle_of("redcnn"), tmp_path / "denoiser.xml"
    export_openvino(bundle, path, precision=precision, check_on=slices[:1], calibration=slices[1:])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["denoiser.bin", "denoiser.xml"]
    graph = openvino.Core().read_model(path)
    entries = {name: graph.get_rt_info(["ldct", name]).value for name in ("header", "precision", "input")}
    hint = graph.get_rt_info(["ldct", "inference_precision_hint"]).value
    assert entries["header"] == bundle.header
    assert (entries["precision"], hint) == (precision, "f32" if precision == "fp32" else "bf16")
    assert (graph.input(0).any_name, graph.output(0).any_name) == ("image", "restored")


def test_a_file_too_far_from_torch_is_not_left(tmp_path, monkeypatch, slices):
    monkeypatch.setattr("pipeline.export.files.compare", lambda *_, **__: Agreement(9.0, 3.0, 10.0))
    (tmp_path / "kept.xml").write_text("an earlier export")
    in_fp32 = partial(export_openvino, precision="fp32")
    for name, write in (("denoiser.onnx", export_onnx), ("denoiser.xml", in_fp32), ("kept.xml", in_fp32)):
        with pytest.raises(ConfigError, match=f"{name}: not written, in fp32 it is too far from torch"):
            write(bundle_of("redcnn"), tmp_path / name, check_on=slices)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.xml"]
    assert (tmp_path / "kept.xml").read_text() == "an earlier export"


def test_a_missing_library_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"^openvino is not installed: pip install openvino$"):
        export_openvino(bundle_of("redcnn"), tmp_path / "a.xml", precision="fp32", check_on=())


@pytest.mark.slow
def test_no_library_calls_home():
    """In a process of its own: here another test may have imported OpenVINO itself."""
    code = (
        "import sys; from pipeline.export.libraries import nncf_library, openvino_library; "
        "openvino_library().convert_model; nncf_library().quantize; "
        "sys.exit(sys.modules['openvino_telemetry'] is not None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


SIGNALS = """
import signal
import torch
from pipeline.export import openvino_module
from pipeline.models import build_model

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
model, image = build_model("redcnn", features=2).eval(), torch.zeros(1, 1, 24, 24)
networks = [openvino_module(model, precision=one, calibration=[image]) for one in ("int8", "fp32", "fp32")]
for number in range(3):
    networks[number](image)
while networks:
    networks.pop(0)
    signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
def test_signals_are_handled_after_networks_that_ended_in_the_order_in_which_they_began():
    """OpenVINO's cores that do so leave a stack for signals that is gone, and the next one is the end."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n" * 3)


def test_a_network_without_input_skip_is_exported_in_fp32_only(tmp_path):
    direct = bundle_of("redcnn", residual=False)
    for precision in ("bf16", "int8"):
        with pytest.raises(ConfigError, match="has no input skip"):
            export_openvino(direct, tmp_path / "a.xml", precision=precision, check_on=())


def test_a_bundle_of_another_kind_is_refused(tmp_path):
    other = replace(denoiser_bundle(), kind="vae", scale=None, window=ABDOMEN)
    with pytest.raises(ConfigError, match="holds a vae; only denoisers are exported"):
        export_openvino(other, tmp_path / "a.xml", precision="fp32", check_on=())


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "denoiser.safetensors"
    save_bundle(path, bundle_of("redcnn"))
    return path


def test_the_command_says_how_far_the_file_is_from_torch(tmp_path, stored, capsys):
    write_source(tmp_path / "in")
    export.run(stored, tmp_path / "out.xml", precision="bf16", calibrate=tmp_path / "in")
    line = capsys.readouterr().out
    assert "out.xml, bf16; beside torch on" in line
    assert f"slices of {tmp_path / 'in'}: largest difference" in line
    assert (tmp_path / "out.bin").is_file()


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("out.pt", "fp32", "name a file that ends in .onnx, or in .xml"),
        ("out.onnx", "int8", "--precision int8: ONNX is written in fp32"),
        ("out.xml", "fp16", "--precision fp16: must be one of fp32, bf16, int8"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(tmp_path, name, precision, message):
    with pytest.raises(ConfigError, match=message):
        export.run(tmp_path / "absent", tmp_path / name, precision=precision)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("folder.onnx", "folder.onnx: a folder; name a file to write"),
        ("weights.xml", "weights.bin: a folder; name a file to write"),
        ("file/out.onnx", "file/out.onnx: cannot write here (Not a directory); name another folder"),
        ("file/new/out.xml", "file/new/out.xml: cannot write here (Not a directory); name another folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_read(tmp_path, name, line):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "weights.bin").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as refused:
        export.run(tmp_path / "absent", tmp_path / name)
    assert str(refused.value) == f"{tmp_path}/{line}"


@pytest.mark.parametrize("target", ["out.onnx", "new/out.xml"])
def test_a_folder_without_permission_is_named_before_anything_is_read(tmp_path, monkeypatch, target):
    def refuse(**where):
        raise PermissionError(13, "Permission denied", str(where["dir"] / "tmp0"))

    monkeypatch.setattr(staging.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError) as refused:
        export.run(tmp_path / "absent", tmp_path / target)
    reason = "cannot write here (Permission denied); name another folder"
    assert str(refused.value) == f"{tmp_path / target}: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_one_line_with_the_name_of_the_file(tmp_path, stored, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / ".out.onnx.x0hya5y3" / "out.onnx"))

    def full_in_openvino(*_, **__):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(files, "_write_onnx", full)
    monkeypatch.setattr(openvino_library(), "save_model", full_in_openvino)
    for name, reason in (("out.onnx", "No space left on device"), ("out.xml", "iostream error")):
        with pytest.raises(
            ConfigError, match=rf"/{name}: .*cannot write here \(.*{reason}\); .*folder$"
        ) as said:
            export.run(stored, tmp_path / name)
        assert "/.out" not in str(said.value)
    assert [file.name for file in tmp_path.iterdir()] == ["denoiser.safetensors"]


def test_a_folder_without_ct_gives_no_slices(tmp_path, stored):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no CT slice here that this denoiser takes"):
        export.run(stored, tmp_path / "out.xml", calibrate=tmp_path / "empty")


def test_one_slice_is_too_few_for_int8(tmp_path, stored):
    write_source(tmp_path / "in", slices=1)
    with pytest.raises(DataError, match="one slice only, and int8 needs one to calibrate on"):
        export.run(stored, tmp_path / "out.xml", precision="int8", calibrate=tmp_path / "in")
    assert not (tmp_path / "out.xml").exists()


@pytest.mark.parametrize(
    ("lengths", "shares"),
    [
        ([100], [16]),
        ([100] * 9, [2] * 7 + [1] * 2),
        ([100] * 15, [2] + [1] * 14),
        ([100] * 16, [1] * 16),
        ([1, 1, 100], [1, 1, 14]),
        ([3, 2], [3, 2]),
        ([], []),
    ],
)
def test_every_series_gives_a_slice_before_any_gives_two(lengths, shares):
    assert export._shares(lengths) == shares


def test_slices_lie_in_the_middle_of_their_share():
    assert (export._spread(9, 1), export._spread(100, 4)) == ([4], [12, 37, 62, 87])
    assert (export._spread(3, 16), export._spread(0, 16)) == ([0, 1, 2], [])


def test_int8_is_compared_on_other_phantoms_than_it_is_calibrated_on(tmp_path, stored, monkeypatch):
    asked = {}

    def kept(bundle, target, *, precision, check_on, calibration):
        asked.update(check_on=check_on, calibration=calibration)
        return Agreement(0.0, 0.0, 1.0)

    def seeds(model, scale, *, pixels=512, seed="calibration"):
        return (seed,)

    monkeypatch.setattr(export, "export_openvino", kept)
    monkeypatch.setattr(export, "phantom_inputs", seeds)
    export.run(stored, tmp_path / "out.xml", precision="int8")
    assert asked["calibration"] == ("calibration",)
    assert asked["check_on"] != asked["calibration"]


def test_another_seed_gives_other_phantoms():
    first, second = (
        phantom_inputs(drawn("redcnn"), WATER_CENTRED, pixels=32, seed=seed)[0] for seed in (6, 7)
    )
    assert not torch.equal(first, second)


def test_threads_are_left_unpinned():
    """Two runs pinned to the same cores of one machine would wait for each other."""
    network = openvino_module(drawn("redcnn"), precision="fp32")
    compiled = network._compile((1, 1, 40, 40))
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_a_library_that_does_not_load_is_told_from_one_that_is_not_installed(monkeypatch):
    def failing(failure):
        def load(name):
            raise failure

        return load

    monkeypatch.setattr(libraries.importlib, "import_module", failing(ImportError("libtbb.so.12: no file")))
    assert not libraries.loads("openvino")
    with pytest.raises(ConfigError, match=r"does not load: libtbb.so.12: no file; install it again \(pip"):
        libraries.openvino_library()
    absent = ModuleNotFoundError("No module named 'openvino'", name="openvino")
    monkeypatch.setattr(libraries.importlib, "import_module", failing(absent))
    with pytest.raises(ConfigError, match=r"^openvino is not installed: pip install openvino$"):
        libraries.openvino_library()


def test_every_denoiser_is_tried_here():
    others = {"cnn10", "unet", "vae", "dcgan"}
    assert set(DENOISERS) | others == set(MODELS)


def test_what_others_log_is_still_heard_after_int8(caplog):
    nncf_library()
    logging.getLogger("pipeline").warning("a store stopped answering")
    assert caplog.messages == ["a store stopped answering"]

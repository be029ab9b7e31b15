"""Denoisers as other runtimes take them: ONNX and OpenVINO files, and OpenVINO networks to run here."""

from pipeline.export.agreement import TOLERANCE, Agreement, compare
from pipeline.export.calibration import network_inputs, phantom_inputs, ramp_input
from pipeline.export.files import adds_its_input, export_onnx, export_openvino
from pipeline.export.flip import flipped
from pipeline.export.libraries import installed, loads, nncf_version, not_installed, openvino_version
from pipeline.export.openvino import OpenVINONetwork, beside_int8, openvino_module

__all__ = [
    "TOLERANCE",
    "Agreement",
    "OpenVINONetwork",
    "adds_its_input",
    "beside_int8",
    "compare",
    "export_onnx",
    "export_openvino",
    "flipped",
    "installed",
    "loads",
    "network_inputs",
    "nncf_version",
    "not_installed",
    "openvino_module",
    "openvino_version",
    "phantom_inputs",
    "ramp_input",
]

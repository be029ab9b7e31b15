"""The optional libraries of the exports: imported when needed, missing in one line, and silent on the net."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from pipeline.errors import ConfigError


def installed(*names: str) -> bool:
    """Whether these libraries are there; none is imported."""
    return all(find_spec(name) is not None for name in names)


def loads(name: str) -> bool:
    """Whether an optional library can be imported: one that is installed may miss what it links to."""
    try:
        _library(name)
    except ConfigError:
        return False
    return True


def openvino_library() -> Any:
    """The module `openvino`.

    Raises:
        ConfigError: it is not installed, or does not load.
    """
    return _library("openvino")


def nncf_library() -> Any:
    """The module `nncf`, which says nothing but errors.

    Raises:
        ConfigError: it is not installed, or does not load.
    """
    nncf = _library("nncf")
    logging.getLogger("nncf").setLevel(
        logging.ERROR
    )  # (its set_log_level reaches handlers that others share)
    return nncf


def check_onnx() -> None:
    """See that torch can write ONNX.

    Raises:
        ConfigError: a library for it is not installed, or does not load.
    """
    for name in ("onnx", "onnxscript"):
        _library(name)


def openvino_version() -> str:
    """E.g. `2026.4.1`."""
    return version("openvino")


def nncf_version() -> str:
    """E.g. `3.4.0`."""
    return version("nncf")


def _library(name: str) -> Any:
    _stay_off_the_net()
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as failure:
        if isinstance(failure, ModuleNotFoundError) and failure.name == name:
            raise ConfigError(f'{name} is not installed: pip install "ldct-pipeline[openvino]"') from None
        reason = next(iter(str(failure).splitlines()), type(failure).__name__)[:200]
        raise ConfigError(
            f"{name} is installed and does not load: {reason}; use --engine torch, or install it again "
            'with pip install "ldct-pipeline[openvino]"'
        ) from failure


def _stay_off_the_net() -> None:
    """OpenVINO and NNCF report their use to Google Analytics from their import on, unless told not to.

    Both fall back to doing nothing where their telemetry package cannot be imported. What runs on patients'
    images in a hospital's network calls nobody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

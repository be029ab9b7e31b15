"""The optional libraries of the exports: imported when needed, missing in one line, and silent on the net."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from contextlib import suppress
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


def not_installed(name: str) -> ConfigError:
    """The error of a library that is not there; pip knows each by the name that Python knows it by."""
    return ConfigError(f"{name} is not installed: pip install {name}")


def openvino_library() -> Any:
    """The module `openvino`.

    Raises:
        ConfigError: it is not installed, or does not load.
    """
    return _library("openvino")


@functools.cache
def openvino_core() -> Any:
    """The `openvino.Core` of this process, which lives as long as the process does.

    With its first task a core gives the thread a stack for signals, and takes it back at its end. Of two
    cores that end in the order in which they began, the second one brings back the stack that went with the
    first: the next Ctrl-C would be a segmentation fault. So there is one, and it is there before those of
    NNCF, which come and go in turn.

    Raises:
        ConfigError: OpenVINO is not installed, or does not load.
    """
    core = openvino_library().Core()
    with suppress(RuntimeError):  # of a machine that it does not know; compiling says more
        core.get_property("CPU", "FULL_DEVICE_NAME")  # a task
    return core


def nncf_library() -> Any:
    """The module `nncf`, which says nothing but errors.

    Raises:
        ConfigError: it is not installed, or does not load.
    """
    nncf = _library("nncf")
    openvino_core()
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
            raise not_installed(name) from None
        reason = next(iter(str(failure).splitlines()), type(failure).__name__)[:200]
        raise ConfigError(
            f"{name} is installed and does not load: {reason}; install it again (pip install "
            f"--force-reinstall {name}), or do without: ldct predict --engine torch"
        ) from failure


def _stay_off_the_net() -> None:
    """OpenVINO and NNCF report their use to Google Analytics from their import on, unless told not to.

    Both fall back to doing nothing where their telemetry package cannot be imported. What runs on patients'
    images in a hospital's network calls nobody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

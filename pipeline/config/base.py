"""Strict YAML settings: every key known, every value typed, every complaint one line."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def load_settings(path: Path, schema: type[S]) -> S:
    """Read one YAML file (YAML 1.2, so `1e-4` is a number) into its settings class.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, or has unknown, missing or invalid keys.
    """
    values = _read_yaml(path)
    try:
        return schema.model_validate(values)
    except ValidationError as invalid:
        complaints = [_explain(error, schema) for error in invalid.errors()]
        raise ConfigError(f"{path}: {'; '.join(complaints)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file; one that is empty, or all comments, has none."""
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such settings file; presets live in configs/<preset>/") from None
    except OSError as unreadable:
        reason = unreadable.strerror or type(unreadable).__name__
        raise ConfigError(f"{path}: cannot be read ({reason}); name a readable YAML file") from None
    except (YAMLError, UnicodeDecodeError) as broken:
        where = " ".join(str(broken).split())
        raise ConfigError(f"{path}: not valid YAML: {where}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def _explain(error: Any, schema: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(schema), n=1, cutoff=0.6)
        return f"{key}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return f"{key}: required key is missing"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}, got {error['input']!r}"


def _known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        for inner in _nested_settings(field.annotation):
            keys.extend(_known_keys(inner, prefix=f"{prefix}{name}."))
    return keys


def _nested_settings(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [inner for part in typing.get_args(annotation) for inner in _nested_settings(part)]

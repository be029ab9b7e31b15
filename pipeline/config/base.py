"""Strict YAML settings: every key known, every value typed, every complaint one line."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ConfigError

_CLOSE: Final = 0.75
"""How alike two keys are, of 1, before one is proposed for the other."""

_PLAIN: Final = {
    "tuple_type": "input should be a list",
    "list_type": "input should be a list",
    "dict_type": "input should be a mapping, `key: value`",
    "model_type": "input should be a mapping, `key: value`",
    "model_attributes_type": "input should be a mapping, `key: value`",
    "string_type": "input should be text",
    "int_type": "input should be a whole number",
    "int_parsing": "input should be a whole number",
    "int_from_float": "input should be a whole number",
    "float_type": "input should be a number",
    "float_parsing": "input should be a number",
    "bool_type": "input should be true or false",
    "bool_parsing": "input should be true or false",
}
"""Complaints of Pydantic in the words of YAML."""


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
        raise ConfigError(f"{path}: {'; '.join(_complaints(invalid, schema))}") from None


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


def _complaints(invalid: ValidationError, schema: type[BaseModel]) -> list[str]:
    """One for each fault; a list is not blamed for the items that were refused."""
    errors = invalid.errors()
    blamed = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    return [_explain(error, schema) for error in errors if error["loc"] not in blamed]


def _explain(error: Any, schema: type[BaseModel]) -> str:
    location, kind = error["loc"], error["type"]
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_hint(location, schema)}"
    if kind == "missing":
        return f"{key}: required {'item' if isinstance(location[-1], int) else 'key'} is missing"
    if kind == "union_tag_not_found":
        selector = error["ctx"]["discriminator"].strip("'")
        return f"{key}.{selector}: required key is missing"
    if kind == "union_tag_invalid":
        selector, known = error["ctx"]["discriminator"].strip("'"), error["ctx"]["expected_tags"]
        return f"{key}: unknown {selector} {error['ctx']['tag']!r}, known are {known}"
    complaint = f"{_in_plain_words(error)}, got {_as_written(error['input'])}"
    return f"{key}: {complaint}" if key else complaint


def _in_plain_words(error: Any) -> str:
    if error["type"] == "too_short":
        return f"list should have at least {_items(error['ctx']['min_length'])}"
    if error["type"] == "too_long":
        return f"list should have at most {_items(error['ctx']['max_length'])}"
    message: str = error["msg"].removeprefix("Value error, ")
    return _PLAIN.get(error["type"], message[:1].lower() + message[1:])


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _as_written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return repr(value)


def _hint(location: tuple[str | int, ...], schema: type[BaseModel]) -> str:
    """What an unknown key may have been meant to be, if anything here is like it."""
    *parents, name = location
    chosen, union = _settings_at(parents, schema)
    near = difflib.get_close_matches(
        str(name), [key for one in chosen for key in one.model_fields], n=1, cutoff=_CLOSE
    )
    if near:
        return f", did you mean {'.'.join(map(str, [*parents, near[0]]))}?"
    owners = [_tag(one) for one in union if one not in chosen and name in one.model_fields]
    if owners:
        selector = owners[0][0]
        return f", not a key of this {selector} but of {', '.join(tag for _, tag in owners)}"
    return ""


def _settings_at(
    parents: Sequence[str | int], schema: type[BaseModel]
) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """The settings that a location lies in, and all that its place could have held."""
    chosen = union = [schema]
    for part in parents:
        tagged = [one for one in chosen if part == _tag(one)[1]]
        if len(chosen) > 1 and tagged:
            chosen = tagged
        elif isinstance(part, str):
            fields = [one.model_fields[part] for one in chosen if part in one.model_fields]
            chosen = union = [inner for field in fields for inner in _nested_settings(field.annotation)]
    return chosen, union


def _tag(settings: type[BaseModel]) -> tuple[str, str]:
    """The key and the value that tell a member of a union from the others; empty where there is none."""
    for name, field in settings.model_fields.items():
        values = typing.get_args(field.annotation)
        if typing.get_origin(field.annotation) is typing.Literal and len(values) == 1:
            return name, str(values[0])
    return "", ""


def _nested_settings(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [inner for part in typing.get_args(annotation) for inner in _nested_settings(part)]

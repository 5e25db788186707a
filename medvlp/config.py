"""Strict, typed configuration: one YAML file plus dotted overrides becomes a frozen dataclass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from medvlp.errors import ConfigError
from medvlp.plain_files import parse_yaml
from medvlp.plain_files import read_yaml as read_yaml

C = TypeVar("C")

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
"""Every configuration dataclass: ``@dataclass(frozen=True, kw_only=True, config=STRICT)``."""


def override(values: dict[str, Any], items: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with overrides such as ``data.batch_size=8`` applied; values are YAML.

    Raises:
        ConfigError: An override is not of the form ``key.path=value``.
    """
    merged = _copy(values)
    for item in items:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise ConfigError(
                f"override {item!r} is not of the form key.path=value",
                remedy="write for example trainer.steps=200",
            )
        try:
            value = parse_yaml(text)
        except (yaml.YAMLError, ConfigError) as error:
            raise ConfigError(
                f"override {key}: value is not valid YAML", remedy="quote the value"
            ) from error
        _set(merged, key.split("."), value)
    return merged


def validate(schema: type[C] | Any, values: Any, where: str) -> C:
    """`values` as the frozen dataclass `schema`.

    Args:
        schema: A strict pydantic dataclass or a type built from such.
        values: Plain values as read from YAML.
        where: What the values come from, for the message (a configuration file's name).

    Raises:
        ConfigError: Names every offending key with its value and the reason.
    """
    try:
        checked: C = TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        lines = [_line(e["loc"], e["msg"], e["input"]) for e in error.errors()]
        raise ConfigError(
            f"{where}: " + "; ".join(lines), remedy="correct the keys named here"
        ) from error
    except ArithmeticError as error:
        # A check of one size against another, such as width against heads, met a zero.
        raise ConfigError(
            f"{where}: a size is 0 or impossibly large", remedy="give sizes above 0"
        ) from error
    return checked


def load_config(schema: type[C] | Any, path: Path, overrides: Sequence[str] = ()) -> C:
    """Read `path`, apply `overrides`, and validate against `schema`.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, or a failed cross-field check.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds no key: value pairs", remedy="see configs/ for examples")
    checked: C = validate(schema, override(values, overrides), str(path))
    return checked


def plain(config: Any) -> Any:
    """A configuration as plain values (the inverse of `validate`), ready for YAML or JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def dump_config(config: Any, path: Path) -> None:
    """Write the resolved configuration, so that a run can be repeated from its folder."""
    path.write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")


def one_of_kinds(classes: Iterable[type], default: str | None = None) -> Any:
    """The type "one of these configurations, told apart by their `kind` tag".

    Args:
        classes: The configurations.
        default: The kind of values that name none; without one they are refused.
    """
    members = tuple(classes)
    if len(members) == 1:
        return members[0]
    union: Any = Annotated[Union[members], Field(discriminator="kind")]  # noqa: UP007
    if default is None:
        return union

    def named(values: Any) -> Any:
        return {"kind": default} | values if isinstance(values, dict) else values

    return Annotated[union, BeforeValidator(named)]


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _set(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *parents, last = keys
    node: Any = values
    for key in parents:
        node = _child(node, key)
    if isinstance(node, list):
        node[_place(node, last)] = value
    else:
        node[last] = value


def _child(node: Any, key: str) -> Any:
    if isinstance(node, list):
        return node[_place(node, key)]
    child = node.setdefault(key, {})
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(
            f"override: {key!r} holds the single value {child!r}, not keys",
            remedy="drop the part after it",
        )
    return child


def _place(node: list[Any], key: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise ConfigError(
            f"override: {key!r} is no index of a list of {len(node)}",
            remedy="count the list's entries from 0",
        )
    return int(key)


def _line(loc: tuple[int | str, ...], message: str, value: Any) -> str:
    key = ".".join(map(str, loc)) or "(top level)"
    if isinstance(value, Mapping):  # a cross-field check: its message names the values
        return f"{key}: {message.removeprefix('Value error, ')}"
    shown = repr(value)
    return f"{key}: {message} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"

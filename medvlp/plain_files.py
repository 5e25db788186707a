"""Text, JSON and YAML from files that anybody may have written: bounded, and plain values only.

A file cannot make its reader run code, wait on a pipe, or build more than its size allows: aliases
of YAML (the "billion laughs") count as often as they are used.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from medvlp.errors import ConfigError

LARGEST_YAML = 1 << 19
"""Bytes of a configuration; the reader takes about three seconds for so much."""

LARGEST_JSON = 1 << 28

_MOST_NODES = 100_000
"""Values of a YAML file, each alias counted with all that it stands for."""

_LONGEST_NUMBER = 64


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, endless numbers, and aliases that multiply."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {}, frozenset())
        return node


def _mapping(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    values: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {line}: a key is no single value", remedy="quote the key")
        key = loader.construct_object(key_node, deep=True)
        if key in values:
            raise ConfigError(f"line {line}: key {key!r} is given twice", remedy="keep one of them")
        values[key] = loader.construct_object(value_node, deep=True)
    return values


def _int(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    _short(node)
    return int(loader.construct_yaml_int(node))


def _float(loader: _PlainLoader, node: yaml.ScalarNode) -> float:
    _short(node)
    return float(loader.construct_yaml_float(node))


def _short(node: yaml.ScalarNode) -> None:
    if len(node.value) > _LONGEST_NUMBER:
        line = node.start_mark.line + 1
        raise ConfigError(
            f"line {line}: a number has {len(node.value)} characters", remedy="write it shorter"
        )


_PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _float)


def _count(node: yaml.Node, known: dict[int, int], above: frozenset[int]) -> int:
    """Values in `node` with every alias written out."""
    if id(node) in above:
        raise ConfigError("an alias stands within what it names", remedy="write the values out")
    if id(node) not in known:
        total = 1
        for child in _children(node):
            total += _count(child, known, above | {id(node)})
        if total > _MOST_NODES:
            raise ConfigError(
                f"more than {_MOST_NODES:,} values when its aliases are written out",
                remedy="use fewer aliases",
            )
        known[id(node)] = total
    return known[id(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def read_text(path: Path, largest: int, *, what: str) -> str:
    """The text of a regular file in UTF-8.

    Args:
        path: The file; a link to one will do.
        largest: Bytes that it may have.
        what: How it should look, for the remedy, such as ``YAML``.

    Raises:
        ConfigError: It is missing, no regular file, too large, or not UTF-8.
    """
    remedy = f"name a readable {what} file"
    try:
        found = path.stat()
        # Opening a pipe would wait for a writer.
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ConfigError(f"{path}: no regular file", remedy=remedy)
        if found.st_size > largest:
            raise ConfigError(f"{path}: larger than {largest:,} bytes", remedy=remedy)
        with path.open("rb") as file:
            return file.read(largest + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"{path}: {reason}", remedy=remedy) from error
    except ValueError as error:
        raise ConfigError("a path holds a zero byte", remedy=remedy) from error


def read_yaml(path: Path) -> Any:
    """The plain values in a YAML file; no tags, no objects, no duplicate keys.

    Raises:
        ConfigError: The file is missing, unreadable, too large or not YAML.
    """
    text = read_text(path, LARGEST_YAML, what="YAML")
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", remedy=error.remedy) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{path}{line}: {problem}", remedy="mend the YAML syntax") from error


def parse_yaml(text: str) -> Any:
    """The plain values in a YAML text.

    Raises:
        ConfigError: It nests too deeply, multiplies aliases, or holds an impossible value.
        yaml.YAMLError: It is no YAML, or has tags of objects.
    """
    loader = None
    try:
        loader = _PlainLoader(text)
        return loader.get_single_data()
    except RecursionError as error:
        raise ConfigError("nested too deeply", remedy="write it flatter") from error
    except ValueError as error:
        raise ConfigError(
            "a number, date or text is impossible", remedy="quote what is meant as text"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """The values in a JSON file.

    Raises:
        ConfigError: The file is missing, unreadable, too large, nested too deeply or not JSON.
    """
    text = read_text(path, largest, what="JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON", remedy="name a readable JSON file") from error


def own_file(folder: Path, name: str) -> Path | None:
    """The regular file called `name` that lies in `folder` itself.

    None if there is none, `name` is a path rather than a name, or it is a link: a file that
    stands somewhere else is not the folder's.
    """
    path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        return None
    return path

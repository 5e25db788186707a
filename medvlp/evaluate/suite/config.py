"""The suite file: which bundles meet on which protocols."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, load_config, read_yaml
from medvlp.evaluate.protocol import Name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Suite:
    """One head-to-head."""

    name: Name
    version: int
    """Raised whenever a change makes numbers incomparable."""

    protocols: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Protocol files, relative to the suite's."""

    bundles: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Bundle folders, relative to the suite's file; each meets the protocols of its domain."""

    overrides: tuple[str, ...] = ()
    """Applied to every protocol, such as ``bootstrap.draws=2000``."""

    workers: Annotated[int, Field(ge=1)] = max(1, (os.cpu_count() or 2) // 2)
    """Cells that run at the same time, each in a process of its own."""

    def __post_init__(self) -> None:
        for key in ("protocols", "bundles"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: one is named twice")


def is_suite(path: Path) -> bool:
    """Whether a YAML file is a suite rather than a protocol.

    Raises:
        ConfigError: It cannot be read.
    """
    values = read_yaml(path)
    return isinstance(values, dict) and "protocols" in values


def load_suite(path: Path) -> Suite:
    """Read a suite; its paths are taken relative to its file.

    Raises:
        ConfigError: Names file, key, value and reason.
    """
    suite: Suite = load_config(Suite, path)
    places = {
        key: tuple(path.parent / place for place in getattr(suite, key))
        for key in ("protocols", "bundles")
    }
    return Suite(
        name=suite.name,
        version=suite.version,
        overrides=suite.overrides,
        workers=suite.workers,
        **places,
    )

"""A protocol's folder as the report reads it: these files and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.config import read_yaml
from medvlp.errors import ConfigError, InputError
from medvlp.plain_files import read_json

FILES = ("predictions.parquet", "metrics.json", "bundles.json", "protocol.yaml")


@dataclass(frozen=True)
class ProtocolFolder:
    """One evaluated protocol."""

    path: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`: the rows, the counts, and the protocol's digest."""
        loaded: dict[str, Any] = _json(self.path / "metrics.json")
        return loaded

    @cached_property
    def bundles(self) -> list[dict[str, Any]]:
        """`bundles.json`: name, digest, control and provenance of each."""
        loaded: list[dict[str, Any]] = _json(self.path / "bundles.json")
        return loaded

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """`protocol.yaml`, resolved."""
        loaded: dict[str, Any] = read_yaml(self.path / "protocol.yaml")
        needed = {"task", "data", "bootstrap"}
        if not isinstance(loaded, dict) or not needed <= set(loaded):
            raise _broken(self.path / "protocol.yaml")
        return loaded

    @cached_property
    def predictions(self) -> pl.DataFrame:
        """`predictions.parquet`."""
        try:
            return pl.read_parquet(self.path / "predictions.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _broken(self.path / "predictions.parquet") from error

    @cached_property
    def examples(self) -> list[dict[str, Any]]:
        """`examples/examples.json`: pictures and overlays, if any were drawn."""
        file = self.path / "examples" / "examples.json"
        return _json(file) if file.exists() else []

    @property
    def task(self) -> str:
        """The task's kind."""
        return str(self.protocol["task"]["kind"])

    def rows(self, metric: str) -> list[dict[str, Any]]:
        """Metric rows of one metric, models before controls."""
        found = [row for row in self.metrics["rows"] if row["metric"] == metric]
        return sorted(found, key=lambda row: row["control"])


def find_protocols(folder: Path) -> list[ProtocolFolder]:
    """The protocol folders at or below `folder`, in the order of their names.

    Raises:
        InputError: There is none.
    """
    found = [ProtocolFolder(path) for path in _walk(folder)]
    if not found:
        raise InputError(
            f"{folder.name}: no evaluated protocol in this folder (looked for {', '.join(FILES)})",
            remedy="run medvlp evaluate first and name its --out folder",
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for file in sorted(folder.rglob("predictions.parquet")):
        if all((file.parent / name).exists() for name in FILES):
            yield file.parent


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ConfigError as error:
        raise _broken(path) from error


def _broken(path: Path) -> InputError:
    return InputError(
        f"{path.parent.name}/{path.name} is missing or damaged",
        remedy="run medvlp evaluate for this protocol again",
    )

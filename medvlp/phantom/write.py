"""Writing a phantom archive: patient by patient in a process pool, whole or not at all."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, override, validate
from medvlp.domain import get_domain
from medvlp.errors import ConfigError, InputError
from medvlp.progress import track

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""Rows that one patient adds to the archive's tables, by the table's path in the archive."""

_TOO_FEW_FOR_A_POOL = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhantomConfig:
    """What every phantom takes; a domain's own class adds its settings."""

    n: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Patients (procedures, for video)."""
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes; 0 takes one a core. The archive does not depend on it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phantom:
    """What a domain's ``phantom`` reference points to."""

    config: type[PhantomConfig]
    """The settings, strict."""

    patient: Callable[[Path, Any, int], Rows]
    """``(folder, config, i) -> Rows``: writes patient `i`'s files below `folder` and returns the
    rows that go to tables. A module-level function; all it draws follows from (seed, i)."""

    tables: Mapping[str, Mapping[str, Any]]
    """The tables: path (``.csv`` or ``.parquet``) -> column -> polars type."""

    index: Callable[[Any], Mapping[str, Any]]
    """``(config) -> options``: the ``index.yaml`` with which `medvlp index` reads the archive."""


def write_phantom(
    domain: str, folder: Path, *, n: int, seed: int, settings: Sequence[str] = ()
) -> None:
    """Write the phantom archive of `domain` to `folder`, with ``index.yaml`` inside.

    Args:
        domain: An installed domain's name.
        folder: New or empty folder.
        n: Patients.
        seed: The same seed and settings give the same bytes.
        settings: Overrides of the domain's phantom configuration, such as ``size=128``.

    Raises:
        ConfigError: Unknown domain, a domain without a phantom, unknown setting or wrong value.
        InputError: `folder` exists and is not empty.
    """
    reference = get_domain(domain).phantom
    if reference is None:
        raise ConfigError(
            f"domain {domain!r} brings no phantom", remedy="choose cxr, volumetric or video"
        )
    phantom: Phantom = reference.load()
    values = override({"n": n, "seed": seed}, settings)
    write_archive(phantom, folder, validate(phantom.config, values, f"{domain} phantom settings"))


def write_archive(phantom: Phantom, folder: Path, config: PhantomConfig) -> None:
    """Write the archive that `config` describes; whole, or nothing.

    Raises:
        InputError: `folder` exists and is not empty.
    """
    with _new_folder(folder) as part:
        rows: Rows = {path: [] for path in phantom.tables}
        work = partial(phantom.patient, part, config)
        for added in track(_each_patient(work, config), "Writing phantom", total=config.n):
            for path, more in added.items():
                rows[path].extend(more)
        for path, schema in phantom.tables.items():
            _write_table(part / path, pl.DataFrame(rows[path], schema=dict(schema)))
        text = yaml.safe_dump(dict(phantom.index(config)), sort_keys=False)
        (part / "index.yaml").write_text(text, encoding="utf-8")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name if all goes well and vanishes if not."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "the output folder of the phantom exists and is not empty",
            remedy="name a new folder, or remove this one",
        )
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    part.mkdir()
    try:
        yield part
        if target.exists():
            target.rmdir()
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _each_patient(work: Callable[[int], Rows], config: PhantomConfig) -> Iterator[Rows]:
    workers = min(config.workers or os.cpu_count() or 1, config.n)
    if workers == 1 or config.n < _TOO_FEW_FOR_A_POOL:
        yield from map(work, range(config.n))
        return
    # Not fork: the parent may hold torch's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        yield from pool.map(work, range(config.n), chunksize=max(1, min(16, config.n // 32)))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_table(path: Path, table: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)

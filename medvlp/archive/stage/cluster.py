"""Readings on many machines through Ray Data; `docs/cluster.md` tells how it is set up.

The ledger stays with the process that was started and owns what is read: Ray carries out batches
of items, and nothing depends on its state. Whatever ends, the next run goes on from the ledger.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from medvlp.archive.stage.child import Children, Limits
from medvlp.archive.stage.reading import Item, Reading
from medvlp.data.paths import path_from_text, path_to_text
from medvlp.domain import Ref
from medvlp.errors import ArchiveError, ConfigError

_CHUNK = 8192
"""Items of one Ray data set."""
_BATCH = 16
"""Items that a Ray worker is handed at once."""

Batch = Mapping[str, Any]


class Cluster:
    """Up to `workers` reading processes on the nodes of a Ray cluster.

    Joins the cluster that ``RAY_ADDRESS`` names; without one it starts Ray on this machine alone:
    loopback only, without dashboard, behind a token.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, workers: int) -> None:
        if find_spec("ray") is None:
            raise ConfigError(
                "engine=ray needs Ray, which is not installed",
                remedy='pip install "medvlp-platform[cluster]", or leave out engine=ray',
            )
        self._workers = workers
        self._ray: Any = None

    def answers(self, reading: Reading[Any], items: Iterable[Item]) -> Iterator[tuple[Item, str]]:
        """Each item with its answer as a line of JSON, as they finish.

        Raises:
            ArchiveError: Ray fails; what was answered before holds.
        """
        source = iter(items)
        while chunk := list(islice(source, _CHUNK)):
            self._ray = self._ray or _start_ray()
            yield from self._read(reading, chunk)

    def close(self) -> None:
        """Leave the cluster; a Ray that was started here ends."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _read(self, reading: Reading[Any], chunk: list[Item]) -> Iterator[tuple[Item, str]]:
        order = json.dumps(_plain(reading))
        rows = [
            {"place": place, "order": order, "paths": json.dumps(list(map(path_to_text, item)))}
            for place, item in enumerate(chunk)
        ]
        blocks = min(len(rows), max(self._workers, -(-len(rows) // _BATCH)))
        read = self._ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Worker,
            compute=self._ray.data.ActorPoolStrategy(
                min_size=1, max_size=min(self._workers, blocks)
            ),
            batch_size=_BATCH,
            num_cpus=1,
        )
        try:
            for batch in read.iter_batches(batch_size=None, batch_format="numpy"):
                for place, text in zip(batch["place"], batch["answer"], strict=True):
                    yield chunk[int(place)], str(text)
        except self._ray.exceptions.RayError as error:
            raise ArchiveError(
                f"reading through Ray failed ({type(error).__name__})",
                remedy="see docs/cluster.md, then run the command again: what was read is kept",
            ) from None


class _Worker:
    """One reading process on some node, and what asks it."""

    def __init__(self) -> None:
        self._children = Children(1)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Answer for a batch of items of one reading."""
        reading = _reading(json.loads(batch["order"][0]))
        items = {
            tuple(map(path_from_text, json.loads(paths))): int(place)
            for place, paths in zip(batch["place"], batch["paths"], strict=True)
        }
        answers = [(items[item], text) for item, text in self._children.answers(reading, items)]
        return {
            "place": np.array([place for place, _ in answers], np.int64),
            "answer": np.array([text for _, text in answers], object),
        }


def _plain(reading: Reading[Any]) -> dict[str, Any]:
    """What crosses to the workers: plain values."""
    return {
        "read": reading.read.target,
        "version": reading.version,
        "limits": asdict(reading.limits),
        "settings": dict(reading.settings),
        "tells": reading.tells,
    }


def _reading(order: Mapping[str, Any]) -> Reading[Any]:
    return Reading(
        read=Ref(order["read"]),
        result=object,
        version=order["version"],
        limits=Limits(**order["limits"]),
        settings=order["settings"],
        tells=order["tells"],
    )


def _start_ray() -> Any:
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if not joins:
        _keep_to_oneself()
    ray: Any = import_module("ray")
    ray.data = import_module("ray.data")
    alone = {} if joins else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR", **alone)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


def _keep_to_oneself() -> None:
    """Settings of a Ray that is started here; it takes them in when it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Without clusters, as Ray calls it, it listens on the loopback alone.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

"""The run folder: what it holds, whether a command may go on in it, and from where."""

from __future__ import annotations

import errno
import fcntl
import json
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from medvlp.config import plain, read_yaml
from medvlp.errors import MedvlpError, RunError
from medvlp.outputs import write_text
from medvlp.plain_files import read_json
from medvlp.train.experiment import Experiment

_PACKAGES = ("medvlp-platform", "lightning", "numpy", "tokenizers", "torch", "transformers")

_MACHINES = ("trainer.devices", "trainer.nodes", "trainer.strategy")
"""What a resumed run may change: samples and batches are the same on any number of devices."""

_BEGUN = re.compile(r"versions\.json|\.(versions\.json|config\.yaml)\.partial-\d+")
"""What a run that was killed before it had claimed its folder may have left."""


def claim(run: Path, experiment: Experiment) -> bool:
    """Make the folder this experiment's, or find that it is already.

    Returns:
        Whether it is new.

    Raises:
        RunError: It holds something else, or a run of another configuration; how many devices
            share the work may differ.
    """
    stored = run / "config.yaml"
    values = plain(experiment)
    if not stored.is_file():
        if run.exists() and not all(_BEGUN.fullmatch(path.name) for path in run.iterdir()):
            raise RunError(
                f"{run.name} is no run folder and is not empty",
                remedy="name a new folder with --out",
            )
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / "versions.json", json.dumps(_versions(), indent=1))
        write_text(stored, yaml.safe_dump(values, sort_keys=False))
        return True
    found = _differences(read_yaml(stored), json.loads(json.dumps(values)), "")
    differing = [key for key in found if key not in _MACHINES]
    if differing:
        raise RunError(
            f"{run.name} holds a run of another configuration; differing: {', '.join(differing)}",
            remedy="use the configuration in its config.yaml, or name a new folder with --out",
        )
    return False


@contextmanager
def beginning(run: Path, *, new: bool) -> Iterator[None]:
    """Keep no new folder for an experiment that turns out to be unusable before its first step.

    The corrected command would be refused there, as one of another configuration.
    """
    try:
        yield
    except MedvlpError:
        if new and not (run / "metrics.csv").exists():
            _empty(run)
        raise


def _empty(run: Path) -> None:
    """Remove a folder; where it is a link, what it holds."""
    if not run.is_symlink():
        shutil.rmtree(run, ignore_errors=True)
        return
    for path in run.iterdir():
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other commands from training in the folder at the same time.

    The lock is the process's, so that it ends with it, whatever its reading processes do. Where
    the file system knows no locks, nobody is kept out.

    Raises:
        RunError: Another command trains there.
    """
    with (run / ".lock").open("a", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise RunError(
                    f"{run.name} is being trained by another command",
                    remedy="wait for it, or name another folder with --out",
                ) from error
        yield


def record_data(run: Path, facts: dict[str, Any]) -> None:
    """Write ``data.json``, or check that a resumed run still sees the same data.

    Raises:
        RunError: The data differ from those that the run began with.
    """
    file = run / "data.json"
    if not file.is_file():
        write_text(file, json.dumps(facts, indent=1))
        return
    differing = list(_differences(read_json(file), facts, ""))
    if differing:
        raise RunError(
            f"{run.name} began with other data; differing: {', '.join(differing)}",
            remedy="restore the manifests, or start a new run with --out",
        )


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), **found}


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
    elif old != new:
        yield prefix or "(all)"

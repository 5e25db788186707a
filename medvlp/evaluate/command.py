"""What `medvlp evaluate` was asked for: a protocol, a suite, or metrics again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.brought.table import Brought, Scale, read_brought


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command's arguments and options."""

    protocol: Path | None
    bundles: Sequence[Path]
    tables: Sequence[str]
    """``NAME=FILE`` each."""

    scores: bool
    from_predictions: Path | None
    check: bool
    out: Path | None
    overrides: Sequence[str]


@dataclass(frozen=True)
class Done:
    """What the command says, and its exit code."""

    lines: str
    code: int = 0
    suite: Path | None = None
    """The folder of a head-to-head, of which tables can be made."""


def run_evaluate(asked: Asked) -> Done:
    """Do what was asked for.

    Raises:
        ConfigError: The protocol or suite cannot be used.
        InputError: Options that do not go together, or input that cannot be used.
    """
    if asked.from_predictions is not None:
        return _again(asked, asked.from_predictions)
    if asked.check:
        raise InputError("--check compares predictions", remedy="give --from-predictions FOLDER")
    if asked.protocol is None or asked.out is None:
        raise InputError("no protocol or no --out is given", remedy="name a YAML file and a folder")
    if asked.scores and not asked.tables:
        raise InputError(
            "--scores says how to read --predictions, and none are given", remedy="leave it out"
        )
    from medvlp.evaluate.suite.config import is_suite

    if is_suite(asked.protocol):
        return _suite(asked, asked.protocol, asked.out)
    from medvlp.evaluate.run import evaluate_protocol

    scale: Scale = "ranks" if asked.scores else "probability"
    tables = [_table(text, scale) for text in asked.tables]
    return Done(
        evaluate_protocol(asked.protocol, asked.bundles, asked.out, asked.overrides, tables)
    )


def _again(asked: Asked, folder: Path) -> Done:
    if asked.protocol or asked.bundles or asked.tables or asked.scores:
        raise InputError(
            "--from-predictions reads the protocol and the models from its folder",
            remedy="leave the protocol, --bundle, --predictions and --scores out",
        )
    from medvlp.evaluate.recompute import recompute

    return Done(*recompute(folder, asked.out, check=asked.check))


def _suite(asked: Asked, path: Path, out: Path) -> Done:
    if asked.bundles or asked.tables or asked.overrides:
        raise ConfigError(
            f"{path.name} is a suite, which names its bundles and overrides itself",
            remedy="write them into the suite's file",
        )
    from medvlp.evaluate.suite.run import run_suite

    lines, code = run_suite(path, out)
    return Done(lines, code, suite=out)


def _table(text: str, scale: Scale) -> Brought:
    name, sign, file = text.partition("=")
    if not sign or not name or not file:
        raise InputError(
            "--predictions is not of the form NAME=FILE", remedy="write for example theirs=t.csv"
        )
    return read_brought(name, Path(file), scale)

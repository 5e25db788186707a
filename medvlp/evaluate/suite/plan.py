"""What is to be run: one cell a (protocol, bundle), named by everything its rows depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.data.proxies import open_proxies
from medvlp.data.readers import how_read
from medvlp.digest import digest_plain
from medvlp.errors import ConfigError, MedvlpError
from medvlp.evaluate.controls.table import UNFIT
from medvlp.evaluate.environment import code_digest
from medvlp.evaluate.protocol import Protocol, load_protocol
from medvlp.evaluate.run import open_study
from medvlp.evaluate.scorers import scorer_names
from medvlp.evaluate.suite.config import Suite
from medvlp.models.bundle_file import read_info
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One bundle on one protocol."""

    path: Path
    """The protocol's file."""

    overrides: tuple[str, ...]
    protocol: str
    """The protocol's name."""

    bundle: Path
    model: str
    """The name that the bundle's rows carry."""

    key: str
    """Digest of protocol, data, bundle, name and code: a finished cell of this key stays valid."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One protocol with its cells, in the order of the suite's bundles."""

    protocol: Protocol
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a suite runs, and the protocols that cannot be."""

    contests: tuple[Contest, ...]
    refused: tuple[tuple[str, str], ...]
    """(protocol file's name, reason)."""

    @property
    def cells(self) -> list[Cell]:
        """All cells, protocol by protocol."""
        return [cell for contest in self.contests for cell in contest.cells]


@dataclass(frozen=True)
class _Entrant:
    path: Path
    domain: str
    digest: str
    control: str | None


def make_plan(suite: Suite, out: Path) -> Plan:
    """Load the protocols, open their data (phantoms are made under `out`), and name the cells.

    Raises:
        BundleError: A bundle is damaged, or two of a domain are the same control.
        ConfigError: Two protocols have one name, or no protocol can be run at all.
    """
    entrants = [_entrant(path) for path in suite.bundles]
    contests: list[Contest] = []
    refused: list[tuple[str, str]] = []
    for path in track(suite.protocols, "protocols"):
        try:
            contests.append(_contest(path, suite, entrants, out))
        except MedvlpError as error:
            refused.append((path.stem, error.message))
    names = [contest.protocol.name for contest in contests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"{suite.name}: several protocols are called {', '.join(twice)}",
            remedy="give each protocol a name of its own",
        )
    if not contests:
        raise ConfigError(
            f"{suite.name}: no protocol can be run; the first: {refused[0][1]}",
            remedy="correct the protocols",
        )
    return Plan(contests=tuple(contests), refused=tuple(refused))


def _entrant(path: Path) -> _Entrant:
    info, digest = read_info(path)
    return _Entrant(path, info.domain, digest, info.provenance.get("control"))


def _contest(path: Path, suite: Suite, entrants: Sequence[_Entrant], out: Path) -> Contest:
    protocol = load_protocol(path, suite.overrides)
    unfit = UNFIT.get(protocol.task.kind, {})
    own = [e for e in entrants if e.domain == protocol.domain and e.control not in unfit]
    if not own:
        raise ConfigError(
            f"{protocol.name}: no bundle of domain {protocol.domain} is named",
            remedy="name one under bundles",
        )
    study = open_study(protocol, out)
    names = scorer_names([(entrant.path, entrant.control) for entrant in own])
    common: list[Any] = [protocol.digest, [m.digest for m in study.manifests], code_digest()]
    if proxies := open_proxies(protocol.domain, protocol.data.proxies):
        samples = (name for m in study.manifests for name in m.samples["sample"])
        common.append(how_read(study.manifests, samples, proxies=proxies))
    cells = [
        Cell(
            path=path,
            overrides=suite.overrides,
            protocol=protocol.name,
            bundle=entrant.path,
            model=name,
            key=digest_plain([*common, entrant.digest, name])[:32],
        )
        for entrant, name in zip(own, names, strict=True)
    ]
    return Contest(protocol=protocol, cells=tuple(cells))

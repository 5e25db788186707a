"""What a bundle was trained on: its manifests where they are at hand, or its own footprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.archive.duplicates.footprint import Footprint
from medvlp.config import read_yaml
from medvlp.data.manifest import Manifest
from medvlp.errors import ConfigError, ManifestError
from medvlp.models.bundle_footprint import read_footprint


@dataclass(frozen=True, kw_only=True)
class Started:
    """A bundle from whose weights another was trained on, by the other's provenance."""

    manifests: frozenset[str]
    """Digests of those that it was trained on; none where it did not tell."""

    footprint: bool
    """Whether its footprint is part of the other's."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is known of a bundle's training data."""

    digests: frozenset[str]
    """Of the manifests, by the bundle's own account, those of earlier runs among them."""

    manifests: tuple[Manifest, ...]
    """Those of them that are at hand."""

    footprint: Footprint | None

    started: tuple[Started, ...] = ()
    """The bundles whose weights it started from, one from another."""

    @property
    def known(self) -> bool:
        """Whether every manifest is at hand."""
        told = all(one.manifests or not one.footprint for one in self.started)
        return told and bool(self.digests) and self.digests == self._at_hand

    @property
    def untold(self) -> int:
        """Of how many bundles that it started from nothing can be compared."""
        return sum(
            not one.footprint and not (one.manifests and one.manifests <= self._at_hand)
            for one in self.started
        )

    @property
    def _at_hand(self) -> frozenset[str]:
        return frozenset(manifest.digest for manifest in self.manifests)


def training_of(
    bundle: Path, provenance: Mapping[str, Any], named: Sequence[Path], given: Sequence[Manifest]
) -> Training:
    """Find what a bundle was trained on.

    Args:
        bundle: The bundle's folder; in a run folder, its configuration says where the data were.
        provenance: The bundle's.
        named: Manifests that the protocol names as training data.
        given: The evaluation's own manifests, which may be the same.
    """
    started = tuple(
        Started(manifests=frozenset(one["manifests"]), footprint=one["footprint"])
        for one in provenance.get("init", ())
    )
    own = provenance.get("data", {}).get("manifests", ())
    digests = frozenset(own).union(*(one.manifests for one in started))
    found = {m.digest: m for m in given if m.digest in digests}
    for path in (*named, *_of_run(bundle)):
        manifest = _opened(path)
        # Those that the user names count as training data, whatever the bundle says.
        if manifest is not None and (manifest.digest in digests or path in named):
            found.setdefault(manifest.digest, manifest)
    return Training(
        digests=digests,
        manifests=tuple(found.values()),
        footprint=read_footprint(bundle),
        started=started,
    )


def _opened(path: Path) -> Manifest | None:
    try:
        return Manifest.open(path)
    except ManifestError:
        return None


def _of_run(bundle: Path) -> list[Path]:
    """Where the run folder around a bundle says that its manifests are."""
    run = bundle.resolve().parent
    places = [run / "phantom" / "manifest"]
    try:
        values = read_yaml(run / "config.yaml")
        places += [Path(str(path)) for path in values["data"]["manifests"]]
    except (ConfigError, KeyError, TypeError):
        pass
    return [place for place in places if place.is_dir()]

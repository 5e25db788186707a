"""`medvlp structure`: what a manifest's sentences say, as rows of its `entities`.

The manifest is written anew as a whole, sealed and entered in its audit log, as `medvlp rekey` and
`medvlp forget` write it. Rows that the same source made before are replaced; those of others stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.archive.privacy.rewrite import Opened
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.sections import NOT_SEEN
from medvlp.data.structure.backends import Backend, Rules
from medvlp.data.structure.extract import Extractor, Triple, load_extractor
from medvlp.data.structure.labels import labels_of
from medvlp.data.structure.radgraph import RadGraphReader
from medvlp.data.structure.vocabulary import Vocabulary
from medvlp.data.tables import TABLES
from medvlp.domain import get_domain
from medvlp.errors import ConfigError, ManifestError

Row = dict[str, Any]
Make = Callable[[Path | None, Extractor], Backend]


def _rules(weights: Path | None, extractor: Extractor) -> Backend:
    if weights is not None:
        raise ConfigError(
            "rules have no weights", remedy="leave out --weights, or name a --backend"
        )
    return Rules(extractor)


def _language_model(weights: Path | None, extractor: Extractor) -> Backend:
    from medvlp.models.triple_reader import TripleReader  # torch only where it is needed

    return TripleReader(weights, extractor.vocabulary)


BACKENDS: Mapping[str, Make] = {
    "rules": _rules, "radgraph": RadGraphReader, "llm": _language_model,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for."""

    backend: str = "rules"
    weights: Path | None = None
    language: str = "en"
    vocabulary: Path | None = None
    labels: bool = False
    """Whether labels are written, too."""


def structure_manifest(path: Path, asked: Asked) -> str:
    """Read the sentences of a manifest and write what they say into it.

    Args:
        path: The manifest.
        asked: By whom, in which words.

    Returns:
        What was read, in a line.

    Raises:
        ManifestError: The manifest was edited, its private folder is missing, or it has no
            sentences.
        ConfigError: No such backend, or a domain, vocabulary or weights that cannot be used.
    """
    if asked.backend not in BACKENDS:
        raise ConfigError(
            f"there is no backend {asked.backend}", remedy=f"use one of {', '.join(BACKENDS)}"
        )
    opened = Opened.of(path)
    found = _Found(opened.manifest, asked)
    _write(opened, found, asked)
    return found.summary(path.name)


class _Found:
    """What the sentences of a manifest say."""

    def __init__(self, manifest: Manifest, asked: Asked) -> None:
        nodes = _sentences(manifest)
        self.source = asked.backend
        self.dropped = 0
        self._said: dict[tuple[str, str], tuple[Triple, ...]] = {}
        self._vocabularies: dict[str, Vocabulary] = {}
        self.kept_labels = 0
        for domain in _domains(nodes["domain"].unique().sort().to_list()):
            texts = nodes.filter(pl.col("domain") == domain)["text"].unique(maintain_order=True)
            extractor = load_extractor(domain, asked.language, asked.vocabulary)
            backend = BACKENDS[asked.backend](asked.weights, extractor)
            self._vocabularies[domain] = extractor.vocabulary
            for text, triples in zip(texts, backend.read(texts.to_list()), strict=True):
                self._said[domain, text] = triples
            self.dropped += backend.dropped
        self._nodes = nodes.filter(pl.col("domain").is_in(list(self._vocabularies)))

    def entities(self) -> Iterator[Row]:
        """Rows of the manifest's entities."""
        for sample, node, text, domain in self._nodes.iter_rows():
            for triple in self._said[domain, text]:
                yield {
                    "sample": sample, "node": node, "anatomy": triple.anatomy,
                    "observation": triple.observation, "presence": float(triple.presence),
                    "laterality": triple.side or None, "severity": triple.severity or None,
                    "source": self.source,
                }  # fmt: skip

    def labels(self, others: pl.DataFrame) -> Iterator[Row]:
        """Rows of the manifest's labels, but for those that another source has given."""
        given = set(others.select("sample", "name").iter_rows())
        self.kept_labels = 0
        for (sample, domain), group in self._nodes.group_by(
            "sample", "domain", maintain_order=True
        ):
            triples = [t for text in group["text"] for t in self._said[str(domain), text]]
            told = labels_of(triples, self._vocabularies[str(domain)])
            for name, value in told.items():
                if (sample, name) in given:
                    self.kept_labels += 1
                    continue
                yield {"sample": sample, "name": name, "value": float(value), "source": self.source}

    def summary(self, name: str) -> str:
        """What was read, in a line."""
        counts = [len(self._said[domain, text]) for _, _, text, domain in self._nodes.iter_rows()]
        line = (
            f"{name}: {len(counts):,} sentences read by {self.source}, {sum(counts):,} triples, "
            f"{counts.count(0):,} sentences without one"
        )
        if self.dropped:
            line += f"; {self.dropped:,} answers were of no use"
        if self.kept_labels:
            line += f"; {self.kept_labels:,} labels of other sources kept"
        return line


def _sentences(manifest: Manifest) -> pl.DataFrame:
    """`sample, node, text, domain` of the sentences that say what is seen."""
    texts = manifest.texts
    sections = texts.select(parent="node", section="source")
    seen = (
        texts.filter(pl.col("level") == "sentence")
        .join(sections, on="parent", how="left", maintain_order="left")
        .filter(
            ~pl.col("section").fill_null("").is_in(sorted(NOT_SEEN))
            & ~pl.col("source").fill_null("").str.starts_with("synthetic:")
        )
        .join(manifest.samples.select("sample", "domain"), on="sample", maintain_order="left")
    )
    if seen.is_empty():
        raise ManifestError(
            f"{manifest.path.name} has no sentences of reports",
            remedy="index its reports with medvlp index, which splits them",
        )
    return seen.select("sample", "node", "text", "domain")


def _domains(names: Sequence[str]) -> list[str]:
    """Those that have a vocabulary; all of them if none has, so that the first one says so."""
    return [name for name in names if get_domain(name).vocabulary is not None] or list(names)


def _write(opened: Opened, found: _Found, asked: Asked) -> None:
    """Write the manifest anew with what was found."""
    manifest = opened.manifest
    tables: dict[str, Iterable[Row]] = {
        name: getattr(manifest, name).iter_rows(named=True) for name in TABLES
    }
    # Gone through twice: once for the table, once for the domains.
    tables["samples"] = manifest.samples.to_dicts()
    others = manifest.entities.filter(pl.col("source").ne_missing(found.source))
    tables["entities"] = chain(others.iter_rows(named=True), found.entities())
    if asked.labels:
        given = manifest.labels.filter(pl.col("source").ne_missing(found.source))
        tables["labels"] = chain(given.iter_rows(named=True), found.labels(given))
    write_manifest(
        manifest.path,
        tables,
        opened.sources(),
        opened.info(),
        key=opened.key,
        replace=True,
        command="structure",
        files={name: map(json.loads, lines) for name, lines in opened.lines().items()},
        remarks={"from": manifest.digest, "backend": found.source, "language": asked.language},
    )

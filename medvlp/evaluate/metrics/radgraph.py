"""RadGraph F1 from annotations that the user made with RadGraph itself.

RadGraph's package brings its own copy of a retired library, and its weights are not free to pass
on, so nothing of it runs here. The texts of an evaluation lie in ``texts.parquet``; whoever has
RadGraph annotates them and hands over its JSON, with each annotation under the SHA-256 of its text.
`add_radgraph` scores it and writes ``radgraph.parquet`` beside the texts, from which the metrics
are computed from then on.

An annotation holds ``entities``: id -> ``{"tokens": ..., "label": ..., "relations": [[type, id],
...]}``. Two entities are equal if tokens (in any case) and label are; two relations, if type and
both entities are. After Yu et al. 2023 (medRxiv 2022.08.30.22279318), a text's score is the
mean of the F1 over entities and the F1 over relations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.digest import digest_bytes
from medvlp.errors import InputError
from medvlp.plain_files import read_json

TABLE = "radgraph"
Facts = tuple[Counter[Any], Counter[Any]]
"""Entities and relations of a text."""

_REMEDY = "give RadGraph's JSON with each annotation under the SHA-256 of its text"


def add_radgraph(folder: Path, annotations: Path) -> int:
    """Score the texts of an evaluated protocol; how many there are.

    Args:
        folder: A protocol's folder with ``texts.parquet``; gets ``radgraph.parquet``.
        annotations: RadGraph's JSON: digest of a text -> its annotation.

    Raises:
        InputError: No texts, a text without an annotation, or an annotation of another form.
        ConfigError: The JSON cannot be read.
    """
    if not (folder / "texts.parquet").is_file():
        raise InputError(
            f"{folder.name} holds no texts.parquet", remedy="name a folder of task generation"
        )
    table = scored(pl.read_parquet(folder / "texts.parquet"), read_json(annotations))
    partial = folder / f".{TABLE}.partial"
    table.write_parquet(partial)
    partial.replace(folder / f"{TABLE}.parquet")
    return len(table)


def scored(texts: pl.DataFrame, annotations: Any) -> pl.DataFrame:
    """`texts` with `entity_f1`, `relation_f1` and `radgraph_f1`, without the words.

    Raises:
        InputError: A text has no annotation, or one of another form.
    """
    words = {*texts["generated"], *texts["reference"]}
    known = annotations if isinstance(annotations, Mapping) else {}
    digests = {text: digest_bytes(text.encode()) for text in words}
    if missing := sum(digest not in known for digest in digests.values()):
        raise InputError(f"{missing} of {len(words)} texts have no annotation", remedy=_REMEDY)
    facts = {text: _facts(known[digest]) for text, digest in digests.items()}
    rows = []
    for generated, reference in texts.select("generated", "reference").iter_rows():
        entity, relation = (
            _f1(ours, theirs)
            for ours, theirs in zip(facts[generated], facts[reference], strict=True)
        )
        rows.append(
            {
                "entity_f1": entity,
                "relation_f1": relation,
                "radgraph_f1": (entity + relation) / 2,
            }
        )
    scores = pl.DataFrame(
        rows, schema=dict.fromkeys(("entity_f1", "relation_f1", "radgraph_f1"), pl.Float64)
    )
    return texts.drop("generated", "reference", "bleu", strict=False).hstack(scores)


def _facts(annotation: Any) -> Facts:
    try:
        told = annotation["entities"]
        entity = {
            key: (str(value["tokens"]).lower(), str(value["label"])) for key, value in told.items()
        }
        relations = Counter(
            (entity[key], str(kind), entity[str(other)])
            for key, value in told.items()
            for kind, other in value.get("relations", ())
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("an annotation is not of RadGraph's form", remedy=_REMEDY) from error
    return Counter(entity.values()), relations


def _f1(ours: Counter[Any], theirs: Counter[Any]) -> float:
    """F1 of two bags; two empty ones agree, an empty one and another do not."""
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0

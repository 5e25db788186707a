"""Questions about images with their answers: read from a table, or made from labels.

A table (CSV, Excel, Parquet, or JSON with a list of objects) has a row a question:

* ``sample`` (the manifest's id) or ``file`` (the name of the image's file, no folder),
* ``question``, ``answer``,
* ``kind``: ``closed`` (one of several answers) or ``open`` (free words),
* ``topic`` (optional): what kind of question it is, such as ``presence``,
* ``options`` (optional, closed): the answers to choose from, a list or ``yes|no``.

Every row is used, or belongs to another split, or is refused with a reason; all are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.archive.tables.tablefile import open_table
from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.metrics.texts import words
from medvlp.evaluate.predict import Study
from medvlp.losses.fusion.questions import QuestionWords
from medvlp.plain_files import read_json

CLOSED, OPEN = "closed", "open"
COLUMNS = ("question", "answer", "kind")
"""What a table must have, besides ``sample`` or ``file``."""

NO_TOPIC = "other"
_WORDS = QuestionWords()
_REMEDY = "give the columns sample (or file), question, answer, kind and, at will, topic, options"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one image."""

    name: str
    """The row's own name, such as ``q000012``."""

    item: Item
    kind: str
    topic: str
    question: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions of each part, and what became of all rows."""

    parts: Mapping[str, tuple[Question, ...]]
    counts: Mapping[str, int]


def same(answer: str) -> str:
    """An answer without case, punctuation and blanks: answers are equal if this is."""
    return " ".join(words(answer))


def read_table(path: Path) -> list[dict[str, Any] | None]:
    """The rows of a question file as plain values; None for a row that cannot be believed.

    Raises:
        ConfigError: Columns are missing, or the JSON holds no list of objects.
        ArchiveError: The table cannot be read.
    """
    if path.suffix.lower() == ".json":
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ConfigError(f"{path.name}: holds no list of objects", remedy=_REMEDY)
        columns = {str(key) for row in rows for key in row}
        found: list[dict[str, Any] | None] = list(rows)
    else:
        table = open_table(path)
        columns = set(table.frame.columns)
        found = [
            None if number in table.refused else row
            for number, row in enumerate(table.frame.iter_rows(named=True), start=1)
        ]
    missing = [name for name in COLUMNS if name not in columns]
    if missing or not columns & {"sample", "file"}:
        named = missing[0] if missing else "sample or file"
        raise ConfigError(f"{path.name}: column {named} is missing", remedy=_REMEDY)
    return found


def ask(rows: Sequence[Mapping[str, Any] | None], study: Study, splits: Mapping[str, str]) -> Asked:
    """Questions joined to the samples they are about.

    Args:
        rows: As `read_table` gives them.
        study: The manifests and the domain.
        splits: Part -> the split that it is.

    Raises:
        ConfigError: A part has no question.
    """
    place = {
        item.sample: (part, item)
        for part, split in splits.items()
        for item in sample_items(study.manifests, split, (), domain=study.domain)
    }
    samples = _Samples(study.manifests, any(row and row.get("file") for row in rows))
    parts: dict[str, list[Question]] = {part: [] for part in splits}
    counts: Counter[str] = Counter({"questions": len(rows)})
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=1):
        values = {} if row is None else {k: _text(v) for k, v in row.items() if k != "options"}
        options = () if row is None else _options(row.get("options"))
        sample = samples.find(values)
        code = "refused_unreadable" if row is None else _fault(values, options, sample, seen)
        if code is None and sample not in place:
            code = "other_split"
        if code is not None:
            counts[f"questions_{code}"] += 1
            continue
        assert sample is not None
        part, item = place[sample]
        parts[part].append(
            Question(
                name=f"q{number:06d}", item=item, kind=values["kind"],
                topic=values.get("topic") or NO_TOPIC, question=values["question"],
                answer=values["answer"], options=options,
            )
        )  # fmt: skip
    for part, questions in parts.items():
        counts[f"questions_{part}"] = len(questions)
        if not questions:
            raise ConfigError(
                f"split {splits[part]} has no question: the task trains on train, chooses on "
                "valid and evaluates another split",
                remedy="ask questions about samples of every split, or name filled splits",
            )
    return Asked(parts={part: tuple(q) for part, q in parts.items()}, counts=dict(counts))


class _Samples:
    """Finds the sample that a row is about, by its id or its file's name."""

    def __init__(self, manifests: Sequence[Manifest], by_file: bool) -> None:
        self._known: set[str] = set()
        self._files: dict[str, set[str]] = {}
        for manifest in manifests:
            for sample, source in manifest.samples.select("sample", "source").iter_rows():
                self._known.add(sample)
                for path in manifest.paths(source) if by_file else ():
                    self._files.setdefault(path.name, set()).add(sample)

    def find(self, values: Mapping[str, str]) -> str | None:
        """The sample; None if there is none, or if several files have that name."""
        if values.get("sample"):
            return values["sample"] if values["sample"] in self._known else None
        found = self._files.get(values.get("file", ""), set())
        return next(iter(found)) if len(found) == 1 else None


def _fault(
    values: Mapping[str, str],
    options: Sequence[str],
    sample: str | None,
    seen: set[tuple[str, str]],
) -> str | None:
    """Why a row is refused; a row that is not has been seen."""
    if not all(words(values.get(name, "")) for name in COLUMNS):
        return "refused_blank"
    if values["kind"] not in (CLOSED, OPEN):
        return "refused_kind"
    if sample is None:
        return "refused_unknown_sample"
    if options and same(values["answer"]) not in map(same, options):
        return "refused_answer_not_among_options"
    key = (sample, same(values["question"]))
    if key in seen:
        return "refused_asked_twice"
    seen.add(key)
    return None


def _text(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _options(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else _text(value).split("|")
    return tuple(option for part in parts if (option := _text(part)))


def from_labels(study: Study) -> list[Mapping[str, Any] | None]:
    """Questions of three topics from a manifest's own labels and entities, in a fixed order.

    ``presence`` (closed, yes or no) asks for each label that is known to be present or absent,
    ``side`` (closed) for each finding that an entity places on one side or both, and ``count``
    (open) how many of the asked findings there are.
    """
    return [row for manifest in study.manifests for row in _of_manifest(manifest, study.domain)]


def _of_manifest(manifest: Manifest, domain: str) -> Iterator[Mapping[str, Any]]:
    mine = manifest.samples.filter(pl.col("domain") == domain).select("sample")
    labels = manifest.labels.join(mine, on="sample", how="semi")
    known = labels.filter(pl.col("value").is_in([0.0, 1.0])).unique(["sample", "name"])
    for (sample,), part in known.sort("sample", "name").group_by("sample", maintain_order=True):
        base = {"sample": sample}
        for name, value in part.select("name", "value").iter_rows():
            yield base | {
                "kind": "closed", "topic": "presence", "options": [_WORDS.affirmed, _WORDS.denied],
                "question": _WORDS.ask(name),
                "answer": _WORDS.affirmed if value == 1 else _WORDS.denied,
            }  # fmt: skip
        yield base | {
            "kind": "open", "topic": "count", "question": "How many findings are there?",
            "answer": str(int(part["value"].sum())),
        }  # fmt: skip
    sided = manifest.entities.join(mine, on="sample", how="semi").filter(
        (pl.col("presence") == 1) & pl.col("laterality").is_in(["left", "right", "bilateral"])
    )
    # A finding of several sides in one sample has no one answer.
    one = pl.col("laterality").n_unique().over("sample", "observation") == 1
    sided = sided.filter(one).unique(["sample", "observation"]).sort("sample", "observation")
    for sample, name, where in sided.select("sample", "observation", "laterality").iter_rows():
        yield {
            "sample": sample, "kind": "closed", "topic": "side", "answer": where,
            "options": ["left", "right", "bilateral"],
            "question": f"On which side is the {name.replace('_', ' ')}?",
        }  # fmt: skip

"""Task `vqa`: questions about images, closed (one of several answers) and open (free words)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.digest import digest_bytes, digest_file
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.heads.answerers import Answers, Pupil
from medvlp.evaluate.heads.search import TRIALS, SearchConfig, trial_rows
from medvlp.evaluate.heads.splits import check_apart
from medvlp.evaluate.heads.writers import (
    OF_BUNDLE,
    Control,
    Decoding,
    Parts,
    fault_of,
    writers,
)
from medvlp.evaluate.metrics.answers import answer_measures
from medvlp.evaluate.metrics.estimate import Measure, Measures
from medvlp.evaluate.metrics.texts import exact, token_f1
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.evaluate.questions import CLOSED, Asked, Question, ask, from_labels, read_table, same
from medvlp.losses.fusion.decoder import DecoderConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnsweringConfig:
    """Visual question answering.

    Rows: one a question, `name` is the question's, `label` is 1 and `score` 1 for a right closed
    answer, or the token F1 of an open one.
    """

    kind: Literal["vqa"] = "vqa"
    questions: Literal["labels"] | Path = "labels"
    """A table of questions (`medvlp.evaluate.questions`) relative to the protocol's file, or
    ``labels``: questions made from the manifests' own labels and entities."""

    sha256: str | None = None
    """Of the table's file; filled in where it is left out."""

    closed: Literal["classifier", "zero-shot", "likelihood"] = "classifier"
    """``classifier``: a small head over image and question, trained on the training split's
    closed answers; ``zero-shot``: the option whose text, behind the question's, is most like the
    image, without training; ``likelihood``: the option that the decoder finds likeliest behind
    the question, having learnt closed and open answers alike."""

    valid: str = "valid"
    """The split that chooses the weights."""

    decoder: Decoding = DecoderConfig(max_tokens=64)
    """Writes open answers; the classifier has its width and heads. ``bundle``: the one that each
    bundle was trained with (objective `fusion`) is where the training starts."""

    search: SearchConfig | None = SearchConfig(rates=(2e-4, 1e-3), steps=1000, batch_size=16)
    """The budget; null judges the bundle's decoder as it is."""

    visual_tokens: Annotated[int, Field(gt=0)] = 64
    """The most an image has, for a new decoder; the bundle's sees all of them, as in training."""

    beams: Annotated[int, Field(gt=0)] = 1
    seeds: Annotated[int, Field(ge=1)] = 1
    """Trainings of each model and control."""

    controls: tuple[Control, ...] = ("text-only", "image-blind")

    place: Path | None = Field(default=None, exclude=True, repr=False)
    """Where the table lies on this machine: no part of the protocol."""

    headlines: ClassVar[tuple[str, ...]] = ("accuracy", "token_f1")

    def __post_init__(self) -> None:
        if fault := fault_of(self.decoder, self.search):
            raise ValueError(fault)
        if self.decoder == OF_BUNDLE and self.closed != "likelihood":
            raise ValueError("decoder=bundle answers closed questions by closed=likelihood alone")

    def resolve(self, base: Path) -> AnsweringConfig:
        """The task with its table found and its digest taken down.

        Raises:
            ConfigError: The table is missing, or another than the protocol's digest says.
        """
        if self.questions == "labels":
            return self
        place = base / self.questions
        if not place.is_file():
            # Metrics are computed from written predictions where the table need not be.
            if self.sha256 is not None:
                return self
            raise ConfigError(
                f"task.questions: {self.questions.name} is not there",
                remedy="name a table relative to the protocol's file",
            )
        digest = digest_file(place)
        if self.sha256 not in (None, digest):
            raise ConfigError(
                f"task.questions: {self.questions.name} is not the table of the protocol's sha256",
                remedy="use the table that the protocol was written for, or drop sha256",
            )
        return dataclasses.replace(self, sha256=digest, place=place)

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """An answer of every model, control and seed to every question.

        Raises:
            ConfigError: No table, a split without questions, or splits that share a file.
        """
        splits = {"train": "train", "valid": self.valid, "test": study.split}
        asked = ask(self._rows(study), study, splits)
        parts = {part: _images(questions) for part, questions in asked.parts.items()}
        check_apart(parts)
        sheet, trials = _Sheet(study, asked), [pl.DataFrame(schema={**TRIALS, "kind": pl.String})]
        row_of = {name: row for row, name in enumerate(_order(parts))}
        limit = None if self.decoder == OF_BUNDLE else self.visual_tokens
        for writer in writers(
            scorers, parts, self.controls, seed=study.seed, limit=limit, tune=False
        ):
            for seed in range(self.seeds):
                pupil = Pupil(writer, asked, row_of, self.decoder, self.search, seed)
                found = self._found(pupil, parts)
                sheet.add(writer.name, writer.control, seed, found)
                for kind, searched in pupil.searches.items():
                    rows = trial_rows(writer.name, seed, searched, self.search)
                    trials.append(rows.with_columns(kind=pl.lit(kind)))
        for name, found in _without_looking(asked, study.seed).items():
            sheet.add(name, True, 0, found)
        return sheet.predicted(pl.concat(trials))

    def measures(self, evidence: Evidence) -> Measures:
        """Accuracy, exact match, token F1, BLEU and ROUGE-L by kind and topic; no thresholds."""

        def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
            own = rows.select("sample", "name", "cluster")
            answers = evidence.beside["answers"].join(own, on=["sample", "name"], how="inner")
            return answer_measures(answers, clusters)

        return measures

    def _found(self, pupil: Pupil, parts: Parts) -> Answers:
        if self.closed == "likelihood":
            return pupil.write(self.beams, closed=True)
        # What the question alone gives away is asked of one that has learnt.
        if self.closed == "zero-shot" and pupil.writer.name != "text-only":
            return pupil.match(parts) | pupil.write(self.beams, closed=False)
        return pupil.choose() | pupil.write(self.beams, closed=False)

    def _rows(self, study: Study) -> Sequence[Mapping[str, Any] | None]:
        if self.questions == "labels":
            return from_labels(study)
        if self.place is None:
            raise ConfigError(
                f"task.questions: {self.questions.name} is not there",
                remedy="put the table where the protocol says, relative to its file",
            )
        return read_table(self.place)


def _images(questions: Sequence[Question]) -> list[Item]:
    """The images asked about, each once."""
    return list({q.item.sample: q.item for q in questions}.values())


def _order(parts: Parts) -> list[str]:
    return [item.sample for items in parts.values() for item in items]


def _without_looking(asked: Asked, seed: int) -> dict[str, Answers]:
    """The most frequent answer to the same question in training, and an answer at random."""
    train = asked.parts["train"]
    by: dict[tuple[str, ...], Counter[str]] = {}
    for q in train:
        for key in _keys(q):
            by.setdefault(key, Counter())[q.answer] += 1
    chance, common = {}, {}
    for q in asked.parts["test"]:
        known = next((by[key] for key in _keys(q) if key in by), Counter({"": 1}))
        common[q.name] = min(known.items(), key=lambda entry: (-entry[1], entry[0]))[0]
        # By kind alone, as one who has not understood the question.
        offers = q.options or tuple(sorted(by.get((q.kind,), {"": 1})))
        chance[q.name] = offers[generator(seed, 0, q.name, "chance").integers(len(offers))]
    return {"prevalence": common, "chance": chance}


def _keys(question: Question) -> tuple[tuple[str, ...], ...]:
    """What a question shares with others: its words, its topic, its kind."""
    kind, topic = question.kind, question.topic
    return (kind, topic, same(question.question)), (kind, topic), (kind,)


class _Sheet:
    """Collects answers, and turns them into rows and a table."""

    def __init__(self, study: Study, asked: Asked) -> None:
        meta = subgroups(study.manifests)
        self._study = study
        self._asked = asked
        self._about = {q.item.sample: describe(q.item, meta) for q in asked.parts["test"]}
        self._rows: list[dict[str, Any]] = []
        self._answers: list[dict[str, Any]] = []

    def add(self, model: str, control: bool, seed: int, found: Answers) -> None:
        """The answers of one training of a model."""
        for q in self._asked.parts["test"]:
            answer = found[q.name]
            measure = exact if q.kind == CLOSED else token_f1
            own = {
                "model": model, "seed": seed, "sample": q.item.sample, "name": q.name,
                "digest": digest_bytes(answer.encode()),
            }  # fmt: skip
            score = float(measure([answer], [q.answer])[0])
            self._rows.append(
                {
                    **self._about[q.item.sample],
                    **own,
                    "control": control,
                    "label": 1,
                    "score": score,
                }
            )
            self._answers.append(
                {**own, "kind": q.kind, "topic": q.topic, "question": q.question,
                 "answer": q.answer, "predicted": answer}
            )  # fmt: skip

    def predicted(self, trials: pl.DataFrame) -> Predicted:
        """Everything that was added."""
        types = {name: kind for name, kind in PREDICTIONS.items() if name in self._rows[0]}
        return Predicted(
            rows=as_predictions(pl.DataFrame(self._rows, schema=types), self._study),
            counts=dict(self._asked.counts),
            beside={"answers": pl.DataFrame(self._answers), "trials": trials},
        )

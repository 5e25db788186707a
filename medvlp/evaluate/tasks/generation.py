"""Task `generation`: a report written about each image, by a decoder on the image tower."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, read_yaml, validate
from medvlp.data.findings import Findings, Words, load_findings
from medvlp.data.items import DataConfig, Item, pair_items
from medvlp.data.randomness import generator
from medvlp.data.text_policy import Level, TextPolicy
from medvlp.digest import digest_bytes, digest_file
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.heads.search import TRIALS, SearchConfig, trial_rows
from medvlp.evaluate.heads.splits import check_apart
from medvlp.evaluate.heads.writers import (
    OF_BUNDLE,
    Control,
    Decoding,
    Parts,
    fault_of,
    language_of,
    learn,
    writers,
)
from medvlp.evaluate.labellers import ByCheXbert, Labeller, Read, Rules
from medvlp.evaluate.metrics import radgraph
from medvlp.evaluate.metrics.estimate import Measure, Measures, mean_measure
from medvlp.evaluate.metrics.texts import (
    error_measures,
    finding_text_measures,
    rouge_l,
    signature,
    text_measures,
)
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.losses.fusion.decoder import DecoderConfig
from medvlp.models.chexbert import chexbert_weights
from medvlp.models.language import Language
from medvlp.models.writing import Passage

REPORT = "report"
"""The `name` of the row that is about a text as a whole."""

_PLACE = {
    name: PREDICTIONS[name] for name in ("model", "seed", "sample", "time_s", "digest", "name")
}
_WORDS: dict[str, pl.DataType] = {"generated": pl.String(), "reference": pl.String()}
_FINDINGS: dict[str, pl.DataType] = {
    "reference": pl.Int8(), "generated": pl.Int8(),
    "reference_side": pl.String(), "generated_side": pl.String(),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenerationConfig:
    """Report generation.

    A decoder is trained on the training split's texts with a fixed budget; the validation split
    chooses settings and weights. Rows: each finding that the reference affirms (label 1), denies
    or does not name (0), with score 1 where the generated text affirms it; and `report` with its
    ROUGE-L.
    """

    kind: Literal["generation"] = "generation"
    level: Level = "report"
    sources: tuple[str, ...] | None = None
    """Text sources to write, such as ``impression``; every source if not given."""

    findings: Path | dict[str, dict[str, Words]] | None = None
    """The user's own words of findings, in the form of `findings.yaml`, or their file relative to
    the protocol's; ours if not given."""

    chexbert: Path | None = None
    """A folder with CheXbert's weights, relative to the protocol's file: findings are then those
    that it finds, not our rules."""

    chexbert_sha256: str | None = None
    """Of the weights' file; filled in where it is left out."""

    valid: str = "valid"
    """The split that chooses the weights."""

    decoder: Decoding = DecoderConfig()
    """Sizes of a decoder that is trained anew, the same for every model; or ``bundle``: the one
    that each bundle was trained with (objective `fusion`) is where the training starts."""

    search: SearchConfig | None = SearchConfig(rates=(2e-4, 1e-3), steps=1000, batch_size=16)
    """The budget; null judges the bundle's decoder as it is."""

    tune: bool = False
    """Train a copy of the image tower along; otherwise it is frozen."""

    visual_tokens: Annotated[int, Field(gt=0)] = 64
    """The most an image has, for a new decoder; the bundle's sees all of them, as in training."""

    beams: Annotated[int, Field(gt=0)] = 1
    seeds: Annotated[int, Field(ge=1)] = 1
    """Trainings of each model and control."""

    controls: tuple[Control, ...] = ("text-only", "image-blind")

    place: Path | None = Field(default=None, exclude=True, repr=False)
    """Where CheXbert lies on this machine: no part of the protocol."""

    headlines: ClassVar[tuple[str, ...]] = ("finding_f1_micro", "bleu_4", "rouge_l")

    def __post_init__(self) -> None:
        if fault := fault_of(self.decoder, self.search):
            raise ValueError(fault)
        if self.tune and self.search is None:
            raise ValueError("search=null trains nothing: tune cannot be set")

    def resolve(self, base: Path) -> GenerationConfig:
        """The task with the user's words taken in, and the digest of CheXbert's weights.

        Raises:
            ConfigError: A file cannot be used, or the weights are others than the protocol's.
        """
        task = self
        if isinstance(self.findings, Path):
            words: dict[str, dict[str, Words]] = validate(
                dict[str, dict[str, Words]], read_yaml(base / self.findings), self.findings.name
            )
            task = dataclasses.replace(task, findings=words)
        if self.chexbert is None or (self.chexbert_sha256 and not (base / self.chexbert).is_dir()):
            # Metrics are computed from written predictions where the weights need not be.
            return task
        digest = digest_file(chexbert_weights(base / self.chexbert))
        if self.chexbert_sha256 not in (None, digest):
            raise ConfigError(
                "task.chexbert: the weights are not those of the protocol's chexbert_sha256",
                remedy="use the weights that the protocol was written for, or drop the digest",
            )
        return dataclasses.replace(task, chexbert_sha256=digest, place=base / self.chexbert)

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """A text of every model, control and seed for every image.

        Raises:
            ConfigError: A split is empty, or two share a file.
        """
        parts = {
            part: pair_items(study.manifests, self._data(study), split, domain=study.domain)
            for part, split in (("train", "train"), ("valid", self.valid), ("test", study.split))
        }
        check_apart(parts)
        pages = _Pages(study, parts["test"], self._labeller(study.domain))
        trials = [pl.DataFrame(schema=TRIALS)]
        limit = None if self.decoder == OF_BUNDLE else self.visual_tokens
        for writer in writers(
            scorers, parts, self.controls, seed=study.seed, limit=limit, tune=self.tune
        ):
            language = language_of(writer.scorer, self.decoder)
            train, valid, prompts = _passages(language, parts)
            for seed in range(self.seeds):
                learnt = learn(
                    writer, language, train, valid,
                    decoder=self.decoder, config=self.search, seed=seed,
                )  # fmt: skip
                label = f"{writer.name}, seed {seed}"
                texts = learnt.write(language, prompts, beams=self.beams, label=label)
                pages.add(writer.name, writer.control, seed, texts)
                if learnt.found is not None:
                    trials.append(trial_rows(writer.name, seed, learnt.found, self.search))
        for name, texts in _without_looking(parts, study.seed).items():
            pages.add(name, True, 0, texts)
        counts = {f"{part}_texts": len(items) for part, items in parts.items()}
        counts["train_distinct_texts"] = len({reference(item) for item in parts["train"]})
        return pages.predicted(counts, pl.concat(trials))

    def measures(self, evidence: Evidence) -> Measures:
        """BLEU, ROUGE-L, exact match, findings and what was turned round; no thresholds."""

        def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
            key = ["sample", "time_s"]
            whole = rows.filter(pl.col("name") == REPORT).select(*key, "cluster")
            found: list[Measure] = []
            if (texts := evidence.beside.get("texts")) is not None:
                texts = texts.join(whole, on=key, how="inner", nulls_equal=True)
                written, wanted = texts["generated"].to_list(), texts["reference"].to_list()
                patient = texts["cluster"].to_numpy()
                found += text_measures(written, wanted, patient, clusters, name=REPORT)
            of_findings = rows.filter(pl.col("name") != REPORT)
            if len(of_findings):
                found += finding_text_measures(of_findings, clusters)
            if (told := evidence.beside.get("findings")) is not None:
                told = told.join(whole, on=key, how="inner", nulls_equal=True)
                found += error_measures(told, clusters)
            if (graphs := evidence.beside.get(radgraph.TABLE)) is not None:
                graphs = graphs.join(whole, on=key, how="inner", nulls_equal=True)
                values, patient = graphs["radgraph_f1"].to_numpy(), graphs["cluster"].to_numpy()
                found.append(mean_measure("radgraph_f1", REPORT, values, patient, clusters))
            return found

        return measures

    def _data(self, study: Study) -> DataConfig:
        policy = TextPolicy(levels=(self.level,), sources=self.sources, choose="join")
        return DataConfig(manifests=tuple(m.path for m in study.manifests), texts=policy)

    def _labeller(self, domain: str) -> Labeller:
        if self.chexbert is not None:
            if self.place is None:
                raise ConfigError(
                    "task.chexbert: the folder is not there",
                    remedy="put the weights where the protocol says, relative to its file",
                )
            return ByCheXbert(self.place)
        if isinstance(self.findings, dict):
            return Rules(Findings(self.findings.get(domain, {})))
        return Rules(load_findings(domain, self.findings))


def reference(item: Item) -> str:
    """An item's texts as one, in reading order."""
    return " ".join(" ".join(node.text for node in item.texts).split())


def _passages(language: Language, parts: Parts) -> tuple[Any, Any, Any]:
    """What is learnt, what chooses, and what is begun; rows of images run through all parts."""
    starts = [int(n) for n in np.cumsum([0, *map(len, parts.values())])]
    start = language.start()
    learnt = [
        [
            Passage(image=first + i, ids=language.after(start, reference(item)))
            for i, item in enumerate(parts[part])
        ]
        for part, first in zip(("train", "valid"), starts, strict=False)
    ]
    prompts = [Passage(image=starts[2] + i, ids=start) for i in range(len(parts["test"]))]
    return learnt[0], learnt[1], prompts


def _without_looking(parts: Parts, seed: int) -> dict[str, list[str]]:
    """The most frequent training report for everybody, and a training report at random."""
    known = [reference(item) for item in parts["train"]]
    common = min(Counter(known).items(), key=lambda entry: (-entry[1], entry[0]))[0]
    random = [
        known[generator(seed, 0, item.key, "chance").integers(len(known))] for item in parts["test"]
    ]
    return {"constant-report": [common] * len(parts["test"]), "chance": random}


class _Pages:
    """Collects texts, and turns them into rows and tables.

    Args:
        study: Where the items come from.
        items: What is written about.
        labeller: Finds the findings in texts.
    """

    def __init__(self, study: Study, items: Sequence[Item], labeller: Labeller) -> None:
        meta = subgroups(study.manifests)
        self._study = study
        self._labeller = labeller
        self._about = [describe(item, meta) for item in items]
        self._wanted = [reference(item) for item in items]
        self._known: dict[str, Read] = {}
        self._rows: list[dict[str, Any]] = []
        self._texts: list[dict[str, Any]] = []
        self._told: list[dict[str, Any]] = []

    def add(self, model: str, control: bool, seed: int, texts: Sequence[str]) -> None:
        """The texts of one training of a model, in the items' order."""
        scores = rouge_l(texts, self._wanted)
        new = sorted({*texts, *self._wanted} - set(self._known))
        self._known |= dict(zip(new, self._labeller.read(new), strict=True))
        for about, wanted, text, score in zip(
            self._about, self._wanted, texts, scores, strict=True
        ):
            digest = digest_bytes(text.encode())
            base = {**about, "model": model, "control": control, "seed": seed, "digest": digest}
            self._rows.append({**base, "name": REPORT, "label": 1, "score": float(score)})
            place = {key: base[key] for key in ("model", "seed", "sample", "time_s", "digest")}
            self._texts.append({**place, "name": REPORT, "generated": text, "reference": wanted})
            self._compare(base, place, wanted, text)

    def _compare(
        self, base: Mapping[str, Any], place: Mapping[str, Any], wanted: str, text: str
    ) -> None:
        right, said = self._known[wanted], self._known[text]
        for name, label in right.labels.items():
            if label != -1:  # what the reference doubts is neither right nor wrong
                score = float(said.labels[name] == 1)
                self._rows.append({**base, "name": name, "label": int(label == 1), "score": score})
            if label is not None or said.labels[name] is not None:
                told = {
                    "reference": label,
                    "generated": said.labels[name],
                    "reference_side": right.sides.get(name),
                    "generated_side": said.sides.get(name),
                }
                self._told.append({**place, "name": name, **told})

    def predicted(self, counts: dict[str, int], trials: pl.DataFrame) -> Predicted:
        """Everything that was added."""
        types = {name: kind for name, kind in PREDICTIONS.items() if name in self._rows[0]}
        texts = pl.DataFrame(self._texts, schema=_PLACE | _WORDS)
        beside = {"texts": texts.with_columns(bleu=pl.lit(signature())), "trials": trials}
        if self._labeller.names:
            beside["findings"] = pl.DataFrame(self._told, schema=_PLACE | _FINDINGS)
        return Predicted(
            rows=as_predictions(pl.DataFrame(self._rows, schema=types), self._study),
            counts=counts,
            beside=beside,
        )

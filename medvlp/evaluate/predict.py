"""Bundles as scorers of items, and what a task hands over: rows of predictions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.archive.verdict import Reject
from medvlp.config import plain, validate
from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import reason
from medvlp.data.items import Item
from medvlp.data.manifest import Manifest, Shown
from medvlp.data.permuted import permute_images
from medvlp.data.preprocess import contract_digest
from medvlp.data.prompts import PromptSet
from medvlp.data.proxies import Proxies
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.evaluate.cases import middle_s, subgroups
from medvlp.evaluate.controls.border import frames
from medvlp.evaluate.controls.computed import (
    Scores,
    border_only,
    computed,
    random_label,
)
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predictions import PREDICTIONS, SUBGROUPS, Evidence
from medvlp.evaluate.rules import RuleName, rule_scores
from medvlp.models.bundle import Bundle
from medvlp.models.zero_shot import Calibration
from medvlp.progress import track


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a task evaluates on."""

    protocol: str
    domain: str
    manifests: tuple[Manifest, ...]
    split: str
    seed: int


class UndecodableError(InputError):
    """Spans of recordings of which a frame does not decode, when they are first read.

    Args:
        spans: Which.
    """

    def __init__(self, spans: Iterable[Shown]) -> None:
        super().__init__(
            "a frame of a recording does not decode",
            remedy="copy the recording again, or index the archive again without it",
        )
        self.spans = frozenset(spans)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """An opened bundle under the name that its rows carry."""

    name: str
    control: str | None
    """The control that the bundle was trained as, if any."""

    bundle: Bundle
    cache: Path | None
    proxies: Proxies | None = None

    def under(self, contract: Mapping[str, Any]) -> Self:
        """The same model, fed as the protocol says where it differs from the bundle's contract.

        Args:
            contract: Fields of the bundle's preprocessing contract, such as ``frames: 1``.

        Raises:
            ConfigError: The contract has no such field, or not such a value.
        """
        if not contract:
            return self
        own = self.bundle.preprocess.config
        changed: Any = validate(type(own), {**plain(own), **contract}, "task.contract")
        bundle = copy.copy(self.bundle)
        bundle.preprocess = changed.build()
        return dataclasses.replace(self, bundle=bundle)

    def reader(self) -> Callable[[Item], NDArray[Any]]:
        """What reads one item's stored array, from the cache where there is one.

        It raises `InputError` where a sample that was indexed cannot be read any more, and
        `UndecodableError` where a frame of a recording does not decode.
        """
        digest = contract_digest(self.bundle.preprocess.config)
        cache = None if self.cache is None else ArrayCache(self.cache, digest)
        read = self.bundle.preprocess.read

        def one(item: Item) -> NDArray[Any]:
            if self.proxies is not None:
                item = self.proxies.stand_in(item)
            try:
                if cache is None:
                    return read(item.source_paths, item.span, item.flags)
                return cache.get(item, read)
            except Exception as error:
                if isinstance(error, Reject) and error.code == "bad_frame" and item.span:
                    raise UndecodableError([(item.sha256, item.span)]) from error
                raise InputError(
                    f"sample {item.sample} cannot be read ({reason(error)})",
                    remedy="restore its files, or index the archive again without them",
                ) from error

        return one

    def stored(self, items: Sequence[Item]) -> Iterator[NDArray[Any]]:
        """The items' stored arrays, one at a time.

        Raises:
            UndecodableError: After all others: all items of which a frame does not decode.
            InputError: A sample that was indexed cannot be read any more.
        """
        read = self.reader()
        lost: set[Shown] = set()
        for item in track(items, f"{self.name}: images"):
            try:
                array = read(item)
            except UndecodableError as error:
                lost |= error.spans
            else:
                yield array
        if lost:
            raise UndecodableError(lost)

    def features(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """(N,D) pooled features of the image tower, before the projection."""
        return self.bundle.features_stored(self.stored(items))

    def embed(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """(N,E) unit vectors."""
        return self.bundle.embed_stored(self.stored(items))

    def zero_shot(self, items: Sequence[Item], prompts: PromptSet) -> Scores:
        """(N,L) probabilities of the labels, by our own rule."""
        return self.rule_scores("medvlp", items, prompts)

    def rule_scores(self, rule: RuleName, items: Sequence[Item], prompts: PromptSet) -> Scores:
        """(N,L) scores by a zero-shot rule, in double precision so that sure ones do not tie.

        Raises:
            ConfigError: The rule cannot be had from this prompt set.
        """
        return rule_scores(rule, self.bundle, self.stored(items), prompts)

    def label_scores(self, items: Sequence[Item], names: Sequence[str]) -> Scores:
        """(N,L) probabilities from the label head.

        Raises:
            BundleError: The head was not trained on all of `names`.
        """
        trained = self.bundle.answers
        if missing := [name for name in names if name not in trained]:
            raise BundleError(
                f"{self.name}: its label head does not know {', '.join(missing)}",
                remedy="train the supervised-unimodal control on the protocol's labels",
            )
        scores = self.bundle.label_scores_stored(self.stored(items)).astype(np.float64)
        return scores[:, [trained.index(name) for name in names]]

    def calibration(self, prompts: PromptSet) -> Calibration:
        """What validation data taught about these very prompts; an empty one if nothing."""
        known = self.bundle.info.calibration
        if known is None or known.prompts != prompts.digest or self.control:
            return Calibration(prompts=prompts.digest)
        return known


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a task found: rows of `PREDICTIONS` and what is no score."""

    rows: pl.DataFrame
    counts: dict[str, int]
    """What was left out, and how much there was to choose from, for the data card."""

    prompts: PromptSet | None = None
    items: tuple[Item, ...] = ()
    """What example pictures may be drawn from; empty where a task has none."""

    beside: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """Tables that are written beside the rows as ``<name>.parquet``, with columns `model` and
    `seed`, and `digest` where rows of `PREDICTIONS` refer to them: ranks, texts, masks."""

    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model -> label -> the probability from which it calls the label present."""

    operating: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Model -> specificity in percent -> label -> the probability that reached it on validation."""


class Task(Protocol):
    """One kind of evaluation; a domain brings more through its `tasks`."""

    kind: str
    """The word in protocols."""

    @property
    def headlines(self) -> tuple[str, ...]:
        """Metrics that the terminal shows."""

    def resolve(self, base: Path) -> Self:
        """The same task with the files that it names, relative to `base`, taken in."""

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control."""

    def measures(self, evidence: Evidence) -> Measures:
        """The metrics of one model."""


def predict_labels(
    study: Study,
    scorers: Sequence[Scorer],
    prompts: PromptSet,
    names: Sequence[str],
    items: Sequence[Item],
    train: Sequence[Item],
    score: Callable[[Scorer, Sequence[Item]], Scores] | None = None,
) -> Predicted:
    """Scores of labels by prompts, of all models and controls, over the same items.

    Args:
        study: Where the items come from.
        scorers: The bundles. An image-blind one sees another patient's image with each item; a
            supervised one answers through its label head.
        prompts: What the models are asked.
        names: Which of the prompts' labels are evaluated; the items' `labels_L` follows it.
        items: What is scored.
        train: The training split's items, for prevalence and metadata-only.
        score: How a model scores items for `names`; by default its zero-shot probabilities.

    Raises:
        ConfigError: There is nothing to score.
    """
    if not items:
        raise ConfigError(
            f"{study.protocol}: split {study.split!r} holds nothing to evaluate",
            remedy="name another data.split, or manifests whose split is not empty",
        )
    column = [prompts.names.index(name) for name in names]

    def zero_shot(scorer: Scorer, seen: Sequence[Item]) -> Scores:
        return scorer.zero_shot(seen, prompts)[:, column]

    ask = score or zero_shot
    meta = subgroups(study.manifests)
    scores: dict[str, tuple[Scores, bool]] = {}
    for scorer in scorers:
        seen = permute_images(items, study.seed) if scorer.control == "image-blind" else items
        if scorer.control == "supervised-unimodal":
            found = scorer.label_scores(seen, names)
        else:
            found = ask(scorer, seen)
        scores[scorer.name] = (found, scorer.control is not None)
    controls = computed(items, train, len(names), meta, study.seed)
    controls |= _looking(study, scorers, scores, items, train)
    scores |= {name: (found, True) for name, found in controls.items()}
    truth = np.stack([item.labels_L for item in items])
    return Predicted(
        rows=label_rows(study, items, names, truth, scores, meta),
        counts={
            "uncertain_labels": int((truth == -1).sum()),
            "unknown_labels": int(np.isnan(truth).sum()),
        },
        prompts=prompts,
        items=tuple(items),
        thresholds={s.name: s.calibration(prompts).thresholds for s in scorers},
        operating={s.name: s.calibration(prompts).operating for s in scorers},
    )


def _looking(
    study: Study,
    scorers: Sequence[Scorer],
    scores: Mapping[str, tuple[Scores, bool]],
    items: Sequence[Item],
    train: Sequence[Item],
) -> dict[str, Scores]:
    """The controls that need images, or a model's scores."""
    found: dict[str, Scores] = {}
    if scorers and train:
        first = scorers[0]

        def frame(seen: Sequence[Item]) -> NDArray[Any]:
            return frames(first.stored(seen), first.bundle.preprocess)

        found["border-only"] = border_only(items, train, len(items[0].labels_L), frame, study.seed)
    for values, control in scores.values():
        if not control:
            found["random-label"] = random_label(values, items, study.seed)
            break
    return found


def label_rows(
    study: Study,
    items: Sequence[Item],
    names: Sequence[str],
    truth: NDArray[np.float32],
    scores: Mapping[str, tuple[Scores, bool]],
    meta: Mapping[str, Mapping[str, str | None]],
) -> pl.DataFrame:
    """Scores (N,L) of models and controls as rows of `PREDICTIONS`, of labels known to be 0 or 1.

    Args:
        study: The protocol, and the seed that the rows carry.
        items: N samples.
        names: L labels.
        truth: (N,L).
        scores: Model -> its scores, and whether it is a control.
        meta: Sample -> `SUBGROUPS`.
    """
    item_K, label_K = np.nonzero((truth == 0) | (truth == 1))
    about = pl.DataFrame(
        [describe(item, meta) for item in items],
        schema={name: PREDICTIONS[name] for name in ("sample", "patient", "time_s", *SUBGROUPS)},
    )
    base = about[item_K].with_columns(
        name=pl.Series(np.array(names)[label_K]), label=pl.Series(truth[item_K, label_K])
    )
    parts = [
        base.with_columns(
            model=pl.lit(model),
            score=pl.Series(found[item_K, label_K]),
            control=pl.lit(control),
        )
        for model, (found, control) in scores.items()
    ]
    return as_predictions(pl.concat(parts), study)


def describe(item: Item, meta: Mapping[str, Mapping[str, str | None]]) -> dict[str, Any]:
    """An item's own columns of `PREDICTIONS`."""
    known = {name: meta[item.sample][name] for name in SUBGROUPS}
    return {
        "sample": item.sample, "patient": item.patient, "time_s": middle_s(item)
    } | known  # fmt: skip


def as_predictions(rows: pl.DataFrame, study: Study) -> pl.DataFrame:
    """`rows` as `PREDICTIONS` has them, of the study's protocol and, if they have none, seed."""
    defaults = {"seed": study.seed, "digest": None}
    missing = [pl.lit(v).alias(k) for k, v in defaults.items() if k not in rows.columns]
    full = rows.with_columns(*missing, protocol=pl.lit(study.protocol))
    return full.select(pl.col(name).cast(kind) for name, kind in PREDICTIONS.items())

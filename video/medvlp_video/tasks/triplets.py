"""Task `triplets`: which instrument does what to which target, asked for in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.special import softmax

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import annotated_items, known_intervals
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.triplets import PARTS, TRIPLET, groups, parts_of, triplet_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.tasks.phases import Contract, Seconds
from medvlp.evaluate.windowed import predict_windows
from medvlp.plain_files import read_json

Ask = Literal["triplets", "components", "both"]
Probabilities = NDArray[np.float64]

NULLS = ("null_verb", "null_target")
"""Verb and target of a triplet whose instrument does nothing."""

LETTERS = dict(zip(PARTS, "ivt", strict=True))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TripletWords:
    """Sentences with ``{instrument}``, ``{verb}`` and ``{target}`` to be filled in."""

    triplet: tuple[str, ...] = ("the {instrument} is used to {verb} the {target}",)
    idle: tuple[str, ...] = ("the {instrument} is in view",)
    """Of a triplet without an action."""

    instrument: tuple[str, ...] = ("the {instrument} is in view",)
    verb: tuple[str, ...] = ("an instrument is used to {verb}",)
    target: tuple[str, ...] = ("an instrument works on the {target}",)
    null_verb: tuple[str, ...] = ("an instrument is in view and does nothing",)
    null_target: tuple[str, ...] = ("an instrument touches nothing",)

    def __post_init__(self) -> None:
        for name, templates in vars(self).items():
            filled = dict.fromkeys(PARTS if name in ("triplet", "idle") else (name,), "x")
            for template in templates:
                try:
                    template.format(**filled)
                except (LookupError, ValueError, AttributeError) as error:
                    raise ValueError(f"{name}: {template!r} has a gap of another name") from error


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TripletsConfig:
    """Recognition of action triplets without training."""

    kind: Literal["triplets"] = "triplets"
    ask: Ask = "triplets"
    """``triplets``: one sentence set a triplet, softmax over triplets; components by the largest
    of their triplets. ``components``: instrument, verb and target asked one by one, softmax over
    each; a triplet's score is the product of the three. ``both``: triplets and the three single
    components are each asked in their own words; pairs by the largest of their triplets."""

    classes: Path | tuple[str, ...] | None = None
    """The triplets to choose from, as ``instrument,verb,target``; or a label file of the data set,
    whose JSON lists them under ``categories``, looked for beside the protocol. Without it, those
    that occur anywhere in the manifests."""

    expected: int | None = None
    """How many triplets there must be to choose from."""

    words: TripletWords = TripletWords()
    window_s: Seconds = 1.0
    stride_s: Seconds = 1.0
    within: str = "phase:"
    """As in task `tools`."""

    k: tuple[int, ...] = (5, 10, 20)
    contract: Contract = Field(default_factory=dict)
    """As in task `phases`."""

    headlines: ClassVar[tuple[str, ...]] = (
        "average_precision_video_macro_ivt",
        "average_precision_video_macro_i",
        "average_precision_video_macro_v",
        "average_precision_video_macro_t",
    )

    def resolve(self, base: Path) -> TripletsConfig:
        """The task with its classes taken in.

        Raises:
            ConfigError: The label file cannot be used.
        """
        if not isinstance(self.classes, Path):
            return self
        return dataclasses.replace(self, classes=_published(base / self.classes))

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of every model and control.

        Raises:
            ConfigError: Fewer or more triplets than expected, or nothing to score.
        """
        triplets = self._triplets(study)
        prompts = prompts_of(triplets, self.words, self.ask)
        items, train = (
            [
                _with_components(item, triplets, prompts.names)
                for item in annotated_items(
                    study.manifests, split, triplets,
                    window_s=self.window_s, stride_s=self.stride_s, within=self.within,
                )
            ]
            for split in (study.split, "train")
        )  # fmt: skip
        asking = [
            AskingScorer(**vars(scorer.under(self.contract)), ask=self.ask, triplets=triplets)
            for scorer in scorers
        ]
        found = predict_windows(
            study, asking, prompts, items, train, window_s=self.window_s, stride_s=self.stride_s
        )
        return dataclasses.replace(found, counts=found.counts | {"triplets": len(triplets)})

    def measures(self, evidence: Evidence) -> Measures:
        """Average precision of i, v, t, iv, it and ivt, and triplets among the first k."""
        return triplet_measures(self.k)

    def _triplets(self, study: Study) -> tuple[str, ...]:
        named = self.classes if isinstance(self.classes, tuple) else None
        known = [name for name in known_intervals(study.manifests) if name.startswith(TRIPLET)]
        triplets = tuple(known if named is None else (f"{TRIPLET}{name}" for name in named))
        if not triplets or (self.expected is not None and len(triplets) != self.expected):
            raise ConfigError(
                f"{study.protocol}: {len(triplets)} triplets to choose from, "
                f"{self.expected or 'at least one'} expected",
                remedy="index the whole data set, or give task.classes a label file of it",
            )
        return triplets


def _published(path: Path) -> tuple[str, ...]:
    """The triplets of a label file, in the order of their numbers."""
    values = read_json(path)
    try:
        table = {int(number): str(name) for number, name in values["categories"]["triplet"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"task.classes: {path.name} does not list triplets under categories",
            remedy="name a label file of the data set, or write the triplets out",
        ) from error
    # CholecT50 numbers from 0; rows of other numbers stand for an absent triplet.
    names = [table[number] for number in sorted(table) if number >= 0]
    if any(name.count(",") != 2 for name in names):
        raise ConfigError(
            f"task.classes: {path.name} has a triplet that is not instrument,verb,target",
            remedy="write the triplets out in task.classes",
        )
    return tuple(names)


def prompts_of(triplets: Sequence[str], words: TripletWords, ask: Ask) -> PromptSet:
    """The sentences for every triplet and, unless triplets alone are asked, every component."""
    labels = {name: Prompts(positive=_of_triplet(name, words)) for name in triplets}
    for part, letter in LETTERS.items() if ask != "triplets" else ():
        for name in groups(triplets, letter)[0]:
            templates = getattr(words, name if name in NULLS else part)
            told = tuple(template.format(**{part: _words(name)}) for template in templates)
            labels[f"{part}:{name}"] = Prompts(positive=told)
    return PromptSet(mode="exclusive", labels=labels)


def _of_triplet(name: str, words: TripletWords) -> tuple[str, ...]:
    instrument, verb, target = parts_of(name)
    filled = {"instrument": _words(instrument), "verb": _words(verb), "target": _words(target)}
    templates = words.idle if verb in NULLS else words.triplet
    return tuple(template.format(**filled) for template in templates)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _with_components(item: Item, triplets: Sequence[str], names: Sequence[str]) -> Item:
    """The item with a column for each component that is asked: true where a triplet has it."""
    extra = [name for name in names if not name.startswith(TRIPLET)]
    true = [
        parts_of(name) for name, value in zip(triplets, item.labels_L, strict=True) if value == 1
    ]
    places = [(PARTS[part], word) for part, word in (name.split(":") for name in extra)]
    told = [float(any(triplet[place] == word for triplet in true)) for place, word in places]
    return dataclasses.replace(
        item, labels_L=np.concatenate([item.labels_L, np.array(told, np.float32)])
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingScorer(Scorer):
    """A model asked for triplets, for components, or for both."""

    ask: Ask
    triplets: tuple[str, ...]

    def zero_shot(self, items: Sequence[Item], prompts: PromptSet) -> Probabilities:
        """(N,L) probabilities in the order of the prompts, a softmax over each kind."""
        logits = self.bundle.score(self.embed(items), prompts).logits_NL.astype(np.float64)
        kinds = np.array([name.partition(":")[0] for name in prompts.names])
        found: Probabilities = np.empty_like(logits)
        for kind in dict.fromkeys(kinds):
            found[:, kinds == kind] = softmax(logits[:, kinds == kind], axis=1)
        if self.ask == "components":
            found[:, kinds == TRIPLET[:-1]] = self._product(found, prompts.names)
        return found

    def label_scores(self, items: Sequence[Item], names: Sequence[str]) -> Probabilities:
        """(N,L) from the label head, which knows triplets; components by the largest of these."""
        scores_NT = super().label_scores(items, self.triplets)
        columns: list[Any] = [scores_NT]
        for name in names[len(self.triplets) :]:
            part, _, word = name.partition(":")
            own = [parts_of(triplet)[PARTS[part]] == word for triplet in self.triplets]
            columns.append(scores_NT[:, own].max(axis=1, keepdims=True))
        return np.concatenate(columns, axis=1)

    def _product(self, scores_NL: Probabilities, names: Sequence[str]) -> Probabilities:
        """(N,T) p(instrument)·p(verb)·p(target)."""
        column = {name: i for i, name in enumerate(names)}
        product = np.ones((len(scores_NL), len(self.triplets)))
        for part, place in PARTS.items():
            chosen = [column[f"{part}:{parts_of(name)[place]}"] for name in self.triplets]
            product *= scores_NL[:, chosen]
        return product

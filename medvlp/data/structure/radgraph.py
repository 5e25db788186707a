"""RadGraph's annotations (Jain et al. 2021, arXiv:2106.14463) as triples of our vocabulary.

RadGraph marks spans as anatomy or observation, the latter definitely present, definitely absent or
uncertain, and ties them by ``located_at``, ``modify`` and ``suggestive_of``. What a span means is
looked up by the same words as our rules use: the modifiers, the observation and its place are put
together to a short phrase, which the extractor reads. The package and its weights are the user's
own; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from medvlp.data.phrases import Span
from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN
from medvlp.data.structure.extract import Extractor, Triple
from medvlp.errors import ConfigError, InputError
from medvlp.progress import track

_PRESENCE = {"OBS-DP": PRESENT, "OBS-DA": ABSENT, "OBS-U": UNCERTAIN}
_SPELLED = {
    "Observation::definitely present": "OBS-DP",
    "Observation::definitely absent": "OBS-DA",
    "Observation::uncertain": "OBS-U",
}
"""Labels as newer models spell them out."""

_BATCH = 256
_REMEDY = "install the package radgraph and name its folder of weights with --weights"


@dataclass(frozen=True, slots=True)
class _Entity:
    words: str
    label: str
    relations: tuple[tuple[str, str], ...]


def triples_of(annotation: Any, sentence: str, extractor: Extractor) -> tuple[Triple, ...]:
    """One sentence's annotation as triples.

    Args:
        annotation: ``{"entities": {id: {"tokens", "label", "relations": [[type, id], ...]}}}``.
        sentence: The sentence that was annotated.
        extractor: Of the language in which the sentence is.

    Raises:
        InputError: An annotation of another form.
    """
    entities = _entities(annotation)
    found: dict[tuple[Any, ...], Triple] = {}
    for name, entity in entities.items():
        if entity.label not in _PRESENCE or any(kind == "modify" for kind, _ in entity.relations):
            continue
        for triple in _read(name, entities, extractor):
            presence = _presence(triple.presence, _PRESENCE[entity.label])
            if presence is not None:
                said = replace(
                    triple, presence=presence, sentence=sentence,
                    severity=triple.severity if presence != ABSENT else "",
                    span=_span(entity.words, sentence),
                )  # fmt: skip
                key = said.anatomy, said.observation, presence, said.side, said.severity
                found.setdefault(key, said)
    return tuple(found.values())


def _presence(phrase: int, label: int) -> int | None:
    """What is there, where a phrase such as "lungs clear" denies: no denial of a denial."""
    if phrase == ABSENT:
        return ABSENT if label == PRESENT else None
    return label


def _read(name: str, entities: Mapping[str, _Entity], extractor: Extractor) -> Sequence[Triple]:
    words = _with_modifiers(name, entities)
    places = [
        _with_modifiers(other, entities)
        for kind, other in entities[name].relations
        if kind == "located_at" and other in entities
    ]
    joined = " and ".join(places)
    # "opacity in left base", else "heart enlarged", else the words alone.
    for phrase in (f"{words} in {joined}", f"{joined} {words}") if places else (words,):
        if triples := extractor.sentence(phrase):
            return triples
    return ()


def _with_modifiers(name: str, entities: Mapping[str, _Entity]) -> str:
    before = [entity.words for entity in entities.values() if ("modify", name) in entity.relations]
    return " ".join([*before, entities[name].words])


def _span(words: str, sentence: str) -> Span:
    """Where the words stand; the whole sentence where they were joined otherwise."""
    at = sentence.lower().find(words.lower())
    return (at, at + len(words)) if at >= 0 else (0, len(sentence))


def _entities(annotation: Any) -> dict[str, _Entity]:
    try:
        return {
            str(name): _Entity(
                words=_text(entity["tokens"]),
                label=_label(entity["label"]),
                relations=tuple((_text(kind), str(other)) for kind, other in entity["relations"]),
            )
            for name, entity in annotation["entities"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "radgraph: an annotation is of another form",
            remedy="give entities with tokens, label and relations, as RadGraph writes them",
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _label(value: Any) -> str:
    text = _text(value)
    return _SPELLED.get(text, text)


class RadGraphReader:
    """Reads sentences by RadGraph.

    Args:
        folder: RadGraph's weights, as its package keeps them.
        extractor: Whose words give our names.

    Raises:
        ConfigError: The package is not installed, the folder is not there, or it holds no weights
            that the package takes.
    """

    source = "radgraph"
    dropped = 0

    def __init__(self, folder: Path | None, extractor: Extractor) -> None:
        if folder is None or not folder.is_dir():
            raise ConfigError("radgraph: no folder of weights is named", remedy=_REMEDY)
        self._extractor = extractor
        self._model = _load(folder)

    def read(self, sentences: Sequence[str]) -> list[tuple[Triple, ...]]:
        """The triples of each sentence."""
        return [
            triples_of(annotation, text, self._extractor)
            for annotation, text in zip(self._annotated(sentences), sentences, strict=True)
        ]

    def _annotated(self, sentences: Sequence[str]) -> Iterator[Any]:
        starts = range(0, len(sentences), _BATCH)
        for start in track(starts, "Reading sentences by RadGraph"):
            batch = list(sentences[start : start + _BATCH])
            told = self._model(batch)
            yield from (told.get(str(i), {"entities": {}}) for i in range(len(batch)))


def _load(folder: Path) -> Any:
    # Before the package is imported: it may look for its weights elsewhere, but finds none there.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        package = import_module("radgraph")
        return package.RadGraph(model_cache_dir=str(folder))
    except ImportError as error:
        raise ConfigError(
            "radgraph: the package radgraph is not installed", remedy=_REMEDY
        ) from error
    # A package that is not ours, reading files that are not ours.
    except Exception as error:
        raise ConfigError(
            f"radgraph: {folder.name} holds no weights that the package takes", remedy=_REMEDY
        ) from error

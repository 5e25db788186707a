"""The words of operations: how surgical a sentence is, what it is about, where speakers turn.

The words are data (`lexicon_en.yaml`, or a file of the user's in the same form).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache, cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, read_yaml, validate
from medvlp.errors import ConfigError

T = TypeVar("T")

STRONG, WEAK = 1.0, 0.5
_DEFAULT = Path(__file__).with_name("lexicon_en.yaml")
_TOKEN = re.compile(r"[^\W_]+")
_NEAR_START = {STRONG: 8, WEAK: 3}
"""Within so many words from a sentence's beginning a marker counts."""

_VOWEL = re.compile(r"[aeiouy]")
_DOUBLED = re.compile(r"([b-df-hj-np-tv-xz])\1\Z")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Terms:
    """Words and phrases in their base form."""

    strong: tuple[str, ...] = ()
    """Those that are said of nothing else; weight 1."""
    weak: tuple[str, ...] = ()
    """Those with other uses, too; weight 1/2."""
    endings: tuple[str, ...] = ()
    """A word that ends so counts as a strong term, whatever it begins with."""

    @property
    def weighted(self) -> Iterator[tuple[str, float]]:
        """Each with its weight."""
        yield from ((term, STRONG) for term in self.strong)
        yield from ((term, WEAK) for term in self.weak)


class Weighed(NamedTuple):
    """A sentence on the scales."""

    score: float
    """How surgical it is; see `Lexicon.weigh`."""
    surgical: frozenset[str]
    """Strong surgical terms in it, as stems."""
    off_topic: float
    """Weight of what belongs elsewhere."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lexicon:
    """A lexicon file."""

    language: str
    """ISO 639-1; transcripts that tell another one are not read."""
    surgical: dict[str, Terms]
    off_topic: dict[str, Terms] = field(default_factory=dict)
    markers: Terms = Terms()
    """Words by which speakers turn to something new."""
    fillers: tuple[str, ...] = ()
    """Sounds of hesitation."""
    sounds: tuple[str, ...] = ()
    """What stands in brackets and describes a sound."""
    doubled: tuple[str, ...] = ()
    """Words that may be said twice in a row."""
    run_on: tuple[str, ...] = ()
    """Words that end no sentence."""
    stop: tuple[str, ...] = ()
    """Words that tell no topic."""

    def weigh(self, text: str) -> Weighed:
        """How surgical a sentence is: (1 − 2^−s)·2^−o.

        s is the summed weight of the different surgical terms in it, o that of the off-topic ones.
        One strong surgical term makes 1/2; one strong off-topic term keeps the score below 1/2.
        """
        stems = stems_of(text)
        found = {phrase: what for _, phrase, what in self._terms.find(stems)}
        found |= {(stem,): (True, STRONG) for stem in stems if stem.endswith(self._endings)}
        surgical = math.fsum(weight for ours, weight in found.values() if ours)
        other = math.fsum(weight for ours, weight in found.values() if not ours)
        strong = (" ".join(phrase) for phrase, what in found.items() if what == (True, STRONG))
        return Weighed((1 - 2**-surgical) * 2**-other, frozenset(strong), other)

    def topic(self, text: str) -> Counter[str]:
        """Stems of the words that tell what a sentence is about, with their counts."""
        stems = stems_of(text)
        return Counter(s for s in stems if len(s) > 1 and not s.isdigit() and s not in self._stop)

    def turn(self, text: str) -> float:
        """Weight of the words by which a sentence turns to something new; 0 where it has none."""
        found = self._markers.find(stems_of(text))
        return max((weight for at, _, weight in found if at < _NEAR_START[weight]), default=0.0)

    @cached_property
    def _terms(self) -> _Phrases[tuple[bool, float]]:
        groups = [(True, terms) for terms in self.surgical.values()]
        groups += [(False, terms) for terms in self.off_topic.values()]
        return _Phrases(
            (term, (ours, weight)) for ours, terms in groups for term, weight in terms.weighted
        )

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        return tuple(ending for terms in self.surgical.values() for ending in terms.endings)

    @cached_property
    def _markers(self) -> _Phrases[float]:
        return _Phrases(self.markers.weighted)

    @cached_property
    def _stop(self) -> frozenset[str]:
        return frozenset(stem for word in (*self.stop, *self.fillers) for stem in stems_of(word))


class _Phrases(Generic[T]):
    """Finds phrases in a row of stems, the longest of those that overlap, from left to right."""

    def __init__(self, phrases: Iterable[tuple[str, T]]) -> None:
        self._by_first: defaultdict[str, dict[tuple[str, ...], T]] = defaultdict(dict)
        for phrase, what in phrases:
            if stems := tuple(stems_of(phrase)):
                self._by_first[stems[0]].setdefault(stems, what)
        self._longest = max(map(len, self._all()), default=0)

    def find(self, stems: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...], T]]:
        """Place, stems and meaning of each phrase."""
        at = 0
        while at < len(stems):
            known: Mapping[tuple[str, ...], T] = self._by_first.get(stems[at], {})
            window = tuple(stems[at : at + self._longest]) if known else ()
            heads = (window[:size] for size in range(len(window), 0, -1))
            phrase = next((head for head in heads if head in known), None)
            if phrase is not None:
                yield at, phrase, known[phrase]
            at += len(phrase or " ")

    def _all(self) -> Iterator[tuple[str, ...]]:
        for known in self._by_first.values():
            yield from known


def load_lexicon(path: Path | None = None) -> Lexicon:
    """The user's lexicon, by default the English one.

    Raises:
        ConfigError: It cannot be read, has unknown keys, or no surgical term.
    """
    return _english() if path is None else _read(path)


@cache
def _english() -> Lexicon:
    return _read(_DEFAULT)


def _read(file: Path) -> Lexicon:
    checked: Lexicon = validate(Lexicon, read_yaml(file), file.name)
    if not any(terms.strong or terms.weak for terms in checked.surgical.values()):
        raise ConfigError(
            f"{file.name} has no surgical terms", remedy="write some under surgical, see the docs"
        )
    return checked


def stems_of(text: str) -> list[str]:
    """The words of a text as stems; the s behind an apostrophe is none.

    >>> stems_of("Dissecting Calot's arteries, and clipped the duct")
    ['dissect', 'calot', 'artery', 'and', 'clip', 'the', 'duct']
    """
    return [stem(word) for word in _TOKEN.findall(text.lower()) if word != "s"]


def stem(word: str) -> str:
    """A word without plural, -ing and -ed, so that its forms are alike.

    Rules of the kind of Harman's S stemmer (JASIS 42, 1991), for texts and lexicon alike: what
    comes out need not be a word.
    """
    word = _singular(word)
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and _VOWEL.search(base) and not word.endswith("eed"):
            word = base[:-1] + "y" if ending == "ed" and base.endswith("i") else base
            break
    if len(word) > 3 and _DOUBLED.search(word):
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    return word[:-1]

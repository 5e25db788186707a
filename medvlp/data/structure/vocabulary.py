"""The vocabulary of structured findings: names in one file, the words of each language in another.

A names file (`medvlp/cxr/vocabulary/names.yaml` tells its form) says what there is: places,
observations, and which observation can stand where. A words file (``en.yaml`` and so on beside it)
says how one language speaks of them, phrases in the form of `medvlp.data.phrases`. Nothing of
either is code, so that a hospital corrects a word without a programmer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, read_yaml, validate
from medvlp.data.assertions import Terms, read_terms
from medvlp.errors import ConfigError

NAMES = "names.yaml"
_ENGLISH = Path(__file__).with_name("english.yaml")

Side = Literal["left", "right", "bilateral"]
Severity = Literal["mild", "moderate", "severe"]

_REMEDY = "see medvlp/cxr/vocabulary for the form"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Place:
    """A place of the body."""

    part_of: str | None = None
    """The next larger place."""

    paired: bool = False
    """Whether there is a left and a right one."""

    normal: str = "abnormality"
    """The observation that is denied where a report calls the place normal."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Observation:
    """Something that is seen or denied."""

    at: str
    """The place that is meant where none is named."""

    within: tuple[str, ...] = ()
    """Places at which, or at parts of which, it can stand; by default `at`."""

    fixed: bool = False
    """Whether it stands at `at` whatever place is named."""

    instead: Mapping[str, str] = field(default_factory=dict)
    """Place -> the observation that it is called there and at the place's parts."""

    kind_of: str | None = None
    """The more general observation that is present wherever this one is."""

    labels: tuple[str, ...] = ()
    """The domain's labels that it makes; its denial denies the first alone."""

    device: bool = False
    """Put there by people: no disease."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NamesFile:
    """What a names file holds."""

    anatomies: dict[str, Place]
    observations: dict[str, Observation]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Said:
    """How a language names an observation."""

    words: tuple[str, ...] = ()
    """Phrases that name it: affirmed, denied or doubted as their sentence has it."""

    denied: tuple[str, ...] = ()
    """Phrases that deny it when they are affirmed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class State:
    """Words that are an observation only together with what they are said of: a large heart."""

    says: str
    """The observation."""

    of: tuple[str, ...] = ()
    """Places that it is said of."""

    subjects: tuple[str, ...] = ()
    """Phrases that it is said of, besides."""

    words: tuple[str, ...] = ()
    """Words that affirm the observation of such a subject."""

    denied: tuple[str, ...] = ()
    """Words that deny it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manner:
    """How a language speaks, whatever it speaks about."""

    normal: tuple[str, ...] = ()
    """Words that call a place normal."""

    steady: tuple[str, ...] = ()
    """Words that say of a place only that it has not changed."""

    sides: dict[Side, tuple[str, ...]] = field(default_factory=dict)

    severity: dict[Severity, tuple[str, ...]] = field(default_factory=dict)

    fillers: tuple[str, ...] = ()
    """Phrases that stand before a noun and say nothing of where: "areas of"."""

    prepositions: tuple[str, ...] = ()
    """Single words behind which a place is named."""

    breaks: tuple[str, ...] = ()
    """Single words at which the places and words before no longer belong to what follows."""

    links: tuple[str, ...] = ()
    """Phrases that say what a finding means, so that both are at one place: "may represent"."""

    unseen: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Kinds of `assertion_terms.yaml` -> phrases of history and advice, of which nothing is told:
    what they would deny is left out."""

    terms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words that deny and doubt, and the language's grammar: see `medvlp.data.assertions.Terms`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WordsFile(Manner):
    """What a words file holds: one language."""

    anatomies: dict[str, tuple[str, ...]]
    """Place -> phrases that name it. One phrase may name several places."""

    adjectives: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Place -> words that name it only beside another noun, so that nothing is said of it alone."""

    observations: dict[str, Said]
    states: tuple[State, ...] = ()

    other: tuple[str, ...] = ()
    """Phrases in which the words of this file mean something else."""

    english_terms: bool = False
    """Whether what `english.yaml` and `assertion_terms.yaml` hold is added."""


class Vocabulary:
    """Names and the words of one language.

    Args:
        names: What there is.
        words: How it is said.

    Raises:
        ConfigError: A name that there is not, or a place or observation above itself.
    """

    def __init__(self, names: NamesFile, words: WordsFile) -> None:
        self.anatomies = names.anatomies
        self.observations = names.observations
        self.words = _with_english(words) if words.english_terms else words
        for what, used, known in _uses(names, words):
            if used not in known:
                raise ConfigError(f"vocabulary: {what} names unknown {used}", remedy=_REMEDY)
        _no_cycle("part_of", {name: place.part_of for name, place in self.anatomies.items()})
        _no_cycle("kind_of", {name: o.kind_of for name, o in self.observations.items()})
        self._above = {name: tuple(self._line(name)) for name in self.anatomies}

    @cached_property
    def terms(self) -> Terms:
        """Words that deny and doubt."""
        known = read_terms() if self.words.english_terms else {}
        kinds = {*known, *self.words.terms}
        return Terms({k: [*known.get(k, ()), *self.words.terms.get(k, ())] for k in kinds})

    @cached_property
    def unseen(self) -> Terms:
        """Words of history and advice."""
        grammar = {k: v for k, v in self.words.terms.items() if k in ("verbs", "starts", "seen")}
        return Terms({**grammar, **self.words.unseen})

    def above(self, anatomy: str) -> tuple[str, ...]:
        """A place and all larger ones, from small to large."""
        return self._above[anatomy]

    def fits(self, observation: str, anatomy: str) -> bool:
        """Whether an observation can stand at a place."""
        known = self.observations[observation]
        allowed = (known.at,) if known.fixed or not known.within else known.within
        return not set(allowed).isdisjoint(self._above[anatomy])

    def called(self, observation: str, anatomy: str) -> str:
        """What an observation is called at a place."""
        instead = self.observations[observation].instead
        return next((instead[a] for a in self._above[anatomy] if a in instead), observation)

    def _line(self, name: str) -> Iterator[str]:
        at: str | None = name
        while at is not None:
            yield at
            at = self.anatomies[at].part_of


def load_vocabulary(folder: Path, language: str = "en", own: Path | None = None) -> Vocabulary:
    """The vocabulary of a domain.

    Args:
        folder: The domain's files: ``names.yaml`` and one words file a language.
        language: Which words file.
        own: The user's own: a words file, or a folder with files of the same names as the
            domain's; what it lacks is the domain's.

    Raises:
        ConfigError: A file is unreadable, of another form, or holds names that there are not.
    """
    if own is not None and not own.exists():
        raise ConfigError(f"vocabulary: {own.name} is not there", remedy="name a file or folder")
    words = own if own is not None and not own.is_dir() else _file(f"{language}.yaml", own, folder)
    if not words.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml") if p.name != NAMES))
        raise ConfigError(
            f"vocabulary: there are no words of language {language}",
            remedy=f"use one of {known}, or name a words file of your own with --vocabulary",
        )
    names = _file(NAMES, own, folder)
    return Vocabulary(
        validate(NamesFile, read_yaml(names), names.name),
        validate(WordsFile, read_yaml(words), words.name),
    )


@cache
def _english() -> Manner:
    return validate(Manner, read_yaml(_ENGLISH), _ENGLISH.name)


def _with_english(words: WordsFile) -> WordsFile:
    """Words with those that all English reports share behind their own."""
    both: dict[str, Any] = {}
    for part in fields(Manner):
        own, shared = getattr(words, part.name), getattr(_english(), part.name)
        if isinstance(own, tuple):
            both[part.name] = own + shared
        else:
            kinds = (*own, *(kind for kind in shared if kind not in own))
            both[part.name] = {k: (*own.get(k, ()), *shared.get(k, ())) for k in kinds}
    return replace(words, **both)


def _file(name: str, own: Path | None, folder: Path) -> Path:
    if own is not None and (own / name).is_file():
        return own / name
    return folder / name


def _uses(names: NamesFile, words: WordsFile) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Every use of a name: where, the name, and the names that there are."""
    anatomies, observations = names.anatomies, names.observations
    for name, place in anatomies.items():
        yield from ((name, n, anatomies) for n in (place.part_of,) if n is not None)
        yield name, place.normal, observations
    for name, known in observations.items():
        yield from ((name, n, anatomies) for n in (known.at, *known.within, *known.instead))
        yield from ((name, n, observations) for n in known.instead.values())
        yield from ((name, n, observations) for n in (known.kind_of,) if n is not None)
    for part in ("anatomies", "adjectives"):
        yield from ((part, name, anatomies) for name in getattr(words, part))
    yield from (("observations", name, observations) for name in words.observations)
    for state in words.states:
        yield "states", state.says, observations
        yield from ((f"states of {state.says}", name, anatomies) for name in state.of)


def _no_cycle(what: str, above: Mapping[str, str | None]) -> None:
    for name in above:
        seen, at = {name}, above[name]
        while at is not None:
            if at in seen:
                raise ConfigError(
                    f"vocabulary: {what} leads from {name} back to itself",
                    remedy="name a larger or more general one",
                )
            seen.add(at)
            at = above[at]

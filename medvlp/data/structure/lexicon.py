"""One sentence taken apart: its words, and what the vocabulary finds in them.

Of findings that overlap, the one with more words is meant: a "nodular opacity" is no opacity, and
what stands among the vocabulary's `other` phrases is nothing at all. Places, sides and degrees may
lie inside a finding's phrase ("acute pulmonary disease").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlp.data.phrases import Phrases, Span
from medvlp.data.structure.vocabulary import Vocabulary

Kind = Literal[
    "words", "denied", "state", "other", "place", "adjective", "subject", "side", "severity",
    "filler", "link",
]  # fmt: skip
Role = Literal[
    "finding", "place", "side", "severity", "and", "or", "comma", "preposition", "verb", "break",
    "stop", "state", "link", "word",
]  # fmt: skip

_FINDINGS = ("other", "words", "denied", "state")
"""Kinds that exclude each other; of equal length, the first."""

NORMAL, STEADY = "normal", "steady"
"""Names of states that are no rule's: words for normal, and for what has not changed."""

_TOKEN = re.compile(r"\d+[.,]\d+|[^\W_]+(?:['’][^\W_]+)*|[;:,?()/]")
_COMMAS = frozenset(",/():")
_STOPS = frozenset(";?")


@dataclass(frozen=True, slots=True)
class Token:
    """A word or sign."""

    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a phrase of the vocabulary names in a sentence."""

    kind: Kind
    names: tuple[str, ...]
    """Names of the vocabulary, sides or degrees. For a state, numbers of its rules, with a sign:
    + where it affirms, - where it denies; or `NORMAL` or `STEADY`."""

    parts: tuple[Span, ...]
    first: int
    """Its first token."""

    last: int
    """Its last token."""

    @property
    def span(self) -> Span:
        """First character, and the one after the last."""
        return self.parts[0][0], self.parts[-1][1]


@dataclass(frozen=True)
class Sentence:
    """A sentence taken apart."""

    text: str
    tokens: tuple[Token, ...]
    roles: tuple[Role, ...]
    findings: tuple[Found, ...]
    """Observations, states and words for normal, in order."""

    places: tuple[Found, ...]
    """Places and the subjects of states, in order."""

    sides: tuple[Found, ...]
    degrees: tuple[Found, ...]
    links: tuple[Found, ...]


class Lexicon:
    """Finds the phrases of a vocabulary.

    Args:
        vocabulary: Whose words.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        words = vocabulary.words
        self._anatomies = vocabulary.anatomies
        self._grammar = vocabulary.terms.grammar
        self._prepositions = frozenset(words.prepositions)
        self._breaks = frozenset(words.breaks)
        self._phrases = [
            (kind, name, Phrases(phrases))
            for kind, name, phrases in _entries(vocabulary)
            if phrases
        ]

    def read(self, text: str) -> Sentence:
        """Take a sentence apart."""
        tokens = tuple(
            Token(m.group().lower().replace("’", "'"), *m.span()) for m in _TOKEN.finditer(text)
        )
        found = self._find(text.lower(), tokens)
        findings = _longest([f for f in found if f.kind in _FINDINGS])
        void = [f for f in findings if f.kind == "other"]
        findings = [f for f in findings if f.kind != "other"]
        rest = [f for f in found if f.kind not in _FINDINGS and not _overlaps_any(f, void)]
        places = _longest([f for f in rest if f.kind in ("place", "adjective", "subject")])
        # The "lower" of a lower lobe says nothing of its volume.
        findings = [f for f in findings if f.kind != "state" or not _inside(f, places)]
        sides = [f for f in _longest(_of(rest, "side")) if not self._proper(f, places)]
        degrees = _longest(_of(rest, "severity"))
        roles = [self._role(token.word) for token in tokens]
        # From weak to strong: what comes later overwrites.
        marks: tuple[tuple[Role, Sequence[Found]], ...] = (
            ("link", _of(rest, "link")), ("word", _of(rest, "filler")),
            ("severity", degrees), ("side", sides),
            ("place", places), ("state", _of(findings, "state")),
            ("finding", [f for f in findings if f.kind != "state"]), ("word", void),
        )  # fmt: skip
        for role, group in marks:
            for each in group:
                for part in each.parts:
                    for at in range(*_tokens_of(tokens, part)):
                        roles[at] = role
        return Sentence(
            text, tokens, tuple(roles), tuple(findings), tuple(places), tuple(sides),
            tuple(degrees), tuple(_of(rest, "link")),
        )  # fmt: skip

    def _find(self, lowered: str, tokens: Sequence[Token]) -> list[Found]:
        named: dict[tuple[Kind, tuple[Span, ...]], list[str]] = {}
        for kind, name, phrases in self._phrases:
            for parts in phrases.find(lowered):
                named.setdefault((kind, parts), []).append(name)
        return [
            Found(
                kind, tuple(dict.fromkeys(names)), parts,
                _tokens_of(tokens, parts[0])[0], _tokens_of(tokens, parts[-1])[1] - 1,
            )
            for (kind, parts), names in named.items()
        ]  # fmt: skip

    def _proper(self, side: Found, places: Iterable[Found]) -> bool:
        """Whether a side is part of the name of a place that has none: the left ventricle."""
        around = [p for p in places if p.first <= side.first and side.last <= p.last]
        return any(
            not self._anatomies[n].paired for p in around for n in p.names if p.kind == "place"
        )

    def _role(self, word: str) -> Role:
        grammar = self._grammar
        for role, words in (
            ("comma", _COMMAS), ("stop", _STOPS), ("or", grammar.alternatives),
            ("and", grammar.conjunctions), ("verb", grammar.verbs), ("break", self._breaks),
            ("preposition", self._prepositions),
        ):  # fmt: skip
            if word in words:
                return role  # type: ignore[return-value]
        return "word"


def _entries(vocabulary: Vocabulary) -> Iterator[tuple[Kind, str, tuple[str, ...]]]:
    """Kind, name and phrases of everything that the words file names."""
    words = vocabulary.words
    for name, said in words.observations.items():
        yield "words", name, said.words
        yield "denied", name, said.denied
    for number, state in enumerate(words.states):
        yield "state", f"+{number}", state.words
        yield "state", f"-{number}", state.denied
        yield "subject", str(number), state.subjects
    yield from (("place", name, phrases) for name, phrases in words.anatomies.items())
    yield from (("adjective", name, phrases) for name, phrases in words.adjectives.items())
    yield from (("side", name, phrases) for name, phrases in words.sides.items())
    yield from (("severity", name, phrases) for name, phrases in words.severity.items())
    yield "state", NORMAL, words.normal
    yield "state", STEADY, words.steady
    yield "other", "", words.other
    yield "filler", "", words.fillers
    yield "link", "", words.links


def _of(found: Iterable[Found], kind: Kind) -> list[Found]:
    return [f for f in found if f.kind == kind]


def _tokens_of(tokens: Sequence[Token], span: Span) -> tuple[int, int]:
    inside = [i for i, t in enumerate(tokens) if t.start < span[1] and t.end > span[0]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _longest(found: Sequence[Found]) -> list[Found]:
    """Those that no longer one overlaps, in order of the text."""
    kept: list[Found] = []
    for each in sorted(found, key=_weight):
        if not any(_overlap(each, other) and not _equal(each, other) for other in kept):
            kept.append(each)
    return sorted(kept, key=lambda f: f.span)


def _weight(found: Found) -> tuple[int, int, Span]:
    rank = _FINDINGS.index(found.kind) if found.kind in _FINDINGS else 0
    return -sum(end - start for start, end in found.parts), rank, found.span


def _equal(one: Found, other: Found) -> bool:
    """Whether one phrase names two things of one kind, such as heart and mediastinum."""
    return one.kind == other.kind and one.parts == other.parts


def _overlap(one: Found, other: Found) -> bool:
    return any(a[0] < b[1] and b[0] < a[1] for a in one.parts for b in other.parts)


def _inside(found: Found, others: Iterable[Found]) -> bool:
    return any(o.first <= found.first and found.last <= o.last for o in others)


def _overlaps_any(found: Found, others: Iterable[Found]) -> bool:
    return any(_overlap(found, other) for other in others)

"""Whether a sentence affirms, denies or doubts a finding that it names.

After NegEx (Chapman et al., 2001) and ConText (Harkema et al., 2009), written from their
descriptions: words that deny or doubt have a direction and a reach, which ends with the clause;
harmless phrases that hold such words ("no change", "not only") are taken first. Where the papers
let a reach run through commas, ours tells lists ("no mass, effusion, or edema") from new clauses
("no effusion, mild edema"). The words are data (`assertion_terms.yaml`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from medvlp.config import read_yaml, validate
from medvlp.errors import ConfigError

Presence = Literal["present", "absent", "uncertain"]

_DEFAULT_TERMS = Path(__file__).with_name("assertion_terms.yaml")
_KINDS = (
    "absent_after_term", "absent_before_term", "uncertain_after_term", "uncertain_before_term",
    "neutral", "end",
)  # fmt: skip
_TOKEN = re.compile(r"[^\W_]+(?:[/'’-][^\W_]+)*|[;:,?()]")


@dataclass(frozen=True, slots=True)
class Grammar:
    """Words by which clauses and lists are told apart; a terms file may name its language's."""

    starts: frozenset[str] = frozenset({
        "a", "again", "an", "chronic", "is", "it", "large", "mild", "mildly", "minimal",
        "minimally", "moderate", "moderately", "multiple", "old", "persistent", "redemonstrated",
        "several", "severe", "slight", "slightly", "small", "stable", "status", "the", "there",
        "this", "tiny", "unchanged",
    })  # fmt: skip
    """Words with which a new clause begins behind a comma, unless an "or" makes it a list."""

    articles: frozenset[str] = frozenset({"a", "an"})
    """Those of them that begin none behind an "and"."""

    verbs: frozenset[str] = frozenset(
        {"appear", "appears", "are", "has", "have", "is", "remain", "remains", "was", "were"}
    )
    seen: frozenset[str] = frozenset({
        "appreciated", "demonstrated", "detected", "evident", "identified", "noted", "observed",
        "present", "seen", "suspected", "visible", "visualised", "visualized",
    })  # fmt: skip
    """Words that a list in the negative may close with: "no mass, effusion is seen"."""

    versus: frozenset[str] = frozenset({"versus", "vs"})
    afterwards: frozenset[str] = frozenset({
        ",", ";", ")", "and", "at", "but", "by", "from", "given", "in", "on", "or", "since",
        "today",
    })  # fmt: skip
    """Words before which a single adjective belongs to what stands before it."""

    relative: frozenset[str] = frozenset({"that", "which", "who"})
    conjunctions: frozenset[str] = frozenset({"and"})
    alternatives: frozenset[str] = frozenset({"nor", "or"})


_GRAMMAR_KINDS = tuple(field.name for field in fields(Grammar))


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Hit:
    """A term found in a sentence: tokens `first` to `last`."""

    kinds: frozenset[str]
    first: int
    last: int


class Terms:
    """Which words deny and doubt.

    Args:
        words: The kinds of `assertion_terms.yaml` -> phrases; kinds left out have none. The
            fields of `Grammar` are further kinds, of single words; those left out are English.

    Raises:
        ConfigError: A kind that there is not.
    """

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        known = (*_KINDS, *_GRAMMAR_KINDS)
        unknown = sorted(set(words) - set(known))
        if unknown:
            raise ConfigError(f"unknown kind {unknown[0]}", remedy=f"use {', '.join(known)}")
        grammar = {kind: frozenset(words[kind]) for kind in _GRAMMAR_KINDS if kind in words}
        self.grammar = Grammar(**grammar)
        kinds: dict[tuple[str, ...], set[str]] = {}
        for kind in _KINDS:
            for phrase in words.get(kind, ()):
                if told := tuple(t.word for t in _tokens(phrase)):
                    kinds.setdefault(told, set()).add(kind)
        self._kinds = {phrase: frozenset(found) for phrase, found in kinds.items()}
        self._longest: dict[str, int] = {}
        """Words with which a phrase begins, and how many words the longest such phrase has."""
        for first, *rest in self._kinds:
            self._longest[first] = max(1 + len(rest), self._longest.get(first, 0))

    def hits(self, tokens: Sequence[_Token], blocked: range) -> list[_Hit]:
        """The longest terms from left to right, none of them inside the finding."""
        found, at = [], 0
        while at < len(tokens):
            hit = None if at in blocked else self._at(tokens, at, blocked)
            if hit is not None:
                found.append(hit)
            at = hit.last + 1 if hit else at + 1
        return found

    def _at(self, tokens: Sequence[_Token], at: int, blocked: range) -> _Hit | None:
        reach = blocked.start if at < blocked.start else len(tokens)
        longest = self._longest.get(tokens[at].word, 0)
        for last in range(min(at + longest, reach) - 1, at - 1, -1):
            kinds = self._kinds.get(tuple(t.word for t in tokens[at : last + 1]))
            if kinds:
                return _Hit(kinds, at, last)
        return None


def load_terms(path: Path | None = None) -> Terms:
    """The terms in a YAML file, by default the English ones.

    Raises:
        ConfigError: The file is unreadable or of another form.
    """
    return _load_terms(path or _DEFAULT_TERMS)


def read_terms(path: Path | None = None) -> dict[str, list[str]]:
    """The words in a file of terms, by default the English ones, by kind.

    Raises:
        ConfigError: The file is unreadable or of another form.
    """
    path = path or _DEFAULT_TERMS
    words: dict[str, list[str]] = validate(dict[str, list[str]], read_yaml(path), path.name)
    return words


@cache
def _load_terms(path: Path) -> Terms:
    return Terms(read_terms(path))


def assertion(sentence: str, span: tuple[int, int], terms: Terms | None = None) -> Presence:
    """Whether a sentence says that a finding is there.

    Args:
        sentence: One sentence, as `medvlp.data.sentences` gives it.
        span: First character of the finding's words, and the one after the last.
        terms: Words that deny and doubt; the English ones by default.

    >>> [assertion(s, (s.index("edema"), s.index("edema") + 5)) for s in (
    ...     "Mild edema.", "No effusion, mass, or edema.", "Edema or edema cannot be excluded.")]
    ['present', 'absent', 'uncertain']
    """
    tokens = _tokens(sentence)
    inside = [i for i, t in enumerate(tokens) if t.start < span[1] and t.end > span[0]]
    if not inside:
        return "present"
    finding = range(inside[0], inside[-1] + 1)
    terms = terms or load_terms()
    hits = terms.hits(tokens, finding)
    before = _from_before(tokens, hits, finding, terms.grammar)
    after = _from_after(tokens, hits, finding, terms.grammar)
    if "absent" in (before, after):
        return "absent"
    return before or after or "present"


@lru_cache(maxsize=64)
def _tokens(sentence: str) -> tuple[_Token, ...]:
    # A sentence is asked about once for each of its findings.
    return tuple(
        _Token(match.group().lower().replace("’", "'"), match.start(), match.end())
        for match in _TOKEN.finditer(sentence)
    )


def _from_before(
    tokens: Sequence[_Token], hits: Sequence[_Hit], finding: range, grammar: Grammar
) -> Presence | None:
    """What the words before the finding do to it."""
    reaching = [hit for hit in hits if hit.last < finding.start]
    effect: Presence | None = None
    for number in range(len(reaching) - 1, -1, -1):
        hit = reaching[number]
        if "end" in hit.kinds:
            return None
        effect = _forward(hit)
        if effect is not None and _runs(tokens, hit.last + 1, finding.start, grammar):
            return _with_neighbour(effect, reaching[:number], hit.first)
        if effect is not None:
            return None
    asked = finding.start > 0 and tokens[finding.start - 1].word == "?"
    return "uncertain" if asked else None


def _with_neighbour(effect: Presence, hits: Sequence[_Hit], first: int) -> Presence:
    """Two words side by side: "no probable" denies, "likely no" doubts, "not without" affirms."""
    if not hits or hits[-1].last + 1 != first:
        return effect
    other = _forward(hits[-1])
    if other == "absent":
        return "present" if effect == "absent" else "absent"
    return other or effect


def _forward(hit: _Hit) -> Presence | None:
    if "absent_after_term" in hit.kinds:
        return "absent"
    return "uncertain" if "uncertain_after_term" in hit.kinds else None


def _backward(hit: _Hit) -> Presence | None:
    if "absent_before_term" in hit.kinds:
        return "absent"
    return "uncertain" if "uncertain_before_term" in hit.kinds else None


def _from_after(
    tokens: Sequence[_Token], hits: Sequence[_Hit], finding: range, grammar: Grammar
) -> Presence | None:
    """What the words behind the finding do to it."""
    for hit in hits:
        if hit.first < finding.stop:
            continue
        effect = _backward(hit)
        if effect is not None and not _leads(tokens, hit, grammar):
            between = tokens[finding.stop : hit.first]
            # "opacity, edema versus infiltrate": only the neighbours are weighed up.
            weighed = tokens[hit.first].word in grammar.versus
            apart = weighed and any(token.word == "," for token in between)
            return effect if _same_clause(between, grammar) and not apart else None
        if "end" in hit.kinds or _forward(hit) is not None:
            return None
    follows = tokens[finding.stop : finding.stop + 1]
    return "uncertain" if follows and follows[0].word == "?" else None


def _leads(tokens: Sequence[_Token], hit: _Hit, grammar: Grammar) -> bool:
    """Whether a single word speaks of what follows: "opacity, likely edema", "negative chest"."""
    single = hit.last == hit.first and tokens[hit.first].word not in grammar.versus
    if not single or hit.last + 1 == len(tokens):
        return False
    return tokens[hit.last + 1].word not in grammar.afterwards


def _same_clause(between: Sequence[_Token], grammar: Grammar) -> bool:
    """Whether no other statement stands between a finding and a word behind it."""
    words = [token.word for token in between]
    if words == [":"]:
        return True
    if words and words[-1] in grammar.verbs:
        words.pop()
    if ";" in words or ":" in words:
        return False
    return not any(
        word in grammar.verbs and before not in grammar.relative
        for before, word in pairwise(["", *words])
    )


def _runs(tokens: Sequence[_Token], start: int, stop: int, grammar: Grammar) -> bool:
    """Whether a clause runs on from token `start` to `stop`."""
    rest = _until_end([token.word for token in tokens[start:]])
    commas = [i for i, word in enumerate(rest[: stop - start]) if word == ","]
    listed = not grammar.alternatives.isdisjoint(rest[commas[-1] if commas else 0 :])
    begins = grammar.starts - grammar.articles
    for at, word in enumerate(rest[: stop - start]):
        if word in grammar.conjunctions and not begins.isdisjoint(rest[at + 1 : at + 2]):
            return False
        if word == "," and not listed and _new_clause(rest[at + 1 :], grammar):
            return False
    return len(rest) >= stop - start


def _until_end(words: Sequence[str]) -> Sequence[str]:
    ends = [i for i, word in enumerate(words) if word in (";", ":")]
    return words[: ends[0]] if ends else words


def _new_clause(words: Sequence[str], grammar: Grammar) -> bool:
    """Whether what follows a comma states something of its own."""
    if words and words[0] in grammar.starts:
        return True
    segment = words[: words.index(",")] if "," in words else words
    for verb, after in pairwise([*segment, ""]):
        if verb in grammar.verbs:
            return after not in grammar.seen
    return False

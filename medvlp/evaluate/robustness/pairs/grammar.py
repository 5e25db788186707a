"""The grammar of sentence pairs: vocabulary and templates are data, and every draw is seeded.

Pairs come in couples: the same two sentences, once about a case that makes the first right and
once about a case that makes the second right. Whoever does not look at the case therefore gets
exactly half of them, be it for the length of the sentences, for single words, or for a habit of
saying no.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, read_yaml, validate
from medvlp.data.randomness import generator
from medvlp.digest import digest_plain
from medvlp.evaluate.robustness.pairs.pair import Case, Pair

Axis = Literal["polarity", "laterality", "severity"]
Sort = Literal["finding", "tool", "act"]
Two = tuple[str, str]
Couple = tuple[Pair, Pair]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Entry:
    """One thing that sentences speak of."""

    name: str
    a: str = ""
    sort: Sort = "finding"
    sided: bool = False
    zoned: bool = False
    degree: Literal["amount", "severity", ""] = ""
    plural: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Family:
    """Templates that test one respect."""

    sorts: tuple[Sort, ...]
    say: tuple[Two, ...]
    know: tuple[Two, ...]
    needs: str | dict[str, str] = ""
    image: bool = False

    def takes(self, entry: Entry) -> bool:
        """Whether the templates make sense of the entry."""
        if entry.sort not in self.sorts:
            return False
        if isinstance(self.needs, dict):
            return all(getattr(entry, key) == value for key, value in self.needs.items())
        return not self.needs or bool(getattr(entry, self.needs))

    @property
    def swaps(self) -> bool:
        """Whether the templates speak of two entries."""
        return "{y}" in self.say[0][0]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Grammar:
    """All templates."""

    openings: tuple[str, ...]
    polarity: dict[str, Family]
    laterality: dict[str, Family]
    severity: dict[str, Family]
    edits: dict[Axis, tuple[Two, ...]] = field(default_factory=dict)

    def families(self, axis: Axis) -> Mapping[str, Family]:
        """The families of one axis."""
        found: Mapping[str, Family] = getattr(self, axis)
        return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Vocabulary:
    """All entries."""

    entries: tuple[Entry, ...]


@cache
def grammar() -> Grammar:
    """The shipped templates."""
    loaded: Grammar = _load(Grammar, "templates.yaml")
    return loaded


@cache
def vocabulary() -> tuple[Entry, ...]:
    """The shipped entries."""
    loaded: Vocabulary = _load(Vocabulary, "vocabulary.yaml")
    return loaded.entries


def grammar_digest() -> str:
    """SHA-256 of templates and vocabulary."""
    here = Path(__file__).parent
    return digest_plain([read_yaml(here / f"{name}.yaml") for name in ("templates", "vocabulary")])


def _load(schema: type[Any], name: str) -> Any:
    return validate(schema, read_yaml(Path(__file__).with_name(name)), name)


def entry_of(label: str, sort: Sort) -> Entry:
    """The vocabulary's entry for a label's name, or a plain one made from the name.

    A prefix such as ``phase:`` and underscores are no words.
    """
    words = label.rpartition(":")[2].replace("_", " ").lower()
    known = {entry.name: entry for entry in vocabulary()}
    return known.get(words, Entry(name=words, sort=sort, sided=True))


def render(template: str, entry: Entry, other: Entry | None = None) -> str:
    """The template's sentence, with a capital and a full stop."""
    words = {"x": entry.name, "ax": _with_article(entry), "xs": entry.plural}
    if other is not None:
        words |= {"y": other.name, "ay": _with_article(other)}
    text = template.format(**words)
    return f"{text[0].upper()}{text[1:]}."


def _with_article(entry: Entry) -> str:
    return f"{entry.a} {entry.name}".strip()


def text_couples(axis: Axis, name: str) -> Iterator[Couple]:
    """Every couple of one family, without images."""
    family = grammar().families(axis)[name]
    entries = [entry for entry in vocabulary() if family.takes(entry)]
    for entry, other in _subjects(family, entries):
        for say, know, opening in product(family.say, family.know, grammar().openings):
            sentences = [render(opening + text, entry, other) for text in say]
            statements = [render(text, entry, other) for text in know]
            yield couple(f"text-{name}", entry.name, sentences, [_anchored(s) for s in statements])


def _subjects(family: Family, entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry | None]]:
    if not family.swaps:
        yield from ((entry, None) for entry in entries)
        return
    for i, entry in enumerate(entries):
        yield from ((entry, other) for other in entries[i + 1 :] if other.sort == entry.sort)


def _anchored(statement: str) -> Case:
    return Case(key=digest_plain(statement)[:16], anchor=statement)


def couple(family: str, finding: str, sentences: Sequence[str], cases: Sequence[Case]) -> Couple:
    """The two pairs of two sentences and the two cases that make each of them right."""
    (first, second), (a, b) = sentences, cases
    return (
        Pair(family=family, finding=finding, case=a, right=first, wrong=second),
        Pair(family=family, finding=finding, case=b, right=second, wrong=first),
    )


def text_pairs(axis: Axis, count: int, seed: int) -> list[Pair]:
    """About `count` pairs without images, each family and finding drawn as evenly as it goes.

    Args:
        axis: Of which families.
        count: How many pairs are wanted; couples stay whole, and no pair comes twice.
        seed: Of the draw.
    """
    drawn: dict[str, list[Couple]] = {}
    for name in grammar().families(axis):
        couples = list(text_couples(axis, name))
        order = generator(seed, 0, f"{axis}/{name}", "pairs").permutation(len(couples))
        drawn[name] = _by_turns([couples[i] for i in order])
    chosen: dict[Pair, None] = {}
    position = 0
    while len(chosen) < count and any(position < len(couples) for couples in drawn.values()):
        for couples in drawn.values():
            if position < len(couples) and len(chosen) < count:
                chosen.update(dict.fromkeys(couples[position]))
        position += 1
    return list(chosen)


def _by_turns(couples: Sequence[Couple]) -> list[Couple]:
    """The couples reordered so that every finding comes once before any comes twice."""
    seen: dict[str, int] = {}
    turns = []
    for position, one in enumerate(couples):
        turn = seen.get(one[0].finding, 0)
        seen[one[0].finding] = turn + 1
        turns.append((turn, position))
    return [couples[position] for _, position in sorted(turns)]

"""Which findings a report names, affirms, denies or doubts: a labeller by rules that can be read.

Text goes by sections (the history is not what is seen), sentences and assertions
(`medvlp.data.assertions`). Which words name a finding is data (`findings.yaml`, or a file of the
user's in the same form); every label can be traced to the words that gave it.

The form of a phrase is told in `medvlp.data.phrases`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT, read_yaml, validate
from medvlp.data.assertions import Presence, Terms, assertion
from medvlp.data.phrases import Phrases
from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN, strongest
from medvlp.data.sections import NOT_SEEN, Headings, sections
from medvlp.data.sentences import sentences
from medvlp.errors import ConfigError

NO_FINDING = "no_finding"
"""Present where a report speaks of findings and affirms or doubts none, devices aside."""

_DEFAULT_FINDINGS = Path(__file__).with_name("findings.yaml")
_VALUE: Mapping[Presence, int] = {"present": PRESENT, "absent": ABSENT, "uncertain": UNCERTAIN}
_SIDE = re.compile(r"\b(left|right|bilateral|bilaterally|both)\b")
_REMEDY = "see medvlp/data/findings.yaml for the form"


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class Words:
    """How texts speak of one finding."""

    words: tuple[str, ...] = ()
    """Phrases that name it: affirmed, denied or doubted as their sentence has it."""

    normal: tuple[str, ...] = ()
    """Phrases that say it is absent when they are affirmed."""

    clear: tuple[str, ...] = ()
    """Phrases that say so as long as nothing else in the report speaks of it."""

    other: tuple[str, ...] = ()
    """Phrases in which its words mean something else."""

    includes: tuple[str, ...] = ()
    """Findings that are kinds of it."""

    device: bool = False
    """Whether it is something that was put there: no disease."""


@dataclass(frozen=True, slots=True)
class Mention:
    """Words that speak of a finding."""

    finding: str
    sentence: str
    span: tuple[int, int]
    value: int
    """1 affirmed, 0 denied, -1 doubted."""

    weak: bool = False
    """Whether any other mention outweighs it."""


class Findings:
    """The findings that are looked for, and how they are named.

    Args:
        words: Finding -> its phrases.
        terms: Words that deny and doubt; the English ones by default.

    Raises:
        ConfigError: A finding includes one that there is not, or a phrase holds no word.
    """

    def __init__(self, words: Mapping[str, Words], terms: Terms | None = None) -> None:
        self.words = dict(words)
        self._terms = terms
        for name, known in self.words.items():
            missing = [other for other in known.includes if other not in self.words]
            if missing:
                raise ConfigError(f"finding {name} includes unknown {missing[0]}", remedy=_REMEDY)
        self._patterns = [
            (name, kind, Phrases(phrases))
            for name, known in self.words.items()
            for kind in ("words", "normal", "clear")
            if (phrases := getattr(known, kind))
        ]
        self._other = {name: Phrases(known.other) for name, known in self.words.items()}
        # Reports repeat their sentences more than anything else.
        self._cached = lru_cache(maxsize=1 << 16)(self._of_sentence)

    @property
    def names(self) -> tuple[str, ...]:
        """The findings in the file's order, `NO_FINDING` last; nothing where none are known."""
        return (*self.words, NO_FINDING) if self.words else ()

    def mentions(self, text: str, headings: Headings | None = None) -> list[Mention]:
        """Everything that a report says of the findings, in reading order.

        Args:
            text: The report.
            headings: Section headings; English ones by default. History, technique and the like
                are passed over.
        """
        return [
            mention
            for section in sections(text, headings)
            if section.name not in NOT_SEEN
            for sentence in sentences(section.text)
            for mention in self._cached(sentence)
        ]

    def label(self, text: str, headings: Headings | None = None) -> dict[str, int | None]:
        """Finding -> 1 present, 0 absent, -1 uncertain, None where the report is silent.

        Of several mentions, one that affirms outweighs doubt, and doubt outweighs denial: what is
        seen in one place is seen. A finding is as present as the most present one it includes.
        General phrases ("clear lungs") count where there is no mention.

        Args:
            text: The report.
            headings: As for `mentions`.

        >>> found = load_findings("cxr").label("No effusion. Possible edema. Pacemaker in place.")
        >>> [found[name] for name in ("pleural_effusion", "edema", "pacemaker", "pneumothorax")]
        [0, -1, 1, None]
        """
        if not self.words:
            return {}
        mentions = self.mentions(text, headings)
        own = {name: _joined(name, mentions) for name in self.words}
        found: dict[str, int | None] = {name: self._with_kinds(name, own) for name in own}
        seen = [v for name, v in found.items() if not self.words[name].device]
        nothing = not any(value in (PRESENT, UNCERTAIN) for value in seen)
        spoken = any(section.name not in NOT_SEEN for section in sections(text, headings))
        return {**found, NO_FINDING: int(nothing) if spoken else None}

    def _with_kinds(self, name: str, own: Mapping[str, int | None]) -> int | None:
        kinds = [own[other] for other in self.words[name].includes]
        # That one kind is absent does not say that every kind is.
        return strongest([own[name], *(v for v in kinds if v != ABSENT)])

    def _of_sentence(self, sentence: str) -> tuple[Mention, ...]:
        lowered = sentence.lower()
        found: list[Mention] = []
        for name, kind, phrases in self._patterns:
            spans = list(phrases.find(lowered))
            others = self._other[name].find(lowered) if spans else ()
            blocked = [(parts[0][0], parts[-1][1]) for parts in others]
            for parts in spans:
                if not any(_overlap(part, other) for part in parts for other in blocked):
                    span = (parts[0][0], parts[-1][1])
                    value = _VALUE[self._presence(sentence, parts)]
                    found.extend(_mention(name, sentence, span, kind, value))
        return tuple(found)

    def _presence(self, sentence: str, parts: Sequence[tuple[int, int]]) -> Presence:
        """Of the phrase as a whole or, where words stand in between, of one of its parts."""
        whole = (parts[0][0], parts[-1][1])
        found = (assertion(sentence, span, self._terms) for span in (whole, *parts))
        return next((presence for presence in found if presence != "present"), "present")


def load_findings(domain: str, path: Path | None = None) -> Findings:
    """The findings of a domain, from a YAML file in the form of `findings.yaml`.

    Args:
        domain: The domain's name; one that the file does not have gives no findings.
        path: The user's own file; by default ours.

    Raises:
        ConfigError: The file is unreadable or of another form.
    """
    return _load_findings(domain, path or _DEFAULT_FINDINGS)


@cache
def _load_findings(domain: str, path: Path) -> Findings:
    known: dict[str, dict[str, Words]] = validate(
        dict[str, dict[str, Words]], read_yaml(path), path.name
    )
    return Findings(known.get(domain, {}))


def side(name: str, mentions: Sequence[Mention]) -> str | None:
    """The side on which a report affirms a finding: left, right, both, or None if it names none.

    Args:
        name: The finding.
        mentions: The report's; the side is that of the whole sentence.
    """
    told: set[str] = set()
    for mention in mentions:
        if mention.finding == name and mention.value == PRESENT:
            told.update(_SIDE.findall(mention.sentence.lower()))
    if not told:
        return None
    return told.pop() if len(told) == 1 and told < {"left", "right"} else "both"


def _mention(
    name: str, sentence: str, span: tuple[int, int], kind: str, value: int
) -> Iterator[Mention]:
    if kind == "words":
        yield Mention(name, sentence, span, value)
    elif value == PRESENT:  # "the heart is normal in size" denies; what denies that says nothing
        yield Mention(name, sentence, span, ABSENT, weak=kind == "clear")


def _joined(name: str, mentions: Sequence[Mention]) -> int | None:
    own = [m for m in mentions if m.finding == name]
    return strongest([m.value for m in own if not m.weak] or [m.value for m in own])


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]

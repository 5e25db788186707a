"""The report grammar: findings become sentences with varied wording, negation and doubt.

A template is plain text with alternatives, ``[is seen|is present]`` (an empty alternative leaves
the words out), and fields, ``{side}``. Alternatives nest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SPACES = re.compile(r"\s+(?=[\s.,;])")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of one study, as drawn and as told."""

    name: str
    side: str = ""
    """``left``, ``right``, ``bilateral``, or empty where side means nothing."""
    place: str = ""
    """Where within the anatomy, such as ``upper lobe``."""
    severity: str = ""
    size_mm: float | None = None
    presence: float = 1.0
    """1 present; -1 equivocal: drawn faintly, told with doubt."""

    def fields(self) -> dict[str, str]:
        """What templates may ask for."""
        both = self.side == "bilateral"
        size = self.size_mm or 0.0
        return {
            "side": self.side, "place": self.place, "severity": self.severity,
            "cm": f"{size / 10:.1f}", "mm": f"{size:.0f}",
            "lump": "mass" if size > 30 else "nodule",
            "is": "are" if both else "is", "s": "s" if both else "",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a grammar speaks of one finding."""

    anatomy: str
    """The anatomy of the finding's entity."""
    noun: tuple[str, ...]
    """Noun phrases for "no ...": singular, without side or severity."""
    present: tuple[str, ...]
    brief: tuple[str, ...]
    """The impression's line."""
    uncertain: tuple[str, ...] = ()
    """How it is told with doubt; empty for what is never in doubt."""
    absent: tuple[str, ...] = ()
    """Whole sentences that deny it, besides "no <noun>"."""


_NO_ONE = (
    "No {a} [is seen|is present|is identified|].",
    "[There is no|No evidence of|Negative for] {a}.",
    "[No radiographic sign of|Without evidence of] {a}.",
)
_NO_TWO = (
    "[There is no|No] {a} or {b}.",
    "[No evidence of|Negative for] {a} or {b}.",
    "Neither {a} nor {b} is [seen|present].",
)
_HEADINGS = ("{}:", "{}:\n")


def say(rng: np.random.Generator, template: str, **fields: str) -> str:
    """`template` with one alternative of each group and the fields filled in.

    >>> say(np.random.default_rng(0), "{side} [effusion|effusion].", side="left")
    'Left effusion.'
    """
    text = template
    while match := _CHOICE.search(text):
        options = match[1].split("|")
        text = text[: match.start()] + options[rng.integers(len(options))] + text[match.end() :]
    text = _SPACES.sub("", text.format(**fields)).strip()
    return text[:1].upper() + text[1:]


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of `options`."""
    return options[int(rng.integers(len(options)))]


def tell(rng: np.random.Generator, finding: Finding, wording: Wording, **extra: str) -> str:
    """A sentence for the findings section: plain if present, hedged if equivocal.

    Args:
        rng: Draws the wording.
        finding: What is told.
        wording: How the grammar speaks of it.
        extra: Fields beside the finding's own.
    """
    templates = wording.present if finding.presence > 0 else wording.uncertain
    return say(rng, pick(rng, templates), **finding.fields(), **extra)


def sum_up(rng: np.random.Generator, finding: Finding, wording: Wording, **extra: str) -> str:
    """A line for the impression; the arguments are those of `tell`."""
    templates = wording.brief if finding.presence > 0 else wording.uncertain
    return say(rng, pick(rng, templates), **finding.fields(), **extra)


def deny(rng: np.random.Generator, names: Sequence[str], words: Mapping[str, Wording]) -> list[str]:
    """Sentences that deny `names`, one or two findings a sentence."""
    said, left = [], list(names)
    while left:
        wording = words[left.pop(0)]
        if wording.absent and rng.random() < 0.4:
            said.append(say(rng, pick(rng, wording.absent)))
        elif left and rng.random() < 0.5:
            other = words[left.pop(0)]
            said.append(
                say(
                    rng, pick(rng, _NO_TWO),
                    a=say_noun(rng, wording), b=say_noun(rng, other),
                )
            )  # fmt: skip
        else:
            said.append(say(rng, pick(rng, _NO_ONE), a=say_noun(rng, wording)))
    return said


def say_noun(rng: np.random.Generator, wording: Wording) -> str:
    """A noun phrase of the finding, in lower case."""
    return say(rng, pick(rng, wording.noun)).lower()


def report_text(rng: np.random.Generator, sections: Mapping[str, Sequence[str]]) -> str:
    """Sections as a hospital writes them: headings in one style, the impression at times counted.

    Args:
        rng: Draws the style.
        sections: Heading in lower case -> sentences; an empty section is left out.
    """
    heading = pick(rng, _HEADINGS)
    upper, numbered = rng.random() < 0.7, rng.random() < 0.3
    parts = []
    for name, sentences in sections.items():
        if not sentences:
            continue
        title = heading.format(name.upper() if upper else name.capitalize())
        if name == "impression" and numbered and len(sentences) > 1:
            body = "\n".join(f"{i}. {s}" for i, s in enumerate(sentences, 1))
            parts.append(f"{title.strip()}\n{body}")
        else:
            glue = "" if title.endswith("\n") else " "
            parts.append(title + glue + " ".join(sentences))
    return "\n\n".join(parts)

"""A radiology report from findings: each told once, some absent ones denied, then summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medvlp.phantom.grammar import (
    Finding,
    Wording,
    deny,
    pick,
    report_text,
    say,
    sum_up,
    tell,
)

_CLEAR = 0.6
_OPTIONAL = 0.5


@dataclass(frozen=True, kw_only=True)
class ReportStyle:
    """One domain's grammar."""

    words: Mapping[str, Wording]
    deniable: tuple[str, ...]
    """Findings that a report may say are absent."""
    clear: tuple[str, ...]
    """Sentences that deny everything in `clear_unless` at once."""
    clear_unless: frozenset[str]
    technique: tuple[str, ...]
    """Says only what the header says."""
    indication: tuple[str, ...]
    """Drawn blind to the findings."""
    normal: tuple[str, ...]
    """The impression where nothing is found."""


def write_report(
    rng: np.random.Generator, style: ReportStyle, findings: Sequence[Finding], **extra: str
) -> tuple[str, list[str]]:
    """The report, and the findings that it denies by name.

    Args:
        rng: Draws the wording.
        style: The domain's grammar.
        findings: All that is drawn.
        extra: Further fields of the templates, such as ``view``.
    """
    words, drawn = style.words, {finding.name for finding in findings}
    order = [findings[int(i)] for i in rng.permutation(len(findings))]
    absent = [name for name in style.deniable if name not in drawn]
    count = int(rng.integers(3, 6)) + (not findings)
    denied = [str(name) for name in rng.permutation(absent)[:count]]
    sentences = [tell(rng, f, words[f.name], **extra) for f in order]
    if not style.clear_unless & drawn and rng.random() < _CLEAR:
        sentences.append(say(rng, pick(rng, style.clear)))
    sentences += deny(rng, denied, words)
    brief = [sum_up(rng, f, words[f.name], **extra) for f in order]
    sections: dict[str, list[str]] = {}
    for name, options in (("indication", style.indication), ("technique", style.technique)):
        if rng.random() < _OPTIONAL:
            sections[name] = [say(rng, pick(rng, options), **extra)]
    sections["findings"] = sentences
    sections["impression"] = brief or [say(rng, pick(rng, style.normal))]
    return report_text(rng, sections), denied

"""Every reason code: what it means, and what to do about it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medvlp.config import read_yaml, validate
from medvlp.data.flags import name_of

_FILE = Path(__file__).with_name("codes.yaml")
_TITLES = {
    "reject": ("REJECT", "Quarantined: it ought to be usable, and cannot be trusted."),
    "ignore": ("IGNORE", "Set aside: it is none of ours."),
    "flag": ("FLAG", "Accepted, with a remark that stays with the sample."),
}


@dataclass(frozen=True)
class Meaning:
    """A code in words."""

    text: str
    remedy: str


@cache
def codes() -> dict[str, dict[str, Meaning]]:
    """``reject``, ``ignore`` and ``flag``: code -> meaning."""
    schema = dict[str, dict[str, str]]
    words: dict[str, dict[str, str]] = validate(schema, read_yaml(_FILE), _FILE.name)
    return {
        kind: {code: _meaning(line) for code, line in table.items()}
        for kind, table in words.items()
    }


def _meaning(line: str) -> Meaning:
    text, _, remedy = line.partition("|")
    return Meaning(text.strip(), remedy.strip())


def explain(verdict: str) -> Meaning:
    """What a verdict such as ``REJECT:depth`` or ``FLAG:tilt`` means; empty words if unknown."""
    word, _, code = verdict.partition(":")
    return codes().get(word.lower(), {}).get(name_of(code), Meaning("", ""))


def page() -> str:
    """All codes as a page of Markdown: docs/verdicts.md."""
    parts = [
        "# Verdicts",
        "",
        "What indexing says of a file, with the code that stands in the manifest's tables",
        "`rejects` and `samples` (flags). Made by `python -m medvlp.archive.codes`.",
    ]
    for kind, (word, words) in _TITLES.items():
        parts += [
            "",
            f"## {word}",
            "",
            words,
            "",
            "| code | meaning | what to do |",
            "|---|---|---|",
        ]
        parts += [f"| `{c}` | {m.text} | {m.remedy} |" for c, m in sorted(codes()[kind].items())]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

"""How an X-ray was taken, in one vocabulary: whatever a table, a header or a data set calls it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Side = Literal["frontal", "lateral"]
Views = Literal["all", "frontal", "lateral"]

_SYNONYMS = {
    "PA": "PA",
    "AP": "AP",
    "FRONTAL": "FRONTAL",
    "LATERAL": "LATERAL LAT LL RL",
    "DECUBITUS": "DECUBITUS LLD RLD",
    "OBLIQUE": "OBLIQUE LLO RLO LAO RAO LPO RPO",
}
_WORDS = {word: view for view, words in _SYNONYMS.items() for word in words.split()}
_BREAKS = re.compile(r"[\s_/,;-]+")

SIDES: Mapping[str, Side] = {
    "PA": "frontal",
    "AP": "frontal",
    "FRONTAL": "frontal",
    "LATERAL": "lateral",
}
"""View -> from where it shows the chest; of the other words none does."""


def view_word(text: str | None) -> str:
    """The view that a text names first; an empty word if it names none.

    PA, AP, FRONTAL (which of both is not told), LATERAL, DECUBITUS or OBLIQUE.

    >>> view_word("lat"), view_word("AP_horizontal"), view_word("XTABLE LATERAL"), view_word("?")
    ('LATERAL', 'AP', 'LATERAL', '')
    """
    words = _BREAKS.split((text or "").upper())
    return next((_WORDS[word] for word in words if word in _WORDS), "")

"""Lists that stand in a cell as Python writes them, such as ``['normal', "Chilaiditi's sign"]``."""

from __future__ import annotations

import re

from medvlp.archive.tables.accounts import number
from medvlp.archive.verdict import Reject

_WORD = re.compile(r"""\s*(?:'((?:[^'\\]|\\['"\\])*)'|"((?:[^"\\]|\\['"\\])*)")\s*(,|\Z)""")
_ESCAPED = re.compile(r"""\\(['"\\])""")
_BLANK = ("", "nan")


def listed_words(cell: str) -> tuple[str, ...] | None:
    """The words of a list, each once and without blanks around it; None where there is no list.

    Nothing is evaluated: a list holds quoted words and nothing else.

    Raises:
        Reject: ``bad_labels``.

    >>> listed_words("['pleural effusion', ' pneumonia', 'pneumonia', '']")
    ('pleural effusion', 'pneumonia')
    >>> listed_words("[]"), listed_words("nan")
    ((), None)
    """
    if cell.strip().lower() in _BLANK:
        return None
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise Reject("bad_labels")
    inner, place = text[1:-1], 0
    words: dict[str, None] = {}
    while place < len(inner.rstrip()):
        found = _WORD.match(inner, place)
        if found is None:
            raise Reject("bad_labels")
        word = _ESCAPED.sub(r"\1", found[1] if found[1] is not None else found[2])
        if word.strip():
            words[" ".join(word.split())] = None
        place = found.end()
    return tuple(words)


def listed_numbers(cell: str, count: int) -> tuple[float, ...]:
    """The finite numbers of a list, quoted or not.

    Raises:
        Reject: ``not_a_number``, also where there are more or fewer than `count`.

    >>> listed_numbers("[0.7, 0.7]", 2), listed_numbers("['-150', '-163.5', '20']", 3)
    ((0.7, 0.7), (-150.0, -163.5, 20.0))
    """
    parts = cell.strip().removeprefix("[").removesuffix("]").split(",")
    found = tuple(number(part.strip().strip("'\"")) for part in parts)
    if len(found) != count:
        raise Reject("not_a_number", f"{len(found)} numbers")
    return found

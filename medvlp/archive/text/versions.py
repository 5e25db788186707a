"""Which words count where a study has several reports, or one in several versions.

1. A retracted version is dropped, with the earlier versions of the same report.
2. A document that names predecessors stands in their place.
3. Of one report's versions the latest counts, by version number, else by time.
4. A corrected or amended report stands in place of final ones. Two different final reports that
   nothing orders contradict each other.
5. A preliminary report counts only where there is no final one, and is flagged.
6. An addendum is appended under a heading of its own, or, where it repeats the whole report,
   stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from medvlp.archive.text.document import Document, Status
from medvlp.data.sections import ADDENDUM, sections

PRELIMINARY = "preliminary_report"


@dataclass(frozen=True, slots=True)
class Settled:
    """What a study's documents come to."""

    text: str = ""
    flags: tuple[str, ...] = ()
    used: tuple[Document, ...] = ()
    conflict: tuple[Document, ...] = ()
    """Those that contradict each other; then there is no text."""


class _Contradiction(Exception):
    """Different documents of equal rank; they are its arguments."""


def settle(documents: Sequence[Document]) -> Settled:
    """The text of a study out of all documents that belong to it."""
    valid = _not_replaced(_not_retracted(documents))
    try:
        base = _base(valid)
    except _Contradiction as clash:
        return Settled(conflict=clash.args)
    added = _addenda([d for d in valid if d.status == "addendum"])
    text = base.text.strip() if base else ""
    for addendum in added:
        text = _with_addendum(text, addendum.text.strip())
    used = (*([base] if base else []), *added)
    flags = {flag for document in used for flag in document.flags}
    if base and base.status == "preliminary":
        flags.add(PRELIMINARY)
    return Settled(text, tuple(sorted(flags)), used)


def _not_retracted(documents: Sequence[Document]) -> list[Document]:
    void = [d for d in documents if d.status == "retracted"]
    valid = [d for d in documents if d.status != "retracted"]
    return [d for d in valid if not any(_takes_back(v, d) for v in void)]


def _takes_back(void: Document, other: Document) -> bool:
    """Whether a retraction is about this document: its report, and no later version of it."""
    if void.report or other.report:
        order = _order((void, other))
        return void.report == other.report and (order is None or order(void) >= order(other))
    return bool(void.text.strip()) and _flat(void) == _flat(other)


def _not_replaced(documents: Sequence[Document]) -> list[Document]:
    replaced = {name for d in documents for name in d.replaces if name != d.report}
    return [d for d in documents if not d.report or d.report not in replaced]


def _base(documents: Sequence[Document]) -> Document | None:
    """The version that counts, addenda apart.

    Raises:
        _Contradiction: Nothing decides.
    """
    versions: dict[str, list[Document]] = {}
    for document in documents:
        if document.status in ("final", "amended"):
            versions.setdefault(document.report, []).append(document)
    latest = [_latest(same) for same in versions.values()]
    if latest:
        amended = _of(latest, "amended")
        return _latest(amended) if amended else _only(latest)
    preliminary = _of(documents, "preliminary")
    return _latest(preliminary) if preliminary else None


def _latest(documents: Sequence[Document]) -> Document:
    """The latest of one report's versions."""
    order = _order(documents)
    if order is not None:
        top = max(map(order, documents))
        documents = [d for d in documents if order(d) == top]
    return _only(_of(documents, "amended") or documents)


def _only(documents: Sequence[Document]) -> Document:
    if len({_flat(document) for document in documents}) > 1:
        raise _Contradiction(*documents)
    return documents[0]


def _order(documents: Sequence[Document]) -> Callable[[Document], tuple[float, float]] | None:
    """What orders the documents in time, if all of them have it."""
    versioned = all(d.version is not None for d in documents)
    timed = all(d.issued is not None for d in documents)
    if not versioned and not timed:
        return None
    return lambda d: (d.version or 0.0 if versioned else 0.0, d.issued or 0.0 if timed else 0.0)


def _addenda(documents: Sequence[Document]) -> list[Document]:
    """Different addenda in the order of time; those that nothing orders as they came."""
    order = _order(documents) if documents else None
    ordered = sorted(documents, key=order) if order else list(documents)
    return list({_flat(document): document for document in ordered}.values())


def _with_addendum(text: str, addendum: str) -> str:
    if " ".join(text.split()) in " ".join(addendum.split()):
        return addendum if text else _headed(addendum)
    return f"{text}\n\n{_headed(addendum)}"


def _headed(addendum: str) -> str:
    first = next(iter(sections(addendum)), None)
    headed = first is not None and first.name == ADDENDUM
    return addendum if headed else f"{ADDENDUM.upper()}:\n{addendum}"


def _of(documents: Iterable[Document], status: Status) -> list[Document]:
    return [document for document in documents if document.status == status]


def _flat(document: Document) -> str:
    return " ".join(document.text.split())

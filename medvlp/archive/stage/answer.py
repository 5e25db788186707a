"""What a reading process answers, as one line of JSON: a result or a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.digest import digest_plain

R = TypeVar("R")

READY = b'{"ready":true}'
ALIVE = "."
"""The line of a process that is getting on with its item."""

Alive = Callable[[], object]
"""What a reading that tells calls whenever it has got on."""

OUT_OF_MEMORY = '{"reject":["memory",'
"""How the line of a verdict for want of memory begins."""

LARGEST = 256 * 2**20
"""Bytes; no honest answer is longer."""

_VERDICTS: dict[str, type[Verdict]] = {"reject": Reject, "ignore": Ignore}


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def found(result: Any) -> str:
    """A result, a dataclass whose fields JSON can hold, as a line."""
    return '{"result":' + _adapter(type(result)).dump_json(result).decode() + "}"


def refused(verdict: Verdict) -> str:
    """A verdict as a line."""
    word = "ignore" if isinstance(verdict, Ignore) else "reject"
    return _compact({word: [verdict.code, verdict.message]})


def bounded(text: str) -> str:
    """The line, or a verdict in place of one that is too long."""
    return text if len(text) < LARGEST else refused(Reject("internal", "the answer is too long"))


def failed(error: Exception) -> str:
    """The line of a process that cannot load what it should read with."""
    return _compact({"failed": type(error).__name__})


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def parse(text: str, result: type[R]) -> R | Verdict:
    """A line as what it means; a garbled one counts as the work of a broken decoder.

    Args:
        text: What `found` or `refused` wrote.
        result: The dataclass of results.
    """
    try:
        value: R | Verdict = _parse(text, result)
    except (ValidationError, ValueError, TypeError):
        return Reject("decoder_crash", "no answer of the expected form")
    return value


def _parse(text: str, result: Any) -> Any:
    if text.startswith('{"result":'):
        return _adapter(result).validate_json(text[len('{"result":') : -1])
    ((word, (code, message)),) = json.loads(text).items()
    return _VERDICTS[word](str(code), str(message))


@cache
def form_of(result: Any) -> str:
    """The digest of what a result consists of: another one makes stored results invalid."""
    return digest_plain(_adapter(result).json_schema(mode="serialization"))

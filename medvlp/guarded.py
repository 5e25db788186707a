"""Whatever ends a command: one line on stderr, and an exit code."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from typer.exceptions import TyperException

from medvlp.errors import MedvlpError

err = Console(stderr=True, soft_wrap=True)


def _fail(what: str, remedy: str, code: int) -> int:
    line = " ".join(f"{what}; remedy: {remedy}".split())
    err.print(f"[bold red]medvlp:[/] {escape(line)}", highlight=False)
    return code


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_space(error: BaseException) -> bool:
    """Whether the disk is full, also where a library has turned the error into one of its own."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = ("No space left", "File too large", "disk is full", "requested and")
    return any(
        getattr(e, "errno", None) in numbers or any(word in str(e) for word in words)
        for e in _chain(error)
    )


def _no_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _unexpected(error: Exception) -> int:
    if _no_space(error):
        return _fail("the disk is full", "make room and repeat the command", 3)
    if _no_memory(error):
        return _fail("out of memory", "use a smaller batch or smaller images", 3)
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):
        return _fail("a link leads back to itself", "check the paths given", 3)
    if isinstance(error, OSError):
        # An operating-system message quotes the path, and a hospital's path can name a patient.
        what = error.strerror or type(error).__name__
        return _fail(f"{what}{_where(error)}", "check the paths given, or set MEDVLP_DEBUG=1", 3)
    return _fail(
        f"internal error {type(error).__name__}{_where(error)}",
        "repeat with MEDVLP_DEBUG=1 for the details (they may name patients)",
        1,
    )


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" at {Path(frame.filename).name}:{frame.lineno}"


def run_guarded(action: Callable[[], Any]) -> int:
    """Run `action`; every failure becomes one line on stderr and an exit code.

    Returns:
        0 done, 1 internal error, 2 wrong use or input, 3 disk, memory or file system, 130
        interrupted; or the number that `action` itself returned.
    """
    try:
        code = action()
    except MedvlpError as error:
        return _fail(error.message, error.remedy, error.exit_code)
    except TyperException as error:
        # A bare `medvlp` has printed its help and brings no message.
        message = error.format_message().rstrip(".")
        return _fail(message, "see --help", error.exit_code) if message else error.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if os.environ.get("MEDVLP_DEBUG"):
            raise
        return _unexpected(error)
    if code == 130:
        return _fail("interrupted; what was finished is kept", "repeat the command to go on", 130)
    return code if isinstance(code, int) else 0

"""Which process works on an archive, and whether it still lives."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from medvlp.digest import digest_plain

_PROC = Path("/proc")


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one that was given its number."""

    host: str
    """Machine, its last start, and the name space of its process numbers (a container's own)."""

    pid: int
    started: str
    """When the process began, in the kernel's count; empty where the system does not say."""

    @classmethod
    def this(cls) -> Owner:
        """The calling process."""
        pid = os.getpid()
        return cls(_host(), pid, _state(pid)[1])

    @property
    def near(self) -> bool:
        """Whether it ran on this host, where its end can be seen."""
        return self.host == _host()

    def gone(self) -> bool:
        """Whether a process of this host has ended; a zombie has."""
        state, started = _state(self.pid)
        if state:
            return state in "ZX" or started != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _host() -> str:
    boot = _text(_PROC / "sys/kernel/random/boot_id")
    try:
        space = os.readlink(_PROC / "self/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:
        space = ""
    return digest_plain([platform.node(), boot, space])[:16]


def _state(pid: int) -> tuple[str, str]:
    """A process's state letter and start; empty where the system tells neither."""
    # The name, in brackets, may itself hold blanks and brackets.
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

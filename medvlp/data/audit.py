"""The audit log: what was done to a manifest, when, with which counts, in a keyed hash chain.

`audit.jsonl` in the private folder has one JSON line a command. Each carries the keyed digest of
itself and of the line before, so that no line can be changed, left out, moved or added without the
key; `manifest.json` holds the number of lines and the last digest (the anchor), so that none can
be cut off at the end. Lines hold digests, counts and versions, and nothing about a person.
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.data.keys import mac
from medvlp.errors import ManifestError

LOG = "audit.jsonl"

_START = "0" * 64
_REMEDY = "restore the private folder from a backup, and find out who changed it"


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """How far a log goes: kept in `manifest.json`, and worth noting elsewhere as well."""

    entries: int = 0
    head: str = _START

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Anchor:
        """The anchor in the information of a manifest; an empty one where there is none."""
        told = info.get("audit")
        return cls(entries=int(told["entries"]), head=str(told["head"])) if told else cls()

    def plain(self) -> dict[str, Any]:
        """For `manifest.json`."""
        return {"entries": self.entries, "head": self.head}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry to be appended, and the anchor once it is."""

    line: bytes
    anchor: Anchor


class AuditLog:
    """The log of one private folder under its key."""

    def __init__(self, private: Path, key: bytes) -> None:
        self._file = private / LOG
        self._key = key

    def entries(self) -> list[dict[str, Any]]:
        """Every entry, oldest first, each checked.

        Raises:
            ManifestError: An entry was edited, left out, moved or added.
        """
        found: list[dict[str, Any]] = []
        head = _START
        for number, line in enumerate(self._lines(), start=1):
            entry = self._checked(line, number, head)
            head = entry["mac"]
            found.append(entry)
        return found

    def check(self, anchor: Anchor) -> list[dict[str, Any]]:
        """The entries, if they are those that the anchor saw; there may be later ones.

        Raises:
            ManifestError: The chain is broken, or entries that the anchor saw are missing.
        """
        found = self.entries()
        heads = [_START, *(entry["mac"] for entry in found)]
        if anchor.entries >= len(heads) or heads[anchor.entries] != anchor.head:
            raise ManifestError(
                f"the audit log has {len(found)} entries, manifest.json knows of "
                f"{anchor.entries} and of another one at that place: the log was cut or replaced",
                remedy=_REMEDY,
            )
        return found

    def draft(
        self, command: str, *, manifest: str, counts: Mapping[str, int], key_id: str, **more: str
    ) -> Draft:
        """The next entry, not written yet.

        Args:
            command: Such as ``index``.
            manifest: Digest of the manifest as the command leaves it.
            counts: What the command counted.
            key_id: Public fingerprint of the key.
            more: Further digests and codes; never anything about a person.

        Raises:
            ManifestError: The log as it is is broken.
        """
        found = self.entries()
        entry: dict[str, Any] = {
            "n": len(found) + 1,
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "command": command,
            "medvlp": __version__,
            "key_id": key_id,
            "manifest": manifest,
            "counts": dict(counts),
            **more,
            "previous": found[-1]["mac"] if found else _START,
        }
        entry["mac"] = mac(self._key, "audit", _encode(entry))
        return Draft(
            line=_encode(entry) + b"\n",
            anchor=Anchor(entries=len(found) + 1, head=entry["mac"]),
        )

    def append(self, draft: Draft) -> None:
        """Add a drafted entry to the end, whole or not at all."""
        before = self._file.read_bytes() if self._file.exists() else b""
        temporary = self._file.with_name(f".{LOG}.part")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(before + draft.line)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._file)

    def _lines(self) -> list[bytes]:
        if not self._file.exists():
            return []
        data = self._file.read_bytes()
        if data and not data.endswith(b"\n"):
            raise ManifestError("the audit log ends within an entry", remedy=_REMEDY)
        return data.split(b"\n")[:-1]

    def _checked(self, line: bytes, number: int, head: str) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            told = {name: value for name, value in entry.items() if name != "mac"}
            sound = (
                hmac.compare_digest(mac(self._key, "audit", _encode(told)), entry["mac"])
                and line == _encode(entry)
                and (told["n"], told["previous"]) == (number, head)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise ManifestError(
                f"entry {number} of the audit log was changed, moved, or follows a missing one",
                remedy=_REMEDY,
            )
        checked: dict[str, Any] = entry
        return checked


def _encode(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()

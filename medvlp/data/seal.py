"""The seal of a manifest: a keyed digest over `manifest.json`, which holds every table's digest.

With the private folder at hand, any later edit of the manifest, of the files that its pseudonyms
rest on, or of the audit log is found. Without it only damage is: who can write the manifest can
write its digests as well.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlp.data.audit import LOG, Anchor, AuditLog
from medvlp.data.keys import KEY, mac, read_key
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import ManifestError
from medvlp.plain_files import own_file

INFO = "manifest.json"
SOURCES = "sources.parquet"
WITHDRAWN = "withdrawn.json"

KEPT = (LOG, WITHDRAWN)
"""Files of the private folder that outlive the manifest they were written with."""

_SEALED = (SOURCES, WITHDRAWN)
"""Files of the private folder whose keyed digests `manifest.json` holds."""

_REMEDY = "restore manifest and private folder from one backup, or index the source again"


def tables_digest(info: Mapping[str, Any]) -> str:
    """Digest over the schema version and the digests of all tables and further files."""
    tables = {name: entry["sha256"] for name, entry in info["tables"].items()}
    return digest_plain(
        {"schema": info["schema_version"], "tables": tables, "files": info.get("files", {})}
    )


def seal(info: Mapping[str, Any], key: bytes, private: Path, command: str, **more: str) -> bytes:
    """The bytes of `manifest.json`: `info`, anchored in the audit log and sealed.

    The entry is in the log before the manifest is in its place: a log that is ahead tells of a
    command that was interrupted, one that lags behind tells of tampering.

    Args:
        info: The manifest's information, with its tables' digests.
        key: The pseudonyms' key.
        private: The folder that holds (or is about to hold) the private files; takes the entry.
        command: What is done to the manifest, such as ``index``.
        more: Further digests and codes for the entry.

    Raises:
        ManifestError: The audit log is broken.
    """
    log = AuditLog(private, key)
    draft = log.draft(
        command,
        manifest=tables_digest(info),
        counts=info.get("counts", {}),
        key_id=info["key_id"],
        **more,
    )
    full = {
        **info,
        "audit": draft.anchor.plain(),
        "private": _private_macs(private, key),
    }
    full.pop("mac", None)
    full["mac"] = mac(key, "manifest", _encode(full))
    log.append(draft)
    return _encode(full)


def check_seal(folder: Path, info: Mapping[str, Any], private: Path) -> str:
    """Check that nothing was edited since medvlp wrote it; returns a line on what was checked.

    Raises:
        ManifestError: Something was, or a command was interrupted.
    """
    if (folder / INFO).read_bytes() != _encode(info):
        raise ManifestError(f"{folder.name}/{INFO} was edited", remedy=_REMEDY)
    if not private.is_dir():
        return "digests hold; whether they were edited only the private folder can tell"
    key = read_key(private / KEY)
    told = {name: value for name, value in info.items() if name != "mac"}
    seal_ = str(info.get("mac", ""))
    if not hmac.compare_digest(mac(key, "manifest", _encode(told)).encode(), seal_.encode()):
        raise ManifestError(
            f"{folder.name}/{INFO} was edited since medvlp wrote it, or {private.name} holds "
            "another key",
            remedy=_REMEDY,
        )
    for name, expected in info["private"].items():
        if not (private / name).is_file() or _private_macs(private, key).get(name) != expected:
            raise ManifestError(f"{private.name}/{name} was edited or is missing", remedy=_REMEDY)
    anchor = Anchor.of(info)
    entries = AuditLog(private, key).check(anchor)
    # Publishing leaves the manifest as it is; it may have been interrupted before its anchor.
    harmless = ("publish", tables_digest(info))
    if any((e["command"], e["manifest"]) != harmless for e in entries[anchor.entries :]):
        raise ManifestError(
            f"the audit log is {len(entries) - anchor.entries} entries ahead of {INFO}: a command "
            "was interrupted, or an older manifest was put in place",
            remedy="repeat the command, or restore the manifest that belongs to the log",
        )
    return f"seal and {anchor.entries} audit entries hold; head {anchor.head[:16]}"


def check_files(folder: Path, info: Mapping[str, Any]) -> None:
    """Check the files beside the tables, and that there are no others.

    Raises:
        ManifestError: There are, or one is missing or was changed.
    """
    listed: Mapping[str, str] = info.get("files", {})
    known = {INFO, *listed, *(f"{name}.parquet" for name in info["tables"])}
    strange = sum(path.name not in known for path in folder.iterdir())
    if strange:
        raise ManifestError(
            f"{folder.name} holds {strange} files that medvlp did not write",
            remedy="move them out of the manifest's folder",
        )
    for name, digest in listed.items():
        file = own_file(folder, name)
        if file is None or digest_file(file) != digest:
            raise ManifestError(
                f"{folder.name}/{name} differs from its digest in {INFO}", remedy=_REMEDY
            )


def _private_macs(private: Path, key: bytes) -> dict[str, str]:
    return {
        name: mac(key, f"private {name}", (private / name).read_bytes())
        for name in _SEALED
        if (private / name).is_file()
    }


def _encode(info: Mapping[str, Any]) -> bytes:
    return json.dumps(info, indent=1, sort_keys=True).encode()

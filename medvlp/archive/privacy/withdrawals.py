"""Who has withdrawn: kept as tombstones, which only the key can try a name on.

`withdrawn.json` in the private folder lists keyed digests of the pseudonyms and file digests of
withdrawn patients. No later import takes them in again, and whatever was made from the manifest
can be searched for them, while nobody can read from it who they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from medvlp.archive.privacy.pseudonyms import NAME, Pseudonyms
from medvlp.data.seal import WITHDRAWN
from medvlp.errors import ArchiveError

_DIGEST = re.compile(r"(?<![0-9a-z])[0-9a-f]{64}(?![0-9a-f])")
_STONE = re.compile(r"[0-9a-f]{64}")


class Withdrawals:
    """The tombstones of a private folder.

    Args:
        pseudonyms: Of the manifest's key.
        stones: The tombstones.
    """

    def __init__(self, pseudonyms: Pseudonyms, stones: Iterable[str] = ()) -> None:
        self._pseudonyms = pseudonyms
        self.stones = frozenset(stones)

    @classmethod
    def load(cls, private: Path, pseudonyms: Pseudonyms) -> Withdrawals:
        """Those of a private folder; none where nobody has withdrawn.

        Raises:
            ArchiveError: The file is damaged, so that nobody knows who has withdrawn.
        """
        file = private / WITHDRAWN
        if not file.is_file():
            return cls(pseudonyms)
        try:
            stones = json.loads(file.read_text(encoding="ascii"))["tombstones"]
            sound = all(_STONE.fullmatch(stone) for stone in stones)
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise ArchiveError(
                f"{private.name}/{WITHDRAWN} is damaged: it says who has withdrawn",
                remedy="restore it from a backup",
            )
        return cls(pseudonyms, stones)

    def holds(self, identifier: str) -> bool:
        """Whether the patient with a raw identifier has withdrawn."""
        return bool(self.stones) and any(map(self.holds_name, self._pseudonyms.lineage(identifier)))

    def holds_name(self, name: str) -> bool:
        """Whether a pseudonym or a file's digest is a withdrawn one."""
        return not self.stones.isdisjoint(self._pseudonyms.tombstones(name))

    def with_names(self, names: Iterable[str]) -> Withdrawals:
        """These and the tombstones of further pseudonyms and digests."""
        added = {self._pseudonyms.tombstone(name) for name in names}
        return Withdrawals(self._pseudonyms, self.stones | added)

    def merged(self, other: Withdrawals) -> Withdrawals:
        """These and those of another folder with the same key."""
        return Withdrawals(self._pseudonyms, self.stones | other.stones)

    def found_in(self, text: str) -> set[str]:
        """The withdrawn pseudonyms and digests in a text."""
        names = {*NAME.findall(text), *_DIGEST.findall(text)}
        return {name for name in names if self.holds_name(name)}

    def to_bytes(self) -> bytes:
        """The file's contents."""
        return json.dumps({"tombstones": sorted(self.stones)}, indent=0).encode()

"""Who has withdrawn: kept as tombstones, which only the key can try a name on.

`withdrawn.json` in the private folder lists keyed digests of the pseudonyms, files and file digests
of withdrawn patients. No later import takes them in again, and whatever was made from the manifest
can be searched for them, while nobody can read from it who they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvlp.archive.privacy.persons import Person, persons_in
from medvlp.archive.privacy.pseudonyms import NAME, Pseudonyms
from medvlp.archive.stage.results import stamp
from medvlp.data.paths import path_to_text
from medvlp.data.seal import WITHDRAWN
from medvlp.errors import ArchiveError

_DIGEST = re.compile(r"(?<![0-9a-z])[0-9a-f]{64}(?![0-9a-f])")
_STONE = re.compile(r"[0-9a-f]{64}")

CODE = "withdrawn"
"""The code of files of patients who have withdrawn."""


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

    def holds_study(self, identifier: str) -> bool:
        """Whether a raw study identifier or accession number is a withdrawn one."""
        names = self._pseudonyms.study_lineage(identifier)
        return bool(self.stones) and any(map(self.holds_name, names))

    def holds_person(self, person: Person) -> bool:
        """Whether somebody named in a reading has withdrawn; studies decide where no patient is."""
        if person.patients:
            return any(map(self.holds, person.patients))
        return any(map(self.holds_study, person.studies))

    def holds_reading(self, result: Any) -> tuple[bool, bool]:
        """Whether the JSON of a reading names somebody who has withdrawn, and nobody else."""
        held = [self.holds_person(person) for person in persons_in(result)]
        return any(held), bool(held) and all(held)

    def holds_file(self, path: Path, now: str = "") -> bool:
        """Whether a file, with its stamp of `now`, is a withdrawn one that has not changed."""
        return bool(self.stones) and self.holds_name(_sign(path, now or stamp([path])))

    def holds_name(self, name: str) -> bool:
        """Whether a pseudonym or a file's digest is a withdrawn one."""
        return not self.stones.isdisjoint(self._pseudonyms.tombstones(name))

    def with_names(self, names: Iterable[str]) -> Withdrawals:
        """These and the tombstones of further pseudonyms and digests."""
        added = {self._pseudonyms.tombstone(name) for name in names}
        return Withdrawals(self._pseudonyms, self.stones | added)

    def with_files(self, stamps: Mapping[Path, str]) -> Withdrawals:
        """These and tombstones of files, each as it was when its stamp was taken."""
        return self.with_names(_sign(path, now) for path, now in stamps.items())

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


def _sign(path: Path, now: str) -> str:
    return f"{path_to_text(path)}\x1f{now}".encode("utf-8", "surrogatepass").hex()

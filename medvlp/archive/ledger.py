"""What became of every file: found = accepted + quarantined + ignored, by construction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from medvlp.data.manifest import path_from_text, path_to_text


class State(StrEnum):
    """The end of a file's way; it has exactly one."""

    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"
    IGNORED = "ignored"


class Ledger:
    """Every file found and its state; a file is known by its absolute path."""

    def __init__(self) -> None:
        self._state: dict[str, State | None] = {}

    def find(self, path: Path) -> None:
        """Count a file as found; finding it again changes nothing."""
        self._state.setdefault(path_to_text(path), None)

    def settle(self, path: Path, state: State) -> bool:
        """Give a file its state; true if it had none before.

        Raises:
            ValueError: It has another state already (a defect of a source kind, not of the file).
        """
        key = path_to_text(path)
        before = self._state.get(key)
        if before is not None and before is not state:
            raise ValueError(f"a file that is {before} cannot become {state}")
        self._state[key] = state
        return before is None

    def drop(self, path: Path) -> None:
        """Forget a container whose members are counted in its place."""
        del self._state[path_to_text(path)]

    def state(self, path: Path) -> State | None:
        """The file's state, None while it has none or is not found."""
        return self._state.get(path_to_text(path))

    def open(self, paths: Iterable[Path]) -> list[Path]:
        """Those of `paths` that have no state yet."""
        return [path for path in paths if self.state(path) is None]

    def unsettled(self) -> list[Path]:
        """All files found that have no state yet."""
        return [path_from_text(key) for key, state in self._state.items() if state is None]

    def counts(self) -> dict[str, int]:
        """Files found, accepted, quarantined, ignored.

        Raises:
            ValueError: A file has no state.
        """
        tally = Counter(self._state.values())
        if tally[None]:
            raise ValueError(f"{tally[None]} files have no state")
        return {"found": len(self._state), **{state.value: tally[state] for state in State}}

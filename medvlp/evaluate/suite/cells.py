"""One cell: a bundle's predictions on a protocol, kept under the cell's key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from medvlp.errors import InputError, MedvlpError
from medvlp.evaluate.protocol import load_protocol
from medvlp.evaluate.record import read_study
from medvlp.evaluate.run import open_study, predict_into, scorers_of, staged
from medvlp.evaluate.suite.plan import Cell


@dataclass(frozen=True)
class RunCell:
    """Runs cells of a suite whose results lie in `out`."""

    out: Path

    def __call__(self, cell: Cell) -> str | None:
        """Write the cell's predictions, whole or not at all; why it failed, or None."""
        try:
            self._predict(cell)
        except MedvlpError as error:
            return error.message
        return None

    def _predict(self, cell: Cell) -> None:
        protocol = load_protocol(cell.path, cell.overrides)
        (scorer,) = scorers_of(protocol, [cell.bundle])
        named = dataclasses.replace(scorer, name=cell.model)
        study = open_study(protocol, self.out)
        with staged(place(self.out, cell).parent, cell.key) as folder:
            predict_into(folder, protocol, study, [named], [cell.bundle])


def place(out: Path, cell: Cell) -> Path:
    """The folder of a cell's predictions."""
    return out / "cells" / cell.key


def finished(out: Path, cell: Cell) -> bool:
    """Whether the cell's predictions are there, every file of them as it was written."""
    try:
        read_study(place(out, cell))
    except InputError:
        return False
    return True

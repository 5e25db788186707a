"""Labels, regions and entities that come in tables of their own, beside the images.

Each table has one or more of the columns `KEYS`, by which its rows find their samples; a study's
row goes to every sample of the study. The other columns:

- labels: ``name``, ``value`` (1, 0, -1 uncertain, blank unknown);
- regions: ``name``, ``kind`` (box, interval, mask; box if there is no such column), the corners
  ``x0 y0 x1 y1`` (and ``z0 z1``) or ``start_s end_s``, and for masks ``file`` with, where the file
  is a label map, the region's ``value`` in it;
- entities: ``anatomy``, ``observation``, ``presence`` (1, 0, -1), ``laterality``,
  ``severity``.

Boxes are in pixels or voxels of the array as the domain reads it, far edges exclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlp.archive.intake import Intake
from medvlp.archive.options import Columns
from medvlp.archive.tables.columns import UserTable
from medvlp.archive.verdict import Reject
from medvlp.errors import ConfigError

KEYS = ("sop_uid", "series_uid", "study_uid", "accession", "path")
_FIELDS = {
    "labels": ("name", "value"),
    "regions": (
        "name", "kind", "x0", "y0", "z0", "x1", "y1", "z1", "start_s", "end_s", "file", "value",
    ),
    "entities": ("anatomy", "observation", "presence", "laterality", "severity"),
}  # fmt: skip
_REQUIRED = {"labels": ("name", "value"), "regions": ("name",), "entities": ("observation",)}
_CORNERS = {
    "box": (("x0", "y0", "z0", "x1", "y1", "z1"), ("x0", "y0", "x1", "y1")),
    "interval": (("start_s", "end_s"),),
}

Cells = dict[str, Any]
Add = Callable[[str], None]
"""Hands one row to the intake, for the sample that is named."""


class Annotations:
    """The rows of the annotation tables, by what names their samples.

    A row that is wrong is listed (``bad_value``, ``bad_region``, ``no_key``) and left out; rows
    that no sample asked for are counted in the note ``annotations_without_sample``. A mask file is
    kept from the source kind, so that it is not taken for an image.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._rows: dict[tuple[str, str], list[Add]] = {}
        self._used: set[tuple[str, str]] = set()
        self._masks: dict[Path, bool] = {}

    @classmethod
    def load(cls, intake: Intake) -> Annotations:
        """Read the tables that the options name; call it before the images are walked.

        Raises:
            ConfigError: A table is not there, or lacks its columns.
            ArchiveError: A table cannot be read.
        """
        annotations = cls(intake)
        config = intake.config
        for what, path in (
            ("labels", config.labels),
            ("regions", config.regions),
            ("entities", config.entities),
        ):
            if path is not None:
                annotations._load(what, intake.locate(path))
        intake.at_finish(annotations._close)
        return annotations

    def apply(self, sample: str, **keys: str | None) -> None:
        """Hand over all that the tables say of `sample`.

        Args:
            sample: The manifest's id of the sample.
            keys: Its raw identifiers, by the names in `KEYS`; ``path`` is relative to the source
                folder, with forward slashes.
        """
        for field, value in keys.items():
            for add in self._rows.get((field, value or ""), ()):
                add(sample)
            self._used.add((field, value or ""))

    def _load(self, what: str, path: Path) -> None:
        table = UserTable(path, Columns(), (*KEYS, *_FIELDS[what]), required=_REQUIRED[what])
        keys = [key for key in KEYS if key in table.column]
        if not keys:
            raise ConfigError(
                f"{path.name} has none of the columns {', '.join(KEYS)}",
                remedy="add the column that says which image, series or study a row is about",
            )
        self._intake.cover([path])
        table.list_refused(self._intake.reject_row)
        parse = {"labels": self._label, "regions": self._region, "entities": self._entity}[what]
        for number, cells in table.rows():
            named = [(key, cells[key]) for key in keys if cells[key]]
            try:
                if not named:
                    raise Reject("no_key")
                self._rows.setdefault(named[0], []).append(parse(cells))
            except Reject as verdict:
                self._intake.reject_row(path, number, verdict.code, verdict.message)

    def _label(self, cells: Cells) -> Add:
        name, value = _word(cells, "name"), _presence(cells["value"])
        source = self._intake.config.label_source
        return lambda sample: self._intake.label(sample, name, value, source)

    def _entity(self, cells: Cells) -> Add:
        observation, presence = _word(cells, "observation"), _presence(cells.get("presence"))
        source = self._intake.config.label_source
        about = {name: cells.get(name) for name in ("anatomy", "laterality", "severity")}
        return lambda sample: self._intake.entity(
            sample, node=None, observation=observation, presence=presence, source=source, **about
        )

    def _region(self, cells: Cells) -> Add:
        name, kind = _word(cells, "name"), cells.get("kind") or "box"
        if kind == "mask":
            return self._mask(name, cells)
        if kind not in _CORNERS:
            raise Reject("bad_region", "kind is none of box, interval, mask")
        geometry = _geometry(cells, kind)
        return lambda sample: self._intake.region(sample, name=name, kind=kind, geometry=geometry)

    def _mask(self, name: str, cells: Cells) -> Add:
        try:
            file = self._intake.locate(Path(_word(cells, "file"))).absolute()
        except ConfigError:
            raise Reject("mask_missing") from None
        value = _number(cells.get("value"))
        if file not in self._masks:
            self._masks[file] = False
            self._intake.reserve(file)

        def add(sample: str) -> None:
            self._masks[file] = True
            self._intake.region(
                sample, name=name, kind="mask", ref=self._intake.source(file),
                geometry=None if value is None else [value],
            )  # fmt: skip

        return add

    def _close(self) -> None:
        for file, used in self._masks.items():
            if used:
                self._intake.cover([file])
            else:
                self._intake.reject(file, "join", "mask_without_sample")
        left = sum(len(rows) for key, rows in self._rows.items() if key not in self._used)
        if left:
            self._intake.notes["annotations_without_sample"] += left


def _word(cells: Cells, field: str) -> str:
    word = cells.get(field)
    if not word:
        raise Reject("bad_value", f"{field} is blank")
    return str(word)


def _number(cell: Any) -> float | None:
    if cell is None:
        return None
    try:
        return float(cell)
    except ValueError:
        raise Reject("bad_value", "not a number") from None


def _presence(cell: Any) -> float | None:
    value = _number(cell)
    if value not in (1, 0, -1, None):
        raise Reject("bad_value", "not 1, 0 or -1")
    return value


def _geometry(cells: Cells, kind: str) -> list[float]:
    """The corners of a box, in space if it has z, or an interval's ends."""
    for corners in _CORNERS[kind]:
        found = [_number(cells.get(field)) for field in corners]
        values = [value for value in found if value is not None]
        if len(values) == len(corners):
            half = len(values) // 2
            if all(a < b for a, b in zip(values[:half], values[half:], strict=True)):
                return values
            break
    raise Reject("bad_region", f"{kind} without corners in order")

"""Source kind ``object-cxr``: foreign objects on chest X-rays (JF Healthcare, MIDL 2020).

Reads the folders `train`, `dev` (and `test`) with a table of the same name beside them: image_name
and annotation, where an object is ``type x y x y ...`` and objects are divided by semicolons. Type
0 is a rectangle, 1 an ellipse (both by two corners of their box), 2 a polygon. Coordinates are in
pixels of the published image, whose size is kept.
"""

from __future__ import annotations

from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.tables.accounts import (
    compare,
    leave_rest,
    number,
    table_rows,
    with_suffix,
)
from medvlp.archive.tables.lists import ListOptions, SplitLists
from medvlp.archive.verdict import Reject
from medvlp.cxr.sets.xrays import PICTURES, Xray, take_images
from medvlp.data.regions import fault_of
from medvlp.data.tables import PATIENT_IS_IMAGE
from medvlp.errors import ArchiveError

SOURCE = "object-cxr"
FOREIGN = "Foreign object"
ROWS = {"train": 8_000, "dev": 1_000, "test": 1_000}

_SHAPES = {"0": "box", "1": "ellipse", "2": "polygon"}

Shape = tuple[str, list[float]]
"""Kind of region and geometry."""
Key = tuple[str, str]
"""Part and image name."""


def index_object_cxr(root: Path, intake: Intake) -> None:
    """Index Object-CXR; the set names no patients, so each image is its own."""
    options = intake.options(ListOptions)
    files = list(intake.files())
    lists = SplitLists(intake, options.lists)
    rows: dict[Key, list[Shape]] = {}
    tables = {path.stem: path for path in files if path.suffix == ".csv" and path.stem in ROWS}
    if not tables:
        raise ArchiveError(
            "the source holds none of train.csv, dev.csv and test.csv",
            remedy="name the folder with train, train.csv, dev and dev.csv",
        )
    for part, table in tables.items():
        compare(intake, f"rows_{part}", _load(intake, table, part, rows), ROWS[part])

    def accept(path: Path, shapes: list[Shape], xray: Xray) -> None:
        split, flags = lists.columns(path, path.parent.name)
        columns = xray.columns
        columns["flags"] = (*columns["flags"], *flags, PATIENT_IS_IMAGE)
        sample = intake.accept(
            [path],
            kind="image",
            patient=None,
            study=f"{SOURCE}:{path.parent.name}/{path.name}",
            source_split=split,
            **columns,
        )
        intake.label(sample, FOREIGN, float(bool(shapes)), SOURCE)
        for kind, geometry in shapes:
            intake.region(sample, name=FOREIGN, kind=kind, geometry=geometry)

    images = with_suffix(files, PICTURES)
    take_images(intake, images, rows, lambda path: (path.parent.name, path.name), accept)
    leave_rest(intake)


def _load(intake: Intake, table: Path, part: str, rows: dict[Key, list[Shape]]) -> int:
    count = 0
    for row, cells in table_rows(intake, table, ("image_name", "annotation")):
        count += 1
        key = part, cells["image_name"]
        try:
            if key in rows:
                raise Reject("duplicate_row")
            rows[key] = shapes_of(cells["annotation"])
        except Reject as verdict:
            intake.reject_row(table, row, verdict.code, verdict.message)
    return count


def shapes_of(annotation: str) -> list[Shape]:
    """The objects of one cell; a blank cell means that there are none.

    Raises:
        Reject: ``bad_region`` or ``not_a_number``: one of them is wrong, so none is believed.

    >>> shapes_of("0 9 8 1 2;1 0 0 4 2")
    [('box', [1.0, 2.0, 9.0, 8.0]), ('ellipse', [0.0, 0.0, 4.0, 2.0])]
    """
    return [_shape(part.split()) for part in annotation.split(";") if part.strip()]


def _shape(words: list[str]) -> Shape:
    kind = _SHAPES.get(words[0])
    if kind is None:
        raise Reject("bad_region", "a shape of no known type")
    points = [number(word) for word in words[1:]]
    if kind != "polygon" and len(points) == 4:
        points = [f(pair) for f in (min, max) for pair in (points[::2], points[1::2])]
    if fault := fault_of(kind, points):
        raise Reject("bad_region", fault)
    return kind, points

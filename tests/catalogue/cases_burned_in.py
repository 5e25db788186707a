"""Pictures on which names may be burned in, named in a table: held as in a DICOM archive."""

from __future__ import annotations

from pathlib import Path

from catalogue.case import Case
from catalogue.dicom import Changes, changed
from catalogue.raw import file_of, text


def case(name: str, expected: str, changes: Changes) -> Case:
    """One radiograph, a row of the table that every case writes anew."""
    own = f"burned-{name}"

    def write(folder: Path) -> list[Path]:
        (folder / "a.dcm").write_bytes(file_of(changed(own, changes)))
        table = folder.parent / "pictures.csv"
        earlier = table.read_text() if table.exists() else "path,patient\n"
        table.write_text(f"{earlier}{own}/a.dcm,{own}\n")
        return [folder / "a.dcm"]

    return Case(
        number=0,
        name=own,
        archive="table:burned-in",
        write=write,
        expected=expected,
        overrides=("domain=cxr",),
        root="pictures.csv",
    )


STATED = 0x00280301
CASES = (
    case("no", "ACCEPT", {STATED: ("CS", b"NO")}),
    case("unstated", "FLAG:burned_in_unstated", {}),
    case("yes", "REJECT:burned_in_risk", {STATED: ("CS", text("YES"))}),
    case("film", "REJECT:burned_in_risk", {0x00080064: ("CS", b"DF")}),
    case("ultrasound", "REJECT:burned_in_risk", {0x00080060: ("CS", b"US")}),
)

"""Reports that name one study's number and another's patient, study or words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from catalogue.case import Case
from catalogue.raw import file_of, text, uid_of, xray

Row = Mapping[str, str]


def case(name: str, expected: str, *rows: Row, judged: str = "ris.csv#{row}") -> Case:
    """One or two studies, ``a.dcm`` and ``b.dcm``, beside a table of reports.

    In a row, ``{a}`` and ``{b}`` stand for what the studies are called. `judged` is the file, or
    the rows, whose verdict counts.
    """
    own = f"pair-{name}"

    def write(folder: Path) -> list[Path]:
        columns = ("accession", "study_uid", "patient", "text")
        lines = [",".join(columns)]
        for row in rows:
            cells = (row.get(column, "") for column in columns)
            lines.append(",".join(cell.format(own=own, b=uid_of(own + "b", 1)) for cell in cells))
        (folder / "ris.csv").write_text("\n".join(lines) + "\n")
        for study in ("a", "b"):
            image = xray(own + study) | {0x00080050: ("SH", text(f"{own}-{study}"[:16]))}
            (folder / f"{study}.dcm").write_bytes(file_of(image))
        if "{row}" not in judged:
            return [folder / judged]
        return [folder / judged.format(row=k + 1) for k in range(len(rows))]

    return Case(
        number=76,
        name=own,
        archive="dicom:reports",
        write=write,
        expected=expected,
        overrides=("reports={folder}",),
    )


CONFLICT = "REJECT:pair_conflict"
SOUND = {"accession": "{own}-a", "patient": "P-{own}a", "text": "Lungs clear."}
OTHER_PATIENT = SOUND | {"patient": "P-{own}b"}
OTHER_STUDY = SOUND | {"study_uid": "{b}"}
OTHER_WORDS = SOUND | {"text": "Large effusion."}

CASES = (
    case("right", "ACCEPT", SOUND, judged="a.dcm"),
    case("none", "FLAG:no_text", SOUND, judged="b.dcm"),
    case("patient", CONFLICT, OTHER_PATIENT),
    case("patient-i", "FLAG:no_text", OTHER_PATIENT, judged="a.dcm"),
    case("study", CONFLICT, OTHER_STUDY),
    case("study-i", "FLAG:no_text", OTHER_STUDY, judged="a.dcm"),
    case("words", CONFLICT, SOUND, OTHER_WORDS),
    case("words-i", "FLAG:no_text", SOUND, OTHER_WORDS, judged="a.dcm"),
)

"""Report files: empty, endless, binary, in every encoding, with what cannot be seen."""

from __future__ import annotations

import zlib
from pathlib import Path

from catalogue.case import Case
from catalogue.raw import file_of, text, xray

GERMAN = "Herz vergrößert. Kein Erguß, Größe 3 cm – unverändert.\n"


def case(name: str, expected: str, data: bytes) -> Case:
    """A report's file; where it is accepted, with the image that it is about."""
    accepted = not expected.startswith("REJECT")

    def write(folder: Path) -> list[Path]:
        report = folder / f"ACC-{name}.txt"
        report.write_bytes(data)
        if not accepted:
            return [report]
        image = xray(f"text-{name}") | {0x00080050: ("SH", text(f"ACC-{name}"[:16]))}
        report.rename(folder / f"{f'ACC-{name}'[:16]}.txt")
        (folder / "a.dcm").write_bytes(file_of(image))
        return [folder / "a.dcm"]

    return Case(
        number=75,
        name=f"text-{name}",
        archive="dicom:reports",
        write=write,
        expected=expected,
        overrides=("reports={folder}",),
    )


CASES = (
    case("sound", "ACCEPT", b"The lungs are clear.\n"),
    case("utf8-mark", "ACCEPT", GERMAN.encode("utf-8-sig")),
    case("utf16", "FLAG:not_utf8", GERMAN.encode("utf-16")),
    case("utf16-bare", "FLAG:not_utf8", GERMAN.encode("utf-16-le")),
    case("utf16-big", "FLAG:not_utf8", GERMAN.encode("utf-16-be")),
    case("windows", "FLAG:not_utf8", GERMAN.encode("cp1252")),
    case("mojibake", "FLAG:mojibake", GERMAN.encode().decode("cp1252").encode()),
    case("bidi", "FLAG:hidden_stripped", "No \u202eevidence\u202c of effusion.".encode()),
    case("zero-width", "FLAG:hidden_stripped", "No pneumo\u200bthorax.".encode()),
    case("tag-letters", "FLAG:hidden_stripped", "Clear\U000e0041\U000e0042.".encode()),
    case("bell", "FLAG:controls_stripped", b"The lungs\7 are clear.\x1b\n"),
    case("lost", "FLAG:lost_characters", "Gr\ufffd\ufffde 3 cm.".encode()),
    case("one-line", "FLAG:long_line", b"The lungs are clear. " * 2000),
    case("empty", "REJECT:empty_report", b""),
    case("blank", "REJECT:empty_report", b"\xef\xbb\xbf \r\n\t\n"),
    case("invisible", "REJECT:empty_report", "\u200b\u200e\u2060".encode()),
    case("50-mb", "REJECT:text_too_large", b"The lungs are clear. " * 2_400_000),
    case("nul", "REJECT:text_binary", b"No pneumo\0thorax."),
    case("only-nul", "REJECT:text_binary", bytes(300)),
    case("random", "REJECT:text_binary", zlib.compress(bytes(range(256)) * 9)[2:] + b"\0\1\2"),
    case("controls", "REJECT:text_binary", bytes(range(1, 32)) * 9 + b"Clear."),
    case("pdf", "REJECT:text_binary", b"%PDF-1.7\nThe lungs are clear."),
    case("picture", "REJECT:text_binary", b"\x89PNG\r\n\x1a\n" + bytes(40)),
    case("word-document", "REJECT:text_binary", b"PK\3\4" + bytes(60)),
    case("base64", "REJECT:text_binary", b"Clear. " + b"QUJDRA" * 900),
    case("html", "REJECT:text_markup", b"<!DOCTYPE html><html><body>Clear.</body></html>"),
    case("rtf", "REJECT:text_markup", rb"{\rtf1\ansi The lungs are clear.}"),
    case("half-utf16", "REJECT:text_encoding", GERMAN.encode("utf-16")[:-1]),
    case("dos", "REJECT:text_encoding", "Herz vergrößert. Größe früher.".encode("cp850")),
    case("cyrillic", "REJECT:text_encoding", "Лёгкие без изменений.".encode("cp1251")),
    case("shift-jis", "REJECT:text_encoding", "右肺に結節を認める。".encode("shift_jis")),
    case("gb18030", "REJECT:text_encoding", "双肺纹理清晰,未见实变。".encode("gb18030")),
    case("mixed", "REJECT:text_encoding", "Größe ".encode() + "größer".encode("cp1252")),
)

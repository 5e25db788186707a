"""Containers and media directories in a DICOM tree."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from catalogue.case import Case
from catalogue.raw import EXPLICIT, element, file_of, item, meta, part10, text, xray

SOUND = {"a.dcm": b"one" * 99, "b/c.dcm": b"two" * 99}
MEDIA = "1.2.840.10008.1.3.10"


def zipped(files: Mapping[str, bytes] = SOUND) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as container:
        for name, data in files.items():
            container.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tarred(mode: str = "w", kind: bytes = b"", target: str = "", name: str = "x") -> bytes:
    """A tar file of `SOUND`, and one more entry where a kind is given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as container:
        for inside, data in SOUND.items():
            info = tarfile.TarInfo(inside)
            info.size = len(data)
            container.addfile(info, io.BytesIO(data))
        if kind:
            odd = tarfile.TarInfo(name)
            odd.type, odd.linkname = kind, target
            container.addfile(odd)
    return out.getvalue()


def linked() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as container:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        container.writestr(info, "/etc/passwd")
    return out.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped())
    place = data.index(b"PK\1\2")
    data[6] |= 1
    data[place + 8] |= 1
    return bytes(data)


def overlapping() -> bytes:
    """Many entries on the same bytes, as in Fifield's bomb."""
    data = bytearray(zipped({"a": bytes(1 << 16), "b": bytes(1 << 16)}))
    first, second = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def nested() -> bytes:
    """Containers in containers, as 42.zip."""
    data = bytes(1 << 20)
    for level in range(6):
        data = zipped({f"{level}-{k}.zip": data for k in range(4)})
    return data


def wrong_size() -> bytes:
    data = bytearray(zipped({"a": b"x" * 99}))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 40)
    return bytes(data)


def directory(*ids: str) -> bytes:
    """A DICOMDIR with one record for each file id."""
    records = b"".join(item(element(0x00041500, "CS", text(one))) for one in ids)
    body = element(0x00041130, "CS", b"MEDIUM") + element(0x00041220, "SQ", records)
    return part10(meta(EXPLICIT, sop_class=MEDIA), body)


def case(
    number: int, name: str, expected: str, data: Callable[[], bytes], file: str = "a.zip"
) -> Case:
    def write(folder: Path) -> list[Path]:
        (folder / file).write_bytes(data())
        return [folder / file]

    return Case(
        number=number, name=f"packed-{name}", archive="dicom", write=write, expected=expected
    )


CASES = (
    case(77, "zip", "REJECT:packed", zipped),
    case(77, "zip-without-suffix", "REJECT:packed", zipped, "export"),
    case(77, "tar", "REJECT:packed", tarred, "a.tar"),
    case(77, "tgz", "REJECT:packed", lambda: tarred("w:gz"), "a.tgz"),
    case(77, "gzip-of-a-file", "REJECT:packed",
         lambda: gzip.compress(file_of(xray("packed"))), "a.dcm.gz"),
    case(77, "7z", "REJECT:packed", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(99), "a.7z"),
    case(77, "parent", "REJECT:archive_escape", lambda: zipped({"../a.dcm": b"x"})),
    case(77, "parent-inside", "REJECT:archive_escape", lambda: zipped({"a/../../b": b"x"})),
    case(77, "absolute", "REJECT:archive_escape", lambda: zipped({"/etc/a": b"x"})),
    case(77, "drive", "REJECT:archive_escape", lambda: zipped({"C:/a": b"x"})),
    case(77, "backslashes", "REJECT:archive_escape", lambda: zipped({"..\\..\\a": b"x"})),
    case(77, "zip-link", "REJECT:archive_escape", linked),
    case(77, "tar-link", "REJECT:archive_escape",
         lambda: tarred("w", tarfile.SYMTYPE, "/etc/passwd"), "a.tar"),
    case(77, "tar-hard-link", "REJECT:archive_escape",
         lambda: tarred("w:gz", tarfile.LNKTYPE, "../../a"), "a.tar.gz"),
    case(77, "tar-device", "REJECT:archive_escape", lambda: tarred("w", tarfile.CHRTYPE), "a.tar"),
    case(77, "tar-pipe", "REJECT:archive_escape", lambda: tarred("w", tarfile.FIFOTYPE), "a.tar"),
    case(77, "tar-parent", "REJECT:archive_escape",
         lambda: tarred("w", tarfile.DIRTYPE, name="../up"), "a.tar"),
    case(77, "twice", "REJECT:archive_duplicate", lambda: zipped({"a": b"1", "./a": b"2"})),
    case(77, "zeros", "REJECT:archive_ratio", lambda: zipped({"a": bytes(1 << 27)})),
    case(77, "nested-bomb", "REJECT:archive_ratio", nested),
    case(77, "overlapping-bomb", "REJECT:archive_ratio", overlapping),
    case(77, "encrypted", "REJECT:archive_encrypted", encrypted),
    case(77, "cut-zip", "REJECT:damaged_archive", lambda: zipped()[:-30]),
    case(77, "cut-tar", "REJECT:damaged_archive", lambda: tarred()[:1300], "a.tar"),
    case(77, "cut-tgz", "REJECT:damaged_archive", lambda: tarred("w:gz")[:-50], "a.tgz"),
    case(77, "wrong-size", "REJECT:damaged_archive", wrong_size),
    case(63, "dicomdir", "IGNORE:dicomdir", lambda: directory("DICOM\\A\\B1"), "DICOMDIR"),
    case(63, "dicomdir-parent", "REJECT:path_escape",
         lambda: directory("DICOM\\A", "..\\..\\x"), "DICOMDIR"),
    case(63, "dicomdir-drive", "REJECT:path_escape", lambda: directory("C:\\A"), "DICOMDIR"),
    case(63, "dicomdir-absolute", "REJECT:path_escape", lambda: directory("\\ETC\\A"), "DICOMDIR"),
    case(63, "dicomdir-slashes", "REJECT:path_escape", lambda: directory("../../etc"), "DICOMDIR"),
)  # fmt: skip

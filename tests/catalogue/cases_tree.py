"""What a file system may hold beside files: pipes, sockets, links of every kind, odd names."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from catalogue.case import Array, Case
from catalogue.cases_dicom_files import grey
from catalogue.raw import file_of, xray
from medvlp.archive.dicom.files import read_image


def case(
    number: int,
    name: str,
    expected: str,
    make: Callable[[Path], Path],
    oracle: Callable[[], Array] | None = None,
) -> Case:
    """`make` puts something into the folder and returns it."""
    return Case(
        number=number,
        name=f"tree-{name}",
        archive="dicom",
        write=lambda folder: [make(folder)],
        expected=expected,
        oracle=oracle,
        read=lambda paths: read_image(paths[0]),
    )


def linked(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "link.dcm").symlink_to(target.format(folder=folder, root=folder.parent))
        return folder / "link.dcm"

    return make


def sound(name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(file_of(xray(name)))
        return folder / file

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.dcm")
    return folder / "a.dcm"


def listening(folder: Path) -> Path:
    # Through the descriptor, because a socket's path may have 107 bytes only.
    place = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{place}/a.dcm")
    os.close(place)
    return folder / "a.dcm"


def second_name(folder: Path) -> Path:
    first = sound("tree-hard-link", "a.dcm")(folder)
    (folder / "b.dcm").hardlink_to(first)
    return folder / "b.dcm"


def junk(folder: Path) -> Path:
    (folder / "._a.dcm").write_bytes(b"\0\5\x16\7")
    return folder / "._a.dcm"


CASES = (
    case(64, "pipe", "IGNORE:not_regular", pipe),
    case(64, "socket", "IGNORE:not_regular", listening),
    case(64, "dead-link", "IGNORE:not_regular", linked("{folder}/none")),
    case(64, "link-to-itself", "IGNORE:not_regular", linked("{folder}/link.dcm")),
    case(64, "link-up", "IGNORE:link", linked("{root}")),
    case(64, "link-to-own-folder", "IGNORE:link", linked(".")),
    case(64, "link-to-zero", "IGNORE:outside_root", linked("/dev/zero")),
    case(64, "link-to-passwords", "IGNORE:outside_root", linked("/etc/passwd")),
    case(64, "link-to-system", "IGNORE:outside_root", linked("/proc")),
    case(64, "hard-link", "IGNORE:hard_link", second_name),
    case(64, "resource-fork", "IGNORE:hidden_junk", junk),
    case(64, "newline-in-name", "ACCEPT", sound("tree-newline-in-name", "a\nb.dcm"), grey),
    case(64, "long-name", "ACCEPT", sound("tree-long-name", "x" * 251 + ".dcm"), grey),
    case(64, "deep", "ACCEPT", sound("tree-deep", "d/" * 300 + "a.dcm"), grey),
    case(64, "no-suffix", "ACCEPT", sound("tree-no-suffix", "IM000001"), grey),
    case(64, "upper-case-suffix", "ACCEPT", sound("tree-upper-case-suffix", "A.DCM"), grey),
)

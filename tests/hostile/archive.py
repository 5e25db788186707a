"""A folder of a hospital's archive in which files try to get out, or to run."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from catalogue.raw import file_of, xray

from hostile.case import SECRET, Place
from hostile.formats import npy_of_objects, pickled, torch_zip


def zip_slip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo(name), "owned")
    return out.getvalue()


def zip_link(target: str) -> bytes:
    """A link in a ZIP, and a member that would be written through it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, target)
        file.writestr("link/canary", "owned")
    return out.getvalue()


def tar_slip(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        info.size = 5 if kind == tarfile.REGTYPE else 0
        file.addfile(info, io.BytesIO(b"owned"))
        if kind == tarfile.SYMTYPE:
            inside = tarfile.TarInfo(f"{name}/canary")
            inside.size = 5
            file.addfile(inside, io.BytesIO(b"owned"))
    return out.getvalue()


def with_program(head: bytes) -> bytes:
    """A sound DICOM file whose preamble is a program's (a polyglot, CVE-2019-11687)."""
    data = bytearray(file_of(xray(f"hostile-{len(head)}")))
    data[: len(head)] = head
    return bytes(data)


def linked(place: Place, path: Path) -> None:
    path.symlink_to(place.secret)


FILES: dict[str, Callable[[Place], bytes]] = {
    "slip.zip": lambda place: zip_slip("../../outside/canary"),
    "slip-windows.zip": lambda place: zip_slip("..\\..\\outside\\canary"),
    "absolute.zip": lambda place: zip_slip(f"{place.outside}/canary"),
    "link.zip": lambda place: zip_link(str(place.outside)),
    "slip.tar": lambda place: tar_slip("../../outside/canary"),
    "absolute.tar": lambda place: tar_slip(f"{place.outside}/canary"),
    "link.tar": lambda place: tar_slip("link", tarfile.SYMTYPE, str(place.outside)),
    "hard-link.tar": lambda place: tar_slip("link", tarfile.LNKTYPE, str(place.secret)),
    "slip.tar.gz": lambda place: tar_slip("../../outside/canary", mode="w:gz"),
    "pickle.dcm": lambda place: pickled(place.command),
    "torch.dcm": lambda place: torch_zip(place.command),
    "objects.dcm": lambda place: npy_of_objects(place.command),
    "script.dcm": lambda place: f"#!/bin/sh\n{place.command}\n".encode(),
    "page.dcm": lambda place: f"<html><script>{place.command}</script>".encode(),
    "windows-program.dcm": lambda place: with_program(b"MZ\x90\x00" + b"PE\x00\x00"),
    "linux-program.dcm": lambda place: with_program(b"\x7fELF\x02\x01\x01"),
    "conftest.py": lambda place: f"import os\nos.system('{place.command}')\n".encode(),
    "index.yaml": lambda place: f"a: !!python/object/apply:os.system ['{place.command}']".encode(),
    "$(touch canary).dcm": lambda place: b"name",
    "; touch canary;.dcm": lambda place: b"name",
}

TAKEN = {"windows-program.dcm", "linux-program.dcm"}
"""Sound images all the same: their first 128 bytes are not looked at, and not run."""

REPORTS: dict[str, Callable[[Place], str]] = {
    "external.xml": lambda place: (
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{place.secret}">]>'
        "<eCitation><uId id='a'/><AbstractText>&e;</AbstractText></eCitation>"
    ),
    "entities.xml": lambda place: (
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        "<eCitation><uId id='b'/><AbstractText>&b;</AbstractText></eCitation>"
    ),
    "remote-type.xml": lambda place: '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/a.dtd"><eCitation/>',
    "include.xml": lambda place: (
        '<eCitation xmlns:xi="http://www.w3.org/2001/XInclude"><uId id='
        f'"c"/><xi:include href="file://{place.secret}" parse="text"/></eCitation>'
    ),
}


def write_archive(place: Place) -> dict[str, Path]:
    """All of `FILES`, and a link to the secret."""
    paths = {name: place.file(f"in/{name}", data(place)) for name, data in FILES.items()}
    link = place.inside / "in/link.dcm"
    linked(place, link)
    return {**paths, "link.dcm": link}


def write_reports(place: Place) -> None:
    """All of `REPORTS`."""
    for name, text in REPORTS.items():
        place.file(f"in/{name}", text(place))


def names_secret(folder: Path) -> list[str]:
    """Files below `folder` in which the secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if SECRET.encode() in path.read_bytes()]

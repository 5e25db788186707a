"""Tables, manifests, caches, indexes of embeddings and predictions."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

import medvlp
from hostile.case import SECRET, Hostile, Place
from hostile.formats import npy_of_objects, pickled
from medvlp.archive.index import index_archive
from medvlp.archive.tables.tablefile import open_table
from medvlp.data.cache_entry import open_entry
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.digest import digest_file
from medvlp.errors import ArchiveError, InputError, ManifestError
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.search import search_index
from medvlp.forget import forget
from medvlp.report.build import build_report

SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 20))


def read(path: Path) -> None:
    """Open a table; what it holds must not come from elsewhere."""
    assert SECRET not in str(open_table(path).frame.rows())


def table(name: str, file: str, data: Callable[[Place], bytes], refused: Any) -> Hostile:
    return Hostile(
        name=f"table-{name}",
        write=lambda place: place.file(file, data(place)),
        open=read,
        refused=refused,
    )


def workbook(cell: str, head: str = "", **more: bytes) -> bytes:
    """A workbook of one cell, with any document type in front, and further members."""
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
        "</Types>"
    )
    relations = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="r1" Type="{kind}" Target="{target}"/></Relationships>'
    )
    sheets = '<sheets><sheet name="a" sheetId="1" r:id="r1"/></sheets>'
    cells = f'<row r="1"><c r="A1" t="inlineStr"><is><t>{cell}</t></is></c></row>'
    parts = {
        "[Content_Types].xml": types,
        "_rels/.rels": relations.format(kind=f"{RELATED}/officeDocument", target="xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{RELATED}">{sheets}</workbook>',
        "xl/_rels/workbook.xml.rels": relations.format(
            kind=f"{RELATED}/worksheet", target="worksheets/sheet1.xml"
        ),
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{SHEET}"><sheetData>{cells}'
        "</sheetData></worksheet>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (*parts.items(), *more.items()):
            file.writestr(name, data)
    return out.getvalue()


def parquet(metadata: dict[bytes, bytes], field: dict[bytes, bytes] | None = None) -> bytes:
    """One column of text with any metadata."""
    schema = pa.schema([pa.field("patient", pa.string(), metadata=field)], metadata)
    out = io.BytesIO()
    pq.write_table(pa.table({"patient": ["p1"]}, schema=schema), out)
    return out.getvalue()


def extension(command: str) -> dict[bytes, bytes]:
    """What old versions of Arrow unpickle (CVE-2023-47248)."""
    return {b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickled(command, 0)}  # fmt: skip


TABLES = (
    table("pickle-as-csv", "t.csv", lambda place: pickled(place.command), ArchiveError),
    table("pickle-as-parquet", "t.parquet", lambda place: pickled(place.command), ArchiveError),
    table("formula", "t.csv",
          lambda place: f"patient,text\np1,=cmd|'/c {place.command}'!A1\n".encode(), None),
    table("pandas-metadata", "t.parquet",
          lambda place: parquet({b"pandas": pickled(place.command, 0)}), None),
    table("pickled-extension", "t.parquet",
          lambda place: parquet({}, extension(place.command)), None),
    table("foot-states-a-trillion-rows", "t.parquet",
          lambda place: trillion_rows(), ArchiveError),
    table("external-entity", "t.xlsx", lambda place: workbook(
        "&e;", f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{place.secret}">]>'), ArchiveError),
    table("entity-bomb", "t.xlsx", lambda place: workbook(
        "&a19;", f'<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">{LAUGHS}]>'), ArchiveError),
    table("member-leads-out", "t.xlsx", lambda place: workbook(
        "patient", **{"../../outside/canary": b"x"}), ArchiveError),
    table("zip-bomb", "t.xlsx", lambda place: workbook(
        "patient", **{"xl/media/a.bin": bytes(1 << 28)}), ArchiveError),
)  # fmt: skip


def trillion_rows() -> bytes:
    """A sound file whose foot says that it has 10^12 rows."""
    import struct

    data = bytearray(parquet({}))
    size = struct.unpack("<I", data[-8:-4])[0]
    foot = bytes(data[-8 - size : -8])
    # FileMetaData.num_rows is field 3 of the thrift struct: a zigzag varint after the schema.
    place = foot.index(b"patient") + len(b"patient")
    place = foot.index(b"\x16\x02", place)
    many, value = bytearray(), 2 * 10**12
    while value > 127:
        many.append(value & 127 | 128)
        value >>= 7
    changed = foot[: place + 1] + bytes(many) + bytes([value]) + foot[place + 2 :]
    return bytes(data[: -8 - size]) + changed + struct.pack("<I", len(changed)) + b"PAR1"


def manifest(name: str, change: Callable[[Place, Path, dict[str, Any]], None]) -> Hostile:
    """A manifest that is changed with its digests."""

    def write(place: Place) -> Path:
        out = place.inside / "manifest"
        write_manifest(out, {}, [], {"key_id": "a", "counts": {}}, key=b"k" * 32)
        info = json.loads((out / "manifest.json").read_text())
        change(place, out, info)
        (out / "manifest.json").write_text(json.dumps(info))
        return out

    return Hostile(
        name=f"manifest-{name}",
        write=write,
        open=lambda path: Manifest.open(path).samples,
        refused=ManifestError,
    )


def lists(name: str) -> Callable[[Place, Path, dict[str, Any]], None]:
    def change(place: Place, folder: Path, info: dict[str, Any]) -> None:
        path = name.format(outside=place.outside)
        info["files"][path] = digest_file(folder / path)

    return change


def linked_table(place: Place, folder: Path, info: dict[str, Any]) -> None:
    (folder / "texts.parquet").rename(place.outside / "texts.parquet")
    (folder / "texts.parquet").symlink_to(place.outside / "texts.parquet")


def foreign_table(place: Place, folder: Path, info: dict[str, Any]) -> None:
    file = folder / "samples.parquet"
    file.write_bytes(parquet({b"pandas": pickled(place.command, 0)}, extension(place.command)))
    info["tables"]["samples"] = {"sha256": digest_file(file), "rows": 1}


MANIFESTS = (
    manifest("file-leads-out", lists("../../outside/secret.txt")),
    manifest("file-is-absolute", lists("{outside}/secret.txt")),
    manifest("table-is-a-link", linked_table),
    manifest("table-with-pickles", foreign_table),
    manifest("code-beside", lambda place, folder, info: (folder / "evil.py").write_text("1")),  # type: ignore[arg-type,return-value]
    manifest("tables-are-a-list", lambda place, folder, info: info.update(tables=["samples"])),
)


def cached(name: str, file: str, data: Callable[[Place], bytes]) -> Hostile:
    """An entry of the cache of arrays whose checksum is right."""

    def write(place: Place) -> Path:
        body = data(place)
        return place.file(file, body + zlib.crc32(body).to_bytes(4, "little"))

    def look(path: Path) -> None:
        entry = open_entry(path)
        assert entry is None or entry.crop((slice(0, 1),)).dtype != object

    return Hostile(name=f"cache-{name}", write=write, open=look, refused=None)


def lazy(place: Place) -> bytes:
    """An array that its library computes by code in the file when it opens it."""
    operand = blosc2.asarray(np.zeros(4, np.int16), urlpath=str(place.inside / "o.b2nd"), mode="w")
    udf = blosc2.lazyudf(evil, (operand,), np.int16, shape=(4,))
    udf.save(urlpath=str(place.inside / "lazy.b2nd"))
    return (place.inside / "lazy.b2nd").read_bytes()


def evil(inputs: Any, output: Any, offset: Any) -> None:
    """The code in the file: a loud failure wherever it runs."""
    raise AssertionError("code of a file ran")


def lying_npy(place: Place) -> bytes:
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(8)


CACHES = (
    cached("objects", "a.npy", lambda place: npy_of_objects(place.command)),
    cached("pickle", "a.npy", lambda place: pickled(place.command)),
    cached("lying-shape", "a.npy", lying_npy),
    cached("code-in-header", "a.npy", lambda place: b"\x93NUMPY\x01\x00\x3b\x00"
           + b"__import__('os').system('touch canary')".ljust(59)),
    cached("lazy-function", "a.b2nd", lazy),
    cached("pickle-as-blosc2", "a.b2nd", lambda place: pickled(place.command)),
)  # fmt: skip


def embeddings(name: str, file: str, data: Callable[[Place], bytes]) -> Hostile:
    """An index of embeddings with one file replaced."""

    def write(place: Place) -> Path:
        digest = medvlp.load(place.bundle).digest
        info = {"format": 1, "bundle": str(place.bundle), "digest": digest, "items": 1}
        place.file("index/index.json", json.dumps(info))
        rows = {"item": [0], "sample": ["s"], "source": ["a"], "start_s": [None], "end_s": [None]}
        pl.DataFrame(rows).write_parquet(place.inside / "index/items.parquet")
        np.save(place.inside / "index/embeddings.npy", np.zeros((1, 8), np.float32))
        return place.file(f"index/{file}", data(place)).parent

    return Hostile(
        name=f"index-{name}",
        write=write,
        open=lambda path: search_index(
            "edema", path, k=1, json_file=None, bundle=None, console=Console(quiet=True)
        ),
        refused=InputError,
    )


INDEXES = (
    embeddings("objects", "embeddings.npy", lambda place: npy_of_objects(place.command)),
    embeddings("pickled-slabs", "slabs.npy", lambda place: pickled(place.command)),
    embeddings("pickled-items", "items.parquet", lambda place: pickled(place.command)),
    embeddings("deep", "index.json", lambda place: b'{"a":' * 100_000),
)


def predictions(place: Place, picture: str) -> Path:
    """A predictions folder of one finding, with one example picture."""
    folder = place.inside / "out" / "a"
    rows = {"item": 0, "metric": "auroc", "model": "m", "control": False, "name": "all"}
    place.file("out/a/metrics.json", json.dumps(
        {"domain": "cxr", "protocol": "a", "version": 1, "digest": "ab" * 32, "counts": {},
         "undefined_draws": [], "artefacts": {},
         "rows": [rows | {"value": 0.5, "low": 0.4, "high": 0.6, "n": 1}]}))  # fmt: skip
    place.file("out/a/bundles.json", "[]")
    place.file(
        "out/a/protocol.yaml",
        "{name: a, version: 1, domain: cxr, data: {split: test}, "
        "task: {kind: zero-shot}, bootstrap: {draws: 0, confidence: 0.95, seed: 0}}",
    )
    entry = {"picture": picture, "overlay": picture, "name": "edema", "label": 1, "score": 0.9,
             "model": "m", "outcome": "found"}  # fmt: skip
    place.file("out/a/examples/examples.json", json.dumps([entry]))
    row = dict.fromkeys(PREDICTIONS, None) | entry | {"sample": "s", "patient": "p"}
    pl.DataFrame([{k: row[k] for k in PREDICTIONS}], schema=PREDICTIONS).write_parquet(
        folder / "predictions.parquet"
    )
    return folder.parent


def forgotten(place: Place) -> Path:
    """A withdrawal whose patient's example picture lies outside."""
    place.file("t.csv", "patient,text\np1,No edema.\np2,Mild edema.\n")
    index_archive(place.inside / "t.csv", kind="table", out=place.inside / "m",
                  overrides=["domain=cxr"])  # fmt: skip
    folder = predictions(place, str(place.secret)) / "a"
    (folder / "metrics.json").unlink()
    sample = Manifest.open(place.inside / "m").samples.row(0, named=True)
    frame = pl.read_parquet(folder / "predictions.parquet")
    frame.with_columns(
        sample=pl.lit(sample["sample"]), patient=pl.lit(sample["patient"])
    ).write_parquet(folder / "predictions.parquet")
    return place.file("who", sample["patient"]).parent


def take_out(path: Path) -> None:
    forget(path / "m", [(path / "who").read_text()], [path / "out"])
    assert json.loads((path / "out/a/examples/examples.json").read_text()) == []


REPORTS = (
    Hostile(name="report-picture-leads-out", open=build_report, refused=InputError,
            write=lambda place: predictions(place, "../../../../outside/secret.txt")),
    Hostile(name="report-picture-is-absolute", open=build_report, refused=InputError,
            write=lambda place: predictions(place, str(place.secret))),
    Hostile(name="forget-picture-is-outside", open=take_out, refused=None, write=forgotten),
)  # fmt: skip

CASES = (*TABLES, *MANIFESTS, *CACHES, *INDEXES, *REPORTS)

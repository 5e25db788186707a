import io
import os
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from minisets import captured
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.data.verify import verify_manifest


def report(uid, findings="The lungs are clear. Heart size is 1.2 times normal.", mesh=("normal",)):
    majors = "".join(f"<major>{m}</major>" for m in mesh)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/>
<AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">1. Normal. 2. Stable.</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{majors}</MeSH>
<parentImage id="{uid}_IM-0001-3001"/><parentImage id="{uid}_IM-0001-4001"/>
</eCitation>""".encode()


FILES = {
    "ecgen-radiology/1.xml": report("CXR1"),
    "ecgen-radiology/2.xml": report(
        "CXR2", mesh=("Opacity/lung/base/left", "Opacity/lung", "Calcinosis/mild")
    ),
    "ecgen-radiology/3.xml": report("CXR3", mesh=("no indexing",)),
    "ecgen-radiology/bad.xml": b"<eCitation><uId id='CXR4'/>",
    "ecgen-radiology/other.xml": b"<html></html>",
    "ecgen-radiology/bomb.xml": b'<!DOCTYPE x [<!ENTITY a "aaaa">]><eCitation>&a;</eCitation>',
}


def tgz(path, files=FILES):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_archive_is_read_where_it_is(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    tgz(source / "NLMCXR_reports.tgz")
    summary = index_archive(source, kind="open-i", out=tmp_path / "m")
    assert summary.counts() == {"found": 6, "accepted": 3, "quarantined": 3, "ignored": 0}
    verify_manifest(tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    assert sorted(manifest.rejects["code"]) == ["not_open_i", "xml_doctype", "xml_syntax"]
    assert set(manifest.samples["kind"]) == {"report"}
    assert sorted(p.name for p in tmp_path.rglob("*.xml")) == []
    labels = manifest.labels.group_by("sample").agg(pl.struct("name", "value")).to_dicts()
    found = sorted(sorted((x["name"], x["value"]) for x in row["name"]) for row in labels)
    assert found == [
        [("Calcinosis", 1.0), ("Opacity", 1.0), ("normal", 0.0)],
        [("normal", 1.0)],
    ]


def test_sections_become_the_text_tree(tmp_path):
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "1.xml").write_bytes(FILES["ecgen-radiology/1.xml"])
    index_archive(tmp_path / "xml", kind="open-i", out=tmp_path / "m")
    texts = Manifest.open(tmp_path / "m").texts
    section = texts.filter(pl.col("level") == "section")
    assert section["source"].to_list() == ["indication", "findings", "impression"]
    assert texts.filter(pl.col("level") == "sentence")["text"].to_list() == [
        "Cough & fever",
        "The lungs are clear.",
        "Heart size is 1.2 times normal.",
        "Normal.",
        "Stable.",
    ]


def test_images_beside_the_reports_are_joined(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "1.xml").write_bytes(FILES["ecgen-radiology/1.xml"])
    (source / "2.xml").write_bytes(FILES["ecgen-radiology/2.xml"])
    for i, view in enumerate(("3001", "4001")):
        image = Image.fromarray(np.full((20, 30), i, np.uint8))
        image.save(source / f"CXR1_IM-0001-{view}.png")
    (source / "stray.png").write_bytes(b"")
    summary = index_archive(source, kind="open-i", out=tmp_path / "m")
    assert summary.counts() == {"found": 5, "accepted": 4, "quarantined": 0, "ignored": 1}
    samples = Manifest.open(tmp_path / "m").samples
    assert sorted(samples["kind"]) == ["image", "image", "report"]
    images = samples.filter(pl.col("kind") == "image")
    assert images["patient"].n_unique() == images["study"].n_unique() == 1
    assert summary.textless == 0


def test_the_view_of_a_dicom_file_is_kept(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "1.xml").write_bytes(FILES["ecgen-radiology/1.xml"])
    for seed, (name, view) in enumerate((("3001", "PA"), ("4001", "LL"))):
        captured(source / f"CXR1_IM-0001-{name}.dcm", seed, ViewPosition=view)
    index_archive(source, kind="open-i", out=tmp_path / "held")
    assert set(Manifest.open(tmp_path / "held").rejects["code"]) == {"burned_in_risk"}
    index_archive(source, kind="open-i", out=tmp_path / "m", overrides=("burned_in=allow",))
    manifest = Manifest.open(tmp_path / "m")
    assert sorted(manifest.samples["view"]) == ["LATERAL", "PA"]
    assert manifest.samples["study"].n_unique() == 1
    assert manifest.texts.filter(pl.col("level") == "report").height == 2


def test_of_an_archive_that_is_cut_or_leads_out_nothing_is_believed(tmp_path):
    whole = tgz(tmp_path / "whole.tgz").read_bytes()
    source = tmp_path / "source"
    source.mkdir()
    (source / "cut.tgz").write_bytes(whole[: len(whole) * 2 // 3])
    tgz(source / "escape.tgz", {"a/9.xml": report("CXR9"), "../../escape.xml": report("CXR5")})
    (source / "1.xml").write_bytes(FILES["ecgen-radiology/1.xml"])
    summary = index_archive(source, kind="open-i", out=tmp_path / "m")
    assert summary.by_code["read", "damaged_archive"] == 1
    assert summary.by_code["read", "archive_escape"] == 1
    assert summary.counts() == {"found": 3, "accepted": 1, "quarantined": 2, "ignored": 0}
    verify_manifest(tmp_path / "m")


@pytest.mark.soak
def test_the_real_reports(tmp_path):
    root = Path(os.environ.get("MEDVLP_SHARED", Path(__file__).parents[3] / "shared"))
    folder = root / "data" / "reports-iu"
    if not folder.is_dir():
        pytest.skip("real data reports-iu are not here")
    summary = index_archive(folder, kind="open-i", out=tmp_path / "m")
    assert (summary.samples, summary.accepted, summary.quarantined) == (3955, 3955, 0)
    texts = Manifest.open(tmp_path / "m").texts
    sections = texts.filter(pl.col("level") == "section")["source"].value_counts()
    counts = dict(sections.rows())
    assert counts["findings"] >= 3425
    assert counts["impression"] >= 3921

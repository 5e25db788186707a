"""A folder of NIfTI files becomes a manifest: patients, reports, and names that several bear."""

import numpy as np
import polars as pl
import pytest
from minivolumes import marked_body as body
from minivolumes import saved as save

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.errors import ConfigError


def test_a_nifti_tree_becomes_a_manifest(tmp_path):
    source = tmp_path / "in"
    for patient in ("p1", "p2"):
        (source / patient).mkdir(parents=True)
        for scan in "ab":
            name = f"{patient}_{scan}"
            values = body() + np.int16(ord(scan))
            save(source / patient / f"{name}.nii.gz", values)
            (source / patient / f"{name}.txt").write_text(f"FINDINGS: Scan {scan} shows a nodule.")
    save(source / "p1/mask.nii.gz", (body() > 0).astype(np.uint8))
    save(source / "p1/scaled.nii.gz", np.abs(body()))
    (source / "p2/cut.nii.gz").write_bytes((source / "p2/p2_a.nii.gz").read_bytes()[:-99])
    summary = index_archive(
        source, kind="nifti", out=tmp_path / "m", overrides=["options.patient_pattern=^([^/]+)/"]
    )
    assert summary.counts() == {"found": 11, "accepted": 8, "quarantined": 2, "ignored": 1}
    assert summary.nameless == 0
    samples = pl.read_parquet(tmp_path / "m/samples.parquet")
    assert samples["patient"].n_unique() == 2
    assert samples["shape"].to_list() == [[20, 20, 20]] * 4
    texts = pl.read_parquet(tmp_path / "m/texts.parquet")
    assert texts.filter(pl.col("level") == "report").height == 4
    codes = set(pl.read_parquet(tmp_path / "m/rejects.parquet")["code"])
    assert codes == {"label_map", "not_hu", "inflate"}


def test_a_name_that_two_volumes_bear_brings_neither_a_report(tmp_path):
    source = tmp_path / "in"
    for number, place in enumerate(("p1/ct", "p2/ct", "p3/only")):
        (source / place).parent.mkdir(parents=True)
        save(source / f"{place}.nii.gz", body() + np.int16(number))
    (source / "p3/masks").mkdir()
    save(source / "p3/masks/only.nii.gz", (body() > 0).astype(np.uint8))
    (source / "p2/ct.txt").write_text("FINDINGS: CT of p2 beside it.")
    (source / "r.csv").write_text("accession,text\nct,Whose is it?\nonly,An only CT.\n")
    index_archive(source, kind="nifti", out=tmp_path / "m", overrides=["reports=r.csv"])
    manifest = Manifest.open(tmp_path / "m")
    top = manifest.texts.filter(pl.col("level") == "report").join(manifest.samples, on="sample")
    told = {manifest.paths(r["source_right"])[0].parent.name: r["text"]
            for r in top.iter_rows(named=True)}  # fmt: skip
    assert told == {"p2": "FINDINGS: CT of p2 beside it.", "p3": "An ___ CT."}
    assert manifest.info["notes"]["names_repeated"] == 2
    # Nor does the other one's report become its own where one of them is refused.
    (source / "p1/ct.nii.gz").write_bytes((source / "p1/ct.nii.gz").read_bytes()[:-99])
    (source / "p2/ct.txt").unlink()
    index_archive(source, kind="nifti", out=tmp_path / "n", overrides=["reports=r.csv"])
    assert "Whose is it?" not in Manifest.open(tmp_path / "n").texts["text"].to_list()


def test_nifti_volumes_are_compared_with_the_body_part_that_they_ought_to_show(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    chest = body((40, 40, 40))
    chest[8:30, 8:30, 8:36] = -850
    save(source / "chest.nii", chest)
    save(source / "head.nii", body((40, 40, 40)))
    summary = index_archive(
        source, kind="nifti", out=tmp_path / "m", overrides=["options.body_part=chest"]
    )
    assert summary.nameless == 2  # no pattern tells whose they are
    flags = pl.read_parquet(tmp_path / "m/samples.parquet")["flags"]
    assert sorted("no_lung_air" in one for one in flags) == [False, True]


def test_a_nifti_tree_takes_its_reports_from_a_table(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    save(source / "scan7.nii", body())
    pl.DataFrame({"accession": ["scan7"], "text": ["IMPRESSION: Normal."]}).write_csv(
        source / "reports.csv"
    )
    index_archive(source, kind="nifti", out=tmp_path / "m", overrides=["reports=reports.csv"])
    texts = pl.read_parquet(tmp_path / "m/texts.parquet")
    assert "Normal." in texts["text"].to_list()


def test_a_patient_pattern_without_a_group_is_refused(tmp_path):
    save(tmp_path / "a.nii", body())
    with pytest.raises(ConfigError, match="brackets"):
        index_archive(
            tmp_path, kind="nifti", out=tmp_path / "m", overrides=["options.patient_pattern=abc"]
        )

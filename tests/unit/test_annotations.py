from __future__ import annotations

import polars as pl
import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.tables.annotations import Annotations
from medvlp.errors import ConfigError

KEY = bytes(range(32))


def intake_of(root, **options) -> Intake:
    return Intake(root, IndexConfig(**options), Pseudonyms(KEY), "cxr")


def take(intake, name) -> str:
    path = intake.root / name
    return intake.accept([path], kind="image", patient="PHANTOM1", study="study", identity=name)


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png", "mask.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_rows_find_their_samples_by_image_and_by_study(root):
    (root / "labels.csv").write_text(
        "sop_uid,accession,name,value\n1.1,,nodule,1\n,0042,edema,-1\n9.9,,nodule,1\n1.2,,mass,\n"
    )
    intake = intake_of(root, labels="labels.csv", label_source="truth")
    annotations = Annotations.load(intake)
    first, second = take(intake, "a.png"), take(intake, "b.png")
    annotations.apply(first, sop_uid="1.1", accession="0042")
    annotations.apply(second, sop_uid="1.2", accession="0042")
    tables, *_ = intake.finish()
    rows = {(r["sample"], r["name"]): (r["value"], r["source"]) for r in tables["labels"]}
    assert rows == {
        (first, "nodule"): (1, "truth"),
        (first, "edema"): (-1, "truth"),
        (second, "edema"): (-1, "truth"),
        (second, "mass"): (None, "truth"),
    }
    assert intake.notes["annotations_without_sample"] == 1


def test_regions_keep_their_geometry_and_masks_are_no_images(root):
    rows = [
        {"sop_uid": "1.1", "name": "nodule", "kind": "box", "x0": 1, "y0": 2, "x1": 5, "y1": 7},
        {"sop_uid": "1.1", "name": "cyst", "kind": "box", "x0": 1, "y0": 2, "z0": 3, "x1": 4,
         "y1": 5, "z1": 6},
        {"sop_uid": "1.1", "name": "heart", "kind": "mask", "file": "mask.png", "value": 3},
        {"sop_uid": "1.1", "name": "cut", "kind": "interval", "start_s": 1.5, "end_s": 2.5},
    ]  # fmt: skip
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(root / "regions.parquet")
    intake = intake_of(root, regions="regions.parquet")
    annotations = Annotations.load(intake)
    assert root / "mask.png" not in intake.files()
    annotations.apply(take(intake, "a.png"), sop_uid="1.1")
    tables, sources, *_ = intake.finish()
    found = {row["name"]: row for row in tables["regions"]}
    assert found["nodule"]["geometry"] == [1, 2, 5, 7]
    assert found["cyst"]["geometry"] == [1, 2, 3, 4, 5, 6]
    assert found["cut"]["geometry"] == [1.5, 2.5]
    assert found["heart"]["geometry"] == [3]
    path = {row["source"]: row["path"] for row in sources}[found["heart"]["ref"]]
    assert path.endswith("mask.png")


def test_wrong_rows_are_listed_and_the_others_stay(root):
    (root / "labels.csv").write_text(
        "sop_uid,name,value\n1.1,nodule,2\n1.1,edema,yes\n,edema,1\n1.1,,1\n1.1,mass,0\n"
    )
    (root / "regions.csv").write_text(
        "sop_uid,name,kind,x0,y0,x1,y1,file\n"
        "1.1,n,box,5,2,1,7,\n1.1,n,box,1,2,,7,\n1.1,n,dot,1,2,3,4,\n1.1,n,mask,,,,,gone.png\n"
    )
    intake = intake_of(root, labels="labels.csv", regions="regions.csv")
    annotations = Annotations.load(intake)
    annotations.apply(take(intake, "a.png"), sop_uid="1.1")
    tables, *_ = intake.finish()
    assert [row["name"] for row in tables["labels"]] == ["mass"]
    assert tables["regions"] == []
    codes = [row["code"] for row in tables["rejects"] if row["stage"] == "row"]
    assert codes == [
        "bad_value", "bad_value", "no_key", "bad_value", "bad_region", "bad_region", "bad_region",
        "mask_missing",
    ]  # fmt: skip


def test_a_mask_that_no_sample_asked_for_is_quarantined(root):
    (root / "regions.csv").write_text("sop_uid,name,kind,file\n1.9,n,mask,mask.png\n")
    intake = intake_of(root, regions="regions.csv")
    Annotations.load(intake).apply(take(intake, "a.png"), sop_uid="1.1")
    tables, *_ = intake.finish()
    assert "mask_without_sample" in {row["code"] for row in tables["rejects"]}


def test_a_table_without_a_key_column_is_refused(root):
    (root / "labels.csv").write_text("image,name,value\n1.1,nodule,1\n")
    with pytest.raises(ConfigError, match="sop_uid"):
        Annotations.load(intake_of(root, labels="labels.csv"))

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.cxr.sets.nih import FINDINGS, label_sentences
from medvlp.data.manifest import Manifest, open_all
from medvlp.data.priors import priors
from medvlp.data.splits import Fractions, split_of
from medvlp.data.verify import verify_manifest
from medvlp.errors import ConfigError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
ROWS = [
    ("00000001_000.png", "Cardiomegaly|Infiltrate", "057Y", "M", "PA"),
    ("00000001_001.png", "No Finding", "058Y", "M", "AP"),
    ("00000002_000.png", "Mass", "094Y", "F", "PA"),
    ("00000003_000.png", "No Finding", "33", "F", "PA"),
    ("00000009_000.png", "Hernia", "33", "F", "PA"),
]


@pytest.fixture
def official(tmp_path):
    """The official layout: images_00N/images, one row without image, one image without row."""
    root = tmp_path / "nih"
    for i, name in enumerate([row[0] for row in ROWS[:4]] + ["00000077_000.png"]):
        folder = root / f"images_00{i % 2 + 1}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((256, 512), i, np.uint8)).save(folder / name)
    lines = [
        f"{name},{labels},0,{int(name[:8])},{age},{sex},{view},2048,1024,0.14,0.14,"
        for name, labels, age, sex, view in ROWS
    ]
    (root / "Data_Entry_2017_v2020.csv").write_text(HEADER + "\n".join(lines) + "\n")
    (root / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_000.png,Cardiomegaly,100.0,200.0,300.0,400.0,,,\n"
        "00000002_000.png,Infiltrate,0,0,1024,1024,,,\n"
        "00000002_000.png,Mass,1,2,x,4,,,\n"
    )
    (root / "README.pdf").write_bytes(b"%PDF")
    return root


def index(root, out, *settings, **options):
    return index_archive(root, kind="nih-cxr14", out=out, overrides=settings, **options)


def test_the_official_layout(official, tmp_path):
    summary = index(official, tmp_path / "m")
    assert summary.counts() == {"found": 8, "accepted": 6, "quarantined": 1, "ignored": 1}
    manifest = Manifest.open(tmp_path / "m")
    verify_manifest(tmp_path / "m")
    codes = sorted(manifest.rejects.select("stage", "code").rows())
    assert codes == [("ignored", "not_of_the_set"), ("join", "no_row"), ("row", "bad_box")]
    assert manifest.info["notes"] == {
        "rows": 5, "rows_published": 112_120, "rows_without_image": 1,
    }  # fmt: skip
    assert summary.notes == manifest.info["notes"]
    samples = {manifest.paths(row["source"])[0].name: row for row in manifest.samples.to_dicts()}
    first = samples["00000001_000.png"]
    assert (first["view"], first["sex"], first["age_band"]) == ("PA", "M", "50-59")
    assert first["patient"] == samples["00000001_001.png"]["patient"]
    later = samples["00000001_001.png"]
    assert (first["study_order"], later["study_order"]) == (0, 1)
    assert priors(manifest) == {later["sample"]: first["sample"]}
    assert samples["00000002_000.png"]["age_band"] == "90+"
    assert first["shape"] == [256, 512]
    # 1024 rows of 0.14 mm shrunk to 256; 2048 columns to 512.
    assert first["spacing_mm"] == pytest.approx([0.56, 0.56])


def test_labels_are_fourteen_and_no_finding(official, tmp_path):
    index(official, tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.labels.height == 4 * 15
    present = manifest.labels.filter(pl.col("value") == 1)["name"].value_counts().rows()
    assert dict(present) == {"Cardiomegaly": 1, "Infiltration": 1, "Mass": 1, "No Finding": 2}


def test_boxes_are_scaled_from_the_published_size(official, tmp_path):
    index(official, tmp_path / "m")
    boxes = {r["name"]: r["geometry"] for r in Manifest.open(tmp_path / "m").regions.to_dicts()}
    # 1024 published columns are 512 here, 1024 rows are 256.
    assert boxes == {"Cardiomegaly": [50, 50, 200, 150], "Infiltration": [0, 0, 512, 256]}


def test_the_official_lists(official, tmp_path):
    (official / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (official / "test_list.txt").write_text("00000002_000.png\n00000003_000.png\n")
    index(official, tmp_path / "m")
    samples = Manifest.open(tmp_path / "m").samples
    assert set(samples.filter(pl.col("source_split") == "test")["split"]) == {"test"}
    assert set(samples.filter(pl.col("source_split") == "train_val")["split"]) <= {
        "train",
        "valid",
    }
    index(official, tmp_path / "h", "split.policy=hash")
    for row in Manifest.open(tmp_path / "h").samples.to_dicts():
        assert row["split"] == split_of(row["patient"], Fractions())


def test_lists_of_a_benchmark_account_for_every_name(official, tmp_path):
    lists = official / "benchx"
    lists.mkdir()
    (lists / "train.txt").write_text("images_001/00000001_000.png 0 1 0\n00000001_001.png\n")
    (lists / "val.txt").write_text("00000002_000.png\n00000002_000.png\n")
    (lists / "test.txt").write_text("00000055_000.png\n")
    summary = index(official, tmp_path / "m", "options.lists=benchx")
    manifest = Manifest.open(tmp_path / "m")
    names = {row["source"]: row for row in manifest.samples.to_dicts()}
    found = {manifest.paths(s)[0].name: (r["source_split"], r["split"]) for s, r in names.items()}
    unlisted = found.pop("00000003_000.png")
    assert found == {
        "00000001_000.png": ("train", "train"),
        "00000001_001.png": ("train", "train"),
        "00000002_000.png": ("valid", "valid"),
    }
    assert unlisted[0] is None
    assert sum("in_no_list" in row["flags"] for row in names.values()) == 1
    assert summary.by_code["row", "duplicate_row"] == 1
    assert summary.notes["listed_without_image"] == 1
    assert (summary.notes["list_train"], summary.notes["list_train_published"]) == (2, 78_468)
    assert summary.counts() == {"found": 11, "accepted": 9, "quarantined": 1, "ignored": 1}


def test_an_image_that_two_rows_describe_is_listed(official, tmp_path):
    table = official / "Data_Entry_2017_v2020.csv"
    row = "00000001_000.png,Mass,0,1,40,M,PA,2048,1024,0.14,0.14,\n00000002_000.png\n"
    table.write_text(table.read_text() + row)
    summary = index(official, tmp_path / "m")
    assert summary.by_code["row", "duplicate_row"] == summary.by_code["row", "ragged_row"] == 1


def test_folders_that_share_patients_are_not_used_as_splits(tmp_path):
    root = tmp_path / "shipped"
    header = HEADER.replace("Image Index,", "Image Index,path,")
    lines = []
    for folder, name in (("train", "00000005_000.png"), ("test", "00000005_001.png")):
        (root / folder).mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), len(lines), np.uint8)).save(root / folder / name)
        lines.append(f"{name},{folder}/{name},Mass,0,5,40,M,PA,2048,1024,0.14,0.14\n")
    (root / "labels.csv").write_text(header + "".join(lines))
    index(root, tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.info["split"] == {"policy": "hash", "conflicts": 1}
    assert sorted(manifest.samples["source_split"]) == ["test", "train"]
    assert manifest.samples["split"].n_unique() == 1


def test_two_sets_under_one_key_share_patients(official, tmp_path):
    index(official, tmp_path / "one", "split.policy=hash")
    for i, path in enumerate(sorted(official.rglob("*.png"))):
        Image.fromarray(np.full((32, 32), 100 + i, np.uint8)).save(path)
    index(official, tmp_path / "two", "split.policy=hash", key=tmp_path / "one.private" / "key")
    one, two = open_all([tmp_path / "one", tmp_path / "two"])
    assert set(one.samples["patient"]) == set(two.samples["patient"])


def test_text_is_made_from_labels_and_says_so(official, tmp_path):
    index(official, tmp_path / "m")
    texts = Manifest.open(tmp_path / "m").texts
    assert set(texts["source"]) == {"synthetic:labels"}
    summary = index(official, tmp_path / "bare", "options.synthetic_text=false")
    assert summary.textless == summary.samples == 4
    with pytest.raises(ConfigError, match="sythetic"):
        index(official, tmp_path / "typo", "options.sythetic_text=false")


def test_the_words_say_what_the_labels_say_and_vary():
    said = {label_sentences(f"x{i}", ["Cardiomegaly", "Mass"]) for i in range(40)}
    assert len(said) > 30
    for text in said:
        assert any(w in text for w in ("cardiac", "ardiomegaly", "heart"))
        assert "mass" in text
        denied = [s for s in text.split(". ") if "no " in s.lower() or " not " in s]
        assert len(denied) == 2
        assert not any("mass" in s or "cardi" in s for s in denied)
    assert label_sentences("x1", []) == label_sentences("x1", [])
    assert len(FINDINGS) == 14


def test_a_broken_image_is_quarantined(official, tmp_path):
    broken = official / "images_001" / "images" / "00000001_000.png"
    broken.write_bytes(b"not a picture")
    summary = index(official, tmp_path / "m")
    assert summary.by_code["read", "not_a_picture"] == 1
    assert summary.quarantined == 2


def shared(name):
    root = Path(os.environ.get("MEDVLP_SHARED", Path(__file__).parents[3] / "shared"))
    folder = root / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real data {name} are not here")
    return folder


def test_the_real_boxes_lie_in_their_images(tmp_path):
    index(shared("cxr-nih-1024"), tmp_path / "m")
    manifest = Manifest.open(tmp_path / "m")
    verify_manifest(tmp_path / "m")
    assert (manifest.samples.height, manifest.regions.height) == (104, 31)
    corners = np.array(manifest.regions["geometry"].to_list())
    assert corners.min() >= 0
    assert corners.max() <= 1024

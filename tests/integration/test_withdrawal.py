import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.archive.privacy.publish import publish
from medvlp.archive.privacy.rewrite import MAPPING, rekey
from medvlp.data.cache import ArrayCache
from medvlp.data.items import Item
from medvlp.data.keys import KEY, LINK_BYTES, read_key, write_key
from medvlp.data.manifest import Manifest
from medvlp.data.verify import verify_manifest
from medvlp.errors import InputError, ManifestError, MedvlpError
from medvlp.forget import check_forgotten, forget, read_people

PATIENTS = 30
GONE = "4711003"


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "hospital"
    root.mkdir()
    lines = ["path;patient;study;text;date;age;sex;found;split"]
    for i in range(PATIENTS * 2):
        Image.fromarray(np.full((12, 16), i, np.uint8)).save(root / f"{i}.png")
        n = i % PATIENTS
        lines.append(
            f"{i}.png;{4711000 + n};S{i};FINDINGS: Heart of size {i}.;2020-01-{1 + i % 28:02};"
            f"{30 + n % 4};F;{i % 2};"
        )
    (root / "t.csv").write_text("\n".join(lines))
    return root


def index(archive, out, **options):
    settings = ["domain=cxr", "columns.labels=[found]", "workers=1"]
    return index_archive(
        archive / "t.csv", kind="table", out=out, overrides=settings, **options
    )  # fmt: skip


def test_a_rotated_key_renames_all_and_moves_nobody(archive, tmp_path):
    index(archive, tmp_path / "m")
    rekey(tmp_path / "m", tmp_path / "n")
    old, new = (Manifest.open(tmp_path / name) for name in "mn")
    verify_manifest(new.path)
    for column in ("sample", "patient", "study", "source"):
        assert not set(old.samples[column]) & set(new.samples[column]), column
    assert (old.samples["acquired"] == new.samples["acquired"]).sum() < 3
    assert old.samples["split"].equals(new.samples["split"])
    assert old.texts["text"].equals(new.texts["text"])
    gaps = [
        (m.samples.select(pl.col("acquired").str.to_date().diff().over("patient")))["acquired"]
        for m in (old, new)
    ]
    assert gaps[0].equals(gaps[1])
    mapping = dict(pl.read_parquet(new.private / MAPPING).iter_rows())
    assert [mapping[p] for p in old.samples["patient"]] == new.samples["patient"].to_list()
    assert (new.private / MAPPING).stat().st_mode & 0o777 == 0o600
    # A later import of the grown archive keeps every patient where he was.
    place = dict(new.samples.select("patient", "split").iter_rows())
    index(archive, tmp_path / "n", replace=True)
    again = Manifest.open(tmp_path / "n").samples
    assert dict(again.select("patient", "split").iter_rows()) == place
    assert again.sort("sample").drop("source").equals(new.samples.sort("sample").drop("source"))
    verify_manifest(tmp_path / "n")
    # Another manifest of the same key can follow, and only such a one.
    index(archive, tmp_path / "o", key=tmp_path / "m.private" / KEY)
    rekey(tmp_path / "o", tmp_path / "p", tmp_path / "n.private" / KEY)
    assert read_key(tmp_path / "p.private" / KEY) == read_key(tmp_path / "n.private" / KEY)
    index(archive, tmp_path / "q")
    with pytest.raises(MedvlpError, match="no rotation"):
        rekey(tmp_path / "q", tmp_path / "r", tmp_path / "n.private" / KEY)


def test_another_key_or_project_never_reshuffles(archive, tmp_path):
    index(archive, tmp_path / "m")
    shutil.move(tmp_path / "m.private", tmp_path / "away")
    with pytest.raises(MedvlpError, match="other splits"):
        index(archive, tmp_path / "m", replace=True)
    index(archive, tmp_path / "m", replace=True, key=tmp_path / "away" / KEY)
    with pytest.raises(MedvlpError, match="another key or project"):
        index_archive(
            archive / "t.csv", kind="table", out=tmp_path / "m", replace=True,
            overrides=["domain=cxr", "project=other"],
        )  # fmt: skip


def made_from(manifest, folder):
    """An array cache, an index of embeddings and predictions of every sample."""
    samples = manifest.samples
    cache = ArrayCache(folder / "cache", "c" * 64)
    for n, row in enumerate(samples.iter_rows(named=True)):
        item = Item(
            sample=row["sample"], patient=row["patient"], sha256=row["sha256"], source_paths=(),
            span=None, texts=(), labels_L=np.zeros(0, np.float32), split=row["split"],
        )  # fmt: skip
        stored = np.zeros((2, 2, 2), np.int16) if n % 2 else np.zeros(3)
        cache.get(item, lambda *_, stored=stored: stored)
    assert {file.suffix for file in (folder / "cache").rglob("*.*")} == {".npy", ".b2nd"}
    for file in sorted((folder / "cache").rglob("*.*")):
        # A proxy lies beside, and what was left of making another.
        file.with_suffix(".proxy").write_bytes(b"film")
        file.with_name(f"{file.stem}.proxy.0a1b2c3d.part").write_bytes(b"half a film")
    (folder / "index").mkdir()
    samples.select(
        "sample", "source", item=pl.int_range(samples.height),
    ).write_parquet(folder / "index" / "items.parquet")  # fmt: skip
    samples.select("sample", "source", code=pl.lit("unreadable")).write_parquet(
        folder / "index" / "rejects.parquet"
    )
    np.save(folder / "index" / "embeddings.npy", np.arange(samples.height))
    (folder / "index" / "index.json").write_text(json.dumps({"items": samples.height}))
    (folder / "scores").mkdir()
    samples.select(
        "sample", "patient", model=pl.lit("a"), name=pl.lit("found"),
        score=pl.int_range(samples.height) / 7,
    ).write_parquet(folder / "scores" / "predictions.parquet")  # fmt: skip
    (folder / "run").mkdir()
    (folder / "run" / "data.json").write_text(json.dumps({"manifests": [manifest.digest]}))
    return [folder / name for name in ("cache", "index", "scores", "run")]


def test_a_withdrawal_reaches_everything_and_stays(archive, tmp_path):
    index(archive, tmp_path / "m")
    before = Manifest.open(tmp_path / "m")
    places = made_from(before, tmp_path)
    report = forget(tmp_path / "m", [GONE], places)
    after = Manifest.open(tmp_path / "m")
    verify_manifest(tmp_path / "m")
    assert after.samples.height == before.samples.height - 2
    gone = before.samples.join(after.samples, on="sample", how="anti")
    assert gone["patient"].n_unique() == 1
    for table in ("texts", "labels", "subsets"):
        left = getattr(after, table).filter(pl.col("sample").is_in(gone["sample"].to_list()))
        assert left.is_empty()
    assert "6 of 180 cached arrays and proxies" in report
    assert "2 of 60 embeddings" in report
    assert "cannot unlearn" in report
    assert np.load(tmp_path / "index" / "embeddings.npy").shape == (58,)
    assert ": 0 found" in check_forgotten(tmp_path / "m", places)
    words = [GONE, *gone["sample"], *gone["patient"], *gone["source"], *gone["study"]]
    for file in [
        p for d in (tmp_path / "m", tmp_path / "m.private", *places) for p in d.rglob("*")
    ]:
        data = str(file).encode() + (file.read_bytes() if file.is_file() else b"")
        assert not any(word.encode() in data for word in words), file.name
    # The next import does not bring the patient back, nor does one under a rotated key.
    index(archive, tmp_path / "m", replace=True)
    again = Manifest.open(tmp_path / "m")
    assert not set(gone["sample"]) & set(again.samples["sample"])
    assert "withdrawn" in again.rejects["code"].to_list()
    rekey(tmp_path / "m", tmp_path / "n")
    index(archive, tmp_path / "n", replace=True)
    assert Manifest.open(tmp_path / "n").samples.height == after.samples.height


def test_a_pseudonym_withdraws_as_well(archive, tmp_path):
    index(archive, tmp_path / "m")
    name = Manifest.open(tmp_path / "m").samples["patient"][0]
    forget(tmp_path / "m", [name], [])
    assert name not in Manifest.open(tmp_path / "m").samples["patient"].to_list()
    assert ": 0 found" in check_forgotten(tmp_path / "m", [])


def test_a_list_of_patients_is_read_as_spreadsheets_write_it(archive, tmp_path):
    index(archive, tmp_path / "m")
    listed = tmp_path / "gone.csv"
    listed.write_bytes(b"\xef\xbb\xbf4711003\r\n\r\n 4799999 \r\n")
    assert read_people(listed, None) == [GONE, "4799999"]
    told = forget(tmp_path / "m", read_people(listed, None), [])
    assert "1 of 2 patients are known" in told
    assert "1 are not known here" in told
    assert "4799999" not in told
    assert "1 of 1 patients are known" in forget(tmp_path / "m", [GONE], [])
    assert Manifest.open(tmp_path / "m").samples.height == PATIENTS * 2 - 2
    listed.write_bytes("M\u00fcller".encode("latin-1"))
    for file in (listed, tmp_path / "absent"):
        with pytest.raises(InputError, match="UTF-8"):
            read_people(file, None)


def test_links_are_followed_to_a_place_and_refused_within(archive, tmp_path):
    index(archive, tmp_path / "m")
    places = made_from(Manifest.open(tmp_path / "m"), tmp_path)
    links = [tmp_path / f"to-{place.name}" for place in places]
    for link, place in zip(links, places, strict=True):
        link.symlink_to(place)
    for place in places[1:3]:
        (place / "latest").symlink_to(places[0])  # where somebody looks, too
    inner = places[0] / "more"
    inner.symlink_to(archive)
    for call in (lambda: forget(tmp_path / "m", [GONE], links),
                 lambda: check_forgotten(tmp_path / "m", links)):  # fmt: skip
        with pytest.raises(InputError, match="cache holds 1 links"):
            call()
    assert Manifest.open(tmp_path / "m").samples.height == PATIENTS * 2
    inner.unlink()
    (tmp_path / "to-m").symlink_to(tmp_path / "m")
    forget(tmp_path / "to-m", [GONE], links)
    assert np.load(places[1] / "embeddings.npy").shape == (58,)
    assert ": 0 found" in check_forgotten(tmp_path / "m", places)
    assert ": 0 found" in check_forgotten(tmp_path / "to-m", links)
    assert all(link.is_symlink() for link in links)
    assert all((place / "latest").is_symlink() for place in places[1:3])
    inner.symlink_to(places[1] / "embeddings.npy")
    with pytest.raises(InputError, match="1 links to files"):
        forget(tmp_path / "m", [GONE], places)
    assert not (tmp_path / "to-m.private").exists()


def test_a_withdrawal_holds_for_every_manifest_that_takes_the_key(archive, tmp_path):
    index(archive, tmp_path / "m")
    name = Manifest.open(tmp_path / "m").samples["patient"][0]
    forget(tmp_path / "m", [name], [])
    index(archive, tmp_path / "other", key=tmp_path / "m.private" / KEY)
    for _ in range(2):
        assert name not in Manifest.open(tmp_path / "other").samples["patient"].to_list()
        verify_manifest(tmp_path / "other")
        index(archive, tmp_path / "other", replace=True)


def test_what_is_left_is_found(archive, tmp_path):
    index(archive, tmp_path / "m")
    before = Manifest.open(tmp_path / "m")
    places = made_from(before, tmp_path)
    forget(tmp_path / "m", [before.samples["patient"][5]], [])
    for place in places[:3]:
        with pytest.raises(InputError, match="withdrawn pseudonyms or digests"):
            check_forgotten(tmp_path / "m", [place])
    with pytest.raises(InputError, match="no patient"):
        forget(tmp_path / "m", [], [])


def test_tombstones_tell_nobody_s_name(archive, tmp_path):
    index(archive, tmp_path / "m")
    name = Manifest.open(tmp_path / "m").samples["patient"][0]
    forget(tmp_path / "m", [name], [])
    text = (tmp_path / "m.private" / "withdrawn.json").read_text()
    assert name not in text
    (tmp_path / "m.private" / "withdrawn.json").write_text("{")
    with pytest.raises(MedvlpError, match=r"edited|damaged"):
        check_forgotten(tmp_path / "m", [])


def test_splits_are_published_only_where_nobody_stands_out(archive, tmp_path):
    # One fixed key: with some, dates move so that thirty patients are too few in either grain.
    write_key(tmp_path / "one", bytes(range(LINK_BYTES)))
    index(archive, tmp_path / "m", key=tmp_path / "one")
    assert "k-anonymity: " in verify_manifest(tmp_path / "m")
    with pytest.raises(ManifestError, match="fewer than 5 patients") as caught:
        publish(tmp_path / "m", tmp_path / "s.csv")
    assert "--suppress" in caught.value.remedy
    assert not (tmp_path / "s.csv").exists()
    publish(tmp_path / "m", tmp_path / "s.csv", suppress=True)
    rows = pl.read_csv(tmp_path / "s.csv")
    quasi = ["age_band", "sex", "modality", "month", "site"]
    groups = rows.group_by(quasi).agg(pl.col("patient").n_unique())
    assert groups["patient"].min() >= 5
    assert rows.height == PATIENTS * 2
    publish(tmp_path / "m", tmp_path / "t.csv", suppress=True, coarsen=True)
    blanks = [pl.read_csv(tmp_path / f"{name}.csv")["age_band"].null_count() for name in "st"]
    assert blanks[1] < blanks[0]
    assert "3 audit entries" in verify_manifest(tmp_path / "m")


def test_a_copy_of_a_withdrawn_image_is_one_no_longer(tmp_path):
    lines = ["path,patient,study,split"]
    for i in range(4):
        pixels = np.random.default_rng(min(i, 2)).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{GONE[:-1]}{i},S,{'train' if i < 3 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    settings = ["domain=cxr", "workers=1", "split.policy=source"]
    index_archive(tmp_path / "t.csv", kind="table", out=tmp_path / "m", overrides=settings)
    flagged = pl.col("flags").list.contains("duplicate_across_splits")
    assert Manifest.open(tmp_path / "m").samples.filter(flagged).height == 2
    forget(tmp_path / "m", [f"{GONE[:-1]}3"], [])
    left = Manifest.open(tmp_path / "m")
    assert left.samples.height == 3, "those who share the name of a study stay"
    assert left.samples.filter(flagged).is_empty()
    verify_manifest(tmp_path / "m")
    summary = index_archive(
        tmp_path / "t.csv", kind="table", out=tmp_path / "m", overrides=settings, replace=True
    )
    assert summary.read == 0, "the table's other pictures are known, and this one is withdrawn"

import json
import shutil
import stat
import sys
from pathlib import Path

import polars as pl
import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.data import manifest as manifest_module
from medvlp.data.manifest import (
    Manifest,
    open_all,
    private_folder,
    write_manifest,
)
from medvlp.data.paths import path_from_text, path_to_text
from medvlp.data.tables import TABLES
from medvlp.data.verify import verify_manifest
from medvlp.digest import digest_file
from medvlp.errors import ManifestError

KEY = bytes(32)


def make(tmp_path, name="m", patients=20, key=KEY, split=None, **options):
    root = tmp_path / f"{name}-files"
    root.mkdir()
    for i in range(patients):
        (root / f"{i:03}.bin").write_bytes(f"{name}{i}".encode())
    intake = Intake(root, IndexConfig(**options), Pseudonyms(key), "cxr")
    for i, path in enumerate(intake.files()):
        sample = intake.accept(
            [path], kind="image", patient=str(i), source_split=split(i) if split else None
        )
        intake.report(sample, f"FINDINGS: Nodule of {i}.5 cm. IMPRESSION: Nodule.")
        intake.label(sample, "Nodule", float(i % 2), "test")
        intake.region(sample, name="Nodule", kind="box", geometry=(0, 0, 4, 5))
    tables, sources, info, _ = intake.finish()
    info["key_id"] = intake.pseudonyms.key_id
    return write_manifest(tmp_path / name, tables, sources, info, key=key)


def tamper(manifest, table, change):
    """Change a table and put its digest right, as a defective writer would."""
    file = manifest.path / f"{table}.parquet"
    frame = change(pl.read_parquet(file))
    arrow = frame.to_arrow().cast(TABLES[table])
    import pyarrow.parquet as pq

    pq.write_table(arrow, file)
    info = json.loads((manifest.path / "manifest.json").read_text())
    info["tables"][table] = {"sha256": digest_file(file), "rows": frame.height}
    (manifest.path / "manifest.json").write_text(json.dumps(info))


def test_round_trip_and_verify(tmp_path):
    made = make(tmp_path)
    opened = Manifest.open(tmp_path / "m")
    assert opened.samples.height == 20
    assert opened.digest == made.digest
    assert opened.domains == ("cxr",)
    assert opened.paths(opened.samples["source"][3])[0].read_bytes() == b"m3"
    assert "every check passed" in verify_manifest(tmp_path / "m")


def test_the_private_folder_is_closed_to_others(tmp_path):
    private = make(tmp_path).private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for name in ("key", "sources.parquet"):
        assert stat.S_IMODE((private / name).stat().st_mode) == 0o600
    (private / "key").chmod(0o644)
    with pytest.raises(ManifestError, match="others may read key"):
        verify_manifest(tmp_path / "m")


def test_same_input_gives_the_same_digest(tmp_path):
    (tmp_path / "again").mkdir()
    first = make(tmp_path)
    again = make(tmp_path / "again")
    assert first.digest != again.digest  # other paths, other source ids
    assert first.samples.drop("source").equals(again.samples.drop("source"))
    assert first.subsets.equals(again.subsets)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda m: shutil.rmtree(m), "is no manifest"),
        (lambda m: (m / "manifest.json").write_text("{"), "is damaged"),
        (lambda m: (m / "manifest.json").write_text('{"schema_version": 3}'), "is damaged"),
        (lambda m: (m / "texts.parquet").unlink(), "lacks texts.parquet"),
        (lambda m: (m / "labels.parquet").write_bytes(b"x"), "differs from its digest"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, harm, message):
    made = make(tmp_path, patients=3)
    harm(made.path)
    with pytest.raises(ManifestError, match=message):
        Manifest.open(made.path)


def test_another_schema_version_is_refused(tmp_path):
    made = make(tmp_path, patients=3)
    file = made.path / "manifest.json"
    file.write_text(file.read_text().replace('"schema_version": 3', '"schema_version": 99'))
    with pytest.raises(ManifestError, match="schema version 99") as caught:
        Manifest.open(made.path)
    assert "medvlp index" in caught.value.remedy


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("samples", lambda f: f.with_columns(split=pl.lit("dev")), "no known split"),
        ("samples", lambda f: f.with_columns(patient=pl.lit("p")), "more than one split"),
        ("labels", lambda f: f.with_columns(sample=pl.lit("x")), "labels name a sample"),
        (
            "regions",
            lambda f: f.with_columns(ref=pl.col("sample") + "-99"),
            "regions name a text node",
        ),
        ("labels", lambda f: f.with_columns(value=pl.lit(2.0)), "none of 1, 0, -1"),
        ("texts", lambda f: f.with_columns(parent=pl.col("node")), "hang in a cycle"),
        ("texts", lambda f: f.with_columns(parent=pl.lit("n")), "name a parent that is not"),
        ("texts", lambda f: f.with_columns(level=pl.lit("word")), "no known level"),
        (
            "texts",
            lambda f: f.with_columns(start_s=pl.lit(2.0), end_s=pl.lit(1.0)),
            "inverted",
        ),
        (
            "texts",
            lambda f: f.with_columns(
                start_s=pl.lit(0.0),
                end_s=pl.when(pl.col("parent").is_null()).then(1.0).otherwise(2.0),
            ),
            "leave their parent",
        ),
        (
            "regions",
            lambda f: f.with_columns(geometry=pl.lit([5.0, 0, 4, 5])),
            "regions are inverted",
        ),
        ("regions", lambda f: f.with_columns(geometry=pl.lit([5.0])), "wrong length"),
        ("regions", lambda f: f.with_columns(kind=pl.lit("mask")), "masks name no file"),
        ("regions", lambda f: f.with_columns(kind=pl.lit("runs")), "a wrong geometry"),
        ("regions", lambda f: f.with_columns(kind=pl.lit("circle")), "none of box, mask"),
        ("rejects", lambda f: f.clear(), "rejects list 0 quarantined"),
        (
            "subsets",
            lambda f: f.filter(
                (pl.col("subset") != "100%")
                | ~pl.col("sample").is_in(f.filter(pl.col("subset") == "10%")["sample"].to_list())
            ),
            "not nested",
        ),
    ],
)  # fmt: skip
def test_verify_finds_what_a_defective_writer_does(tmp_path, table, change, message):
    made = make(tmp_path)
    if table == "rejects":
        info = json.loads((made.path / "manifest.json").read_text())
        info["counts"] |= {"found": 21, "quarantined": 1}
        (made.path / "manifest.json").write_text(json.dumps(info))
    else:
        tamper(made, table, change)
    with pytest.raises(ManifestError, match=message):
        verify_manifest(made.path)


def test_counts_that_do_not_add_up_are_found(tmp_path):
    made = make(tmp_path, patients=3)
    info = json.loads((made.path / "manifest.json").read_text())
    info["counts"]["found"] += 1
    (made.path / "manifest.json").write_text(json.dumps(info))
    with pytest.raises(ManifestError, match="found 4 is not accepted 3"):
        verify_manifest(made.path)


def test_an_existing_manifest_is_kept_unless_replaced(tmp_path):
    made = make(tmp_path, patients=3)
    rows = {"samples": made.samples.to_dicts()[:1]}
    info = {"key_id": made.key_id, "counts": {}}
    with pytest.raises(ManifestError, match="exists already"):
        write_manifest(made.path, rows, [], info, key=KEY)
    replaced = write_manifest(made.path, rows, [], info, key=KEY, replace=True)
    assert replaced.samples.height == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m-files", "m.private"]


def test_an_interrupted_write_leaves_nothing_new(tmp_path, monkeypatch):
    made = make(tmp_path, patients=3)
    before = made.digest
    real = manifest_module._write_table

    def stop_at_rejects(file, rows, schema):
        if file.name == "rejects.parquet":
            raise KeyboardInterrupt
        return real(file, rows, schema)

    monkeypatch.setattr(manifest_module, "_write_table", stop_at_rejects)
    info = {"key_id": made.key_id, "counts": {}}
    for out in (made.path, tmp_path / "fresh"):
        with pytest.raises(KeyboardInterrupt):
            write_manifest(out, {}, [], info, key=bytes(31) + b"1", replace=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m-files", "m.private"]
    assert Manifest.open(made.path).digest == before
    assert (made.private / "key").read_text() == KEY.hex()


def test_manifests_under_one_key_open_together(tmp_path):
    one = make(tmp_path, "one")
    two = make(tmp_path, "two", patients=10)
    opened = open_all([one.path, two.path])
    both = pl.concat([m.samples.select("patient", "split") for m in opened]).unique()
    assert both.height == 20  # shared patients share pseudonym and split


def test_manifests_with_different_keys_are_refused(tmp_path):
    one = make(tmp_path, "one", patients=3)
    two = make(tmp_path, "two", patients=3, key=bytes(31) + b"k")
    with pytest.raises(ManifestError, match="2 different keys"):
        open_all([one.path, two.path])


def test_a_patient_in_two_splits_across_manifests_is_refused(tmp_path):
    one = make(tmp_path, "one", split=lambda _: "train")
    two = make(tmp_path, "two", split=lambda _: "test")
    with pytest.raises(ManifestError, match="20 patients stand in two splits") as caught:
        open_all([one.path, two.path])
    assert "split.policy=hash" in caught.value.remedy


def test_one_manifest_twice_is_refused(tmp_path):
    one = make(tmp_path, patients=3)
    with pytest.raises(ManifestError, match="3 samples stand in more than one"):
        open_all([one.path, one.path])


def test_paths_need_the_private_folder(tmp_path):
    made = make(tmp_path, patients=3)
    shutil.rmtree(private_folder(made.path))
    with pytest.raises(ManifestError, match=r"m\.private"):
        Manifest.open(made.path).paths(made.samples["source"][0])


def test_a_path_that_is_no_text_survives():
    path = Path("/archive") / bytes([0xFF, 0x41]).decode("utf-8", "surrogateescape")
    assert path_from_text(path_to_text(path)) == path
    assert path_to_text("/a/ü") == "/a/ü"


def test_no_torch_is_imported():
    import subprocess

    code = "import sys, medvlp.data.verify, medvlp.archive.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

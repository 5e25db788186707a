import json
import random
import shutil

import polars as pl
import pytest

from medvlp.data.keys import KEY, key_id, write_key
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.verify import verify_manifest
from medvlp.errors import MedvlpError

SECRET = bytes(range(32))


def made(folder, replace=False):
    tables = {
        "samples": [
            {
                "sample": f"x{i}", "domain": "cxr", "patient": f"p{i}", "study": f"s{i}",
                "source": f"f{i}", "sha256": f"{i:064x}", "kind": "image", "split": "train",
            }
            for i in range(4)
        ],
        "texts": [
            {"sample": "x0", "node": "x0-0", "level": "report", "text": "Clear.", "order": 0}
        ],
    }  # fmt: skip
    sources = [{"source": f"f{i}", "part": 0, "path": f"/a/{i}"} for i in range(4)]
    counts = {"found": 4, "accepted": 4, "quarantined": 0, "ignored": 0}
    info = {"key_id": key_id(SECRET), "counts": counts}
    return write_manifest(folder, tables, sources, info, key=SECRET, replace=replace)


def test_the_seal_holds_and_grows_with_the_log(tmp_path):
    first = made(tmp_path / "m")
    assert "seal and 1 audit entries hold" in verify_manifest(first.path)
    second = made(tmp_path / "m", replace=True)
    assert "seal and 2 audit entries hold" in verify_manifest(second.path)
    shutil.rmtree(second.private)
    assert "only the private folder can tell" in verify_manifest(second.path)


def test_a_hundred_random_edits_are_all_found(tmp_path):
    manifest = made(tmp_path / "m")
    files = [*manifest.path.iterdir(), *manifest.private.iterdir()]
    assert len(files) >= 11
    random_ = random.Random(1)
    found = 0
    for k in range(110):
        file = files[k % len(files)]
        sound = file.read_bytes()
        changed = bytearray(sound)
        place = random_.randrange(8 * len(sound))
        if k % 3 == 0:
            changed[place // 8] ^= 1 << place % 8
        elif k % 3 == 1:
            del changed[place // 8 :]
        else:
            changed.insert(place // 8, random_.randrange(256))
        file.write_bytes(changed)
        try:
            verify_manifest(manifest.path)
        except MedvlpError:
            found += 1
        file.write_bytes(sound)
    assert found == 110
    verify_manifest(manifest.path)


def reseal_without_the_key(manifest, change):
    """What somebody does who can write the manifest, and puts every digest right."""
    info = json.loads((manifest.path / "manifest.json").read_text())
    change(info)
    text = json.dumps(info, indent=1, sort_keys=True)
    (manifest.path / "manifest.json").write_text(text)


def test_an_edit_with_all_digests_put_right_is_found(tmp_path):
    manifest = made(tmp_path / "m")

    def change(info):
        file = manifest.path / "labels.parquet"
        frame = pl.read_parquet(file).clear()
        import pyarrow.parquet as pq

        from medvlp.data.tables import TABLES
        from medvlp.digest import digest_file

        table = frame.to_arrow().cast(TABLES["labels"])
        pq.write_table(table, file, compression="gzip")
        info["tables"]["labels"] = {"sha256": digest_file(file), "rows": 0}

    reseal_without_the_key(manifest, change)
    Manifest.open(manifest.path)
    with pytest.raises(MedvlpError, match="edited since medvlp wrote it"):
        verify_manifest(manifest.path)


def test_another_key_and_an_older_manifest_are_found(tmp_path):
    manifest = made(tmp_path / "m")
    shutil.copytree(manifest.path, tmp_path / "older")
    made(tmp_path / "m", replace=True)
    shutil.rmtree(manifest.path)
    shutil.copytree(tmp_path / "older", manifest.path)
    with pytest.raises(MedvlpError, match="1 entries ahead"):
        verify_manifest(manifest.path)
    (manifest.private / KEY).unlink()
    write_key(manifest.private / KEY, bytes(32))
    with pytest.raises(MedvlpError, match="another key"):
        verify_manifest(manifest.path)


def test_a_file_added_to_the_manifest_is_found(tmp_path):
    manifest = made(tmp_path / "m")
    (manifest.path / "notes.txt").write_text("by hand")
    with pytest.raises(MedvlpError, match="holds 1 files"):
        verify_manifest(manifest.path)

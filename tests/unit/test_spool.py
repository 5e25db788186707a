import gc
import tracemalloc
from pathlib import Path

import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.spool import Rows, Spool
from medvlp.archive.stage.ledger import Ledger
from medvlp.data.manifest import write_manifest


@pytest.fixture
def rows():
    spool = Spool()
    spool.db.execute("CREATE TABLE t (place INTEGER PRIMARY KEY, word TEXT, odd INTEGER)")
    spool.db.executemany(
        "INSERT INTO t (word, odd) VALUES (?, ?)", [(f"w{i}", i % 2) for i in range(3000)]
    )
    return spool.db, Rows(spool.db, "t", "word", lambda row: row[0])


def test_rows_are_a_sequence(rows):
    db, all_of_them = rows
    assert len(all_of_them) == 3000
    assert list(all_of_them) == [f"w{i}" for i in range(3000)]
    assert (all_of_them[0], all_of_them[-1]) == ("w0", "w2999")
    assert all_of_them[2:4] == ["w2", "w3"]
    assert "w7" in all_of_them
    for wrong in (3000, -3001):
        with pytest.raises(IndexError):
            all_of_them[wrong]
    odd = Rows(db, "t", "word", lambda row: row[0], "odd = 1")
    assert odd == [f"w{i}" for i in range(1, 3000, 2)]
    assert odd != ["w1"]


def test_rows_may_change_while_they_are_gone_through(rows):
    db, all_of_them = rows
    seen = 0
    for word in all_of_them:
        db.execute("DELETE FROM t WHERE word = ?", (word,))
        seen += 1
    assert (seen, len(all_of_them)) == (3000, 0)


def test_items_may_be_made_by_the_database_that_keeps_them(rows):
    spool = Spool()
    first = spool.keep((Path(f"/{i}"),) for i in range(2000))
    again = spool.keep(iter(first))
    assert list(again) == list(first)


def test_a_spool_has_no_name(tmp_path):
    spool = Spool(tmp_path)
    spool.keep([(Path("/a"),)])
    assert list(tmp_path.iterdir()) == []


def peak_mib(folder, samples):
    """Most memory that Python objects take while a manifest of so many samples is made."""
    private = folder / "m.private"
    private.mkdir(parents=True, mode=0o700)
    root = folder / "empty"
    root.mkdir()
    gc.collect()
    tracemalloc.start()
    with Ledger(private) as ledger:
        intake = Intake(root, IndexConfig(), Pseudonyms(bytes(32)), "cxr", ledger=ledger)
        for i in range(samples):
            path = root / f"{i}.dcm"
            intake.find(path)
            if i % 10 == 9:
                intake.reject(path, "read", "truncated_pixels", "(7FE0,0010)")
                continue
            sample = intake.accept(
                [path], kind="image", patient=str(i // 3), identity=str(i), sha256="0" * 64
            )
            intake.report(sample, f"FINDINGS: Nodule of {i} mm.")
            intake.label(sample, "Nodule", float(i % 2), "test")
        tables, sources, info, _ = intake.finish()
        info["key_id"] = intake.pseudonyms.key_id
        write_manifest(folder / "m", tables, sources, info, key=bytes(32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


@pytest.mark.soak
def test_memory_does_not_grow_with_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr("medvlp.data.manifest._BLOCK", 256)
    monkeypatch.setattr("medvlp.archive.books._BLOCK", 256)
    peak_mib(tmp_path / "warm", 50)
    few, many = peak_mib(tmp_path / "few", 500), peak_mib(tmp_path / "many", 4000)
    # A sample held in memory with its rows would take more than 3 KiB, so more than 10 MiB here.
    assert many < few + 3

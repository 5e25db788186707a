import os
import sqlite3
import stat as modes
import subprocess
import sys

import pytest

from medvlp.archive.stage import results as results_module
from medvlp.archive.stage.ledger import Ledger, State
from medvlp.archive.stage.owner import Owner
from medvlp.archive.stage.results import LEDGER, stamp
from medvlp.errors import ArchiveError


@pytest.fixture
def items(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}").write_bytes(bytes(i))
    return [(path,) for path in sorted(folder.iterdir())]


@pytest.fixture
def private(tmp_path):
    folder = tmp_path / "m.private"
    folder.mkdir(mode=0o700)
    return folder


def read_all(ledger, items, reading="r"):
    """What a reading stage does; the items that were read."""
    read = []
    while True:
        new = list(ledger.pending(reading, items))
        if not new:
            return read
        ledger.store(reading, [(item, f"found {item[0].name}") for item in new])
        read += new


def test_a_file_without_state_is_refused(tmp_path):
    ledger = Ledger()
    ledger.find(tmp_path / "a")
    with pytest.raises(ValueError, match="1 files have no state"):
        ledger.counts()
    assert ledger.settle(tmp_path / "a", State.IGNORED)
    assert not ledger.settle(tmp_path / "a", State.IGNORED)
    assert ledger.counts() == {"found": 1, "accepted": 0, "quarantined": 0, "ignored": 1}


def test_what_was_read_is_known_to_later_runs(items, private):
    with Ledger(private) as ledger:
        assert read_all(ledger, items) == items
        assert [text for _, text in ledger.results("r", items)] == [f"found {i}" for i in range(10)]
        assert ledger.tally == {"read": 10}
    with Ledger(private) as ledger:
        assert read_all(ledger, items) == []
        assert [item for item, _ in ledger.results("r", items[::-1])] == items[::-1]
        assert ledger.tally == {"known": 10}
        assert read_all(ledger, items, "another") == items


def test_only_new_and_changed_files_are_read(items, private):
    with Ledger(private) as ledger:
        read_all(ledger, items)
    items[3][0].write_bytes(b"changed")
    status = items[4][0].stat()
    items[4][0].write_bytes(b"9999")  # same size and, by force, the same time of content
    os.utime(items[4][0], ns=(status.st_atime_ns, status.st_mtime_ns))
    new = (items[0][0].with_name("new"),)
    new[0].write_bytes(b"")
    with Ledger(private) as ledger:
        assert read_all(ledger, [new, *items]) == [new, items[3], items[4]]


def test_a_file_that_never_rests_is_read_once(items, private):
    with Ledger(private) as ledger:
        (item,) = ledger.pending("r", items[:1])
        item[0].write_bytes(b"while it is read")
        ledger.store("r", [(item, "x")])
        assert list(ledger.pending("r", items[:1])) == []
    with Ledger(private) as ledger:
        assert list(ledger.pending("r", items[:1])) == items[:1]


def test_two_processes_share_the_items(items, private, monkeypatch):
    monkeypatch.setattr(Ledger, "_ahead", lambda _: 2)
    with Ledger(private) as one, Ledger(private) as two:
        first = one.pending("r", items)
        mine = [next(first), next(first)]
        theirs = list(two.pending("r", items))
        assert not set(mine) & set(theirs)
        two.store("r", [(item, "two") for item in theirs])
        assert list(first) == []
        one.store("r", [(item, "one") for item in mine])
        assert list(one.pending("r", items)) == list(two.pending("r", items)) == []
        found = dict(one.results("r", items))
        assert [found[item] for item in items] == ["one"] * 2 + ["two"] * 8
        assert one.tally == {"read": 2, "known": 8}


def test_claims_are_given_back_at_the_end(items, private):
    with Ledger(private) as one:
        assert len(list(one.pending("r", items))) == 10
    with Ledger(private) as two:
        assert list(two.pending("r", items)) == items


def claim_and_stay(private, items):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from medvlp.archive.stage.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); items = [(Path(p),) for p in sys.argv[2:]]\n"
        "print(len(list(ledger.pending('r', items))), flush=True); time.sleep(60)"
    )
    names = [str(item[0]) for item in items]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(private), *names], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == f"{len(items)}\n"
    return process


def test_claims_of_a_killed_process_are_taken_over_at_once(items, private):
    process = claim_and_stay(private, items[:5])
    with Ledger(private) as ledger:
        assert list(ledger.pending("r", items)) == items[5:]
        ledger.store("r", [(item, "x") for item in items[5:]])
        process.kill()  # not waited for: a zombie is as dead
        assert list(ledger.pending("r", items)) == items[:5]
        process.stdout.close()
        process.wait()


def test_claims_of_another_host_are_taken_over_after_the_lease(items, private, monkeypatch):
    with Ledger(private) as ledger:
        process = claim_and_stay(private, items)
        try:
            with sqlite3.connect(private / LEDGER) as db:
                db.execute("UPDATE owners SET host = 'elsewhere' WHERE pid = ?", (process.pid,))
            db.close()
            assert ledger._dead() == []
            monkeypatch.setattr(results_module, "LEASE_S", 0.0)
            assert list(ledger.pending("r", items)) == items
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def test_a_result_that_comes_after_a_take_over_is_dropped(items, private, monkeypatch):
    monkeypatch.setattr(Owner, "near", property(lambda _: False))
    monkeypatch.setattr(results_module, "LEASE_S", -1.0)
    late, quick = Ledger(private), Ledger(private)
    assert list(late.pending("r", items)) == list(quick.pending("r", items)) == items
    late.store("r", [(items[0], "late")])
    quick.store("r", [(items[0], "quick")])
    assert dict(quick.results("r", items[:1])) == {items[0]: "quick"}


def test_a_result_that_is_not_there_is_no_result(items):
    with pytest.raises(ArchiveError, match="lost a reading"):
        list(Ledger().results("r", items))


def test_a_ledger_is_closed_to_others_and_names_no_spool(items, private):
    with Ledger(private) as ledger:
        read_all(ledger, items)
        assert [path.name for path in private.iterdir()] == [LEDGER]
        assert modes.S_IMODE((private / LEDGER).stat().st_mode) == 0o600


def test_a_damaged_ledger_is_refused_with_a_remedy(items, private):
    with Ledger(private) as ledger:
        read_all(ledger, items)
    file = private / LEDGER
    whole = file.read_bytes()
    for harm in (b"no database" * 100, whole[: len(whole) // 2], whole[:4096] + bytes(len(whole))):
        file.write_bytes(harm)
        with pytest.raises(ArchiveError, match=r"m\.private/ledger\.sqlite") as caught:
            Ledger(private)
        assert "delete ledger.sqlite" in caught.value.remedy


def test_a_ledger_of_another_version_is_refused(private):
    Ledger(private).close()
    with sqlite3.connect(private / LEDGER) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ArchiveError, match="has version 99"):
        Ledger(private)


def test_a_stamp_tells_what_changed(tmp_path):
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    file = folder / "in" / "file"
    file.write_bytes(b"a")
    before = stamp([folder])
    assert stamp([folder]) == before
    file.write_bytes(b"ab")
    assert stamp([folder]) != before
    assert stamp([tmp_path / "missing"]) == "none"


def test_the_end_of_a_run_forgets_what_is_gone(items, private):
    with Ledger(private) as ledger:
        for (path,) in items:
            ledger.find(path)
            ledger.settle(path, State.ACCEPTED)
        read_all(ledger, items)
        list(ledger.results("r", items))
        assert ledger.finish() == 0
    with Ledger(private) as ledger, Ledger(private) as other:
        new = (items[0][0].with_name("new"),)
        read_all(other, [new])
        for (path,) in items[2:]:
            ledger.settle(path, State.IGNORED)
        read_all(ledger, items[2:])
        list(ledger.results("r", items[2:]))
        assert ledger.finish() == 2
        assert read_all(other, [*items, new]) == items[:2]
    with sqlite3.connect(private / LEDGER) as db:
        states = dict(db.execute("SELECT path, state FROM files").fetchall())
    db.close()
    assert states == {str(path): "ignored" for (path,) in items[2:]}


def test_items_may_have_any_name(private, tmp_path):
    names = [b"\xff\xfe", "ü ☃".encode(), b'quote"', b"new\nline", b"tab\x1f"]
    items = [(tmp_path / os.fsdecode(name), tmp_path) for name in names]
    with Ledger(private) as ledger:
        assert read_all(ledger, items) == items
        assert [item for item, _ in ledger.results("r", items)] == items


def test_a_full_disk_is_one_clear_error(items, private):
    with Ledger(private) as ledger:
        (item,) = ledger.pending("r", items[:1])
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()
        big = os.urandom(200_000).hex()
        with pytest.raises(ArchiveError, match="SQLITE_FULL") as caught:
            ledger.store("r", [(item, big)])
        assert "not full" in caught.value.remedy
        ledger._db.execute("PRAGMA max_page_count = 100000").fetchone()
        ledger.store("r", [(item, "x")])
        assert list(ledger.results("r", [item])) == [(item, "x")]

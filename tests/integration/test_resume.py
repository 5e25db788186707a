"""`medvlp index` killed, repeated, shared: nothing lost, nothing twice, nothing read in vain."""

import bench_ledger as bench
import pytest

FILES = 300


def check_kills(folder, files, kills):
    bench.write_archive(folder / "a", range(files))
    broken = bench.with_kills(folder / "a", folder / "m", folder / "log", files, kills)
    counts = {"found": files, "accepted": files * 8 // 10}
    counts |= {"quarantined": files // 10, "ignored": files // 10}
    assert {name: broken[name] for name in counts} == counts
    assert bench.ends(folder / "m") == (files, 0)
    assert broken["again"] == 0
    # Two processes with at most 16 files waiting at each, and a burst of answers not stored yet.
    assert broken["repeated"] <= broken["killed"] * (2 * 17 + 64)
    key = folder / "m.private" / "key"
    whole = bench.finish(bench.start(folder / "a", folder / "whole", folder / "log2", key))
    assert broken["digest"] == whole["digest"]
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["a", "log", "log2", "m", "m.private", "whole", "whole.private"]
    names = sorted(path.name for path in (folder / "m.private").iterdir())
    assert names == ["audit.jsonl", "key", "ledger.sqlite", "lock", "sources.parquet"]
    return broken


@pytest.mark.soak
def test_kills_lose_nothing_and_repeat_nothing(tmp_path):
    assert check_kills(tmp_path, FILES, 3)["killed"] >= 2


@pytest.mark.soak
def test_twenty_kills_over_ten_thousand_files(tmp_path):
    assert check_kills(tmp_path, 10_000, 20)["killed"] >= 15


@pytest.mark.slow
def test_a_grown_archive_costs_what_is_new(tmp_path):
    bench.write_archive(tmp_path / "a", range(50))
    bench.finish(bench.start(tmp_path / "a", tmp_path / "m", tmp_path / "log"))
    bench.write_archive(tmp_path / "a", range(50, 60))
    (tmp_path / "a" / "0000" / "0000001.dcm").unlink()
    (tmp_path / "a" / "0000" / "0000007.txt").unlink()
    run = bench.finish(bench.start(tmp_path / "a", tmp_path / "m", tmp_path / "log"))
    told = {name: run[name] for name in ("read", "known", "vanished", "found", "samples")}
    assert told == {"read": 9, "known": 44, "vanished": 2, "found": 58, "samples": 47}
    key = tmp_path / "m.private" / "key"
    fresh = bench.finish(bench.start(tmp_path / "a", tmp_path / "f", tmp_path / "log2", key))
    assert fresh["read"] == 53
    assert fresh["digest"] == run["digest"]
    assert bench.ends(tmp_path / "m") == (58, 0)


@pytest.mark.slow
def test_processes_share_the_reading_and_one_writes(tmp_path):
    bench.write_archive(tmp_path / "a", range(600))
    logs = [tmp_path / f"log{i}" for i in range(2)]
    running = [bench.start(tmp_path / "a", tmp_path / "m", log, workers=1) for log in logs]
    runs = [bench.finish(process) for process in running]
    stored = [path for log in logs for word, path in bench.told(log) if word == "stored"]
    assert len(stored) == len(set(stored)) == 540
    assert runs[0]["digest"] == runs[1]["digest"]
    assert runs[0]["found"] == runs[1]["found"] == 600
    entries = (tmp_path / "m.private" / "audit.jsonl").read_text().splitlines()
    # One process may have ended before the other began to wait.
    assert len(entries) <= 2

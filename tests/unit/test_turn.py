import os
import subprocess
import sys
import threading

import pytest

from medvlp.archive.spool import PREFIX
from medvlp.archive.stage.turn import Overtaken, Turn
from medvlp.data.keys import read_key
from medvlp.data.manifest import write_manifest
from medvlp.errors import ArchiveError

KEY = bytes(range(32))


def write(out, key=KEY):
    info = {"key_id": "k", "counts": {}}
    write_manifest(out, {}, [], info, key=key, replace=True)


def test_the_key_is_there_from_the_start_and_stays(tmp_path):
    with Turn(tmp_path / "m") as turn:
        key = turn.key(None)
    private = tmp_path / "m.private"
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "key").stat().st_mode & 0o777 == 0o600
    assert read_key(private / "key") == key
    with Turn(tmp_path / "m") as turn:
        assert turn.key(None) == turn.key(key) == key
        with pytest.raises(ArchiveError, match="another key"):
            turn.key(KEY)


def test_processes_that_begin_together_agree_on_a_key(tmp_path):
    code = (
        "import sys; from pathlib import Path; from medvlp.archive.stage.turn import Turn\n"
        "print(Turn(Path(sys.argv[1])).key(None).hex())"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "m")]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate(timeout=120)[0] for process in running}
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 64


def test_who_waited_is_overtaken(tmp_path):
    with Turn(tmp_path / "m") as first, Turn(tmp_path / "m") as second:
        first.take()
        ended = []

        def wait():
            with pytest.raises(Overtaken):
                second.take()
            ended.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        write(tmp_path / "m")
        assert not ended
        first.close()
        thread.join(60)
        assert ended


def test_who_waited_for_one_that_failed_goes_on(tmp_path):
    write(tmp_path / "m")
    second = Turn(tmp_path / "m")
    with Turn(tmp_path / "m") as first:
        first.take()
    second.take()
    second.take()


def test_what_a_killed_run_left_is_swept(tmp_path):
    write(tmp_path / "m")
    private = tmp_path / "m.private"
    for name in (f"{PREFIX}old", f"{PREFIX}young"):
        (private / name).write_bytes(b"x")
    os.utime(private / f"{PREFIX}old", (0, 0))
    (tmp_path / ".m.next").mkdir()
    (tmp_path / ".m.next" / "samples.parquet").write_bytes(b"half")
    (private / "next").mkdir()
    Turn(tmp_path / "m").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.private"]
    left = {path.name for path in private.iterdir()}
    assert left == {"audit.jsonl", "key", "lock", "sources.parquet", f"{PREFIX}young"}

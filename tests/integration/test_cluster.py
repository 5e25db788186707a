"""Readings through a local Ray, in processes of their own: Ray's settings hold for a process."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from medvlp.archive.stage.cluster import Cluster
from medvlp.errors import ConfigError

HOSTILE = Path(__file__).parents[1] / "unit/reading"
TEXTS = (["slow"] * 9 + ["abort"]) * 16

RUN = """
import sys
from pathlib import Path

from hostile import Seen
from medvlp.archive.stage.ledger import Ledger
from medvlp.archive.stage.reading import Reading
from medvlp.archive.stage.run import read_items
from medvlp.domain import Ref


def reachable():
    # Sockets that listen on anything but the loopback.
    lines = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()
    ]
    return {line[1] for line in lines if line[3] == "0A" and "0100007F:" not in line[1]}


before = reachable()


class Told(Ledger):
    def store(self, reading, rows):
        rows = list(rows)
        super().store(reading, rows)
        print("stored", len(rows), *reachable() - before, flush=True)


private, folder = map(Path, sys.argv[1:])
items = [(path,) for path in sorted(folder.iterdir())]
reading = Reading(read=Ref("hostile:read"), result=Seen, version=1)
with Told(private) as ledger:
    found = list(read_items(ledger, reading, items, workers=2, label="", engine="ray"))
assert [item for item, _ in found] == items
print("codes", *(getattr(what, "code", "good") for _, what in found))
"""


def test_without_ray_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr("medvlp.archive.stage.cluster.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="cluster"):
        Cluster(2)


def start(tmp_path):
    path = os.pathsep.join([str(HOSTILE), *filter(None, sys.path)])
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "private"), str(tmp_path / "in")],
        env={**env, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the cluster extra)")
def test_a_run_through_ray_whose_driver_is_killed_goes_on_where_it_was(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / f"in/{number:03d}").write_text(text)
    with start(tmp_path) as first:
        word, count, *reachable = first.stdout.readline().split() or [first.stderr.read()]
        assert (word, reachable) == ("stored", [])
        first.kill()
        rest = [line.split() for line in first.stdout.read().splitlines()]
    before = int(count) + sum(int(n) for word, n, *_ in rest if word == "stored")
    assert 0 < before < len(TEXTS)
    time.sleep(1)
    with start(tmp_path) as second:
        out, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    *stored, codes = (line.split() for line in out.splitlines())
    assert before + sum(int(n) for _, n, *_ in stored) == len(TEXTS)
    wanted = {"slow": "good", "abort": "decoder_crash"}
    assert codes[1:] == [wanted[text] for text in TEXTS]

"""A manifest is replaced as a whole, whichever step of it is the last one before a kill."""

import subprocess
import sys
from pathlib import Path

import pytest

from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.swap import recover
from medvlp.data.verify import verify_manifest

KEY = bytes(32)

# Every call that changes what names stand for counts as a step; SIGKILL comes before one of them,
# in each trial a later one, until a trial goes through. Each trial is forked before polars starts
# its threads: a fresh interpreter at each step would take minutes.
CHILD = """
import os, shutil, signal, sys
from itertools import count
from pathlib import Path
import medvlp.data.manifest as m, medvlp.data.seal

first, runs = map(Path, sys.argv[1:])

def armed(call, left):
    def run(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return run

def write(step):
    left = [step]
    for name in ("mkdir", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, armed(getattr(os, name), left))
    info = {"key_id": "k", "counts": COUNTS}
    m.write_manifest(runs / str(step) / "m", {}, NEW, info, key=bytes(32), replace=True,
                     files={"notes.jsonl": [{"new": True}]})

COUNTS = dict.fromkeys(("found", "accepted", "quarantined", "ignored"), 0)
NEW = [{"source": s, "part": 0, "path": "/" + s} for s in ("both", "new")]
for step in count():
    shutil.copytree(first, runs / str(step))
    pid = os.fork()
    if not pid:
        write(step)
        os._exit(0)
    end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if end != -signal.SIGKILL:
        print(step + 1, end)
        break
"""


def sources(manifest):
    return {name for name in ("old", "both", "new") if name in manifest._paths}


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_one_whole_manifest(tmp_path):
    old = [{"source": s, "part": 0, "path": f"/{s}"} for s in ("old", "both")]
    counts = dict.fromkeys(("found", "accepted", "quarantined", "ignored"), 0)
    info = {"key_id": "k", "counts": counts}
    first = write_manifest(tmp_path / "first" / "m", {}, old, info, key=KEY)
    before = first.digest
    words = [sys.executable, "-c", CHILD, str(tmp_path / "first"), str(tmp_path / "runs")]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    steps, end = map(int, said)
    assert end == 0
    assert steps > 10
    after = Manifest.open(tmp_path / "runs" / str(steps - 1) / "m").digest
    assert after != before
    seen = []
    for step in range(steps):
        out = tmp_path / "runs" / str(step) / "m"
        check_sources(out, before)
        recover(out)
        manifest = Manifest.open(out)
        seen.append(manifest.digest)
        new = manifest.digest == after
        assert sources(manifest) == ({"both", "new"} if new else {"old", "both"})
        assert sorted(p.name for p in out.parent.iterdir()) == ["m", "m.private"]
        names = sorted(p.name for p in (out.parent / "m.private").iterdir())
        assert names == ["audit.jsonl", "key", "sources.parquet"]
        if step in (0, steps - 1) or seen[-1] != seen[-2]:
            verify_manifest(out)
    changes = [step for step in range(1, steps) if seen[step] != seen[step - 1]]
    assert len(changes) == 1  # one step decides
    assert {seen[0], seen[-1]} == {before, after}


def check_sources(out: Path, before: str) -> None:
    """Before anything is mended: the manifest in place, if there is one, knows its sources."""
    if out.exists():
        manifest = Manifest.open(out)
        known = sources(manifest)
        assert ({"old", "both"} if manifest.digest == before else {"both", "new"}) <= known

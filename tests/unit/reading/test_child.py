import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from medvlp.archive.stage import answer
from medvlp.archive.stage.child import Children, Limits
from medvlp.archive.stage.reading import Reading
from medvlp.archive.verdict import Ignore, Reject, Verdict
from medvlp.domain import Ref
from medvlp.errors import ArchiveError


def outcome(found):
    """What became of an item, in a word."""
    if isinstance(found, Verdict):
        return (str(found), found.message)
    return found.text


def read_all(reading, items, workers=1):
    with Children(workers) as children:
        found = list(children.run(reading, items))
    assert {item for item, _ in found} == set(items)
    assert len(found) == len(items)
    return {item: outcome(what) for item, what in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_whatever_a_decoder_does_costs_its_own_file_only(hostile, files, workers):
    wanted = {
        "abort": ("REJECT:decoder_crash", ""),
        "exit": ("REJECT:decoder_crash", ""),
        "segfault": ("REJECT:decoder_crash", ""),
        "hoard": ("REJECT:memory", ""),
        "leave": ("REJECT:internal", "SystemExit"),
        "panic": ("REJECT:internal", "Panic"),
        "error": ("REJECT:internal", "ValueError"),
        "oserror": ("REJECT:unreadable", ""),
        "reject": ("REJECT:bad_value", "(0010,0010)"),
        "ignore": ("IGNORE:other", ""),
        "chatter": "chatter",
    }
    texts = [text for deed in wanted for text in ("good", deed, "slow")]
    items = files(texts)
    found = read_all(hostile(), items, workers)
    assert [found[item] for item in items] == [wanted.get(text, text) for text in texts]


def test_a_decoder_that_hangs_is_killed_in_time(hostile, files):
    items = files(["good", "hang", "good", "good"])
    start = time.monotonic()
    found = read_all(hostile(limits=Limits(time_s=0.5)), items)
    assert list(found.values()).count("good") == 3
    assert found[items[1]] == ("REJECT:timeout", "")
    assert time.monotonic() - start < 20


def test_a_large_file_is_given_more_time(hostile, tmp_path):
    slow = tmp_path / "a"
    slow.write_text("slow")
    found = read_all(hostile(limits=Limits(time_s=0, bytes_per_s=0.1)), [(slow,)])
    assert found == {(slow,): "slow"}
    found = read_all(hostile(limits=Limits(time_s=0, bytes_per_s=1e6)), [(slow,)])
    assert found == {(slow,): ("REJECT:timeout", "")}


def test_one_that_tells_may_take_long_but_not_be_silent_for_long(hostile, files):
    reading = hostile(limits=Limits(time_s=0.7), tells=True, makes=True)
    reading = replace(reading, read=Ref("misbehaving:write"))
    items = [(path, path.with_suffix(".out")) for (path,) in files(["good", "half", "fine"])]
    found = read_all(reading, items, workers=2)
    assert [found[item] for item in items] == ["good", ("REJECT:timeout", ""), "fine"]
    assert [target.read_text() for _, target in items] == ["good", "half", "fine"]


def test_nothing_is_written_by_one_that_only_reads(hostile, files):
    reading = replace(hostile(tells=True, makes=True), read=Ref("misbehaving:write"))
    ((path,),) = files(["good"])
    target = path.with_suffix(".out")
    target.touch()
    assert read_all(reading, [(path, target)]) == {(path, target): "good"}
    reading = replace(reading, read=Ref("misbehaving:scribble"), makes=False)
    found = read_all(reading, [(path, target)])
    assert found == {(path, target): ("REJECT:unreadable", "")}
    assert target.read_text() == "good"


def test_an_answer_without_bound_is_cut_off(hostile, files, monkeypatch):
    items = files(["big", "good"])
    verdict = ("REJECT:internal", "the answer is too long")
    assert read_all(hostile(limits=Limits(memory_mb=2000)), items) == {
        items[0]: verdict,
        items[1]: "good",
    }
    # Nor does this process believe that the other keeps to it.
    monkeypatch.setattr(answer, "LARGEST", 100_000)
    texts = ["good", "x" * 200_000, "good"]
    found = read_all(hostile(), files(texts))
    assert list(found.values()) == ["good", ("REJECT:decoder_crash", ""), "good"]


def test_no_answer_is_taken_for_another_file_s(hostile, files):
    items = files(["good", "flood", "good", "slow"])
    found = read_all(hostile(), items)
    assert list(found.values()) == ["good", ("REJECT:decoder_crash", ""), "good", "slow"]


def test_more_frames_than_a_pipe_holds_in_one_item(hostile, tmp_path):
    (tmp_path / "a").write_text("good")
    item = (tmp_path / "a",) * 5000
    assert len("".join(map(str, item))) > 1 << 17
    with Children(1) as children:
        ((_, seen),) = children.run(hostile(), [item])
    assert seen.text == "good" * 5000


def test_names_that_are_no_text_are_read(hostile, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.dcm"))
    path.write_text("good")
    with Children(1) as children:
        ((item, seen),) = children.run(hostile(), [(path,)])
    assert item == (path,)
    assert seen.path == path


def test_work_is_shared_among_processes_and_they_serve_again(hostile, files):
    items = files(["slow"] * 60)
    with Children(2) as children:
        first = [seen.process for _, seen in children.run(hostile(), items)]
        again = {seen.process for _, seen in children.run(hostile(), items)}
    assert len(set(first)) == 2
    assert again == set(first)


def test_slow_items_do_not_wait_for_each_other(hostile, files):
    items = files(["nap", "nap"])
    with Children(2) as children:
        assert len({seen.process for _, seen in children.run(hostile(), items)}) == 2


def test_what_is_not_wanted_any_more_is_not_read_on(hostile, files):
    items = files(["good"] + ["hang"] * 5)
    with Children(1) as children:
        answers = children.run(hostile(), items)
        _, seen = next(answers)
        assert alive(seen.process)
    assert not alive(seen.process)


def test_items_are_fetched_as_they_are_needed(hostile, files):
    fetched = []
    items = files(["slow"] * 40)
    with Children(1) as children:
        answers = children.run(hostile(), (fetched.append(i) or i for i in items))
        next(answers)
        assert len(fetched) < 20


def test_what_is_killed_from_outside_twice_is_short_of_memory(hostile, files):
    items = files(["good", "killed", "good"])
    found = read_all(hostile(), items)
    assert list(found.values()) == ["good", ("REJECT:memory", ""), "good"]


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_reader_that_cannot_be_loaded_is_an_error_and_no_verdict(hostile, files):
    reading = Reading(read=Ref("no_such_module:read"), result=int, version=1)
    with pytest.raises(ArchiveError, match="ModuleNotFoundError"), Children(1) as children:
        list(children.run(reading, files(["good"])))


def test_a_process_outlives_the_thread_that_started_it(hostile, files):
    items = files(["good"] * 4)
    found = []
    with Children(1) as children:
        thread = Thread(target=lambda: found.extend(children.run(hostile(), items[:2])))
        thread.start()
        thread.join()
        time.sleep(0.1)
        found += children.run(hostile(), items[2:])
    assert len({seen.process for _, seen in found}) == 1


ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving import Seen
from medvlp.archive.stage import answer
from medvlp.archive.stage.child import Children
from medvlp.archive.stage.reading import Reading
from medvlp.domain import Ref
reading = Reading(read=Ref("misbehaving:read"), result=Seen, version=1)
good, hang = Path(sys.argv[2]), Path(sys.argv[3])
for _, seen in Children(1).run(reading, [(good,), (hang,)]):
    print(seen.process, flush=True)
"""


@pytest.mark.parametrize("deed", ["hang", "stall"])
def test_no_process_outlives_a_parent_that_is_killed(hostile, files, deed):
    (good,), (hang,) = files(["good", deed])
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(Path(__file__).parent), str(good), str(hang)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    patience = time.monotonic() + 10
    while alive(worker) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not alive(worker)


def test_an_item_that_changes_while_it_is_read_is_refused(hostile, tmp_path):
    from medvlp.archive.stage import serve

    path = tmp_path / "a"
    path.write_text("0")
    sizes = []

    def read(paths):
        sizes.append(path.stat().st_size)
        path.write_text("0" * (len(sizes) + 1))
        raise Reject("truncated_pixels")

    assert serve.examine(read, (path,), {}) == '{"reject":["changed",""]}'
    assert len(sizes) == 2

    def once(paths):
        if len(sizes) == 2:
            sizes.append(0)
            path.write_text("changed in between")
        raise Ignore("other")

    assert serve.examine(once, (path,), {}) == '{"ignore":["other",""]}'

from threading import Thread

import pytest

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.stage.ledger import Ledger
from medvlp.archive.stage.run import read_items
from medvlp.archive.verdict import Reject


class Kept(Ledger):
    """A ledger that remembers what it was given."""

    def __init__(self, folder=None):
        super().__init__(folder)
        self.stored = []

    def store(self, reading, rows):
        rows = list(rows)
        self.stored += [item for item, _ in rows]
        super().store(reading, rows)


@pytest.fixture
def kept(tmp_path):
    folder = tmp_path / "out.private"
    folder.mkdir()
    with Kept(folder) as ledger:
        yield ledger


def texts_of(found):
    return [what.code if isinstance(what, Reject) else what.text for _, what in found]


def read(kept, reading, items):
    return list(read_items(kept, reading, items, workers=2, label="Reading"))


def test_results_come_in_the_order_of_the_items(kept, hostile, files):
    texts = ["slow", "a", "abort", "b", "slow", "reject", "c"] * 3
    items = files(texts)
    found = read(kept, hostile(), items)
    assert [item for item, _ in found] == items
    wanted = {"abort": "decoder_crash", "reject": "bad_value"}
    assert texts_of(found) == [wanted.get(text, text) for text in texts]


def test_what_is_stored_is_not_read_again(kept, hostile, files):
    items = files(["a", "b", "c"])
    first = read(kept, hostile(), items[:2])
    kept.stored.clear()
    again = read(kept, hostile(), items)
    assert kept.stored == items[2:]
    assert again[:2] == first


def test_another_version_setting_or_result_reads_again(kept, hostile, files):
    items = files(["a", "b"])
    read(kept, hostile(), items)
    for fields in ({"version": 2}, {"settings": {"greeting": "hello "}}):
        kept.stored.clear()
        found = read(kept, hostile(**fields), items)
        assert sorted(kept.stored) == items
    assert texts_of(found) == ["hello a", "hello b"]
    keys = {hostile().key, hostile(version=2).key, hostile(settings={"greeting": "x"}).key}
    assert len(keys) == 3


def test_what_was_read_before_a_stop_is_kept(kept, hostile, files):
    items = files(["slow"] * 200)

    def stops(reading, rows):
        Kept.store(kept, reading, rows)
        raise KeyboardInterrupt

    kept.store = stops
    with pytest.raises(KeyboardInterrupt):
        read(kept, hostile(), items)
    assert 0 < len(kept.stored) <= 64
    before = set(kept.stored)
    del kept.store
    kept.stored.clear()
    assert len(read(kept, hostile(), items)) == 200
    assert set(kept.stored) == set(items) - before


def test_a_stored_answer_that_does_not_fit_is_a_verdict(kept, hostile, files):
    (item,) = files(["a"])
    (claimed,) = kept.pending(hostile().key, [item])
    kept.store(hostile().key, [(claimed, '{"result":{"path":3}}')])
    assert texts_of(read(kept, hostile(), [item])) == ["decoder_crash"]


def test_an_intake_reads_once_and_in_order(hostile, files, tmp_path):
    items = files(["slow", "a", "reject", "b", "abort", "c"])
    private = tmp_path.with_name(f"{tmp_path.name}.private")
    private.mkdir()
    for tally in ({"read": 6}, {"known": 6}):
        with Ledger(private) as ledger:
            intake = Intake(tmp_path, IndexConfig(), Pseudonyms(bytes(32)), "cxr", ledger=ledger)
            for _ in range(2):
                found = list(intake.read(hostile(), iter(items), "Reading"))
                assert [item for item, _ in found] == items
                wanted = ["slow", "a", "bad_value", "b", "decoder_crash", "c"]
                assert texts_of(found) == wanted
            assert ledger.tally == tally


def test_a_file_that_changed_is_read_again(kept, hostile, files, tmp_path):
    items = files(["a", "b"])
    read(kept, hostile(), items)
    items[1][0].write_text("changed")
    with Kept(tmp_path / "out.private") as later:
        assert texts_of(read(later, hostile(), items)) == ["a", "changed"]
        assert later.stored == items[1:]


def test_two_runs_share_the_work(hostile, files, tmp_path):
    items = files(["slow"] * 120)
    stored, counts = [], []

    def run():
        with Kept(tmp_path) as ledger:
            counts.append(len(read(ledger, hostile(), items)))
            stored.append(ledger.stored)

    thread = Thread(target=run)
    thread.start()
    run()
    thread.join()
    assert counts == [120, 120]
    assert sorted(stored[0] + stored[1]) == items
    assert all(stored)

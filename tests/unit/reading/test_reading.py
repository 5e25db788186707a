import pytest

from medvlp.archive.reading import read_items
from medvlp.archive.verdict import Reject


class Kept:
    """A store in memory that remembers what it was asked."""

    def __init__(self):
        self.answers = {}
        self.stored = []

    def pending(self, reading, items):
        return (item for item in items if (reading, item) not in self.answers)

    def store(self, reading, rows):
        rows = list(rows)
        self.stored += [item for item, _ in rows]
        self.answers |= {(reading, item): text for item, text in rows}

    def results(self, reading, items):
        return ((item, self.answers[reading, item]) for item in items)


@pytest.fixture
def kept():
    return Kept()


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


def test_many_items_are_read_in_parts(kept, hostile, files, monkeypatch):
    monkeypatch.setattr("medvlp.archive.reading._WINDOW", 4)
    items = files([str(n) for n in range(11)])
    found = read_items(kept, hostile(), iter(items), workers=1, label="Reading")
    next(found)
    assert sorted(kept.stored) == items[:4]
    assert texts_of(found) == [str(n) for n in range(1, 11)]
    assert len(kept.stored) == 11


def test_an_answer_that_does_not_fit_is_a_verdict(kept, hostile, files):
    (item,) = files(["a"])
    kept.answers[hostile().key, item] = '{"result":{"path":3}}'
    assert texts_of(read(kept, hostile(), [item])) == ["decoder_crash"]


def test_an_intake_reads_once_and_in_order(hostile, files, tmp_path):
    from medvlp.archive.intake import Intake
    from medvlp.archive.ledger import Ledger
    from medvlp.archive.options import IndexConfig
    from medvlp.archive.pseudonyms import Pseudonyms

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

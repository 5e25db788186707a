"""The grammar of sentence pairs, before toy scorers whose answers are known."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import polars as pl
import pytest

from medvlp.data.assertions import assertion
from medvlp.data.items import Item
from medvlp.evaluate.metrics.estimate import metric_rows
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.robustness.forms import corners_covered, mirrored
from medvlp.evaluate.robustness.pairs.grammar import grammar, text_pairs, vocabulary
from medvlp.evaluate.robustness.pairs.images import edited_pairs, label_pairs, side_pairs
from medvlp.evaluate.robustness.sentences import (
    SCORE,
    ChanceScorer,
    judged,
    pair_rows,
    share_measures,
)

AXES = ("polarity", "laterality", "severity")
COUNT = {"polarity": 5200, "laterality": 5200, "severity": 3000}


@cache
def pairs_of(axis):
    return text_pairs(axis, COUNT[axis], seed=7)


class Scorer:
    """A toy: any function of (case, sentence)."""

    def __init__(self, function):
        self.score = function


def share(pairs, scorer, axis):
    rows, _ = pair_rows(pairs, judged(pairs, scorer), {}, {"model": "toy", "seed": 0})
    table = rows.with_columns(protocol=pl.lit("p"), control=pl.lit(False), digest=None).select(
        pl.col(name).cast(kind) for name, kind in PREDICTIONS.items()
    )
    found = metric_rows(
        table, lambda model, seed: share_measures(axis), domain="cxr", draws=0,
        confidence=0.95, seed=0,
    )  # fmt: skip
    return next(row.value for row in found if row.metric == SCORE and row.name == axis)


def truth_of(pairs):
    """(statement, sentence) -> whether it is right; a sentence cannot be both."""
    truth = {}
    for pair in pairs:
        for sentence, right in ((pair.right, True), (pair.wrong, False)):
            key = pair.case.anchor, sentence
            assert truth.setdefault(key, right) == right
    return truth


@pytest.mark.parametrize("axis", AXES)
def test_an_oracle_gets_all_and_an_inverted_oracle_nothing(axis):
    pairs = pairs_of(axis)
    truth = truth_of(pairs)
    oracle = Scorer(lambda case, sentence: float(truth[case.anchor, sentence]))
    inverted = Scorer(lambda case, sentence: -float(truth[case.anchor, sentence]))
    assert share(pairs, oracle, axis) == 1.0
    assert share(pairs, inverted, axis) == 0.0


@pytest.mark.parametrize("axis", ["polarity", "laterality"])
def test_there_are_five_thousand_pairs_of_forty_findings_and_none_comes_twice(axis):
    pairs = pairs_of(axis)
    asked = Counter((pair.case.anchor, pair.right, pair.wrong) for pair in pairs)
    assert len(pairs) >= 5000
    assert len({pair.finding for pair in pairs}) >= 40
    assert set(asked.values()) == {1}
    assert all(pair.right != pair.wrong for pair in pairs)
    assert pairs == text_pairs(axis, COUNT[axis], seed=7)
    assert pairs != text_pairs(axis, COUNT[axis], seed=8)


@pytest.mark.parametrize("axis", AXES)
def test_every_sentence_is_right_as_often_as_wrong(axis):
    right = Counter(pair.right for pair in pairs_of(axis))
    wrong = Counter(pair.wrong for pair in pairs_of(axis))
    assert right == wrong


def names_in(text):
    return {entry.name for entry in vocabulary() if entry.name in text.lower()}


@pytest.mark.parametrize("axis", ["polarity", "laterality"])
def test_a_scorer_of_finding_words_alone_gets_half(axis):
    overlap = Scorer(lambda case, sentence: float(len(names_in(case.anchor) & names_in(sentence))))
    assert share(pairs_of(axis), overlap, axis) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_liking_for_long_or_short_sentences_gains_nothing(axis, sign):
    lengthy = Scorer(lambda case, sentence: float(sign * len(sentence)))
    assert share(pairs_of(axis), lengthy, axis) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("axis", AXES)
def test_a_liking_for_words_gains_nothing(axis):
    weight = {}
    rng = np.random.default_rng(0)

    def likes(case, sentence):
        words = re.findall(r"\w+", sentence.lower())
        return float(sum(weight.setdefault(word, rng.normal()) for word in words))

    assert share(pairs_of(axis), Scorer(likes), axis) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("axis", AXES)
def test_chance_gets_half(axis):
    assert share(pairs_of(axis), ChanceScorer(3), axis) == pytest.approx(0.5, abs=0.03)


def test_no_bag_of_words_tells_the_two_ways_round_of_a_swap():
    swaps = [p for axis in AXES for p in pairs_of(axis) if p.family == "text-swap"]
    assert len(swaps) > 1000
    for pair in swaps:
        assert sorted(re.findall(r"\w+", pair.right.lower())) == sorted(
            re.findall(r"\w+", pair.wrong.lower())
        )


def test_rules_of_negation_read_plain_polarity_right():
    """An independent reader: the assertion rules that labels are made with."""
    pairs = [p for p in pairs_of("polarity") if p.family == "text-direct"]
    grade = {"present": 1.0, "uncertain": 0.5, "absent": 0.0}

    def read(sentence, finding):
        start = sentence.lower().index(finding)
        return grade[assertion(sentence, (start, start + len(finding)))]

    def reader(pair):
        know = read(pair.case.anchor, pair.finding)
        gap = [abs(know - read(text, pair.finding)) for text in (pair.right, pair.wrong)]
        return 0.5 + 0.5 * float(np.sign(gap[1] - gap[0]))

    assert len(pairs) > 500
    assert np.mean([reader(pair) for pair in pairs]) > 0.95


def test_templates_fill_every_place():
    for axis in AXES:
        for pair in pairs_of(axis):
            for text in (pair.case.anchor, pair.right, pair.wrong):
                assert re.fullmatch(r"[A-Z][^{}]*[a-z]\.", text)
                assert "  " not in text


def test_families_that_need_something_of_a_finding_get_it():
    for family in grammar().severity.values():
        for entry in vocabulary():
            if family.takes(entry) and "{xs}" in "".join(map("".join, family.say)):
                assert entry.plural


def _item(sample, labels, patient=None, span=None):
    return Item(
        sample=sample, patient=patient or f"p-{sample}", sha256="0" * 64, source_paths=(),
        span=span, texts=(), labels_L=np.array(labels, np.float32), split="test",
    )  # fmt: skip


class Tables:
    """The two tables of a manifest that pairs about images are made from."""

    def __init__(self, entities=(), texts=()):
        self.entities = pl.DataFrame(
            list(entities), schema=["sample", "observation", "presence", "laterality"],
            orient="row",
        )  # fmt: skip
        self.texts = pl.DataFrame(
            list(texts), schema=["sample", "node", "level", "text"], orient="row"
        )


def test_pairs_from_labels_ask_as_many_images_with_as_without_the_finding():
    items = [_item(f"s{i}", [float(i < 4), np.nan if i == 0 else 1.0]) for i in range(10)]
    pairs = label_pairs(items, ["pleural_effusion", "mass"], seed=0)
    # nobody is known to be without a mass, so nothing is asked about it
    assert {pair.finding for pair in pairs} == {"pleural effusion"}
    for family in {pair.family for pair in pairs}:
        part = [pair for pair in pairs if pair.family == family]
        present = [pair.case.item.labels_L[0] == 1 for pair in part]
        assert sum(present) == len(part) / 2 == 4
        assert Counter(p.right for p in part) == Counter(p.wrong for p in part)
    direct = [pair for pair in pairs if pair.family == "image-direct"]
    for pair in direct:
        denied = pair.right.startswith(("There is no", "No "))
        assert denied == (pair.case.item.labels_L[0] == 0)


def test_windows_of_recordings_are_told_what_goes_on():
    items = [_item("v", [float(i % 2), 1.0 - i % 2], span=(i, i + 1.0)) for i in range(6)]
    pairs = label_pairs(items, ["phase:clipping and cutting", "phase:other"], seed=0)
    assert {pair.family for pair in pairs} == {"image-going_on"}
    assert any("clipping and cutting" in pair.right for pair in pairs)


def test_sides_come_from_entities_and_mirror_images_exchange_them():
    entities = [
        ("a", "nodule", 1.0, "left"), ("b", "nodule", 1.0, "right"), ("c", "nodule", 1.0, "left"),
        ("d", "nodule", 0.0, "left"), ("e", "nodule", 1.0, "bilateral"),
        ("f", "nodule", 1.0, "left"), ("f", "nodule", 1.0, "right"),
    ]  # fmt: skip
    items = [_item(name, [0.0]) for name in "abcdef"]
    pairs = side_pairs(items, [Tables(entities)], seed=1, mirror=True)
    plain = [p for p in pairs if p.family == "image-side"]
    turned = [p for p in pairs if p.family == "mirror-side"]
    assert Counter(p.case.item.sample for p in plain) == {"b": 1, plain[0].case.item.sample: 1}
    assert {p.case.item.sample for p in turned} == {"a", "b", "c"}
    assert all(p.case.masked for p in turned)
    side = {"a": "left", "b": "right", "c": "left"}
    for pair in pairs:
        own = side[pair.case.item.sample]
        expected = {"left": "right", "right": "left"}[own] if pair.case.mirrored else own
        assert expected in pair.right.lower()
        assert expected not in pair.wrong.lower()
    assert len({(p.sample, p.case.view, p.family, p.finding) for p in pairs}) == len(pairs)


def test_edits_turn_one_word_round_and_each_direction_equally_often():
    texts = [
        ("a", "n0", "sentence", "Mild edema."), ("b", "n1", "sentence", "Severe edema is seen."),
        ("c", "n2", "sentence", "Mild to severe edema."), ("d", "n3", "report", "Mild edema."),
        ("e", "n4", "sentence", "There is mild haze."),
    ]  # fmt: skip
    items = [_item(name, [0.0]) for name in "abcde"]
    pairs = edited_pairs(items, [Tables(texts=texts)], "severity", seed=0)
    assert len(pairs) == 2
    found = {pair.right: pair.wrong for pair in pairs}
    assert found["Severe edema is seen."] == "Mild edema is seen."
    other = next(right for right in found if right != "Severe edema is seen.")
    assert found[other] == other.replace("Mild", "Severe").replace("mild", "severe")


def test_mirroring_exchanges_left_and_right_in_every_form():
    xray = np.arange(12, dtype=np.uint16).reshape(3, 4)
    ct = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    video = np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3)
    np.testing.assert_array_equal(mirrored(xray), xray[:, ::-1])
    np.testing.assert_array_equal(mirrored(ct), ct[:, :, ::-1])
    np.testing.assert_array_equal(mirrored(video), video[:, :, ::-1])


def test_covered_corners_hide_a_marker_and_nothing_else():
    bare = np.full((50, 50), 1000, np.uint16)
    bare[20:30, 20:30] = 60000
    marked = bare.copy()
    marked[2:6, 3:9] = 65535
    np.testing.assert_array_equal(corners_covered(marked), corners_covered(bare))
    np.testing.assert_array_equal(corners_covered(bare), bare)


def test_only_the_entities_of_the_chosen_source_tell_sides():
    items = [_item("a", []), _item("b", [])]
    rows = [
        ("a", "mass", 1.0, "left", "truth"), ("b", "mass", 1.0, "right", "truth"),
        ("a", "opacity", 1.0, "left", "rules"), ("b", "opacity", 1.0, "right", "rules"),
    ]  # fmt: skip
    columns = ["sample", "observation", "presence", "laterality", "source"]
    tables = Tables()
    tables.entities = pl.DataFrame(rows, schema=columns, orient="row")
    found = {
        source: {p.finding for p in side_pairs(items, [tables], 0, mirror=False, source=source)}
        for source in ("truth", "rules", None)
    }
    assert found == {"truth": {"mass"}, "rules": {"opacity"}, None: {"mass", "opacity"}}

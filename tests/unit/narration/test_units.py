"""Sentences to steps and phases."""

import numpy as np
import pytest

from medvlp.config import validate
from medvlp_video.narration.central import most_central
from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.sentences import Sentence
from medvlp_video.narration.settings import GroupingConfig, NarrationConfig
from medvlp_video.narration.speech import silences
from medvlp_video.narration.units import (
    boundaries,
    changed,
    cosine,
    depths,
    joined,
    phases_of,
    vectors_of,
)

LEXICON = load_lexicon()
HAND = GroupingConfig(block=1, shortest_s=0, least=0.5)


def test_vectors_are_counts_by_rarity():
    one, other, none = vectors_of(["hook hook liver", "liver", "and the"], LEXICON)
    rare, common = 2 * np.log(4), np.log(2.5)
    length = np.hypot(rare, common)
    assert one == pytest.approx({"hook": rare / length, "liver": common / length})
    assert cosine(one, other) == pytest.approx(common / length)
    assert (dict(none), cosine(one, none), cosine(none, none)) == ({}, 0, 0)


def test_depth_is_hearsts():
    """Similarities .., s, .. by hand: a depth is what both nearest peaks lie above the gap."""
    a, b = {"a": 1.0}, {"b": 1.0}
    mixed = {"a": 2**-0.5, "b": 2**-0.5}
    # a|a 1, a|mixed .71, mixed|b .71, b|a 0, a|a 1
    found = depths([a, a, mixed, b, a, a], 1)
    half = 2**-0.5
    assert found == pytest.approx([0, 1 - half, 1 - half, 1 + half + (half - half) + 1 - half, 0])


def test_depth_equals_a_literal_climb():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["hook", "liver", "duct", "bag", "clip"], 4)) for _ in range(40)]
    vectors = vectors_of(texts, LEXICON)
    for block in (1, 2, 5):
        rows = np.array([[v.get(k, 0) for k in ("hook", "liver", "duct", "bag", "clip")]
                         for v in vectors])  # fmt: skip
        near = []
        for i in range(39):
            a, b = rows[max(0, i + 1 - block) : i + 1].sum(0), rows[i + 1 : i + 1 + block].sum(0)
            near.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        wanted = []
        for i in range(39):
            left = right = i
            while left > 0 and near[left - 1] >= near[left]:
                left -= 1
            while right < 38 and near[right + 1] >= near[right]:
                right += 1
            wanted.append(near[left] + near[right] - 2 * near[i])
        assert depths(vectors, block) == pytest.approx(wanted)


def test_changes_are_told_from_hearsts_cut_off_on():
    depth = np.array([0.0, 0.2, 0.4, 1.0])
    least = depth.mean() - depth.std() / 2
    assert changed(depth) == pytest.approx(0.8 * np.clip((depth - least) / (1 - least), 0, 1))
    # A talk about one thing has no deep place.
    assert changed(depth / 100).max() < 0.05
    assert changed(np.full(3, 0.4)).tolist() == [0, 0, 0]
    assert changed(np.zeros(0)).tolist() == []


def test_evidence_is_joined_as_independent():
    assert joined(np.array([0.5, 0]), np.array([0.5, 0.25])) == pytest.approx([0.75, 0.25])


def test_the_strongest_gaps_are_taken_first_and_none_too_near():
    spans = [(float(i), i + 1.0) for i in range(6)]
    strength = np.array([0.6, 0.9, 0.7, 0.4, 0.8])
    assert boundaries(strength, spans, HAND) == [0, 1, 2, 4]
    two = GroupingConfig(block=1, shortest_s=2, least=0.5)
    # 1 first; 4 would leave one second, 2 and 0 as well.
    assert boundaries(strength, spans, two) == [1]
    assert boundaries(strength, spans, HAND, among=[0, 3]) == [0]


def talk(*parts):
    """(text, seconds, silence before) -> sentences."""
    at, found = 0.0, []
    for text, length_s, silent_s in parts:
        at += silent_s
        found.append(Sentence(text=text, start_s=at, end_s=at + length_s, confidence=None))
        at += length_s
    return found


def phases(spoken, kept=None, **settings):
    config = validate(NarrationConfig, settings, "test")
    found = phases_of(spoken, range(len(spoken)) if kept is None else kept, LEXICON, config)
    return [[list(step) for step in phase.steps] for phase in found]


SHORT = {"step": {"block": 2, "shortest_s": 4, "least": 0.5},
         "phase": {"block": 3, "shortest_s": 12, "least": 0.75}}  # fmt: skip


def test_silences_and_markers_make_steps_and_both_make_phases():
    spoken = talk(
        ("the hook opens the peritoneum", 5, 0), ("the hook frees the peritoneum", 5, 0),
        ("next step: the hook frees the duct", 5, 0), ("the duct is free", 5, 0),
        ("we move on to clip the artery", 5, 9), ("the artery is clipped", 5, 0),
        ("next step is to cut the artery", 5, 0), ("the artery is cut", 5, 0),
    )  # fmt: skip
    assert phases(spoken, **SHORT) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_what_is_left_out_fills_silence_and_may_turn():
    def four(between):
        one, two = ("the hook opens the peritoneum", 5, 0), ("the hook opens the peritoneum", 5, 0)
        return phases(talk(one, two, *between, one, two), [0, 1, 3, 4], **SHORT)

    assert four([("is there any coffee", 8, 0)]) == [[[0, 1, 3, 4]]]
    assert four([("so then the next step please", 8, 0)]) == [[[0, 1], [3, 4]]]
    assert four([("is there any coffee", 1, 7)]) == [[[0, 1], [3, 4]]]


def test_every_sentence_stands_in_one_step_in_order():
    rng = np.random.default_rng(1)
    words = ["hook", "liver", "duct", "bag", "next step", "now", "clip", "coffee"]
    for _ in range(50):
        count = int(rng.integers(0, 30))
        spoken = talk(*((" ".join(rng.choice(words, 3)), float(rng.uniform(1, 9)),
                         float(rng.choice([0, 0, 3, 12]))) for _ in range(count)))  # fmt: skip
        kept = [i for i in range(count) if rng.random() < 0.8]
        found = phases(spoken, kept)
        assert [i for phase in found for step in phase for i in step] == kept
        assert all(step for phase in found for step in phase)
        long = [[spoken[p[-1][-1]].end_s - spoken[p[0][0]].start_s for p in found]]
        assert len(found) < 2 or min(long[0]) >= 30


def test_silences_count_from_the_latest_end():
    assert silences([(0, 9), (1, 2), (11, 12)]) == [0, 2]
    assert silences([]) == []


def test_the_central_sentence_is_most_like_the_others_and_surgical():
    texts = ["the hook frees the duct", "the duct and the artery", "the hook at the duct",
             "a bag"]  # fmt: skip
    vectors = vectors_of(texts, LEXICON)
    means = [sum(cosine(v, w) for w in vectors if w is not v) / 3 for v in vectors]
    assert most_central(vectors, [1, 1, 1, 1]) == int(np.argmax(means))
    assert most_central(vectors, [0.1, 0.9, 0.1, 0.1]) == 1
    # Alone, or with nothing in common: the most surgical, then the first.
    assert most_central(vectors[:1], [0.2]) == 0
    assert most_central([{"a": 1.0}, {"b": 1.0}, {"c": 1.0}], [0.5, 0.7, 0.7]) == 1

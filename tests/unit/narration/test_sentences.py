"""Words with times, and sentences made of them."""

from itertools import pairwise

import pytest

from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.sentences import sentences_of
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Segment, Word
from medvlp_video.narration.words import words_of

LEXICON = load_lexicon()


def said(start_s, end_s, text, words=(), **more):
    return Segment(start_s=start_s, end_s=end_s, text=text, words=tuple(words), **more)


def cut(*segments, **settings):
    found, _ = sentences_of(segments, LEXICON, NarrationConfig(**settings))
    return [(s.text, pytest.approx(s.start_s), pytest.approx(s.end_s)) for s in found]


def test_words_share_a_segment_by_their_length():
    found = words_of(said(10, 20, "abcd ef ghij"), LEXICON)
    assert [(w.text, w.start_s, w.end_s) for w in found] == [
        ("abcd", 10, 14), ("ef", 14, 16), ("ghij", 16, 20),
    ]  # fmt: skip


def test_words_have_the_recognisers_times_however_it_divides_them():
    pieces = [
        Word(" We", 1.0, 1.5, 0.9), Word(" suture-", 2.0, 2.5, 0.8), Word("ligate", 2.5, 3.0, 0.6),
        Word(" it.", 4.0, 4.5, None),
    ]  # fmt: skip
    found = words_of(said(0, 5, "We suture-ligate it.", pieces, confidence=0.5), LEXICON)
    assert [(w.text, w.start_s, w.end_s) for w in found] == [
        ("We", 1.0, 1.5), ("suture-ligate", 2.0, 3.0), ("it.", 4.0, 4.5),
    ]  # fmt: skip
    assert [w.confidence for w in found] == pytest.approx([0.9, 0.7, 0.5])


def test_words_that_spell_something_else_or_have_no_times_are_not_used():
    for pieces in (
        [Word("We", 3, 4), Word("clap", 4, 5)],
        [Word("We", 3, 4), Word("clip", float("nan"), 5)],
    ):
        found = words_of(said(0, 6, "We clip", pieces), LEXICON)
        assert [(w.start_s, w.end_s) for w in found] == [(0, 2), (2, 6)]


def test_times_never_run_backwards_nor_leave_the_segment():
    pieces = [Word("a", 3, 2), Word("b", 1, 9), Word("c", 4, 99)]
    found = words_of(said(0, 5, "a b c", pieces), LEXICON)
    assert all(0 <= w.start_s <= w.end_s <= 5 for w in found)
    assert all(a.start_s <= b.start_s for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Um, we uh clip (applause) the duct.", "we clip the duct."),
        ("[Music] We clip [BLANK_AUDIO] it. ♪", "We clip it."),
        ("the the duct is very very thin (about 3 mm)", "the duct is very very thin (about 3 mm)"),
        ("We cut. Cut it. No, no no.", "We cut. Cut it. No, no no."),
        ("[Music]", ""),
    ],
)
def test_what_is_no_word_is_taken_out(text, kept):
    assert " ".join(w.text for w in words_of(said(0, 9, text), LEXICON)) == kept


def test_punctuation_joins_segments_and_divides_them():
    assert cut(
        said(0, 4, "We clip the duct. Then we"), said(4, 7, "cut it. Done."), said(7, 8, "Good.")
    ) == [
        ("We clip the duct.", 0, 4 * 14 / 20),
        ("Then we cut it.", 4 * 14 / 20, 4 + 3 * 6 / 11),
        ("Done.", 4 + 3 * 6 / 11, 7),
        ("Good.", 7, 8),
    ]


def test_a_decimal_ends_no_sentence_and_a_missing_space_hides_none():
    found = cut(said(0, 10, "A stone of 3.5 cm lies in Dr. Calot's triangle.Now we wash."))
    assert [text for text, *_ in found] == [
        "A stone of 3.5 cm lies in Dr. Calot's triangle.", "Now we wash.",
    ]  # fmt: skip


def test_a_long_silence_ends_a_sentence_whatever_the_punctuation():
    parts = said(0, 2, "First we lift"), said(9, 12, "the liver. Good.")
    assert [text for text, *_ in cut(*parts)] == ["First we lift", "the liver.", "Good."]
    joined = cut(*parts, longest_pause_s=8.0)
    assert [text for text, *_ in joined] == ["First we lift the liver.", "Good."]


def test_without_punctuation_segments_and_pauses_end_sentences():
    words = [Word("we", 0, 1), Word("clip", 1, 2), Word("we", 4, 5), Word("cut", 5, 6)]
    assert cut(said(0, 6, "we clip we cut", words), said(6, 8, "we wash")) == [
        ("we clip", 0, 2), ("we cut", 4, 6), ("we wash", 6, 8),
    ]  # fmt: skip


def test_without_punctuation_a_sentence_runs_on_behind_a_word_that_ends_none():
    parts = said(0, 3, "we free the"), said(3, 5, "cystic duct"), said(5, 6, "and cut it")
    assert [text for text, *_ in cut(*parts)] == ["we free the cystic duct", "and cut it"]
    apart = said(0, 3, "we free the"), said(8, 10, "cystic duct")
    assert [text for text, *_ in cut(*apart)] == ["we free the", "cystic duct"]


def test_the_silence_before_a_slow_segment_is_no_part_of_it():
    assert cut(said(0, 20, "we clip the duct"), said(20, 23, "we cut it now")) == [
        ("we clip the duct", 16, 20), ("we cut it now", 20, 23),
    ]  # fmt: skip
    # A segment that does not abut the one before began when the recogniser says.
    assert cut(said(5, 20, "we clip the duct"))[0][1] == 5


def test_a_long_sentence_is_divided_at_its_longest_silence():
    words = [Word(f"w{i}", i, i + 0.9) for i in range(8)]
    words[5:] = [Word(f"w{i}", i + 0.5, i + 1.4) for i in range(5, 8)]
    text = " ".join(w.text for w in words)
    parts = cut(said(0, 9, text, words), most_words=5, pause_s=5.0)
    assert [part.split() for part, *_ in parts] == [
        ["w0", "w1", "w2", "w3", "w4"], ["w5", "w6", "w7"],
    ]  # fmt: skip
    many = cut(said(0, 99, "word " * 1000), most_words=7)
    assert sum(len(part.split()) for part, *_ in many) == 1
    many = cut(said(0, 99, " ".join(f"w{i}" for i in range(1000))), most_words=7)
    assert [w for part, *_ in many for w in part.split()] == [f"w{i}" for i in range(1000)]
    assert max(len(part.split()) for part, *_ in many) <= 7


def test_segments_without_a_word_are_told():
    _, dropped = sentences_of([said(0, 3, "[Music]"), said(3, 4, "We cut.")], LEXICON,
                              NarrationConfig())  # fmt: skip
    assert [(d.reason, d.text) for d in dropped] == [("no_words", "[Music]")]

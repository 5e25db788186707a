"""Text metrics against sacrebleu, rouge-score and literal recomputation, and degenerate texts."""

import numpy as np
import polars as pl
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from medvlp.evaluate.metrics.texts import (
    CorpusBleu,
    bleu_counts,
    error_measures,
    exact,
    finding_text_measures,
    rouge_l,
    signature,
    token_f1,
)

WORDS = [
    "no",
    "the",
    "heart",
    "is",
    "normal",
    "edema",
    "effusion",
    "left",
    "right",
    "mild",
    ".",
    ",",
    "3.5",
    "cm",
    "Large",
]
CASES = 1000


def random_text(rng, longest=14):
    return " ".join(rng.choice(WORDS, size=rng.integers(0, longest)))


def random_pairs(rng):
    """Few texts, so that empty corpora, missing orders and perfect matches all occur."""
    count = int(rng.integers(1, 6))
    reference = [random_text(rng) for _ in range(count)]
    kind = rng.integers(5)
    generated = [random_text(rng) for _ in range(count)]
    if kind == 0:
        generated = [""] * count
    elif kind == 1:
        generated = list(reference)
    elif kind == 2:
        generated = ["normal"] * count
    return generated, reference


def test_bleu_equals_sacrebleu_on_random_corpora_of_every_order():
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        generated, reference = random_pairs(rng)
        patient = np.arange(len(generated)) // 2
        counts = bleu_counts(generated, reference)
        for order in (1, 2, 3, 4):
            bleu = CorpusBleu(counts, patient, patient[-1] + 1, order)
            library = sacrebleu.BLEU(lowercase=True, max_ngram_order=order)
            expected = library.corpus_score(generated, [reference]).score / 100
            assert bleu(np.ones((patient[-1] + 1, 1)))[0] == pytest.approx(expected, abs=1e-9)


def test_bleu_of_a_draw_is_that_of_the_corpus_with_its_texts_repeated():
    rng = np.random.default_rng(1)
    generated = [random_text(rng) for _ in range(12)]
    reference = [random_text(rng) for _ in range(12)]
    patient = np.arange(12) // 3
    weights = rng.integers(0, 3, (4, 50)).astype(np.float32)
    weights[:, 0] = 0
    found = CorpusBleu(bleu_counts(generated, reference), patient, 4, 4)(weights)
    assert np.isnan(found[0])
    for draw in range(1, 50):
        index = [i for i in range(12) for _ in range(int(weights[patient[i], draw]))]
        if index:
            library = sacrebleu.BLEU(lowercase=True)
            expected = library.corpus_score(
                [generated[i] for i in index], [[reference[i] for i in index]]
            ).score
            assert found[draw] == pytest.approx(expected / 100, abs=1e-9)


def test_the_signature_is_sacrebleus_own():
    library = sacrebleu.BLEU(lowercase=True)
    library.corpus_score(["a"], [["a"]])
    assert signature() == library.get_signature().format()


def longest_common(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    return table[-1, -1]


def test_rouge_l_equals_the_library_and_a_literal_recomputation():
    rng = np.random.default_rng(2)
    plain = [w for w in WORDS if w.isalpha()]
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for _ in range(CASES):
        one, two = (list(rng.choice(plain, size=rng.integers(0, 9))) for _ in range(2))
        found = rouge_l([" ".join(one)], [" ".join(two)])[0]
        library = scorer.score(" ".join(two), " ".join(one))["rougeL"].fmeasure
        common = longest_common([w.lower() for w in one], [w.lower() for w in two])
        literal = 2 * common / (len(one) + len(two)) if one and two else 0.0
        assert found == pytest.approx(library, abs=1e-12)
        assert found == pytest.approx(literal, abs=1e-9)


def test_token_f1_and_exact_match_equal_a_literal_recomputation():
    rng = np.random.default_rng(3)
    plain = [w for w in WORDS if w.isalpha()]
    for _ in range(CASES):
        one, two = (list(rng.choice(plain, size=rng.integers(0, 5))) for _ in range(2))
        left = [w.lower() for w in two]
        hits = 0
        for word in (w.lower() for w in one):
            if word in left:
                left.remove(word)
                hits += 1
        total = len(one) + len(two)
        expected = 2 * hits / total if total else 1.0
        assert token_f1([" ".join(one)], [" ".join(two)])[0] == pytest.approx(expected)
        same = [w.lower() for w in one] == [w.lower() for w in two]
        assert exact([" ".join(one) + "."], [" ".join(two)])[0] == same


def test_empty_texts_have_values():
    assert rouge_l(["", "edema"], ["edema", ""]).tolist() == [0, 0]
    assert exact(["", "a"], ["", ""]).tolist() == [1, 0]
    assert token_f1(["", "a"], ["", ""]).tolist() == [1, 0]
    bleu = CorpusBleu(bleu_counts(["", ""], ["", ""]), np.arange(2), 2, 4)
    assert bleu(np.ones((2, 1)))[0] == 0


def value(measure, clusters):
    return measure.statistic(np.ones((clusters, 1)))[0]


def test_finding_f1_by_hand():
    rows = pl.DataFrame(
        {
            "name": ["edema"] * 4 + ["mass"] * 4,
            "label": [1, 1, 0, 0, 1, 0, 0, 0],
            "score": [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            "sample": list("abcd") * 2,
            "time_s": [None] * 8,
            "cluster": [0, 1, 2, 3] * 2,
        },
        schema_overrides={"time_s": pl.Float64},
    )
    found = {(m.metric, m.name): m for m in finding_text_measures(rows, 4)}
    assert value(found["finding_f1", "edema"], 4) == pytest.approx(0.5)
    assert value(found["finding_f1", "mass"], 4) == 0
    assert value(found["finding_f1_micro", "all"], 4) == pytest.approx(2 / 5)
    assert found["finding_f1_macro", "all"].members == ()
    assert found["finding_f1_macro", "all"].n == 4


def test_turned_findings_and_sides_are_counted():
    told = pl.DataFrame(
        {
            "reference": [1, 1, 0, None, 1, -1],
            "generated": [1, 0, 0, 1, 1, 1],
            "reference_side": ["left", "left", None, None, "right", None],
            "generated_side": ["right", None, None, None, "right", None],
            "cluster": [0, 0, 1, 1, 2, 2],
        }
    )
    found = {m.metric: m for m in error_measures(told, 3)}
    assert value(found["polarity_error"], 3) == pytest.approx(1 / 4)
    assert value(found["laterality_error"], 3) == pytest.approx(1 / 2)

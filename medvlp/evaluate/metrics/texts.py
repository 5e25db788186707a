"""Metrics of written text against a reference: BLEU, ROUGE-L, exact match, findings named.

BLEU is a function of sums over texts (Papineni et al. 2002, doi:10.3115/1073083.1073135), so it is
a statistic of patient weights like any other: sacrebleu counts, and the corpus formula is applied
to the weighted counts. At weight one it equals sacrebleu's `corpus_bleu`, divided by 100.
Degenerate texts have values: an empty text matches nothing, and equals an empty reference.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from sacrebleu.metrics.bleu import BLEU

from medvlp.evaluate.metrics.estimate import Measure, mean_measure
from medvlp.evaluate.metrics.findings import MACRO_MINIMUM
from medvlp.evaluate.metrics.statistics import Floats, Ints, Ratio
from medvlp.evaluate.predictions import ALL

ORDER = 4
"""Longest n-gram of BLEU."""

_WORD = re.compile(r"[^\W_]+")


class CorpusBleu:
    """BLEU of a corpus with weights, in [0, 1].

    One reference a text, letters lowered, tokens and exponential smoothing as `signature` says.

    Args:
        count_NK: `bleu_counts` of each text.
        patient_N: Whose text it is.
        patients: How many there are.
        order: Longest n-gram; 4 is BLEU-4.
    """

    def __init__(self, count_NK: Floats, patient_N: Ints, patients: int, order: int) -> None:
        self.order = order
        self.count_PK = np.zeros((patients, count_NK.shape[1]))
        np.add.at(self.count_PK, patient_N, count_NK)
        self.texts_P = np.bincount(patient_N, minlength=patients)

    def __call__(self, weight_PR: Floats) -> Floats:
        """(R,) scores; NaN for a draw without texts."""
        count_KR = self.count_PK.T @ weight_PR.astype(np.float64)
        written_R, wanted_R = count_KR[0], count_KR[1]
        right_KR, total_KR = count_KR[2 : 2 + self.order], count_KR[2 + ORDER :][: self.order]
        some_R = right_KR.any(axis=0) & (total_KR > 0).all(axis=0)
        none_KR = right_KR == 0
        # sacrebleu's "exp": the k-th order without a match counts as 1 / 2^k matches.
        smoothed_KR = np.where(none_KR, 0.5 ** np.cumsum(none_KR, axis=0), right_KR)
        precision_KR = np.where(some_R, smoothed_KR, 1) / np.where(some_R, total_KR, 1)
        short_R = np.minimum(0, 1 - wanted_R / np.where(written_R > 0, written_R, 1))
        score_R = np.where(some_R, np.exp(short_R + np.log(precision_KR).mean(axis=0)), 0.0)
        return np.where(self.texts_P @ weight_PR > 0, score_R, np.nan)


def bleu_counts(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,10): words written and wanted, then matched and written n-grams of length 1 to 4."""
    counts = np.zeros((len(generated), 2 + 2 * ORDER))
    for row, (text, right) in enumerate(zip(generated, reference, strict=True)):
        score = _bleu().sentence_score(text, [right])
        counts[row] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
    return counts


def signature() -> str:
    """How sacrebleu counts here, in its own notation."""
    _bleu().sentence_score("a", ["a"])
    told: str = _bleu().get_signature().format()
    # Smoothing by sentence is asked for only to get counts without a warning.
    return told.replace("eff:yes", "eff:no")


@cache
def _bleu() -> BLEU:
    return BLEU(lowercase=True, effective_order=True)


def rouge_l(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) F1 of the longest common subsequence of words (Lin 2004, W04-1013), by rouge-score.

    Its words are of the letters a to z and digits; others are dropped.
    """
    scorer = _rouge()
    pairs = zip(generated, reference, strict=True)
    return np.array([scorer.score(r, g)["rougeL"].fmeasure for g, r in pairs])


@cache
def _rouge() -> Any:
    # Its natural-language toolkit takes seconds to import, which other tasks need not wait for.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def words(text: str) -> list[str]:
    """The words of a text in small letters, of any alphabet, without punctuation."""
    return _WORD.findall(text.lower())


def exact(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) 1 where both have the same words, 0 elsewhere."""
    pairs = zip(generated, reference, strict=True)
    return np.array([float(words(g) == words(r)) for g, r in pairs])


def token_f1(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) F1 of words as a bag (Rajpurkar et al. 2016, arXiv:1606.05250, section 6).

    Two texts without words agree fully; one without words agrees with none.
    """
    return np.array([_bag_f1(g, r) for g, r in zip(generated, reference, strict=True)])


def _bag_f1(generated: str, reference: str) -> float:
    ours, theirs = Counter(words(generated)), Counter(words(reference))
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def text_measures(
    generated: Sequence[str], reference: Sequence[str], patient: Any, clusters: int, *, name: str
) -> list[Measure]:
    """BLEU-1 to BLEU-4, ROUGE-L and exact match of texts under one name."""
    counts = bleu_counts(generated, reference)
    found = [
        Measure(
            metric=f"bleu_{order}",
            name=name,
            n=len(counts),
            statistic=CorpusBleu(counts, patient, clusters, order),
        )
        for order in range(1, ORDER + 1)
    ]
    for metric, values in (
        ("rouge_l", rouge_l(generated, reference)),
        ("exact_match", exact(generated, reference)),
    ):
        found.append(mean_measure(metric, name, values, patient, clusters))
    return found


def finding_text_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """F1 of the findings that texts affirm, pooled and as the mean over findings.

    Args:
        rows: `label` 1 where the reference affirms the finding, `score` 1 where the text does.
            The mean leaves out findings with fewer than `MACRO_MINIMUM` of either kind.
        clusters: Patients.
    """
    found: list[Measure] = []
    counted: list[str] = []
    for (label,), part in rows.group_by("name", maintain_order=True):
        name, positives = str(label), int(part["label"].sum())
        found.append(_f1("finding_f1", name, part, clusters))
        if min(positives, len(part) - positives) >= MACRO_MINIMUM:
            counted.append(name)
    members = tuple(("finding_f1", name) for name in counted)
    n = rows.select(pl.struct("sample", "time_s").n_unique()).item() if len(rows) else 0
    found.append(Measure(metric="finding_f1_macro", name=ALL, n=n, members=members))
    if len(rows):
        found.append(_f1("finding_f1_micro", ALL, rows, clusters))
    return found


def _f1(metric: str, name: str, part: pl.DataFrame, clusters: int) -> Measure:
    truth, said = part["label"].to_numpy() == 1, part["score"].to_numpy() >= 0.5
    either = truth.astype(np.float64) + said
    ratio = Ratio(2.0 * (truth & said), either, part["cluster"].to_numpy(), clusters)
    return Measure(metric=metric, name=name, n=len(part), statistic=ratio)


def error_measures(told: pl.DataFrame, clusters: int) -> list[Measure]:
    """How often a text turns what its reference says of a finding round.

    `polarity_error`: among findings that one affirms or denies and the other does, too, the share
    where one affirms and the other denies. `laterality_error`: among findings that both affirm
    with a side, the share where the sides differ.

    Args:
        told: Columns `reference`, `generated` (1, 0, -1 or null), `reference_side`,
            `generated_side` (text or null), `cluster`.
        clusters: Patients.
    """
    said = told.filter(pl.col("reference").is_in([0, 1]) & pl.col("generated").is_in([0, 1]))
    sided = told.filter(
        (pl.col("reference") == 1)
        & (pl.col("generated") == 1)
        & pl.col("reference_side").is_not_null()
        & pl.col("generated_side").is_not_null()
    )
    found = []
    for metric, part, left, right in (
        ("polarity_error", said, "reference", "generated"),
        ("laterality_error", sided, "reference_side", "generated_side"),
    ):
        wrong = (part[left] != part[right]).to_numpy().astype(np.float64)
        rate = mean_measure(metric, ALL, wrong, part["cluster"].to_numpy(), clusters)
        found.append(dataclasses.replace(rate, low_is_better=True))
    return found

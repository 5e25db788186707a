"""Metrics of answers to questions: closed ones are right or wrong, open ones are texts."""

from __future__ import annotations

import polars as pl

from medvlp.evaluate.metrics.estimate import Measure, mean_measure
from medvlp.evaluate.metrics.texts import exact, text_measures, token_f1

CLOSED, OPEN = "closed", "open"
"""Names of the rows that are about all questions of a kind; ``<kind>/<topic>`` are about some."""


def answer_measures(answers: pl.DataFrame, clusters: int) -> list[Measure]:
    """Accuracy of closed questions; exact match, token F1, BLEU and ROUGE-L of open ones.

    Args:
        answers: Columns `kind`, `topic`, `answer` (the right one), `predicted`, `cluster`.
        clusters: Patients.
    """
    found: list[Measure] = []
    for (kind, topic), part in answers.group_by("kind", "topic", maintain_order=True):
        found += _measures(part, clusters, str(kind), f"{kind}/{topic}")
    for kind in (CLOSED, OPEN):
        part = answers.filter(pl.col("kind") == kind)
        if len(part):
            found += _measures(part, clusters, kind, kind)
    return found


def _measures(part: pl.DataFrame, clusters: int, kind: str, name: str) -> list[Measure]:
    predicted, right = part["predicted"].to_list(), part["answer"].to_list()
    patient = part["cluster"].to_numpy()
    if kind == CLOSED:
        return [mean_measure("accuracy", name, exact(predicted, right), patient, clusters)]
    bag = mean_measure("token_f1", name, token_f1(predicted, right), patient, clusters)
    return [bag, *text_measures(predicted, right, patient, clusters, name=name)]

"""The labels that a report's triples make, combined as CheXpert's are (arXiv:1901.07031)."""

from __future__ import annotations

from collections.abc import Iterable

from medvlp.data.presence import ABSENT, strongest
from medvlp.data.structure.extract import Triple
from medvlp.data.structure.vocabulary import Vocabulary

NO_FINDING = "No Finding"


def labels_of(triples: Iterable[Triple], vocabulary: Vocabulary) -> dict[str, int]:
    """Label -> 1, 0 or -1 for what the triples speak of, and `NO_FINDING`.

    Of several triples, one that affirms outweighs doubt, and doubt outweighs denial. What is denied
    denies its own label alone: that there is no pneumonia does not say that there is no opacity.
    `NO_FINDING` is 1 where nothing but devices is affirmed or doubted.

    Args:
        triples: All of one report.
        vocabulary: Whose observations name the labels.
    """
    found: dict[str, list[int]] = {}
    nothing = True
    for triple in triples:
        known = vocabulary.observations[triple.observation]
        told = known.labels if triple.presence != ABSENT else known.labels[:1]
        for label in told:
            found.setdefault(label, []).append(triple.presence)
        nothing = nothing and (known.device or triple.presence == ABSENT)
    told_most = {label: strongest(values) for label, values in found.items()}
    return {**{k: v for k, v in told_most.items() if v is not None}, NO_FINDING: int(nothing)}

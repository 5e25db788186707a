"""Task `class-retrieval`: reports that say the same finding, found by an image of it.

The "5x200" form of retrieval: every study has exactly one of a few findings, and a report counts
as right if its study has the same. It is far easier than finding one's own report: with five
classes of equal size a blind guess hits within ten answers in 89 of 100 queries, so precision and
the first answer are what tells models apart, and chance stands beside both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item, relabel
from medvlp.data.text_policy import Level
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import check_labels, known_labels, subgroups
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.metrics.retrieval import class_retrieval_measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions, describe
from medvlp.evaluate.predictions import PREDICTIONS, Evidence
from medvlp.evaluate.tasks.retrieval import BLOCK, Pairs, Sides, sides_of, text_items

RANKS = ("model", "seed", "name", "sample", "same")
"""Columns of the rank list, `ranks.parquet`: whether each of the first answers is of the class."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassRetrievalConfig:
    """Image to text; a text is right if its study has the image's finding.

    Every study's text is a candidate, the study's own among them. Studies without exactly one of
    the labels are left out and counted.
    """

    kind: Literal["class-retrieval"] = "class-retrieval"
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    level: Level = "report"
    sources: tuple[str, ...] | None = None
    k: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (1, 5, 10)

    headlines: ClassVar[tuple[str, ...]] = ("precision_at_10", "hit_at_1")

    def resolve(self, base: Path) -> ClassRetrievalConfig:
        """The task itself: it names no files."""
        return self

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """The first answers to each study's images, of every model and by chance.

        Raises:
            ConfigError: A label that no manifest knows, or fewer than two studies with one.
        """
        check_labels(self.labels, known_labels(study.manifests), "task.labels", "the manifests")
        items = relabel(text_items(study, self.level, self.sources), study.manifests, self.labels)
        single = [item for item in items if (item.labels_L == 1).sum() == 1]
        if not single:
            raise ConfigError(
                f"{study.protocol}: no study of split {study.split!r} has exactly one of "
                f"{', '.join(self.labels)}",
                remedy="name other labels, or another split",
            )
        pairs = Pairs(single, study, self.level)
        rows = [
            row
            for model, control, sides in sides_of(pairs, study, scorers)
            for row in self._rows(pairs, sides, study, {"model": model, "control": control})
        ]
        types = {name: kind for name, kind in PREDICTIONS.items() if name in rows[0]}
        frame = pl.DataFrame(rows, schema_overrides=types)
        return Predicted(
            rows=as_predictions(frame.drop("same"), study),
            counts={"studies": len(pairs.lead), "left_out": len(items) - len(single)},
            beside={"ranks": frame.select(RANKS)},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Share of right answers and of queries with one, among the first k."""
        return class_retrieval_measures(self.k, evidence.beside["ranks"])

    def _rows(
        self, pairs: Pairs, sides: Sides, study: Study, about: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        meta = subgroups(study.manifests)
        class_S = np.array([int(np.argmax(item.labels_L == 1)) for item in pairs.lead])
        text_SE = sides[1][pairs.text_S]
        for start in range(0, len(class_S), BLOCK):
            similarity_QS = sides[0][start : start + BLOCK] @ text_SE.T
            for i, found_S in enumerate(similarity_QS, start):
                same_S = class_S == class_S[i]
                order = _worst_first_among_ties(found_S, same_S)
                yield self._row(pairs.lead[i], same_S[order], class_S[i], meta, study) | about

    def _row(self, lead: Item, same_S: Any, chosen: int, meta: Any, study: Study) -> dict[str, Any]:
        return describe(lead, meta) | {
            "seed": study.seed,
            "name": self.labels[chosen],
            "label": 1,
            "score": 1 / (1 + int(np.argmax(same_S))),
            "same": same_S[: max(self.k)].tolist(),
        }


def _worst_first_among_ties(found_S: Any, same_S: Any) -> Any:
    """Best score first; of equal scores, wrong answers first, so that ties earn no credit."""
    return np.lexsort((same_S, -found_S))

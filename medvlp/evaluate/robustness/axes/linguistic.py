"""Tasks `polarity`, `laterality` and `severity`: which of two sentences fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.structure.extract import load_extractor
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import known_labels, sample_items, subgroups
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.robustness.pairs.grammar import Axis, grammar_digest, text_pairs
from medvlp.evaluate.robustness.pairs.images import edited_pairs, label_pairs, side_pairs
from medvlp.evaluate.robustness.pairs.pair import Pair
from medvlp.evaluate.robustness.sentences import (
    SCORE,
    ChanceScorer,
    SentenceScorer,
    TowerScorer,
    judged,
    pair_rows,
    share_measures,
)
from medvlp.evaluate.robustness.structured import StructuredScorer
from medvlp.evaluate.robustness.windows import Windows, windowed_items
from medvlp.models.answers import relating_head

Source = Literal["text", "image", "mirror", "report"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinguisticConfig:
    """What the three axes of words have in common."""

    kind: str
    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = ("text", "image", "report")
    """``text``: pairs of the grammar, about a statement in other words. ``image``: pairs about
    images, from labels (polarity) or entities (laterality). ``mirror``: images against their own
    mirror image, both with covered corners. ``report``: a report's own sentence against the same
    with one word turned round."""

    pairs: Annotated[int, Field(ge=0)] = 5000
    """How many pairs of the grammar."""

    seed: int = 0
    """Of the draw of pairs."""

    windows: Windows | None = None
    """For recordings: the windows that are asked about, labelled by the timed regions."""

    answer: Literal["text", "native"] = "text"
    """``text``: the cosine of an image and a sentence. ``native``: where a model was trained with a
    head that tells places apart, how likely that head finds what the sentence claims, which the
    domain's rule-based extractor reads (`medvlp.evaluate.robustness.structured`); else cosines."""

    entities: str | None = None
    """Whose entities tell the sides of findings in images, such as ``truth``; everybody's if not
    given."""

    names: dict[str, str] = field(default_factory=dict)
    """The extractor's name of an anatomy or observation -> the models', where the two differ."""

    grammar: str | None = None
    """SHA-256 of the templates and words behind the pairs, filled in: with other words, numbers
    cannot be compared, so it is part of the protocol's digest."""

    axis: ClassVar[Axis]
    headlines: ClassVar[tuple[str, ...]] = (SCORE,)

    def resolve(self, base: Path) -> Self:
        """The task with the digest of the grammar that is installed, unless it names one."""
        return dataclasses.replace(self, grammar=self.grammar or grammar_digest())

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """A credit for every pair, of every model that has read text and by chance.

        Raises:
            ConfigError: The sources give no pair at all, or the grammar is another one.
        """
        if self.grammar != grammar_digest():
            raise ConfigError(
                f"{study.protocol}: task.grammar is not the digest of the installed sentences",
                remedy="leave task.grammar out, or install the version that it belongs to",
            )
        pairs = self.drawn(study)
        asked: list[tuple[str, bool, SentenceScorer]] = [
            (scorer.name, scorer.control is not None, self._asker(scorer, pairs, study.domain))
            for scorer in scorers
            if scorer.control != "supervised-unimodal"
        ]
        ways = _ways(pairs, [one for _, _, one in asked]) if self.answer == "native" else {}
        asked.append(("chance", True, ChanceScorer(study.seed)))
        meta = subgroups(study.manifests)
        tables = [
            pair_rows(pairs, judged(pairs, one), meta,
                      {"model": name, "seed": study.seed, "control": control})
            for name, control, one in asked
        ]  # fmt: skip
        return Predicted(
            rows=as_predictions(pl.concat([rows for rows, _ in tables]), study),
            counts=_counts(pairs) | ways,
            beside={"pairs": pl.concat([asked for _, asked in tables])},
        )

    def _asker(self, scorer: Scorer, pairs: Sequence[Pair], domain: str) -> SentenceScorer:
        head = relating_head(scorer.bundle) if self.answer == "native" else None
        if head is None:
            return TowerScorer(scorer, pairs)
        return StructuredScorer(scorer, head, pairs, load_extractor(domain), self.names)

    def drawn(self, study: Study) -> list[Pair]:
        """The pairs, each once.

        Raises:
            ConfigError: There is none.
        """
        found = text_pairs(self.axis, self.pairs, self.seed) if "text" in self.sources else []
        if set(self.sources) - {"text"}:
            found += self._about_images(study)
        if not found:
            raise ConfigError(
                f"{study.protocol}: the sources {', '.join(self.sources)} give no pair",
                remedy="add source text, or name a manifest with labels, entities or sentences",
            )
        return list({(p.sample, p.case.view, p.family, p.finding): p for p in found}.values())

    def _about_images(self, study: Study) -> list[Pair]:
        names = known_labels(study.manifests)
        items = self._items(study, names)
        found: list[Pair] = []
        if "image" in self.sources and self.axis == "polarity" and items:
            asked = self.windows.names(study.manifests) if self.windows else names
            found += label_pairs(items, asked, self.seed)
        if self.axis == "laterality" and {"image", "mirror"} & set(self.sources):
            found += self._sided(items, study)
        if "report" in self.sources:
            found += edited_pairs(items, study.manifests, self.axis, self.seed)
        return found

    def _sided(self, items: Sequence[Item], study: Study) -> list[Pair]:
        mirror = "mirror" in self.sources
        pairs = side_pairs(items, study.manifests, self.seed, mirror=mirror, source=self.entities)
        return [p for p in pairs if "image" in self.sources or not p.family.startswith("image-")]

    def _items(self, study: Study, names: Sequence[str]) -> list[Item]:
        if self.windows is not None:
            return windowed_items(study.manifests, study.split, self.windows)
        return sample_items(study.manifests, study.split, names, domain=study.domain)

    def measures(self, evidence: Evidence) -> Measures:
        """The share of right choices, ties counting half; thresholds play no part."""
        return share_measures(self.kind)


def _counts(pairs: Sequence[Pair]) -> dict[str, int]:
    families = sorted({pair.family for pair in pairs})
    return {
        "pairs": len(pairs),
        "findings": len({pair.finding for pair in pairs}),
        **{f"pairs_{name}": sum(p.family == name for p in pairs) for name in families},
    }


def _ways(pairs: Sequence[Pair], asked: Sequence[SentenceScorer]) -> dict[str, int]:
    """How the models answered, and pairs about images of which a head knew neither sentence."""
    heads = [one for one in asked if isinstance(one, StructuredScorer)]
    shown = [pair for pair in pairs if pair.case.item is not None]
    silent = [not (one.knows(p.right) or one.knows(p.wrong)) for one in heads for p in shown]
    return {
        "models_by_head": len(heads),
        "models_by_text": len(asked) - len(heads),
        "pairs_unknown_to_heads": sum(silent),
    }


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PolarityConfig(LinguisticConfig):
    """Affirmed or denied."""

    kind: Literal["polarity"] = "polarity"
    axis: ClassVar[Axis] = "polarity"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LateralityConfig(LinguisticConfig):
    """Left or right, high or low, one side or both."""

    kind: Literal["laterality"] = "laterality"
    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = (
        "text",
        "image",
        "mirror",
        "report",
    )
    axis: ClassVar[Axis] = "laterality"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SeverityConfig(LinguisticConfig):
    """How much, how big, how many, since when, and how it goes on."""

    kind: Literal["severity"] = "severity"
    axis: ClassVar[Axis] = "severity"

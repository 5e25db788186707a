"""What `medvlp narrate` can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroupingConfig:
    """How sentences become steps."""

    block: Annotated[int, Field(ge=1, le=100)] = 2
    """Sentences on each side of a gap whose words are compared."""
    shortest_s: Annotated[float, Field(ge=0)] = 8.0
    """No unit is shorter, unless the whole talk is."""
    least: Fraction = 0.5
    """Evidence from which a gap is a boundary; see `medvlp_video.narration.units`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhaseConfig(GroupingConfig):
    """How steps become phases."""

    block: Annotated[int, Field(ge=1, le=100)] = 6
    shortest_s: Annotated[float, Field(ge=0)] = 30.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NarrationConfig:
    """Settings of the way from transcripts to captions."""

    pause_s: Seconds = 1.0
    """A silence that ends a sentence where the transcript has no punctuation."""
    longest_pause_s: Seconds = 5.0
    """A silence that ends a sentence whatever the punctuation."""
    slowest: Annotated[float, Field(gt=0)] = 1.0
    """Words a second. Where the recogniser times segments alone, and one that abuts the segment
    before takes longer, it is taken to begin in silence."""
    most_words: Annotated[int, Field(ge=2)] = 60
    """Of a sentence; longer ones are divided."""
    least_words: Annotated[int, Field(ge=1)] = 3
    """Of a sentence; shorter ones are left out."""
    least_surgical: Fraction = 0.5
    """Of a sentence's score; those below are left out."""
    long_pause_s: Seconds = 6.0
    """A silence that says as much as a silence can; longer where silences are long throughout."""
    step: GroupingConfig = GroupingConfig()
    phase: PhaseConfig = PhaseConfig()
    quantile: Fraction = 0.5
    """With a bundle: the share of mismatched pairs that a step's frames and text have to beat."""
    caption_words: Annotated[int, Field(ge=3, le=400)] = 40
    """With a language model: most words of a caption."""

"""One talk about one operation: its sentences, which of them count, and the units they form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medvlp.archive.verdict import Reject
from medvlp_video.narration.central import most_central
from medvlp_video.narration.lexicon import Lexicon, Weighed
from medvlp_video.narration.sentences import Sentence, sentences_of
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Dropped, Reason, Transcript, believed
from medvlp_video.narration.units import Unit, Vector, phases_of, vectors_of

Step = tuple[int, ...]
"""Places of a step's sentences."""


@dataclass(frozen=True, kw_only=True)
class Narrative:
    """What became of a transcript."""

    sentences: tuple[Sentence, ...]
    """All that were said, in order of time."""
    scores: tuple[float, ...]
    """How surgical each is."""
    vectors: Mapping[int, Vector]
    """Topics of those that count, by place."""
    phases: tuple[Unit, ...]
    dropped: tuple[Dropped, ...]

    def central(self, places: Sequence[int]) -> int:
        """The place of the sentence that stands for these."""
        best = most_central([self.vectors[i] for i in places], [self.scores[i] for i in places])
        return places[best]

    def span(self, places: Sequence[int]) -> tuple[float, float]:
        """Start and end of what these sentences take, in seconds."""
        return self.sentences[places[0]].start_s, max(self.sentences[i].end_s for i in places)

    def without(self, lost: Mapping[Step, tuple[Reason, float | None]]) -> Narrative:
        """The same talk without some of its steps, and why each was lost."""
        phases = [
            Unit(steps=tuple(step for step in phase.steps if step not in lost))
            for phase in self.phases
        ]
        gone = [
            _dropped(self.sentences[i], reason, score)
            for step, (reason, score) in lost.items()
            for i in step
        ]
        return replace(
            self,
            phases=tuple(phase for phase in phases if phase.steps),
            dropped=(*self.dropped, *gone),
        )


def listen(transcript: Transcript, lexicon: Lexicon, config: NarrationConfig) -> Narrative:
    """Turn a transcript into sentences, weigh them, and group those that count.

    Raises:
        Reject: ``other_language`` or ``nothing_surgical``.
    """
    told = (transcript.language or "").lower().split("-")[0]
    if told and told not in (lexicon.language, _NAMES.get(lexicon.language)):
        raise Reject("other_language")
    segments, dropped = believed(transcript)
    spoken, silent = sentences_of(segments, lexicon, config)
    weighed = [lexicon.weigh(sentence.text) for sentence in spoken]
    faults = [_fault(s, w, config) for s, w in zip(spoken, weighed, strict=True)]
    kept = [i for i, fault in enumerate(faults) if fault is None]
    if not kept:
        raise Reject("nothing_surgical", f"{len(spoken)} sentences")
    lost = [
        _dropped(sentence, fault, one.score)
        for sentence, one, fault in zip(spoken, weighed, faults, strict=True)
        if fault is not None
    ]
    return Narrative(
        sentences=tuple(spoken),
        scores=tuple(one.score for one in weighed),
        vectors=dict(zip(kept, vectors_of([spoken[i].text for i in kept], lexicon), strict=True)),
        phases=tuple(phases_of(spoken, kept, lexicon, config)),
        dropped=(*dropped, *silent, *lost),
    )


_NAMES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian"}
"""What some recognisers write in place of the code."""


def _fault(sentence: Sentence, weighed: Weighed, config: NarrationConfig) -> Reason | None:
    if len(sentence.text.split()) < config.least_words:
        return "too_short"
    if weighed.score >= config.least_surgical:
        return None
    return "off_topic" if weighed.off_topic > 0 else "not_surgical"


def _dropped(sentence: Sentence, reason: Reason, score: float | None) -> Dropped:
    return Dropped(
        start_s=sentence.start_s,
        end_s=sentence.end_s,
        reason=reason,
        text=sentence.text,
        score=score,
    )

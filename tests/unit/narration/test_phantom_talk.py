"""Talk of phantom operations, whose truth is known: what is kept, and where phases begin."""

from collections import Counter

import numpy as np

from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.narrative import listen
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.speech import Segment, Transcript
from medvlp_video.phantom_story import draw_story
from medvlp_video.phantom_words import tell

CHAT = (
    "good morning everybody and welcome to our hospital",
    "somebody please turn the music down",
    "did anyone see the match last night",
    "we will take the questions at the end of the session",
    "the coffee machine on the second floor is broken again",
    "my resident is getting married in june",
    "so i moved here from the coast about six years ago",
    "can the back rows hear me properly",
    "do not forget to subscribe and to visit our website",
    "the following pictures show the hotel of the congress",
    "it was raining the whole way to the airport",
    "she was admitted from the emergency department on a sunday",
    "he had a history of smoking for twenty years",
    "thank you very much for this kind introduction",
    "we had a long talk with the family before",
    "what do you guys think about that",
    "the company has been so kind to lend us this system",
)


def narrated(seed):
    """A phantom operation's talk with chatter in its breaks: segments, and which are about it."""
    rng = np.random.default_rng(seed)
    story = draw_story(rng, 300.0)
    segments, about = [], {}
    for text in tell(rng, story):
        if text.level != "clip":
            continue
        end_s = min(text.end_s, text.start_s + 5)
        segments.append(Segment(start_s=text.start_s, end_s=end_s, text=text.text))
        about[text.start_s] = text.fault != "off-topic"
        if text.end_s - end_s > 4 and rng.random() < 0.35:
            chat = CHAT[int(rng.integers(len(CHAT)))]
            segments.append(Segment(start_s=end_s + 0.5, end_s=end_s + 3.5, text=chat))
            about[end_s + 0.5] = False
    return story, Transcript(segments=tuple(segments)), about


def agreeing(found, truth, within_s=2.0):
    """How many boundaries of the truth have one of their own among those found."""
    free = list(found)
    for at_s in truth:
        near = [f for f in free if abs(f - at_s) <= within_s]
        if near:
            free.remove(min(near, key=lambda f: abs(f - at_s)))
    return len(found) - len(free)


def test_on_phantom_talk_the_filter_is_right_and_boundaries_beat_chance():
    """Measured over 20 operations: precision 1.00, recall 0.97; F1 within 2 s of phases 0.52
    (chance 0.27), of steps 0.63 (chance 0.54: every second gap is a step's)."""
    settings = NarrationConfig(
        phase={"block": 6, "shortest_s": 15, "least": 0.5},
        step={"block": 2, "shortest_s": 5, "least": 0.5},
    )
    lexicon = load_lexicon()
    right = Counter()
    ends = {"phase": np.zeros(3), "step": np.zeros(3)}
    for seed in range(20):
        story, transcript, about = narrated(seed)
        told = listen(transcript, lexicon, settings)
        starts = [told.sentences[i].start_s for i in sorted(told.vectors)]
        for at_s, surgical in about.items():
            kept = any(abs(s - at_s) < 0.01 for s in starts)
            right[surgical, kept] += 1
        rng = np.random.default_rng(seed)
        phases = [told.span(p.sentences)[0] for p in told.phases][1:]
        steps = [told.span(s)[0] for p in told.phases for s in p.steps][1:]
        for level, found, truth in (("phase", phases, story.phases), ("step", steps, story.steps)):
            true = [part.start_s for part in truth][1:]
            drawn = [rng.choice(starts[1:], len(found), replace=False) for _ in range(20)]
            chance = np.mean([agreeing(list(one), true) for one in drawn])
            ends[level] += [agreeing(found, true), chance, (len(found) + len(true)) / 2]
    precision = right[True, True] / (right[True, True] + right[False, True])
    recall = right[True, True] / (right[True, True] + right[True, False])
    assert precision >= 0.97
    assert recall >= 0.92
    (phase, phase_chance), (step, step_chance) = (e[:2] / e[2] for e in ends.values())
    assert phase >= 0.45
    assert phase >= 1.5 * phase_chance
    assert step >= 0.57
    assert step >= step_chance + 0.04

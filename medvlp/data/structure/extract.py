"""Reports to triples: what is where, affirmed, denied or doubted, on which side and how much.

Rules that can be read, over words that are data: every triple names the sentence and the span of
the words that gave it. What the rows mean is told in benchmarks/open_i_triples/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from medvlp.data.assertions import Presence, assertion
from medvlp.data.phrases import Span
from medvlp.data.presence import ABSENT, PRESENT, UNCERTAIN
from medvlp.data.sections import NOT_SEEN, Headings, sections
from medvlp.data.sentences import sentences
from medvlp.data.structure.lexicon import Found, Lexicon
from medvlp.data.structure.places import At, located, loose_side
from medvlp.data.structure.scene import Scene, one_side, strongest
from medvlp.data.structure.states import Stated, stated
from medvlp.data.structure.vocabulary import Vocabulary, load_vocabulary
from medvlp.domain import get_domain
from medvlp.errors import ConfigError

_VALUE = {"present": PRESENT, "absent": ABSENT, "uncertain": UNCERTAIN}
_CACHED = 1 << 16


@dataclass(frozen=True, slots=True)
class Triple:
    """What a sentence says of one observation at one place."""

    anatomy: str
    observation: str
    presence: int
    """1 affirmed, 0 denied, -1 doubted."""

    side: str
    """left, right, bilateral, or empty."""

    severity: str
    """mild, moderate, severe, or empty."""

    sentence: str
    span: Span
    """First character of the words that say it, and the one after the last."""


@dataclass(frozen=True)
class _Said:
    """An observation before it is known for certain where it is."""

    observation: str
    presence: int
    places: tuple[At, ...]
    """Empty where its own words name none."""

    side: str
    """That its words name apart from a place."""

    behind: tuple[Found, ...]
    """Places behind it, which a list that it closes shares."""

    behind_sides: tuple[str, ...]

    own: tuple[At, ...]
    """Those that its phrase itself names, which say no more than that it is there."""

    severity: str
    found: Found


class Extractor:
    """Reads sentences; what a sentence says is kept, because reports repeat their sentences.

    Args:
        vocabulary: Names and the words of one language.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lexicon = Lexicon(vocabulary)
        self._cached = lru_cache(maxsize=_CACHED)(self._read)

    def sentence(self, text: str) -> tuple[Triple, ...]:
        """The triples of one sentence, in the order of its words, none of them twice."""
        return self._cached(text)

    def report(self, text: str, headings: Headings | None = None) -> tuple[Triple, ...]:
        """The triples of a report, in reading order; history, technique and the like say nothing.

        Args:
            text: The report.
            headings: Section headings; English ones by default.
        """
        return tuple(
            triple
            for section in sections(text, headings)
            if section.name not in NOT_SEEN
            for sentence in sentences(section.text)
            for triple in self.sentence(sentence)
        )

    def _read(self, text: str) -> tuple[Triple, ...]:
        sentence = self._lexicon.read(text)
        if not sentence.findings:
            return ()
        seen = self.vocabulary.terms.grammar.seen
        scene = Scene(sentence, self.vocabulary, seen)
        said = [s for each in stated(scene) for s in self._of_state(scene, each)]
        for found in sentence.findings:
            if found.kind != "state":
                said += self._of_words(scene, found)
        said.sort(key=lambda s: s.found.span)
        said = _either_or(scene, said)
        said = _shared(scene, said)
        return tuple(_merged(t for s in said for t in self._triples(text, s)))

    # -- one finding --------------------------------------------------------------------------

    def _of_words(self, scene: Scene, found: Found) -> Iterator[_Said]:
        presence = self._presence(scene, found)
        if presence is None or (found.kind == "denied" and presence == ABSENT):
            return
        inner, before, after = (
            scene.within(found),
            scene.before(found.first),
            scene.after(found.last),
        )
        degrees = [*inner.degrees, *before.degrees] or scene.degree_after(found.last)
        around = [*before.places, *inner.places, *after.places]
        sides = [*inner.sides, *before.sides] or after.sides
        for name in found.names:
            value = ABSENT if found.kind == "denied" else presence
            places = self._telling(name, located(scene, name, around, sides, found))
            yield _Said(
                observation=name,
                presence=value,
                places=tuple(places or self._of_subject(scene, found, name, sides, value)),
                side=loose_side(scene, around, sides),
                behind=tuple(after.places),
                behind_sides=tuple(after.sides),
                own=tuple(located(scene, name, scene.named_by(found), sides)),
                severity=strongest(degrees),
                found=found,
            )

    def _telling(self, name: str, places: Sequence[At]) -> Sequence[At]:
        """Places, if they say more than where the observation is anyway."""
        at = self.vocabulary.observations[name].at
        return () if all(place == (at, "") for place in places) else places

    def _of_subject(
        self, scene: Scene, found: Found, name: str, sides: Sequence[str], value: int
    ) -> list[At]:
        fixed = self.vocabulary.observations[name].fixed
        if found.kind == "denied" or (fixed and value == ABSENT):
            return []
        subject = scene.subject(found.first)
        return located(scene, name, subject.places, sides or subject.sides)

    def _of_state(self, scene: Scene, each: Stated) -> Iterator[_Said]:
        presence = self._presence(scene, each.state)
        if presence is None or (each.denied and presence == ABSENT):
            return
        before, after = scene.before(each.state.first), scene.after(each.state.last)
        side = scene.side_of(each.subject) or loose_side(scene, (), [*before.sides, *after.sides])
        at = each.anatomy
        if at is None or not self.vocabulary.fits(each.observation, at):
            at = self.vocabulary.observations[each.observation].at
        around = (
            scene.before(each.subject.first) if each.subject.first > each.state.last else before
        )
        degrees = (
            before.degrees
            or around.degrees
            or scene.degrees_in(each.state)
            or scene.degree_after(each.state.last)
        )
        yield _Said(
            observation=each.observation,
            presence=ABSENT if each.denied else presence,
            places=((at, side),), side=side, behind=(), behind_sides=(), own=(),
            severity=strongest(degrees), found=each.state,
        )  # fmt: skip

    def _presence(self, scene: Scene, found: Found) -> int | None:
        """1, 0, -1, or None for what is history or advice."""
        text = scene.sentence.text
        spans = dict.fromkeys((found.span, *found.parts))
        if any(assertion(text, span, self.vocabulary.unseen) == "absent" for span in spans):
            return None
        told = (assertion(text, span, self.vocabulary.terms) for span in spans)
        known: Presence = next((value for value in told if value != "present"), "present")
        return _VALUE[known]

    def _triples(self, text: str, said: _Said) -> Iterator[Triple]:
        names, known = self.vocabulary, self.vocabulary.observations[said.observation]
        own = [(anatomy, side or said.side) for anatomy, side in said.own]
        for anatomy, side in said.places or own or ((known.at, said.side),):
            yield Triple(
                anatomy=anatomy,
                observation=names.called(said.observation, anatomy),
                presence=said.presence,
                side=side,
                severity="" if said.presence == ABSENT or known.device else said.severity,
                sentence=text,
                span=said.found.span,
            )


def _either_or(scene: Scene, said: Sequence[_Said]) -> list[_Said]:
    """Of "atelectasis or scarring", each is in doubt."""
    doubted = set()
    for i, (one, other) in enumerate(pairwise(said)):
        between = scene.roles[one.found.last + 1 : other.found.first]
        listed = not {"verb", "break", "stop", "finding"}.intersection(between)
        two = one.observation != other.observation
        if two and listed and "or" in between and ABSENT not in (one.presence, other.presence):
            doubted |= {i, i + 1}
    return [replace(s, presence=UNCERTAIN) if i in doubted else s for i, s in enumerate(said)]


def _shared(scene: Scene, said: Sequence[_Said]) -> list[_Said]:
    """Places of a neighbour for findings whose own words name none."""
    done: list[_Said] = []
    for each in said:
        if done and not each.places and not each.side and each.presence != ABSENT:
            each = _like(scene, each, done[-1])
        done.append(each)
    for i in range(len(done) - 2, -1, -1):
        one, other = done[i], done[i + 1]
        told = other.behind or other.behind_sides
        if not one.places and not one.side and told and _listed(scene, one, other):
            places = located(scene, one.observation, other.behind, other.behind_sides)
            side = loose_side(scene, other.behind, other.behind_sides)
            done[i] = replace(
                _at(scene, one, places or (("", side),)),
                behind=other.behind, behind_sides=other.behind_sides,
            )  # fmt: skip
    return done


def _like(scene: Scene, one: _Said, before: _Said) -> _Said:
    linked = any(
        before.found.last < link.first and link.last < one.found.first
        for link in scene.sentence.links
    )
    # "linear opacities of atelectasis"
    linked = linked or scene.roles[before.found.last + 1 : one.found.first] == ["preposition"]
    if before.presence == ABSENT or not (linked or _listed(scene, before, one)):
        return one
    return _at(scene, one, before.places or (("", before.side),))


def _listed(scene: Scene, one: _Said, other: _Said) -> bool:
    """Whether nothing but conjunctions and adjectives stands between two findings."""
    between = scene.roles[one.found.last + 1 : other.found.first]
    return not {"verb", "break", "stop", "preposition", "finding"}.intersection(between)


def _at(scene: Scene, said: _Said, places: Sequence[At]) -> _Said:
    names, known = scene.vocabulary, scene.vocabulary.observations[said.observation]
    fitting = tuple((a, s) for a, s in places if a and names.fits(said.observation, a))
    if fitting and not known.fixed:
        return replace(said, places=fitting)
    sides = {side for _, side in places}
    paired = names.anatomies[known.at].paired
    return replace(said, side=sides.pop() if paired and len(sides) == 1 else "")


def _merged(triples: Iterator[Triple]) -> list[Triple]:
    """None twice; one observation on the left and on the right is one on both sides."""
    found: list[Triple] = []
    for triple in triples:
        for i, other in enumerate(found):
            if _same(triple, other):
                side = one_side([other.side, triple.side])
                degree = strongest([other.severity, triple.severity])
                presence = max(other.presence, triple.presence)
                found[i] = replace(other, presence=presence, side=side, severity=degree)
                break
        else:
            found.append(triple)
    return found


def _same(one: Triple, other: Triple) -> bool:
    if (one.anatomy, one.observation) != (other.anatomy, other.observation):
        return False
    # What is there and may be there is there.
    if ABSENT in (one.presence, other.presence) and one.presence != other.presence:
        return False
    # "A small right and a moderate left effusion" are two.
    sides, degrees = {one.side, other.side}, {one.severity, other.severity}
    return "" in sides or len(sides) == 1 or len(degrees) == 1


def load_extractor(domain: str, language: str = "en", vocabulary: Path | None = None) -> Extractor:
    """The extractor of a domain.

    Args:
        domain: The domain's name.
        language: Of the reports.
        vocabulary: The user's own words file, or folder of names and words.

    Raises:
        ConfigError: The domain has no vocabulary, or a file cannot be used.
    """
    return _load(domain, language, vocabulary)


@cache
def _load(domain: str, language: str, own: Path | None) -> Extractor:
    folder = get_domain(domain).vocabulary
    if folder is None:
        raise ConfigError(
            f"domain {domain} has no vocabulary of structured findings",
            remedy="use a domain that has one, such as cxr",
        )
    return Extractor(load_vocabulary(folder, language, own))

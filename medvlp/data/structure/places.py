"""What a sentence says around a finding: where it is, on which side, how much of it.

Before a finding stand its adjectives ("small left basilar opacity"), behind it the phrase that
names its place ("in the left lung base"), and failing both the subject of its clause says where
("the left base shows an opacity").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from medvlp.data.structure.lexicon import Found, Sentence
from medvlp.data.structure.vocabulary import Vocabulary

LEFT, RIGHT, BOTH = "left", "right", "bilateral"
_SEVERITY = ("", "mild", "moderate", "severe")
_FARTHEST_SIDE = 3
"""Words that may stand between a side and its place: "the left lateral costophrenic angle"."""

At = tuple[str, str]
"""A place and its side; empty where none is told."""


@dataclass
class Around:
    """What stands on one side of a finding."""

    places: list[Found] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    """Those that belong to no place."""

    degrees: list[str] = field(default_factory=list)


class Scene:
    """A sentence whose words around a finding can be asked for.

    Args:
        sentence: The sentence.
        vocabulary: The names.
        seen: Words such as "noted", which close no clause.
    """

    def __init__(self, sentence: Sentence, vocabulary: Vocabulary, seen: frozenset[str]) -> None:
        self.sentence = sentence
        self.vocabulary = vocabulary
        self.roles = list(sentence.roles)
        self._words = [token.word for token in sentence.tokens]
        self._seen = seen
        self._claimed: set[int] = set()
        self._place = _by_token(sentence.places)
        self._side = _by_token(sentence.sides)
        self._degree = _by_token(sentence.degrees)

    def place_at(self, token: int) -> Found:
        """The place of whose words a token is one."""
        return self._place[token]

    def claim(self, places: Iterable[Found]) -> None:
        """Places of which a state has been said: they are no longer a clause's subject."""
        self._claimed.update(place.first for place in places)

    def word(self, token: int) -> str:
        """A token's word, in small letters."""
        return self._words[token]

    # -- around a finding ---------------------------------------------------------------------

    def before(self, first: int) -> Around:
        """The adjectives before token `first`."""
        found = Around()
        at, sure = first - 1, None
        while at >= 0:
            role = self.roles[at]
            if role == "preposition" and sure is not None:
                # "opacity in the left base and right apical nodule": the base is the opacity's.
                return sure
            if role in ("verb", "break", "stop", "finding", "preposition", "link"):
                break
            if role in ("and", "or", "comma"):
                if not self._joins(at):
                    break
                sure = sure or Around(list(found.places), list(found.sides), list(found.degrees))
            at = self._take(found, at, sure is not None) - 1
        return found

    def within(self, finding: Found) -> Around:
        """What stands between the parts of a finding's phrase."""
        found = Around()
        for (_, end), (start, _) in pairwise(finding.parts):
            for at, token in enumerate(self.sentence.tokens):
                if end <= token.start < start:
                    self._take(found, at, False)
        return found

    def named_by(self, finding: Found) -> list[Found]:
        """The places in a finding's own words: those of "pleural thickening"."""
        return [p for p in self.sentence.places if p.kind == "place" and _in(p, finding)]

    def after(self, last: int) -> Around:
        """The phrase that names a place behind token `last`."""
        found = Around()
        at, apart, behind = last + 1, False, False
        while at < len(self.roles):
            role = self.roles[at]
            if role in ("break", "stop", "finding"):
                break
            if role in ("and", "or", "comma") and self._clause_begins(at + 1):
                break
            if apart and role in ("place", "side") and self.describes(at):
                break
            if role in ("and", "or", "comma"):
                apart, behind = True, False
            if role == "preposition":
                # "in the left base and in the right apex"
                joined = self.roles[at - 1] in ("and", "or", "comma")
                apart, behind = True, not joined
            if role == "place":
                place = self._place[at]
                # "calcified nodes in the left hilum", "soft tissues of the left chest wall"
                if behind and found.places and not self._narrows(place, found.places[-1]):
                    found.sides.append(self.side_of(place))
                else:
                    found.places.append(place)
                at, behind = place.last, False
            elif role == "side" and not self._belongs(at):
                found.sides += self._side[at].names
            at += 1
        found.sides = [side for side in found.sides if side]
        return found

    def subject(self, first: int) -> Around:
        """The places before token `first` in its clause, whatever verbs lie between."""
        found = Around()
        at = first - 1
        while at >= 0 and self.roles[at] != "stop":
            if self.roles[at] == "finding" or (
                self.roles[at] == "place" and self._place[at].first in self._claimed
            ):
                found.sides = []
                break
            if self.roles[at] == "place":
                found.places.insert(0, self._place[at])
                at = self._place[at].first
            elif self.roles[at] == "side" and not self._belongs(at):
                found.sides += self._side[at].names
            at -= 1
        return found

    def degrees_in(self, finding: Found) -> list[str]:
        """The degrees among a finding's own words: a borderline heart."""
        return [n for d in self.sentence.degrees if _in(d, finding) for n in d.names]

    def degree_after(self, last: int) -> list[str]:
        """A degree that is said of a finding before token `last`: "the effusion is small"."""
        verb = False
        for at in range(last + 1, len(self.roles)):
            role = self.roles[at]
            if role == "severity":
                closed = at + 1 == len(self.roles) or self.roles[at + 1] not in (
                    "word",
                    "place",
                    "state",
                )
                return list(self._degree[at].names) if verb and closed else []
            if role in ("break", "stop", "finding", "and", "or"):
                break
            verb = verb or role in ("verb", "comma")
        return []

    def _take(self, found: Around, at: int, joined: bool) -> int:
        """Add what stands at a token; the token at which it begins."""
        if at in self._place:
            found.places.insert(0, self._place[at])
            return self._place[at].first
        if at in self._side and not found.places:
            found.sides += self._side[at].names
        if at in self._degree and not joined:
            found.degrees += self._degree[at].names
        return at

    def _joins(self, at: int) -> bool:
        """Whether a conjunction joins adjectives: "right and left", "patchy, basilar"."""
        before, after = self.roles[at - 1] if at else "stop", self.roles[at + 1]
        if before == "comma":
            before = self.roles[at - 2] if at > 1 else "stop"
        if self.roles[at] == "comma" and before in ("word", "severity"):
            return True
        return before in ("place", "side") and after in ("place", "side", "and", "or")

    def _clause_begins(self, at: int) -> bool:
        """Whether what follows a conjunction has a verb of its own."""
        while at < len(self.roles) and self.roles[at] not in ("and", "comma", "finding", "stop"):
            if self.roles[at] == "verb":
                return self._words[at + 1 : at + 2] == [] or self._words[at + 1] not in self._seen
            at += 1
        return False

    def describes(self, at: int) -> bool:
        """Whether a place or side is the adjective of a finding behind it."""
        last = self._place[at].last if self.roles[at] == "place" else at
        at = last + 1
        while at < len(self.roles) and self.roles[at] in ("word", "severity", "side", "place"):
            at += 1
            if at > last + _FARTHEST_SIDE:
                return False
        return at < len(self.roles) and self.roles[at] == "finding"

    def _narrows(self, place: Found, before: Found) -> bool:
        """Whether a place is a part of the one before it: "in the lung, in its lower lobe"."""
        return any(
            wide in self.vocabulary.above(name)
            for name in place.names
            for wide in before.names
            if "subject" not in (place.kind, before.kind)
        )

    def _belongs(self, at: int) -> bool:
        """Whether a side is that of the place behind it."""
        for after in range(at + 1, min(at + 2 + _FARTHEST_SIDE, len(self.roles))):
            if self.roles[after] == "place":
                return True
            if self.roles[after] not in ("word", "side", "and", "or", "severity", "state"):
                return False
        return False

    # -- sides --------------------------------------------------------------------------------

    def side_of(self, place: Found) -> str:
        """The side that is told of a place: before it, behind it, or of the place it is joined to."""
        inside = [n for s in self.sentence.sides if _in(s, place) for n in s.names]
        return one_side(inside or self._side_before(place) or self._side_behind(place))

    def _side_before(self, place: Found) -> list[str]:
        told: list[str] = []
        words = 0
        at = place.first - 1
        while at >= 0 and words <= _FARTHEST_SIDE:
            role = self.roles[at]
            if role == "side":
                told += self._side[at].names
            elif role == "place" and not told:
                # "left hilar lymph node", "right upper and lower lobes"
                return [side for side in (self.side_of(self._place[at]),) if side]
            elif role in ("and", "or", "comma") and at > 0:
                if self.roles[at - 1] not in ("side", "place") or (told and role == "comma"):
                    break
                if told and self.roles[at - 1] == "place":
                    break
            elif role not in ("word", "severity", "state") or told:
                break
            else:
                words += 1
            at -= 1
        return told

    def _side_behind(self, place: Found) -> list[str]:
        at = place.last + 1
        while at < len(self.roles) and self.roles[at] in ("word", "preposition"):
            at += 1
            if at > place.last + 3:
                return []
        if at < len(self.roles) and self.roles[at] == "side" and not self._belongs(at):
            return list(self._side[at].names)
        return []

    # -- choosing -----------------------------------------------------------------------------

    def located(
        self,
        observation: str,
        places: Sequence[Found],
        sides: Sequence[str],
        finding: Found | None = None,
    ) -> list[At]:
        """The places at which an observation can stand, each with its side, the general left out.

        Args:
            observation: What is there.
            places: That its words name.
            sides: That its words name apart from places.
            finding: The observation's words, which may part an adjective from its noun.
        """
        told = [
            (place, name, self.side_of(place))
            for place in places
            if place.kind != "subject"
            for name in place.names
        ]
        fitting = [t for t in told if self.vocabulary.fits(observation, t[1])]
        if any(place.kind == "place" for place, _, _ in fitting):
            fitting = [t for t in fitting if t[0].kind == "place"]
        names = {name for _, name, _ in fitting}
        special = [
            t
            for t in fitting
            if not self._modifies(t[0], t[1], fitting, finding) and not self._is_above(t[1], names)
        ]
        known = self.vocabulary.observations[observation]
        if known.fixed and told:
            return [(known.at, one_side(sides or [side for _, _, side in told]))]
        chosen = {name for _, name, _ in special}
        shared = one_side(sides or [side for _, name, side in told if name not in chosen])
        found: dict[str, list[str]] = {}
        for _, name, side in special:
            found.setdefault(name, []).append(side or shared)
        if known.device and len(found) > 1:
            return []
        return [(name, one_side(own)) for name, own in found.items()]

    def loose_side(self, places: Iterable[Found], sides: Sequence[str]) -> str:
        """The side that words around a finding name, of whatever place."""
        return one_side(sides or [self.side_of(place) for place in places])

    def _modifies(
        self,
        place: Found,
        name: str,
        told: Sequence[tuple[Found, str, str]],
        finding: Found | None,
    ) -> bool:
        """Whether a place only says which other one is meant: the hilar (calcified) lymph node."""
        behind = {place.last + 1}
        if finding is not None and finding.first == place.last + 1:
            behind.add(finding.last + 1)
        return any(
            other.first in behind and noun not in self.vocabulary.above(name)
            for other, noun, _ in told
        )

    def _is_above(self, name: str, names: Iterable[str]) -> bool:
        return any(name in self.vocabulary.above(other)[1:] for other in names)


def one_side(sides: Iterable[str]) -> str:
    """Left and right together are both."""
    told = {side for side in sides if side}
    if not told:
        return ""
    return BOTH if len(told) > 1 else told.pop()


def strongest(degrees: Iterable[str]) -> str:
    """The strongest degree: of "mild to moderate", moderate."""
    return max(degrees, key=_SEVERITY.index, default="")


def _by_token(found: Iterable[Found]) -> dict[int, Found]:
    return {at: each for each in found for at in range(each.first, each.last + 1)}


def _in(inner: Found, outer: Found) -> bool:
    return outer.first <= inner.first and inner.last <= outer.last

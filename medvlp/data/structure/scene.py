"""What a sentence says around a finding: where it is, on which side, how much of it.

Before a finding stand its adjectives ("small left basilar opacity"), behind it the phrase that
names its place ("in the left lung base"), and failing both the subject of its clause says where
("the left base shows an opacity").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from medvlp.data.structure.lexicon import Found, Sentence
from medvlp.data.structure.vocabulary import Vocabulary

BOTH = "bilateral"
_SEVERITY = ("", "mild", "moderate", "severe")
_JOINTS = ("and", "or", "comma")
_CLOSING = (*_JOINTS, "preposition", "break", "stop")
_ADJECTIVES = ("word", "severity", "side", "place")
_FARTHEST_SIDE = 3
"""Words that may stand between a side and its place: "the left lateral costophrenic angle"."""


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
        self._sides: dict[Found, str] = {}
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
            if role in _JOINTS:
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
        at, apart, whole = last + 1, False, False
        while at < len(self.roles) and not self._ends(at, apart):
            role = self.roles[at]
            if role in _JOINTS:
                apart, whole = True, False
            elif role == "preposition":
                # "in the left base and in the right apex" are two places.
                apart, whole = True, self.roles[at - 1] not in _JOINTS
            elif role == "place":
                self._add_behind(found, self._place[at], whole)
                at, whole = self._place[at].last, False
            elif role == "side" and not self._belongs(at):
                found.sides += self._side[at].names
            at += 1
        return found

    def _ends(self, at: int, apart: bool) -> bool:
        """Whether what stands at a token no longer says where a finding before it is."""
        role = self.roles[at]
        if role in ("break", "stop", "finding"):
            return True
        if role in _JOINTS:
            return self._clause_begins(at + 1)
        return apart and role in ("place", "side") and self.describes(at)

    def _add_behind(self, found: Around, place: Found, whole: bool) -> None:
        # "calcified nodes in the left hilum", "soft tissues of the left chest wall"
        if whole and found.places and not self._narrows(place, found.places[-1]):
            found.sides += [side for side in (self.side_of(place),) if side]
        else:
            found.places.append(place)

    def subject(self, first: int) -> Around:
        """The places before token `first` in its clause, whatever verbs lie between."""
        found = Around()
        at = first - 1
        while at >= 0 and self.roles[at] != "stop":
            if self.roles[at] == "finding" or (at in self._place and self._is_claimed(at)):
                found.sides = []
                break
            at = self._take(found, at, False, loose=True) - 1
        return found

    def _is_claimed(self, at: int) -> bool:
        return self.roles[at] == "place" and self._place[at].first in self._claimed

    def degrees_in(self, finding: Found) -> list[str]:
        """The degrees among a finding's own words: a borderline heart."""
        return [n for d in self.sentence.degrees if _in(d, finding) for n in d.names]

    def degree_after(self, last: int) -> list[str]:
        """A degree that is said of a finding before token `last`: "the effusion is small"."""
        verb = False
        for at in range(last + 1, len(self.roles)):
            role = self.roles[at]
            if at in self._degree and at not in self._side:
                follows = self.roles[at + 1 : at + 2]
                closed = not follows or follows[0] in _CLOSING
                return list(self._degree[at].names) if verb and closed else []
            if role in ("break", "stop", "finding", "and", "or"):
                break
            verb = verb or role in ("verb", "comma")
        return []

    def _take(self, found: Around, at: int, joined: bool, loose: bool = False) -> int:
        """Add what stands at a token; the token at which it begins.

        Args:
            found: Takes it.
            at: The token.
            joined: Whether a conjunction lies between: the degree is another finding's.
            loose: Whether sides count that belong to no place, else those nearer than any place.
        """
        if at in self._place:
            found.places.insert(0, self._place[at])
            return self._place[at].first
        if at in self._side and not (self._belongs(at) if loose else found.places):
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
        while at < len(self.roles) and self.roles[at] in _ADJECTIVES:
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
        """The side told of a place: before it, behind it, or of the place that it is joined to."""
        for each in self.sentence.places:
            if each.first > place.first:
                break
            if each not in self._sides:
                inside = [n for s in self.sentence.sides if _in(s, each) for n in s.names]
                told = inside or self._side_before(each) or self._side_behind(each)
                self._sides[each] = one_side(told)
        return self._sides[place]

    def _side_before(self, place: Found) -> list[str]:
        told: list[str] = []
        words = 0
        at = place.first - 1
        while at >= 0 and words <= _FARTHEST_SIDE:
            role = self.roles[at]
            if role == "place" and not told:
                # "left hilar lymph node", "right upper and lower lobes"
                return [self._sides.get(self._place[at], "")]
            if not self._leads_to_side(at, told):
                break
            told += self._side[at].names if role == "side" else ()
            words += role not in ("side", *_JOINTS)
            at -= 1
        return told

    def _leads_to_side(self, at: int, told: list[str]) -> bool:
        """Whether a side that stands at a token or before it can be that of a place behind it."""
        role = self.roles[at]
        if role in _JOINTS and at > 0:
            before = self.roles[at - 1]
            return (
                before == "side"
                if told and role != "comma"
                else (not told and before in ("side", "place"))
            )
        return role == "side" or (not told and role in ("word", "severity", "state"))

    def _side_behind(self, place: Found) -> list[str]:
        at = place.last + 1
        while at < len(self.roles) and self.roles[at] in ("word", "preposition"):
            at += 1
            if at > place.last + _FARTHEST_SIDE:
                return []
        if at < len(self.roles) and self.roles[at] == "side" and not self._belongs(at):
            return list(self._side[at].names)
        return []


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

"""At which places of the vocabulary a finding stands, of those that its sentence names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medvlp.data.structure.lexicon import Found
from medvlp.data.structure.scene import Scene, one_side

At = tuple[str, str]
"""A place and its side; empty where none is told."""

_Told = tuple[Found, str, str]
"""Words, the name of a place, its side."""


def located(
    scene: Scene,
    observation: str,
    places: Sequence[Found],
    sides: Sequence[str],
    finding: Found | None = None,
) -> list[At]:
    """The places at which an observation can stand, each with its side, the general left out.

    Args:
        scene: The sentence.
        observation: What is there.
        places: That its words name.
        sides: That its words name apart from places.
        finding: The observation's words, which may part an adjective from its noun.
    """
    told = [
        (place, name, scene.side_of(place))
        for place in places
        if place.kind != "subject"
        for name in place.names
    ]
    known = scene.vocabulary.observations[observation]
    if known.fixed and told:
        return [(known.at, one_side(sides or [side for _, _, side in told]))]
    special = _special(scene, observation, told, finding)
    chosen = {name for _, name, _ in special}
    shared = one_side(sides or [side for _, name, side in told if name not in chosen])
    found: dict[str, list[str]] = {}
    for _, name, side in special:
        found.setdefault(name, []).append(side or shared)
    if known.device and len(found) > 1:
        # Two leads of one device end at two places.
        return []
    return [(name, one_side(own)) for name, own in found.items()]


def loose_side(scene: Scene, places: Iterable[Found], sides: Sequence[str]) -> str:
    """The side that words around a finding name, of whatever place."""
    return one_side(sides or [scene.side_of(place) for place in places])


def _special(
    scene: Scene, observation: str, told: Sequence[_Told], finding: Found | None
) -> list[_Told]:
    """Those at which the observation can stand, without adjectives and larger places of others."""
    above = scene.vocabulary.above
    fitting = [t for t in told if scene.vocabulary.fits(observation, t[1])]
    if any(place.kind == "place" for place, _, _ in fitting):
        fitting = [t for t in fitting if t[0].kind == "place"]
    larger = {name for _, smaller, _ in fitting for name in above(smaller)[1:]}
    return [t for t in fitting if t[1] not in larger and not _modifies(scene, t, fitting, finding)]


def _modifies(scene: Scene, one: _Told, told: Sequence[_Told], finding: Found | None) -> bool:
    """Whether a place only says which other one is meant: the hilar (calcified) lymph node."""
    place, name, _ = one
    behind = {place.last + 1}
    if finding is not None and finding.first == place.last + 1:
        behind.add(finding.last + 1)
    return any(
        other.first in behind and noun not in scene.vocabulary.above(name)
        for other, noun, _ in told
    )

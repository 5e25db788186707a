"""What is said of a place: that the heart is large, the aorta calcified, the lungs clear.

A word for a state says nothing alone. Its subjects stand before it ("the heart and mediastinum are
enlarged"), right behind it ("enlarged heart"), or with the state before it ("normal in size and
clear"). A word for normal denies what would be wrong at its subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medvlp.data.structure.lexicon import NORMAL, STEADY, Found
from medvlp.data.structure.scene import Scene

_FARTHEST = 3
"""Words that may stand between a subject and a state without a verb: "heart size mildly large"."""


@dataclass(frozen=True, slots=True)
class Stated:
    """An observation that a state makes of a subject."""

    observation: str
    anatomy: str | None
    """The subject's name; None where the subject is no place of the vocabulary."""

    subject: Found
    state: Found
    denied: bool
    """Whether the words say, when they are affirmed, that it is absent."""


def stated(scene: Scene) -> list[Stated]:
    """Everything that the states of a sentence say; their words become findings of the scene."""
    found: list[Stated] = []
    used: set[int] = set()
    before: tuple[Found, ...] = ()
    for state in (f for f in scene.sentence.findings if f.kind == "state"):
        subjects = _subjects(scene, state, used, before)
        said = [s for subject in subjects for s in _say(scene, state, subject)]
        found += said
        # A word that says nothing of its subjects leaves them to the next one.
        if said or (subjects and STEADY in state.names):
            used.update(subject.first for subject in subjects)
            scene.claim(subjects)
            before = tuple(subjects)
            for at in range(state.first, state.last + 1):
                scene.roles[at] = "finding"
    return found


def _subjects(
    scene: Scene, state: Found, used: set[int], before: Sequence[Found]
) -> Sequence[Found]:
    verb, left = _left(scene, state, used)
    right = _right(scene, state, alone=not left)
    for subjects in (left if verb or not right else [], right, left):
        if any(_applies(scene, state, subject) for subject in subjects):
            return subjects
    if any(_applies(scene, state, subject) for subject in before) and _follows(
        scene, state, before
    ):
        return before
    return _far(scene, state)


def _left(scene: Scene, state: Found, used: set[int]) -> tuple[bool, list[Found]]:
    """The places before a state, back to what ends its clause, and whether a verb lies between."""
    found: list[Found] = []
    verbs = words = 0
    at = state.first - 1
    while at >= 0 and not _ends(scene, at, found, used):
        role = scene.roles[at]
        if role == "place":
            found.insert(0, scene.place_at(at))
            at = found[0].first
        elif role == "verb":
            if verbs or found:
                break
            verbs = 1
        elif not found and role == "word":
            words += 1
        at -= 1
    near = verbs or words <= _FARTHEST
    return verbs > 0, found if near else []


def _ends(scene: Scene, at: int, found: Sequence[Found], used: set[int]) -> bool:
    """Whether a token ends the clause whose subjects are looked for from behind."""
    role = scene.roles[at]
    if role == "break":
        # "is not enlarged"
        return at == 0 or scene.roles[at - 1] != "verb"
    if role == "place":
        return scene.place_at(at).first in used
    if role == "state" or scene.word(at) == ":":
        return bool(found)
    return role in ("finding", "stop")


def _right(scene: Scene, state: Found, alone: bool) -> list[Found]:
    """The nouns to which a state is an adjective.

    Args:
        scene: The sentence.
        state: The adjective.
        alone: Whether nothing stands before it that it can be said of.
    """
    found: list[Found] = []
    joint = 0
    at = state.last + 1
    while at < len(scene.roles) and not _closes(scene, at, found, alone):
        role = scene.roles[at]
        if role == "verb":
            # What stands before a verb is its subject.
            return [place for place in found if place.last < joint] if joint else found
        if role in ("and", "or", "comma"):
            joint = at
        if role == "place":
            found.append(scene.place_at(at))
            at = found[-1].last
        at += 1
    return found


def _closes(scene: Scene, at: int, found: Sequence[Found], alone: bool) -> bool:
    """Whether a token ends the nouns that a state before them describes."""
    role = scene.roles[at]
    if role in ("and", "or", "comma") and not found:
        # "normal and clear lungs", "normal size and shape of the heart"
        follows = scene.roles[at + 1 : at + 2]
        return (role != "and" or follows != ["word"]) and (not alone or follows != ["state"])
    if role == "place":
        return bool(found) and scene.describes(at)
    if role in ("preposition", "state"):
        return bool(found)
    return role in ("finding", "break", "stop")


def _follows(scene: Scene, state: Found, before: Sequence[Found]) -> bool:
    """Whether a state has the subjects of the one before it: "normal in size and clear"."""
    last = max((at for at in range(state.first) if scene.roles[at] == "finding"), default=-1)
    return last >= 0 and all(role != "place" for role in scene.roles[last : state.first])


def _far(scene: Scene, state: Found) -> list[Found]:
    """The nearest place before a state that it can be said of, whatever lies between."""
    if not _denies(scene, state):
        return []
    for place in reversed(scene.sentence.places):
        if place.last < state.first and _applies(scene, state, place):
            return [place]
    return []


def _denies(scene: Scene, state: Found) -> bool:
    return all(name == NORMAL or name.startswith("-") for name in state.names)


def _applies(scene: Scene, state: Found, subject: Found) -> bool:
    return STEADY in state.names or next(_say(scene, state, subject), None) is not None


def _say(scene: Scene, state: Found, subject: Found) -> Iterator[Stated]:
    places = scene.vocabulary.anatomies
    for rule in state.names:
        if rule == NORMAL:
            for name in subject.names if subject.kind == "place" else ():
                yield Stated(places[name].normal, name, subject, state, denied=True)
        elif rule != STEADY:
            says = scene.vocabulary.words.states[int(rule[1:])].says
            for at in _named(scene, rule[1:], subject):
                yield Stated(says, at, subject, state, denied=rule[0] == "-")


def _named(scene: Scene, number: str, subject: Found) -> Iterator[str | None]:
    """The places of a subject of which the rule speaks; None for a subject of its own."""
    if subject.kind == "subject":
        yield from (None for own in subject.names if own == number)
    else:
        allowed = set(scene.vocabulary.words.states[int(number)].of)
        yield from (name for name in subject.names if name in allowed)

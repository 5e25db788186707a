"""What happens in a phantom procedure: phases, steps and instrument-verb-target actions in time.

Recordings begin anywhere in the operation (a random rotation of the usual order), phases swap,
drop out and return, and all phases last equally long on average. So neither the time in the
video nor a duration tells the phase: only the pictures do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Action = tuple[str, str, str]
"""Instrument, verb, target."""

SHORTEST_PHASE_S = 4.0
SHORTEST_ACTION_S = 1.8

PHASES: dict[str, dict[str, tuple[Action, ...]]] = {
    "preparation": {
        "adhesion release": (
            ("grasper", "grasp", "omentum"),
            ("scissors", "cut", "adhesion"),
        ),
        "gallbladder exposure": (
            ("grasper", "retract", "omentum"),
            ("grasper", "retract", "gallbladder"),
        ),
    },
    "calot triangle dissection": {
        "peritoneal opening": (
            ("hook", "dissect", "peritoneum"),
            ("grasper", "retract", "gallbladder"),
        ),
        "duct and artery isolation": (
            ("hook", "dissect", "cystic duct"),
            ("hook", "dissect", "cystic artery"),
        ),
    },
    "clipping and cutting": {
        "duct division": (("clipper", "clip", "cystic duct"), ("scissors", "cut", "cystic duct")),
        "artery division": (
            ("clipper", "clip", "cystic artery"),
            ("scissors", "cut", "cystic artery"),
        ),
    },
    "gallbladder dissection": {
        "bed dissection": (
            ("hook", "dissect", "gallbladder"),
            ("hook", "coagulate", "liver"),
        ),
        "fundus release": (("grasper", "retract", "gallbladder"), ("hook", "dissect", "liver")),
    },
    "gallbladder packaging": {
        "bag placement": (("grasper", "grasp", "specimen bag"),),
        "bagging": (("grasper", "pack", "gallbladder"),),
    },
    "cleaning and coagulation": {
        "lavage": (("irrigator", "irrigate", "liver"), ("irrigator", "aspirate", "fluid")),
        "haemostasis": (
            ("bipolar", "coagulate", "liver"),
            ("bipolar", "coagulate", "blood vessel"),
        ),
    },
    "gallbladder extraction": {
        "bag closure": (("grasper", "retract", "specimen bag"),),
        "port removal": (("grasper", "retract", "abdominal wall"),),
    },
}
"""The usual order; phase -> step -> actions that occur in it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of the procedure."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Deed(Part):
    """One action of one instrument; `name` is its triplet."""

    action: Action
    phase: int
    """Index into `Story.phases`."""
    step: int
    """Index into `Story.steps`."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """A procedure's ground truth; each level covers the whole recording without gap or overlap."""

    phases: tuple[Part, ...]
    steps: tuple[Part, ...]
    step_phase: tuple[int, ...]
    deeds: tuple[Deed, ...]

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return self.phases[-1].end_s


def draw_story(rng: np.random.Generator, duration_s: float) -> Story:
    """A procedure of `duration_s` seconds."""
    order = _order(rng, max(1, int(duration_s / SHORTEST_PHASE_S)))
    phases = _cut(rng, order, 0.0, duration_s)
    steps: list[Part] = []
    step_phase: list[int] = []
    deeds: list[Deed] = []
    for p, phase in enumerate(phases):
        for step in _steps(rng, phase):
            for deed in _actions(rng, phase.name, step):
                action = tuple(deed.name.split(","))
                deeds.append(
                    Deed(
                        name=deed.name,
                        start_s=deed.start_s,
                        end_s=deed.end_s,
                        action=(action[0], action[1], action[2]),
                        phase=p,
                        step=len(steps),
                    )
                )
            steps.append(step)
            step_phase.append(p)
    return Story(
        phases=tuple(phases),
        steps=tuple(steps),
        step_phase=tuple(step_phase),
        deeds=tuple(deeds),
    )


def _order(rng: np.random.Generator, room: int) -> list[str]:
    names = list(PHASES)
    first = int(rng.integers(len(names)))
    names = names[first:] + names[:first]
    if rng.random() < 0.4:
        i = int(rng.integers(len(names) - 1))
        names[i], names[i + 1] = names[i + 1], names[i]
    if rng.random() < 0.4:
        del names[int(rng.integers(len(names)))]
    if rng.random() < 0.4:
        # A step back: a phase seen before returns later on.
        i = int(rng.integers(len(names) - 2))
        names.insert(int(rng.integers(i + 2, len(names) + 1)), names[i])
    return names[:room]


def _steps(rng: np.random.Generator, phase: Part) -> list[Part]:
    names = list(PHASES[phase.name])
    if rng.random() < 0.3:
        names.reverse()
    room = max(1, int((phase.end_s - phase.start_s) / SHORTEST_ACTION_S))
    return _cut(rng, names[:room], phase.start_s, phase.end_s)


def _actions(rng: np.random.Generator, phase: str, step: Part) -> list[Part]:
    choices = PHASES[phase][step.name]
    room = max(1, int((step.end_s - step.start_s) / SHORTEST_ACTION_S))
    count = min(room, int(rng.integers(1, 4)))
    picked = [choices[int(rng.integers(len(choices)))] for _ in range(count)]
    # The same action twice in a row is one action.
    kept = picked[:1] + [b for a, b in pairwise(picked) if a != b]
    return _cut(rng, [",".join(action) for action in kept], step.start_s, step.end_s)


def _cut(rng: np.random.Generator, names: list[str], start_s: float, end_s: float) -> list[Part]:
    """Parts called `names` that fill the stretch, their lengths drawn alike."""
    weights = rng.uniform(0.6, 1.4, len(names))
    edges = start_s + np.concatenate([[0.0], np.cumsum(weights / weights.sum())]) * (
        end_s - start_s
    )
    edges = np.round(edges, 2)
    return [
        Part(name=name, start_s=float(a), end_s=float(b))
        for name, (a, b) in zip(names, pairwise(edges), strict=True)
    ]

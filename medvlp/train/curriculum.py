"""What an experiment says about later steps: objectives' weights, and streams by their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT
from medvlp.data.mix import ONE_STREAM, MixConfig

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WeightChange:
    """Other weights of objectives from a step on."""

    step: Annotated[int, Field(gt=0)]
    """The first optimiser step (from 0) to which they apply."""

    weights: dict[str, Weight]
    """By objective: its kind, or ``clip_2`` for a second one of a kind. An objective of weight 0
    is not computed."""

    over: Annotated[int, Field(ge=0)] = 0
    """Steps over which the weights go from the former to these in a straight line."""


def objective_names(objectives: Sequence[Any]) -> list[str]:
    """Each objective's kind; a kind that is given again gets a number."""
    kinds = [objective.kind for objective in objectives]
    seen = [kinds[:i].count(kind) + 1 for i, kind in enumerate(kinds)]
    return [k if n == 1 else f"{k}_{n}" for k, n in zip(kinds, seen, strict=True)]


def weights_at(
    step: int, start: Mapping[str, float], changes: Sequence[WeightChange]
) -> dict[str, float]:
    """The weight of each objective at an optimiser step.

    Args:
        step: The step, from 0.
        start: The objectives' own weights.
        changes: By ascending step.

    >>> weights_at(4, {"clip": 1.0}, [WeightChange(step=2, weights={"clip": 0.0}, over=4)])
    {'clip': 0.5}
    """
    weights = dict(start)
    for change in changes:
        if step < change.step:
            break
        done = 1.0 if not change.over else min(1.0, (step - change.step) / change.over)
        for name, weight in change.weights.items():
            if name in weights:
                weights[name] = weight if done == 1 else weights[name] * (1 - done) + weight * done
    return weights


def ever_weighted(start: Mapping[str, float], changes: Sequence[WeightChange]) -> set[str]:
    """The objectives that have a weight other than 0 at some step.

    >>> ever_weighted({"clip": 0.0, "labels": 0.0}, [WeightChange(step=2, weights={"clip": 1.0})])
    {'clip'}
    """
    later = [item for change in changes for item in change.weights.items()]
    return {name for name, weight in (*start.items(), *later) if weight and name in start}


def stream_objectives(mix: MixConfig | None, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The objectives, of `names`, for which each stream's samples count."""
    if mix is None:
        return {ONE_STREAM: tuple(names)}
    return {
        stream: tuple(n for n in names if config.objectives is None or n in config.objectives)
        for stream, config in mix.streams.items()
    }


def curriculum_faults(
    mix: MixConfig | None,
    start: Mapping[str, float],
    changes: Sequence[WeightChange],
    known: Sequence[str],
) -> Iterator[str]:
    """What cannot be, in words.

    Args:
        mix: The streams.
        start: The weights of the objectives that the run computes.
        changes: The later weights.
        known: The names of all objectives of the experiment.
    """
    steps = [change.step for change in changes]
    if steps != sorted(set(steps)):
        yield f"weight_schedule: steps {steps} do not ascend"
    if overlapping := [a.step for a, b in itertools.pairwise(changes) if a.step + a.over > b.step]:
        yield f"weight_schedule: the change of step {overlapping[0]} is not over when the next is"
    named = {f"weight_schedule step {c.step}": tuple(c.weights) for c in changes}
    if mix is not None:
        named |= {f"data.mix.streams.{n}": s.objectives or () for n, s in mix.streams.items()}
    for where, names in named.items():
        if unknown := [name for name in names if name not in known]:
            yield f"{where}: no objective {', '.join(unknown)} in {', '.join(known)}"
    yield from _idle_steps(mix, start, changes)


def _idle_steps(
    mix: MixConfig | None, start: Mapping[str, float], changes: Sequence[WeightChange]
) -> Iterator[str]:
    """Steps that would train nothing, because their stream has no objective with a weight."""
    ratios = [(0, {ONE_STREAM: 1})] if mix is None else mix.ratios()
    counted = stream_objectives(mix, tuple(start))
    together = mix is not None and mix.by == "sample"
    turns = {c.step + over for c in changes for over in {0, c.over}}
    for step in sorted(turns | {first for first, _ in ratios}):
        current = [r for first, r in ratios if first <= step][-1]
        weights = weights_at(step, start, changes)
        active = [name for name, ratio in current.items() if ratio]
        idle = [n for n in active if not any(weights[o] for o in counted.get(n, ()))]
        if idle and not (together and len(idle) < len(active)):
            yield f"from step {step} no objective counts for {', '.join(idle)}"
            return

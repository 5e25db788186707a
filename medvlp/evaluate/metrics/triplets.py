"""Action triplets and their components: instrument (i), verb (v), target (t), iv, it and ivt.

A triplet is named ``triplet:<instrument>,<verb>,<target>``, so that which triplets share a
component is read from their names. A component's score is the largest of the triplets that have
it, and it is true where one of them is (Nwoye & Padoy 2022, arXiv:2204.05235).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.evaluate.metrics.average_precision import first_k_measure, precision_measures
from medvlp.evaluate.metrics.estimate import Measure, Measures
from medvlp.evaluate.metrics.statistics import Floats
from medvlp.evaluate.metrics.windows import windows_of

TRIPLET = "triplet:"
"""What names of triplets begin with."""

PARTS = {"instrument": 0, "verb": 1, "target": 2}
"""Component that may be asked for on its own -> its place in a triplet's name."""

COMPONENTS: dict[str, tuple[int, ...]] = {
    "i": (0,), "v": (1,), "t": (2,), "iv": (0, 1), "it": (0, 2), "ivt": (0, 1, 2),
}  # fmt: skip
"""Component -> the places of a triplet's name that make it."""


def parts_of(triplet: str) -> tuple[str, str, str]:
    """Instrument, verb and target of a triplet's name.

    >>> parts_of("triplet:hook,dissect,cystic_duct")
    ('hook', 'dissect', 'cystic_duct')

    Raises:
        ValueError: The name is no triplet's.
    """
    instrument, verb, target = triplet.removeprefix(TRIPLET).split(",")
    return instrument, verb, target


def groups(triplets: Sequence[str], component: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """A component's classes, in the order of their first triplet, and each triplet's class.

    >>> groups(["hook,cut,gut", "hook,grasp,gut"], "it")
    (('hook,gut',), array([0, 0]))
    """
    places = COMPONENTS[component]
    own = [",".join(parts_of(triplet)[place] for place in places) for triplet in triplets]
    names = tuple(dict.fromkeys(own))
    return names, np.array([names.index(name) for name in own])


def disentangle(value_WL: Floats, group_L: NDArray[np.int64]) -> Floats:
    """(W,G) the largest value of each group of columns."""
    columns = [value_WL[:, group_L == g].max(axis=1) for g in range(group_L.max() + 1)]
    return np.stack(columns, axis=1)


def triplet_measures(k: Sequence[int]) -> Measures:
    """Average precision of all six components, and recall of true triplets among the k first.

    Components that were asked for on their own (rows named ``instrument:hook``) are scored by
    these rows, all others by `disentangle`; the truth is always that of the triplets.

    Args:
        k: Depths for the triplets.
    """

    def measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
        windows = windows_of(rows)
        column = {name: i for i, name in enumerate(windows.names)}
        triplets = [name for name in windows.names if name.startswith(TRIPLET)]
        chosen = [column[name] for name in triplets]
        # A window of which one triplet is unknown cannot say what is absent.
        known = windows.where(~_unknown(windows.label_WL[:, chosen]))
        score_WT, true_WT = known.score_WL[:, chosen], known.label_WL[:, chosen] == 1
        found: list[Measure] = []
        for component in COMPONENTS:
            names, group = groups(triplets, component)
            score = disentangle(score_WT, group)
            for part, place in PARTS.items():
                asked = [column[f"{part}:{name}"] for name in names if f"{part}:{name}" in column]
                if COMPONENTS[component] == (place,) and len(asked) == len(names):
                    score = known.score_WL[:, asked]
            found += precision_measures(
                f"_{component}", names, score, disentangle(true_WT, group) == 1,
                known.video_W, known.patient_V, clusters,
            )  # fmt: skip
        for depth in k:
            found.append(
                first_k_measure(
                    f"triplets_in_first_{depth}",
                    score_WT,
                    true_WT,
                    depth,
                    known.clusters(),
                    clusters,
                )
            )
        return found

    return measures


def presence_measures(rows: pl.DataFrame, clusters: int) -> list[Measure]:
    """Average precision of labels that may hold together, such as tools."""
    windows = windows_of(rows)
    known = windows.where(~_unknown(windows.label_WL))
    return precision_measures(
        "", known.names, known.score_WL, known.label_WL == 1,
        known.video_W, known.patient_V, clusters,
    )  # fmt: skip


def _unknown(label_WL: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(label_WL).any(axis=1))

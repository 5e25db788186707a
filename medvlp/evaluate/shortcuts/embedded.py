"""What a linear reader makes of image embeddings: site, scanner, view or sex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medvlp.evaluate.shortcuts.features import Floats

FOLDS = 5

LEAST_PATIENTS = 10
"""With a fact and without it; fewer tell nothing, and could be recognised."""


def read_off(
    embedding_NE: Floats, target_N: NDArray[np.bool_], patient: Sequence[str]
) -> NDArray[np.float64] | None:
    """(N,) probabilities of a fact by a logistic probe on other patients' embeddings.

    Patients never stand on both sides of a fold. At AUROC 0.5 the embeddings do not give the fact
    away to a linear reader; above it, a head trained on them can use it.

    Args:
        embedding_NE: Image embeddings.
        target_N: Which samples the fact is true of.
        patient: Their patients.

    Returns:
        None where fewer than `LEAST_PATIENTS` patients have the fact, or lack it.
    """
    names = np.asarray(patient)
    least = min(len(np.unique(names[target_N])), len(np.unique(names[~target_N])))
    if least < LEAST_PATIENTS:
        return None
    score_N = np.full(len(names), 0.5)
    for train, test in GroupKFold(FOLDS).split(embedding_NE, target_N, names):
        if len(np.unique(target_N[train])) == 2:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            probe.fit(embedding_NE[train], target_N[train])
            score_N[test] = probe.predict_proba(embedding_NE[test])[:, 1]
    return score_N

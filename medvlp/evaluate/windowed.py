"""Windows of recordings scored by words: what the tasks about video have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medvlp.data.items import Item
from medvlp.data.permuted import permute_images
from medvlp.data.prompts import PromptSet
from medvlp.data.randomness import generator
from medvlp.evaluate.cases import left_out
from medvlp.evaluate.predict import Predicted, Scorer, Study, predict_labels


def predict_windows(
    study: Study,
    scorers: Sequence[Scorer],
    prompts: PromptSet,
    items: Sequence[Item],
    train: Sequence[Item],
    *,
    window_s: float,
    stride_s: float,
) -> Predicted:
    """Scores of all the prompts' labels; windows that no item stands for are counted.

    Args:
        study: Where the windows come from.
        scorers: The models, fed as the protocol says.
        prompts: What they are asked.
        items: Windows of the evaluated split, labelled as the prompts' names.
        train: Windows of the training split.
        window_s: Length of a window in seconds.
        stride_s: Seconds between the starts of neighbouring windows.

    Raises:
        ConfigError: There is nothing to score.
    """
    found = predict_labels(study, scorers, prompts, prompts.names, items, train)
    lost = left_out(items, study.manifests, study.split, window_s=window_s, stride_s=stride_s)
    return dataclasses.replace(found, counts=found.counts | lost)


def window_cosines(
    study: Study, scorers: Sequence[Scorer], windows: Sequence[Item], texts: Sequence[str]
) -> Iterator[tuple[str, bool, NDArray[np.floating]]]:
    """(W,Q) cosines of windows and texts by every model that has read text, then random ones.

    Args:
        study: Gives the draws of the random ones.
        scorers: The models, fed as the protocol says.
        windows: What is looked at.
        texts: What is asked.

    Yields:
        Name, whether it is a control, and the scores.
    """
    for scorer in scorers:
        if scorer.control == "supervised-unimodal":
            continue
        blind = scorer.control == "image-blind"
        image_WE = scorer.embed(permute_images(windows, study.seed) if blind else windows)
        score_WQ = image_WE @ scorer.bundle.embed_text(texts).T
        yield scorer.name, scorer.control is not None, score_WQ
    rng = generator(study.seed, 0, "moments", "chance")
    yield "chance", True, rng.random((len(windows), len(texts)))

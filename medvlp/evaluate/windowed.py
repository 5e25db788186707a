"""Windows of recordings scored by words: what the tasks about video have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medvlp.data.items import Item
from medvlp.data.prompts import PromptSet
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

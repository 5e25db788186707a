"""A bundle's model as it was before any training: the control of a random encoder."""

from __future__ import annotations

from typing import cast

import torch

from medvlp.digest import digest_plain
from medvlp.domain import get_domain
from medvlp.losses.objective import Objective
from medvlp.models.bundle import Bundle
from medvlp.models.described import drawn


def reinitialised(bundle: Bundle, seed: int) -> Bundle:
    """The bundle's architecture with weights drawn anew, as before any training.

    Args:
        bundle: Left as it is.
        seed: Of the weights.
    """
    channels = bundle.preprocess.config.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, objectives = drawn(
            bundle.info, get_domain(bundle.info.domain), channels, bundle.tokenizer
        )
        for objective in objectives.values():
            cast(Objective, objective).settle(model.text)
    return Bundle(
        bundle.info,
        digest_plain({"bundle": bundle.digest, "reinitialised": seed}),
        model=model,
        objectives=objectives,
        preprocess=bundle.preprocess,
        tokenizer=bundle.tokenizer,
        device=bundle.device,
    )

"""Texts in the joint space before they are normalised, as rules that weigh words need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvlp.data.tokenizer import encode_words
from medvlp.models.two_tower import TwoTower


@dataclass(frozen=True, kw_only=True)
class ProjectedText:
    """One text in the joint space before it is normalised."""

    pooled_E: NDArray[np.float64]
    words_TE: NDArray[np.float32]
    """Projected tokens without the tokenizer's special ones; all tokens if there are no others."""


@torch.inference_mode()
def project_text(model: TwoTower, tokenizer: Any, text: str, device: torch.device) -> ProjectedText:
    """One text, alone, so that its numbers never depend on those beside it.

    Args:
        model: The two towers.
        tokenizer: The bundle's.
        text: Cut off at the text tower's longest.
        device: Of the model.
    """
    ids_T, word_T = encode_words(tokenizer, text, model.text.max_tokens, model.text.max_sentences)
    ids_1T = ids_T[None].to(device)
    features = model.text(ids_1T, torch.ones_like(ids_1T, dtype=torch.bool))
    tokens_TE = model.project_tokens(features.tokens_MTD[0]).float()
    return ProjectedText(
        pooled_E=model.text_projection(features.pooled_MD)[0].double().cpu().numpy(),
        words_TE=(tokens_TE[word_T] if word_T.any() else tokens_TE).cpu().numpy(),
    )

"""Texts in the joint space before they are normalised, as rules that weigh words need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvlp.data.tokenizer import encode_words
from medvlp.encoding import ReadText
from medvlp.models.two_tower import TwoTower


@dataclass(frozen=True, kw_only=True)
class ProjectedText:
    """One text in the joint space before it is normalised."""

    pooled_E: NDArray[np.float64]
    words_TE: NDArray[np.float32]
    """Projected tokens without the tokenizer's special ones; all tokens if there are no others."""

    states_TD: NDArray[np.float32]
    """The same before the projection."""

    sentences_SD: NDArray[np.float32] | None
    """Its sentences before the projection; None from towers that tell none apart."""

    def read(self, device: torch.device) -> ReadText:
        """As objectives take it that align words with places."""
        return ReadText(
            state_TD=torch.from_numpy(self.states_TD).to(device),
            word_TE=torch.from_numpy(self.words_TE).to(device),
            sentence_SD=None
            if self.sentences_SD is None
            else torch.from_numpy(self.sentences_SD).to(device),
        )


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
    if not word_T.any():
        word_T = torch.ones_like(word_T)
    tokens_TE = model.project_tokens(features.tokens_MTD[0]).float()
    sentence_MSD = features.sentence_MSD
    return ProjectedText(
        pooled_E=model.text_projection(features.pooled_MD)[0].double().cpu().numpy(),
        words_TE=tokens_TE[word_T].cpu().numpy(),
        states_TD=features.tokens_MTD[0][word_T].float().cpu().numpy(),
        # Rows of sentences that the text does not have are zero.
        sentences_SD=None
        if sentence_MSD is None
        else sentence_MSD[0][sentence_MSD[0].any(1)].float().cpu().numpy(),
    )

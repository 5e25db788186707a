"""Masked language modelling beside the image (ALBEF: arXiv:2107.07651, section 3.2).

Words are hidden from the text tower, and the decoder's layers, which see the image, restore them
from what the tower makes of the rest.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings
from medvlp.losses.contrastive import widened
from medvlp.losses.fusion.decoder import TextDecoder
from medvlp.losses.masked_text import hide


class Masker(nn.Module):
    """Hides words and restores them through a decoder's layers.

    Args:
        width: The decoder's.
        text: The text tower's.
        fraction: Share of the words' tokens that are predicted.
        tokens: The tokenizer's ids.
    """

    def __init__(self, width: int, text: int, fraction: float, tokens: TokenIds) -> None:
        super().__init__()
        self.fraction = fraction
        self.tokens = tokens
        self.text = nn.Linear(text, width)
        self.text_norm = nn.LayerNorm(width)

    def forward(
        self, decoder: TextDecoder, encodings: Encodings, batch: Batch, memory_BPW: Tensor
    ) -> Tensor:
        """Negative log-likelihoods (nats, K) of the hidden tokens, from a fresh draw.

        Args:
            decoder: Whose layers, and embeddings of tokens, are used.
            encodings: Gives the text tower.
            batch: Texts longer than the decoder's are cut behind the tower.
            memory_BPW: Of each image.
        """
        ids_MT, mask_MT = batch.text_BNT.flatten(0, 1), batch.text_mask_BNT.flatten(0, 1)
        altered_MT, hidden_MT = hide(ids_MT, mask_MT, self.fraction, self.tokens)
        # Absent texts are read, too: where ranks share the tower's weights, all must take part.
        features = encodings.read(altered_MT, mask_MT)
        present_M, longest = mask_MT.any(1), decoder.config.max_tokens
        owner_K = batch.text_mask_BNT.any(2).nonzero()[:, 0]
        state_KTW = self.text_norm(self.text(features.tokens_MTD[present_M, :longest]))
        hidden_KTW = decoder.both_ways(state_KTW, mask_MT[present_M, :longest], memory_BPW[owner_K])
        hidden_KT = hidden_MT[present_M, :longest]
        logits_KV = widened(decoder.logits(hidden_KTW[hidden_KT]))
        wanted_K = ids_MT[present_M, :longest][hidden_KT]
        loss_K = F.cross_entropy(logits_KV, wanted_K, reduction="none")
        # A batch in which nothing is hidden still depends on the tower's weights.
        return loss_K + 0.0 * widened(features.pooled_MD).sum()

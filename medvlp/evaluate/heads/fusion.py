"""A classifier over an image and a question: the question looks at the image, then one answers.

Shape letters: B batch, Q width of question embeddings, P visual tokens, D the image tower's width,
W the head's width, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvlp.evaluate.heads.visual import Visual


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to learn or to answer."""

    image: int
    """The image's row in `Visual`."""

    question: int
    """The question's row among the embeddings."""

    answer: int = -1
    """The answer's number; -1 where it is not to be learnt."""


class Fusion(nn.Module):
    """Attention from the question to the image's tokens, then two layers.

    Args:
        width: W.
        heads: Attention heads.
        question: Q.
        visual: (P, D) of the visual tokens.
        answers: A.
    """

    def __init__(
        self, width: int, heads: int, question: int, visual: tuple[int, int], answers: int
    ) -> None:
        super().__init__()
        self.question = nn.Linear(question, width)
        self.visual = nn.Linear(visual[1], width)
        self.visual_norm = nn.LayerNorm(width)
        self.place = nn.Parameter(0.02 * torch.randn(visual[0], width))
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.answer = nn.Sequential(
            nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.GELU(),
            nn.Linear(width, answers),
        )  # fmt: skip

    def forward(self, question_BQ: Tensor, visual_BPD: Tensor) -> Tensor:
        """Logits (B,A)."""
        question_BW = self.question(question_BQ)
        memory_BPW = self.visual_norm(self.visual(visual_BPD)) + self.place
        seen_B1W, _ = self.look(question_BW[:, None], memory_BPW, memory_BPW, need_weights=False)
        seen_BW = seen_B1W[:, 0]
        fused_BX = torch.cat([question_BW, seen_BW, question_BW * seen_BW], dim=-1)
        logits: Tensor = self.answer(fused_BX)
        return logits


def case_losses(
    model: Fusion, visual: Visual, question_NQ: Tensor, cases: Sequence[Case]
) -> Tensor:
    """(B,) cross-entropies."""
    logits_BA = case_logits(model, visual, question_NQ, cases)
    answer_B = torch.tensor([case.answer for case in cases], device=logits_BA.device)
    return F.cross_entropy(logits_BA, answer_B, reduction="none")


def case_logits(
    model: Fusion, visual: Visual, question_NQ: Tensor, cases: Sequence[Case]
) -> Tensor:
    """(B,A) logits."""
    visual_BPD = visual.tokens([case.image for case in cases])
    logits: Tensor = model(question_NQ[[case.question for case in cases]], visual_BPD)
    return logits

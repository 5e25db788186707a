"""A memory of silent videos, from which narrated ones retrieve what looks like their texts.

Shape letters: S entries of the memory, Q queries, M videos that asked, E joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from medvlp.config import STRICT
from medvlp.data.batch import Batch
from medvlp.encoding import Encodings, Sizes, TextFeatures
from medvlp.losses.contrastive import widened
from medvlp.losses.gather import contrast_clip, gather_rows
from medvlp.losses.objective import Objective, chosen_texts

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MemoryConfig:
    """Retrieval-augmented contrast with silent videos (OphCLIP, arXiv:2411.15421).

    From the paper: videos without narration are kept in a memory that is renewed as training goes
    on, and the entries most like a narrated video, by inner product, supervise it further. Its
    formulas could not be read. Ours: with ``r`` the normalised mean of the K nearest entries,
    weighed by the softmax of their cosines with the query at the model's temperature, the term is
    InfoNCE of ``r`` with the side that did not ask: it has no gradient to the memory or the query.

    Samples without any text fill the memory: give them a stream of their own with
    `texts.required` false. A text of the first place is a sample's own.
    """

    kind: Literal["memory"] = "memory"
    weight: float = 1.0
    size: Count = 30_000
    """S, entries at most; the oldest go first."""

    retrieved: Count = 8
    """K."""

    max_age: Count | None = None
    """Batches, of those that the objective sees in training, after which an entry goes."""

    query: Literal["text", "clip"] = "text"
    """What asks: a video's own text, and the video learns; or the video, and its text learns."""

    retrieve: bool = True
    """Whether anything is asked. False leaves all else as it is, batch for batch: the ablation."""

    def build(self, sizes: Sizes) -> Objective:
        """The objective with an empty memory."""
        return MemoryObjective(self, sizes.embed)


class MemoryObjective(Objective):
    """`contrast_clip` of what was retrieved; in training, silent videos then enter the memory."""

    scope: ClassVar[Literal["batch", "sample"]] = "batch"
    reads: ClassVar[frozenset[str]] = frozenset(
        {"image_BE", "text_BNE", "text_mask_BNT", "scale", "recording_B"}
    )

    def __init__(self, config: MemoryConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.memory = Memory(config.size, config.max_age, width)

    def forward(self, encodings: Encodings, batch: Batch) -> Tensor:
        """The loss over all ranks.

        Raises:
            ValueError: The batch does not say of which recordings it is.
        """
        if batch.recording_B is None:
            raise ValueError("memory: the batch has no recording_B")
        loss = self._contrast(encodings, batch, batch.recording_B)
        if self.training:
            silent_B = ~batch.text_mask_BNT.any(2).any(1)
            self.memory.take(encodings.image_BE[silent_B], batch.recording_B[silent_B])
        return loss

    def settle(self, read: Callable[[Tensor, Tensor], TextFeatures]) -> None:
        """Forget: a bundle holds nothing of the videos that it was trained on."""
        self.memory.forget()

    def _contrast(self, encodings: Encodings, batch: Batch, recording_B: Tensor) -> Tensor:
        image_BE, text_BE = encodings.image_BE, encodings.text_BNE[:, 0]
        nothing = 0.0 * (image_BE.sum() + text_BE.sum())
        if not self.config.retrieve:
            return nothing
        told_B = chosen_texts(batch, "first").any(1)
        image_QE, text_QE = image_BE[told_B], text_BE[told_B]
        by_text = self.config.query == "text"
        found_QE = self.memory.nearest(
            text_QE if by_text else image_QE,
            recording_B[told_B],
            self.config.retrieved,
            encodings.scale,
        )
        has_Q = (found_QE != 0).any(1)
        found_ME, owner_M = found_QE[has_Q], has_Q.nonzero()[:, 0]
        if by_text:
            return nothing + contrast_clip(image_QE, found_ME, owner_M, encodings.scale)
        order_M = torch.arange(len(owner_M), device=owner_M.device)
        return nothing + contrast_clip(found_ME, text_QE[has_Q], order_M, encodings.scale)


class Memory(nn.Module):
    """Embeddings of recordings, oldest first, the same on all ranks.

    Its buffers are as long as there are entries, and travel in checkpoints, so that a resumed run
    asks the same memory.

    Args:
        size: Entries at most.
        max_age: Batches after which an entry goes; None for never.
        width: E.
    """

    entry_SE: Tensor
    recording_S: Tensor
    taken_S: Tensor
    batches: Tensor

    def __init__(self, size: int, max_age: int | None, width: int) -> None:
        super().__init__()
        self.size = size
        self.max_age = max_age
        self.register_buffer("entry_SE", torch.empty(0, width))
        self.register_buffer("recording_S", torch.empty(0, dtype=torch.long))
        self.register_buffer("taken_S", torch.empty(0, dtype=torch.long))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.entry_SE)

    @torch.no_grad()
    def take(self, video_KE: Tensor, recording_K: Tensor) -> None:
        """End a batch: entries grow older, and all ranks' new ones replace their recordings' own.

        Args:
            video_KE: This rank's silent videos, normalised; those not finite are left out.
            recording_K: The recording of each.
        """
        video_KE, recording_K = gather_rows(video_KE.detach()), gather_rows(recording_K)
        # The guard skips the update of such a batch; an entry would spoil all later ones.
        sound_K = video_KE.isfinite().all(1)
        # In an order that does not depend on which rank had which.
        recording_N, order_N = torch.unique(recording_K[sound_K], return_inverse=True)
        video_NE = widened(video_KE[sound_K]).to(self.entry_SE.dtype)
        new_NE = video_NE.new_zeros(len(recording_N), video_NE.shape[1])
        new_NE = F.normalize(new_NE.index_add(0, order_N, video_NE), dim=1)
        self.batches += 1
        kept_S = ~torch.isin(self.recording_S, recording_N)
        if self.max_age is not None:
            kept_S &= self.batches - self.taken_S < self.max_age
        now_N = self.batches.expand(len(recording_N))
        self.entry_SE = torch.cat([self.entry_SE[kept_S], new_NE])[-self.size :]
        self.recording_S = torch.cat([self.recording_S[kept_S], recording_N])[-self.size :]
        self.taken_S = torch.cat([self.taken_S[kept_S], now_N])[-self.size :]

    @torch.no_grad()
    def nearest(
        self, query_QE: Tensor, recording_Q: Tensor, count: int, scale: Tensor | float
    ) -> Tensor:
        """The weighed mean of the entries with the largest inner products, normalised (Q,E).

        Zero where there is no entry but those of the query's own recording.

        Args:
            query_QE: Normalised.
            recording_Q: The recording of each.
            count: How many entries.
            scale: Inverse temperature of their weights.
        """
        with torch.autocast(query_QE.device.type, enabled=False):
            query_QE = widened(query_QE)
            entry_SE = self.entry_SE.to(query_QE.dtype)
            if not len(entry_SE):
                return torch.zeros_like(query_QE)
            own_QS = recording_Q[:, None] == self.recording_S
            cosine_QS = (query_QE @ entry_SE.T).masked_fill(own_QS, -torch.inf)
            best_QC, place_QC = cosine_QS.topk(min(count, len(entry_SE)), 1)
            weight_QC = (scale * best_QC).softmax(1).nan_to_num(0.0)
            return F.normalize(torch.einsum("qc,qce->qe", weight_QC, entry_SE[place_QC]), dim=1)

    @torch.no_grad()
    def forget(self) -> None:
        """Empty it."""
        for name in ("entry_SE", "recording_S", "taken_S"):
            setattr(self, name, getattr(self, name)[:0])
        self.batches.zero_()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # As many entries as were saved.
        for name in ("entry_SE", "recording_S", "taken_S"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if saved is not None and saved.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

"""The typed tensors of one step.

Shape letters used in the whole project: B batch, N texts of a sample, T tokens, P patches,
L labels, R regions, F frames, C channels, D width (depth in image shapes), H, W height and width,
E the joint embedding's width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvlp.data.preprocess import Preprocess
from medvlp.errors import RunError


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read.

    Args:
        sample: Its pseudonym.
        reason: A reader's code, or the system's word for it.

    Worker processes hand it over as a value, because an exception would cross the process
    boundary with a traceback in its message.
    """

    sample: str
    reason: str

    def error(self) -> RunError:
        """What the training process raises for it."""
        return RunError(
            f"sample {self.sample} cannot be read ({self.reason}), nor can others in its place",
            remedy="restore its files, or index the archive again without them",
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input; objectives read it, nothing changes it."""

    image: Tensor
    """(B,C,H,W), (B,C,D,H,W) or (B,F,C,H,W), float32; before `ready`, the stored arrays."""

    text_BNT: Tensor
    """Token ids, padded."""

    text_mask_BNT: Tensor
    """True where a token is real; a row that is False throughout is an absent text."""

    level_BN: Tensor
    """Index into `medvlp.data.tables.LEVELS` of each text; -1 where absent."""

    labels_BL: Tensor
    """1 present, 0 absent, -1 uncertain, NaN unknown."""

    sample: tuple[str, ...]
    """Pseudonymous sample ids, for messages and predictions."""

    confidence_BN: Tensor | None = None
    """How sure each text's source is of its words, in [0,1], float32; 1 where it does not say."""

    relations_BAQ: Tensor | None = None
    """int8, what the reports say of each observation at each anatomy: 1 present, 0 absent, -1
    uncertain, -2 not told; None where the run asks for no entities."""

    told_BNQ: Tensor | None = None
    """int8, the same for each text by itself, over all anatomies."""

    side_BN: Tensor | None = None
    """int8, sides of what each text affirms: 1 left, 2 right, 3 both, 0 none named."""

    place_BNA: Tensor | None = None
    """int8, 1 for the anatomies at which each text affirms something, 0 elsewhere."""

    cover_BRDHW: Tensor | None = None
    """float32, share of each cell (`RegionConfig.cell`) that lies in region r of the augmented
    image; all 0 where it is not drawn, or not in view as the configuration wants it. None where no
    objective reads regions."""

    region_text_BRT: Tensor | None = None
    """Token ids of what each sample's reports say of each region, padded."""

    region_mask_BRT: Tensor | None = None
    """True where a token is real; False throughout where nothing is said."""

    normal_BR: Tensor | None = None
    """Whether the reports affirm and doubt nothing there."""

    patient_B: Tensor | None = None
    """A number of each sample's patient, int64 and not negative, the same in every batch."""

    recording_B: Tensor | None = None
    """The same of each sample itself: spans of one recording share it."""

    seed_B: Tensor | None = None
    """A number of each item, int64, drawn anew in each epoch: from it objectives draw what they
    need for the sample, whatever shares its batch and whichever rank holds it."""

    stream: tuple[str, ...] = ()
    """The data stream that each sample was drawn from, in a run; else empty."""

    drawn_BK: Tensor | None = None
    """Augmentation that was drawn and waits for `ready`; it stays on the CPU, which steers it."""

    failed: tuple[tuple[BadSample, ...], ...] = ()
    """Of each sample, those that could not be read and that it stands in for."""

    def to(self, device: torch.device, *, images: bool = True) -> Batch:
        """The same batch with its tensors on `device`; the images only if `images`."""
        stays = () if images else ("image",)
        return self._with(lambda value: value.to(device, non_blocking=True), but=stays)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU fetches while it computes."""
        return self._with(Tensor.pin_memory)

    def ready(self, preprocess: Preprocess) -> Batch:
        """The batch with its stored arrays turned into the model input, on their device."""
        image = preprocess.tensor(self.image, self.drawn_BK)
        return dataclasses.replace(self, image=image, drawn_BK=None)

    def _with(self, change: Callable[[Tensor], Tensor], but: Collection[str] = ()) -> Batch:
        changed: dict[str, Any] = {
            f.name: change(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
            and f.name not in ("drawn_BK", *but)
        }
        return dataclasses.replace(self, **changed)

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        taken = {name: value[rows] for name, value in held.items() if value is not None}
        return dataclasses.replace(self, **taken)

    def rows(self, index_K: Tensor) -> Batch:
        """The batch of some of its samples."""
        chosen: dict[str, Any] = {
            f.name: value[index_K]
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        kept = index_K.tolist()
        chosen["sample"] = tuple(self.sample[i] for i in kept)
        chosen["stream"] = tuple(self.stream[i] for i in kept)
        chosen["failed"] = tuple(self.failed[i] for i in kept if self.failed)
        return dataclasses.replace(self, **chosen)


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """What an objective that alters or writes text needs to know of the tokenizer."""

    count: int
    """Entries of the vocabulary."""

    mask: int | None
    """The id that hides a token, if the tokenizer has one."""

    special: tuple[int, ...]
    """Ids that stand for no word: padding, beginning, end, mask, ..."""

    begin: int | None = None
    """The id with which a text begins, if the tokenizer has one."""

    end: int | None = None
    """The id with which a text ends, if the tokenizer has one."""

    sentence: int | None = None
    """The id with which each sentence begins, where the tokenizer marks sentences."""

    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]] | None = None
    """Texts to padded (M,T) ids and mask, for objectives that ask by words of their own."""

"""Items to batches: every draw follows from (seed, epoch, item)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from medvlp.data.batch import BadSample, Batch
from medvlp.data.cache import ArrayCache
from medvlp.data.items import Item
from medvlp.data.mirror import Mirror
from medvlp.data.mix import ONE_STREAM
from medvlp.data.plan import Index
from medvlp.data.preprocess import Mirrors, Preprocess, stack_arrays
from medvlp.data.presence import UNTOLD
from medvlp.data.randomness import generator
from medvlp.data.region_maps import RegionMaps
from medvlp.data.relations import (
    NO_NAMES,
    Names,
    present_places,
    relation_matrix,
    told_vector,
)
from medvlp.data.tables import LEVELS
from medvlp.data.text_draw import choose_texts, confidence, spread
from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import drawn_parts, encode_parts, joined
from medvlp.digest import digest_bytes

_RESERVE = 16
"""Items that are tried in place of one that cannot be read."""

_MOST_ENCODED = 100_000
"""Texts whose token ids a process keeps, some hundred bytes each."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item ready to be batched."""

    image: Tensor
    """The stored array."""

    drawn_K: Tensor | None
    """Its augmentation, if any."""

    ids: tuple[list[int], ...]
    levels: tuple[int, ...]
    confidences: tuple[float, ...]
    labels_L: Tensor
    sample: str
    patient: str
    seed: int
    relations_AQ: Tensor | None = None
    told_NQ: Tensor | None = None
    side_N: Tensor | None = None
    place_NA: Tensor | None = None
    cover_RDHW: Tensor | None = None
    region_ids: tuple[list[int], ...] = ()
    normal_R: Tensor | None = None
    stream: str = ONE_STREAM
    failed: tuple[BadSample, ...] = ()
    """What was drawn before, in the same place, and could not be read."""


class PairDataset(Dataset[Example | BadSample]):
    """Reads items by (epoch, index).

    In place of an item that cannot be read comes another, which follows from (seed, epoch, item)
    alone: a resumed run, and one on other ranks, replaces it alike. It may, rarely, stand in a
    batch that holds it already. Nothing that a reader raises reaches the loader.

    Args:
        items: What to read.
        preprocess: The preprocessing contract.
        tokenizer: The tokenizer.
        cache: Decoded arrays; None decodes each time.
        policy: How a text is chosen among an item's.
        seed: The run's seed.
        max_tokens: Longer texts are cut.
        augment: Whether an augmentation of the image is drawn (training), and which sentences of
            a text with too many are left out; otherwise the last ones are.
        names: The columns of relations, if any.
        stream: The data stream that the items belong to.
        mirror: What mirrors some of the samples, if any; `preprocess` then is one that `Mirrors`.
        max_sentences: Of texts whose sentences the tokenizer marks; None for no limit.
        regions: Where items' regions lie, if an objective asks.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocess: Preprocess,
        tokenizer: PreTrainedTokenizerFast,
        cache: ArrayCache | None,
        policy: TextPolicy,
        seed: int,
        *,
        max_tokens: int,
        augment: bool,
        names: Names = NO_NAMES,
        stream: str = ONE_STREAM,
        mirror: Mirror | None = None,
        max_sentences: int | None = None,
        regions: RegionMaps | None = None,
    ) -> None:
        self.items = items
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.cache = cache
        self.policy = policy
        self.seed = seed
        self.max_tokens = max_tokens
        self.augment = augment
        self.names = names
        self.stream = stream
        self.mirror = mirror
        self.max_sentences = max_sentences
        self.regions = regions
        self._encoded: dict[str, list[list[int]]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Index) -> Example | BadSample:
        """The item `index[1]` as it is drawn in epoch `index[0]`, or what replaces it."""
        epoch, first = index
        failed: dict[int, BadSample] = {}
        for i in self._candidates(epoch, first):
            if i in failed:
                continue
            try:
                return self._example(epoch, i, tuple(failed.values()))
            except Exception as error:
                failed[i] = BadSample(self.items[i].sample, reason(error))
        return failed[first]

    def _candidates(self, epoch: int, first: int) -> Iterator[int]:
        yield first
        rng = generator(self.seed, epoch, self.items[first].key, "reserve")
        yield from rng.integers(len(self.items), size=_RESERVE).tolist()

    def _example(self, epoch: int, i: int, failed: tuple[BadSample, ...]) -> Example:
        item = self.items[i]
        mirrored = self._mirrored(item, epoch)
        drawn_K = self._drawn(item, epoch, mirrored=mirrored is not None)
        item = mirrored or item
        nodes = self._texts(item, epoch)
        # A reader may give a view of memory that is not its own.
        image = torch.from_numpy(np.require(self._stored(item), requirements=("C", "W")))
        return Example(
            image=image,
            drawn_K=drawn_K,
            ids=tuple(self._ids(item, epoch, node) for node in nodes),
            levels=tuple(LEVELS.index(node.level) for node in nodes),
            confidences=tuple(map(confidence, nodes)),
            labels_L=torch.from_numpy(item.labels_L),
            sample=item.sample,
            patient=item.patient,
            seed=int(generator(self.seed, epoch, item.key, "objectives").integers(2**63)),
            stream=self.stream,
            failed=failed,
            **self._relations(item, nodes),
            **self._regions(item, image, drawn_K),
        )

    def _texts(self, item: Item, epoch: int) -> list[TextNode]:
        def rng(purpose: str) -> np.random.Generator:
            return generator(self.seed, epoch, item.key, purpose)

        nodes = choose_texts(item.texts, self.policy, rng("text"))
        if self.policy.along is None:
            return nodes
        return nodes + spread(item.along, self.policy.along, rng("along"))

    def _regions(self, item: Item, image: Tensor, drawn_K: Tensor | None) -> dict[str, Any]:
        if self.regions is None:
            return {}
        drawn = None if drawn_K is None else drawn_K.numpy()
        return {
            "cover_RDHW": torch.from_numpy(self.regions.cover(item, image.shape, drawn)),
            "region_ids": tuple(self._own_ids(each.text) for each in item.region_texts),
            "normal_R": torch.tensor([each.normal for each in item.region_texts]),
        }

    def _relations(self, item: Item, nodes: Sequence[TextNode]) -> dict[str, Any]:
        if not self.names.observations:
            return {}
        joined = self.policy.choose == "join"
        said = [{n.node for n in item.texts}] if joined else [{n.node} for n in nodes]
        told = [told_vector(item.relations, own, self.names) for own in said]
        places = [present_places(item.relations, own, self.names) for own in said]
        return {
            "relations_AQ": torch.from_numpy(relation_matrix(item.relations, self.names)),
            "told_NQ": _rows([told_Q for told_Q, _ in told], len(self.names.observations)),
            "side_N": torch.tensor([side for _, side in told], dtype=torch.int8),
            "place_NA": _rows(places, len(self.names.anatomies)),
        }

    def _own_ids(self, text: str | None) -> list[int]:
        """The token ids of a region's text, of which nothing is drawn."""
        if text is None:
            return []
        return joined(drawn_parts(self._parts(text), self.max_sentences, None), self.max_tokens)

    def _ids(self, item: Item, epoch: int, node: TextNode) -> list[int]:
        parts, rng = self._parts(node.text), None
        if self.augment and self.max_sentences is not None and len(parts) > self.max_sentences + 1:
            rng = generator(self.seed, epoch, f"{item.key}|{node.node}", "sentences")
        return joined(drawn_parts(parts, self.max_sentences, rng), self.max_tokens)

    def _parts(self, text: str) -> list[list[int]]:
        """A text's token ids, kept: with decoded images at hand, it is most of a sample's time."""
        parts = self._encoded.get(text)
        if parts is None:
            parts = encode_parts(self.tokenizer, text, self.max_tokens)
            if len(self._encoded) < _MOST_ENCODED:
                self._encoded[text] = parts
        return parts

    def _stored(self, item: Item) -> NDArray[Any]:
        read = self.preprocess.read
        if self.cache is None:
            return read(item.source_paths, item.span, item.flags)
        return self.cache.get(item, read)

    def _mirrored(self, item: Item, epoch: int) -> Item | None:
        """The item of the mirror image, where it is drawn and can be."""
        if self.mirror is None or not self.augment:
            return None
        rng = generator(self.seed, epoch, item.key, "mirror")
        return self.mirror.item(item) if rng.random() < self.mirror.share else None

    def _drawn(self, item: Item, epoch: int, *, mirrored: bool) -> Tensor | None:
        if not self.augment:
            return None
        drawn_K = self.preprocess.draw(generator(self.seed, epoch, item.key, "augment"))
        if mirrored:
            drawn_K = cast(Mirrors, self.preprocess).mirrored(drawn_K)
        return torch.from_numpy(drawn_K)


class MixedDataset(Dataset[Example | BadSample]):
    """Several streams, their items numbered on from one to the next.

    Args:
        streams: The data set of each stream.
    """

    def __init__(self, streams: Sequence[PairDataset]) -> None:
        self.streams = streams
        self._ends = np.cumsum([len(stream) for stream in streams])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Index) -> Example | BadSample:
        """The item `index[1]` as it is drawn in epoch `index[0]`."""
        epoch, i = index
        k = int(np.searchsorted(self._ends, i, side="right"))
        return self.streams[k][(epoch, i - int(self._ends[k]) + len(self.streams[k]))]


def collater(
    pad_id: int,
    texts: Mapping[str, int],
    multiple: int = 1,
    most: int | None = None,
    absent: int | None = None,
) -> Callable[[Sequence[Example | BadSample]], Batch | BadSample]:
    """The function that stacks examples; a bad sample among them takes the batch's place.

    Args:
        pad_id: The tokenizer's padding id.
        texts: N of each stream, of which a batch takes its streams' highest; items with fewer
            texts are filled with absent ones.
        multiple: T becomes a multiple of it, where `most` allows.
        most: The longest T, which no text exceeds.
        absent: What volumes of less depth are filled up with (`absent_slice`); None where all
            arrays have one shape.
    """
    return functools.partial(
        _collate, pad_id=pad_id, texts=texts, multiple=multiple, most=most, absent=absent
    )


def _collate(
    examples: Sequence[Example | BadSample],
    *,
    pad_id: int,
    texts: Mapping[str, int],
    multiple: int,
    most: int | None,
    absent: int | None,
) -> Batch | BadSample:
    good: list[Example] = []
    for example in examples:
        if isinstance(example, BadSample):
            return example
        good.append(example)
    count = max(texts[example.stream] for example in good)
    pad = functools.partial(_padded, pad_id=pad_id, multiple=multiple, most=most)
    text_BNT, mask_BNT = pad([example.ids for example in good], count)
    levels = [(*e.levels, *[-1] * (count - len(e.levels))) for e in good]
    sure = [(*e.confidences, *[1.0] * (count - len(e.confidences))) for e in good]
    drawn = [example.drawn_K for example in good if example.drawn_K is not None]
    related = [e.relations_AQ for e in good if e.relations_AQ is not None]
    return Batch(
        image=stack_arrays([example.image for example in good], absent),
        text_BNT=text_BNT,
        text_mask_BNT=mask_BNT,
        level_BN=torch.tensor(levels, dtype=torch.long).view(len(good), count),
        confidence_BN=torch.tensor(sure, dtype=torch.float32).view(len(good), count),
        labels_BL=torch.stack([example.labels_L for example in good]),
        relations_BAQ=torch.stack(related) if related else None,
        told_BNQ=_filled([e.told_NQ for e in good], count, UNTOLD) if related else None,
        side_BN=_filled([e.side_N for e in good], count, 0) if related else None,
        place_BNA=_filled([e.place_NA for e in good], count, 0) if related else None,
        sample=tuple(example.sample for example in good),
        patient_B=torch.tensor([_number(example.patient) for example in good]),
        recording_B=torch.tensor([_number(example.sample) for example in good]),
        seed_B=torch.tensor([example.seed for example in good]),
        drawn_BK=torch.stack(drawn) if len(drawn) == len(good) else None,
        stream=tuple(example.stream for example in good),
        failed=tuple(example.failed for example in good),
        **_of_regions(good, pad),
    )


def _of_regions(good: Sequence[Example], pad: Callable[..., Any]) -> dict[str, Tensor]:
    covers = [e.cover_RDHW for e in good if e.cover_RDHW is not None]
    if not covers:
        return {}
    text_BRT, mask_BRT = pad([e.region_ids for e in good], len(covers[0]))
    return {
        "cover_BRDHW": torch.stack(covers),
        "region_text_BRT": text_BRT,
        "region_mask_BRT": mask_BRT,
        "normal_BR": torch.stack([e.normal_R for e in good if e.normal_R is not None]),
    }


def _padded(
    ids: Sequence[Sequence[list[int]]], count: int, pad_id: int, multiple: int, most: int | None
) -> tuple[Tensor, Tensor]:
    """Each sample's texts, (B,`count`,T), and where they have a token; those it lacks are blank."""
    longest = max((len(text) for own in ids for text in own), default=1)
    length = -(-longest // multiple) * multiple
    length = length if most is None else min(length, most)
    text_BNT = torch.full((len(ids), count, length), pad_id, dtype=torch.long)
    mask_BNT = torch.zeros(text_BNT.shape, dtype=torch.bool)
    for b, own in enumerate(ids):
        for n, text in enumerate(own):
            text_BNT[b, n, : len(text)] = torch.tensor(text, dtype=torch.long)
            mask_BNT[b, n, : len(text)] = True
    return text_BNT, mask_BNT


def _rows(rows: Sequence[NDArray[np.int8]], width: int) -> Tensor:
    """(N,`width`), also of no text at all."""
    return torch.from_numpy(np.array(rows, np.int8).reshape(len(rows), width))


def _filled(rows: Sequence[Tensor | None], count: int, fill: int) -> Tensor:
    """Each sample's rows, as many as `count`, those of absent texts `fill`."""
    given = [row for row in rows if row is not None]
    full = torch.full((len(rows), count, *given[0].shape[1:]), fill, dtype=torch.int8)
    for b, row in enumerate(given):
        full[b, : len(row)] = row
    return full


def _number(pseudonym: str) -> int:
    """63 bits of its digest."""
    return int(digest_bytes(pseudonym.encode())[:16], 16) >> 1


def reason(error: Exception) -> str:
    """A reader's code or the system's word for it; never a message, which may quote a path."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(getattr(error, "code", type(error).__name__))

import numpy as np
import torch

from medvlp.data.batch import BadSample
from medvlp.data.cache import ArrayCache
from medvlp.data.dataset import MixedDataset, PairDataset, collater
from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.data.tables import LEVELS
from medvlp.data.text_draw import choose_texts
from medvlp.data.text_nodes import TextNode
from medvlp.data.text_policy import TextPolicy
from medvlp.data.tokenizer import train_tokenizer

WORDS = ["no effusion on the left", "effusion on the right", "heart size is normal"]


def node(i: int) -> TextNode:
    return TextNode(
        node=f"n{i}",
        level="sentence",
        source="findings",
        text=WORDS[i % 3],
        start_s=None,
        end_s=None,
    )


def item(i: int, texts: int = 2) -> Item:
    return Item(
        sample=f"s{i}",
        patient=f"p{i}",
        sha256=f"{i:064d}",
        source_paths=(),
        span=None,
        texts=tuple(node(j) for j in range(texts)),
        labels_L=np.array([float(i % 2), np.nan], dtype=np.float32),
        split="train",
    )


class Noise:
    """A contract whose augmentation is pure noise."""

    config = None

    def __init__(self, broken: frozenset[str] = frozenset()) -> None:
        self.broken = broken

    def read(self, paths, span=None, flags=()):
        if self.broken:
            error = ValueError("secret path")
            error.code = "truncated_pixels"
            raise error
        return np.zeros((4, 4), np.uint8)

    def draw(self, rng):
        return rng.normal(size=16)

    def tensor(self, stored, drawn_BK=None):
        noise = 0.0 if drawn_BK is None else drawn_BK.view(-1, 4, 4)
        return (stored + noise).unsqueeze(1).float()


def dataset(augment: bool = True, preprocess: Noise | None = None, **policy: object) -> PairDataset:
    return PairDataset(
        [item(i) for i in range(4)],
        preprocess or Noise(),
        train_tokenizer(WORDS * 2, 300),
        ArrayCache(None, "c"),
        TextPolicy(**policy),
        0,
        max_tokens=16,
        augment=augment,
    )


def test_a_draw_depends_on_epoch_and_item_alone() -> None:
    first, second = dataset(), dataset()
    _ = second[(7, 3)]  # draws made before must not matter
    assert torch.equal(first[(1, 2)].drawn_K, second[(1, 2)].drawn_K)
    assert first[(1, 2)].ids == second[(1, 2)].ids
    assert not torch.equal(first[(1, 2)].drawn_K, first[(2, 2)].drawn_K)
    assert not torch.equal(first[(1, 2)].drawn_K, first[(1, 3)].drawn_K)


def test_a_batch_carries_stored_arrays_and_draws_until_it_is_made_ready() -> None:
    data = dataset()
    examples = [data[(0, 0)], data[(0, 1)]]
    batch = collater(0, {"items": 1})(examples)
    assert batch.image.dtype == torch.uint8
    ready = batch.ready(data.preprocess)
    assert ready.drawn_BK is None
    expected = torch.stack([e.drawn_K for e in examples]).view(2, 1, 4, 4).float()
    assert torch.equal(ready.image, expected)


def test_without_augmentation_nothing_is_drawn() -> None:
    data = dataset(augment=False)
    assert data[(0, 0)].drawn_K is None
    assert collater(0, {"items": 1})([data[(0, 0)], data[(0, 1)]]).drawn_BK is None


def test_text_choices() -> None:
    three = item(0, texts=3)

    def draw(epoch: int, **policy: object) -> list[str]:
        rng = generator(0, epoch, three.key, "text")
        return [n.text for n in choose_texts(three.texts, TextPolicy(**policy), rng)]

    assert draw(0, choose="first") == [WORDS[0]]
    assert draw(0, choose="all", n=2) == WORDS[:2]
    assert draw(0, choose="join") == [" ".join(WORDS)]
    assert {draw(e, choose="random")[0] for e in range(40)} == set(WORDS)
    assert sorted(draw(3, choose="random", n=3)) == sorted(WORDS)


def test_collate_pads_texts_tokens_and_levels() -> None:
    data = dataset(choose="all", n=2)
    data.items = [item(0, texts=1), item(1, texts=2)]
    batch = collater(0, {"items": 2})([data[(0, 0)], data[(0, 1)]])
    ids = data[(0, 1)].ids
    assert batch.text_BNT.shape == (2, 2, max(map(len, ids)))
    assert batch.text_mask_BNT.sum(-1).tolist()[1] == [len(i) for i in ids]
    assert not batch.text_mask_BNT[0, 1].any()
    assert batch.level_BN.tolist()[0] == [LEVELS.index("sentence"), -1]
    assert torch.equal(
        batch.text_BNT[~batch.text_mask_BNT], torch.zeros_like(batch.text_BNT[~batch.text_mask_BNT])
    )
    assert batch.labels_BL[:, 0].tolist() == [0.0, 1.0]
    assert batch.sample == ("s0", "s1")


def test_a_sample_that_fails_is_named_by_pseudonym_and_code_only() -> None:
    data = dataset(preprocess=Noise(broken=frozenset({"s0"})))
    bad = collater(0, {"items": 1})([data[(0, 0)]])
    assert bad == BadSample("s0", "truncated_pixels")
    assert "secret" not in str(bad.error())


def test_streams_are_numbered_on_and_a_batch_takes_its_streams_highest_number_of_texts() -> None:
    fine, coarse = dataset(choose="all", n=2), dataset(choose="first")
    coarse.stream, coarse.items = "coarse", [item(9)]
    mixed = MixedDataset([fine, coarse])
    assert len(mixed) == 5
    assert [mixed[(0, i)].sample for i in (0, 3, 4)] == ["s0", "s3", "s9"]
    collate = collater(0, {"items": 2, "coarse": 1})
    both = collate([mixed[(0, 3)], mixed[(0, 4)]])
    assert both.stream == ("items", "coarse")
    assert both.level_BN.shape == (2, 2)
    assert collate([mixed[(0, 4)]]).level_BN.shape == (1, 1)
    assert both.rows(torch.tensor([1])).stream == ("coarse",)
    assert both.rows(torch.tensor([1])).text_BNT.equal(both.text_BNT[1:])

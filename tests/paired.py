"""Six samples with seven texts, and which pairs of them may be wrong ones, for `fusion`."""

import itertools
import math

import torch
import torch.nn.functional as F

from medvlp.data.batch import Batch, TokenIds
from medvlp.encoding import Encodings, ImageFeatures, Sizes
from medvlp.losses.fusion.decoder import DecoderConfig

NAN = math.nan
COUNT = 40


def encode(texts):
    """A letter a token, between begin (2) and end (3)."""
    rows = [[2, *(5 + ord(c) % 35 for c in text), 3] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return ids, ids != 0


TOKENS = TokenIds(count=COUNT, mask=4, special=(0, 1, 2, 3, 4), begin=2, end=3, encode=encode)
SIZES = Sizes(image=6, text=8, embed=4, labels=("a", "b"), tokens=TOKENS)
DECODER = DecoderConfig(depth=2, width=12, heads=2, dropout=0.0, max_tokens=32)
WORDS = ("ab", "b", "abc", "d", "b", "ee", "f")
OWNER = (0, 0, 1, 2, 3, 4, 5)
PATIENTS = (0, 1, 1, 2, 3, 4)
LABELS = ((1, 0), (0, 0), (0, 1), (1, 0), (NAN, NAN), (NAN, NAN))


def batch(dtype=torch.float64, told=None):
    """Six samples, the first with two texts; "b" is told of two of them."""
    ids, mask = encode(WORDS)
    text = torch.zeros(6, 2, ids.shape[1], dtype=torch.long)
    present = torch.zeros(text.shape, dtype=torch.bool)
    seen = {}
    for m, b in enumerate(OWNER):
        n = seen[b] = seen.get(b, -1) + 1
        text[b, n], present[b, n] = ids[m], mask[m]
    return Batch(
        image=torch.zeros(6, 1, 1, 1),
        text_BNT=text,
        text_mask_BNT=present,
        level_BN=torch.zeros(6, 2, dtype=torch.long),
        labels_BL=torch.tensor(LABELS, dtype=dtype),
        told_BNQ=told,
        patient_B=torch.tensor(PATIENTS),
        sample=tuple("uvwxyz"),
    )


def encodings(data, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    count, texts, length = data.text_BNT.shape
    tokens = draw(count, 6, 6)
    image = ImageFeatures(
        pooled_BD=tokens.mean(1), tokens_BPD=tokens, grid=(2, 3), maps=(draw(count, 6, 2, 3),)
    )
    return Encodings(
        image=image,
        image_BE=F.normalize(draw(count, 4), dim=-1),
        patch_BPE=draw(count, 6, 4),
        text_BNE=F.normalize(draw(count, texts, 4), dim=-1),
        token_BNTE=draw(count, texts, length, 4),
        scale=torch.tensor(scale, dtype=dtype),
        bias=torch.tensor(0.0, dtype=dtype),
        see=None,
        read=None,
    )


def flat(data):
    """Present texts as (sample, row of text) in the order of M."""
    return [tuple(at) for at in data.text_mask_BNT.any(2).nonzero().tolist()]


def words_of(data, b, n):
    return data.text_BNT[b, n][data.text_mask_BNT[b, n]].tolist()


def told_values(*rows):
    """(6,2,2): what the seven texts tell, -2 for an absent one."""
    told = torch.full((6, 2, 2), -2, dtype=torch.int8)
    for (b, n), row in zip(flat(batch()), rows, strict=True):
        told[b, n] = torch.tensor(row)
    return told


TOLD = told_values((1, -2), (-2, -2), (0, 1), (-2, 1), (1, -2), (-2, 1), (-2, -2))


def barred_loop(data):
    """Pair by pair, by the words of the docstring."""
    texts = flat(data)
    barred = torch.zeros(len(data.sample), len(texts), dtype=torch.bool)
    for b, (m, (owner, n)) in itertools.product(range(len(barred)), enumerate(texts)):
        own = [k for o, k in texts if o == b]
        labels, others = data.labels_BL[b], data.labels_BL[owner]
        same = all(x == y or (x != x and y != y) for x, y in zip(labels, others, strict=True))
        known = any(x == x for x in labels)
        alike = any(words_of(data, b, k) == words_of(data, owner, n) for k in own)
        if data.told_BNQ is not None:
            told = data.told_BNQ[owner, n].tolist()
            alike |= any(data.told_BNQ[b, k].tolist() == told and set(told) != {-2} for k in own)
        barred[b, m] = (
            owner == b or data.patient_B[b] == data.patient_B[owner] or alike or (same and known)
        )
    return barred


def pairs_loop(data, found, scale, seed):
    """The same draws, pair by pair: right ones, other images, other texts."""
    texts, barred = flat(data), barred_loop(data)
    image_BE = found.image_BE.detach()
    text_ME = found.text_BNE[data.text_mask_BNT.any(2)].detach()
    torch.manual_seed(seed)
    images_by_text = torch.rand(len(texts), len(data.sample), dtype=torch.float64)
    texts_by_text = torch.rand(len(texts), len(texts), dtype=torch.float64)

    def best(candidates, score):
        return max(candidates, key=score, default=None)

    def gumbel(uniform):
        return -math.log(-math.log(uniform))

    right = [(owner, m, True) for m, (owner, _) in enumerate(texts)]
    images, others = [], []
    for m, (owner, _) in enumerate(texts):

        def image_score(b, m=m):
            return float(scale * image_BE[b] @ text_ME[m]) + gumbel(images_by_text[m, b])

        def text_score(j, m=m, owner=owner):
            return float(scale * image_BE[owner] @ text_ME[j]) + gumbel(texts_by_text[m, j])

        b = best([b for b in range(len(data.sample)) if not barred[b, m]], image_score)
        j = best([j for j in range(len(texts)) if not barred[owner, j]], text_score)
        images += [] if b is None else [(b, m, False)]
        others += [] if j is None else [(owner, j, False)]
    return right + images + others

"""Words restored beside the image, against a loop over texts; marked sentences in `fusion`."""

import dataclasses

import pytest
import torch
from marked import IDS, MARK, SIZES, batch, encodings

from medvlp.encoding import TextFeatures
from medvlp.errors import ConfigError
from medvlp.losses.fusion.decoder import DecoderConfig
from medvlp.losses.fusion.objective import FusionConfig, FusionObjective
from medvlp.losses.masked_text import MaskedTextConfig, hide
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.tribert import TribertConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache

DECODER = DecoderConfig(depth=2, width=12, heads=2, dropout=0.0, max_tokens=16)
ALONE = {"matching": 0.0, "writing": 0.0, "masking": 1.0}


class Table(torch.nn.Module):
    """A text tower that looks each token up."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(IDS.count, SIZES.text)

    def forward(self, ids, mask):
        tokens = self.table(ids)
        return TextFeatures(pooled_MD=tokens.mean(1), tokens_MTD=tokens)


def build(decoder=DECODER, **values):
    torch.manual_seed(0)
    return FusionConfig(decoder=decoder, **values).build(SIZES).double()


def setting(reports=None):
    data = batch() if reports is None else batch(reports)
    torch.manual_seed(7)
    tower = Table().double()
    return data, tower, dataclasses.replace(encodings(data), read=tower)


def literal(objective, one, data, tower, seed):
    """Every text by itself, without padding."""
    torch.manual_seed(seed)
    ids, mask = data.text_BNT.flatten(0, 1), data.text_mask_BNT.flatten(0, 1)
    altered, hidden = hide(ids, mask, 0.4, IDS)
    decoder, masker, terms = objective.decoder, objective.masker, []
    for m in range(len(ids)):
        length = min(int(mask[m].sum()), decoder.config.max_tokens)
        if not length:
            continue
        state = masker.text_norm(masker.text(tower.table(altered[m, :length])))
        b = m // data.text_BNT.shape[1]
        memory = decoder.memory(one.image.tokens_BPD[b : b + 1], (1, 1, 1))
        out = decoder.layers((state + decoder.place[:length])[None], memory)[0]
        chance = (out @ decoder.token.weight.T).log_softmax(1)
        terms += [-chance[t, ids[m, t]] for t in range(length) if hidden[m, t]]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("longest", [16, 4])
def test_value_and_gradient_are_those_of_a_loop(longest):
    decoder = dataclasses.replace(DECODER, max_tokens=longest)
    objective = build(decoder, **ALONE, fraction=0.4)
    data, tower, one = setting()
    read = [one.image.tokens_BPD, *tower.parameters(), *objective.parameters()]
    torch.manual_seed(3)
    loss = objective(one, data)
    expected = literal(objective, one, data, tower, 3)
    # A mean's factor is kept in single precision.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for found, wanted in zip(
        torch.autograd.grad(loss, read),
        torch.autograd.grad(expected, read, allow_unused=True),
        strict=True,
    ):
        wanted = torch.zeros_like(found) if wanted is None else wanted
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_it_is_added_to_the_rest_with_its_weight():
    data, _, one = setting()
    both, alone = build(writing=0.0, masking=0.5), build(**ALONE)
    matching = build(writing=0.0)
    alone.load_state_dict(both.state_dict(), strict=False)
    matching.load_state_dict(both.state_dict(), strict=False)
    torch.manual_seed(1)
    whole = both(one, data)
    # What is hidden is drawn first, then the pairs.
    torch.manual_seed(1)
    parts = 0.5 * alone(one, data), matching(one, data)
    torch.testing.assert_close(sum(parts), whole)


def test_nothing_to_hide_is_zero_with_a_gradient():
    data, tower, one = setting((((),), (None,)))
    objective = build(**ALONE)
    loss = objective(one, data)
    loss.backward()
    assert loss.item() == 0
    assert tower.table.weight.grad is not None
    assert one.image.tokens_BPD.grad is not None


def towers():
    torch.manual_seed(0)
    image = Vit2dConfig(size=8, patch=4, width=8, depth=1, heads=2).build(1)
    text = TribertConfig(width=8, depth=1, heads=2, max_tokens=16, max_sentences=3)
    return TwoTower(TwoTowerConfig(embed=6), image, text.build(IDS.count, 0, MARK))


def test_marked_texts_are_matched_and_restored_by_both_towers():
    model, data = towers(), batch(size=(8, 8))
    sizes = model.sizes(tokens=IDS)
    objective = FusionConfig(decoder=DECODER, writing=0.0, masking=1.0).build(sizes)
    objective(model(data), data).backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert {p.grad is not None for p in model.image.parameters()} == {True}
    assert {p.grad is not None for p in model.text.parameters()} == {True}
    assert not objective.writes
    # A mark is never hidden, nor does it take a word's place.
    altered, _ = hide(data.text_BNT.flatten(0, 1), data.text_mask_BNT.flatten(0, 1), 0.9, IDS)
    assert torch.equal(altered == MARK, data.text_BNT.flatten(0, 1) == MARK)
    masked = MaskedTextConfig().build(sizes)
    masked(model(data), data).backward()
    assert all(p.grad is not None for p in masked.parameters())


def test_a_second_reading_has_no_place_in_micro_batches():
    model = towers()
    config = FusionConfig(decoder=DECODER, writing=0.0, masking=1.0)
    objective = config.build(model.sizes(tokens=IDS))
    with pytest.raises(ConfigError, match="reads read of the whole batch"):
        GradientCache(model, {"fusion": objective}, {"fusion": 1.0}, 2)
    plain = FusionConfig(decoder=DECODER, writing=0.0).build(model.sizes(tokens=IDS))
    assert isinstance(plain, FusionObjective)
    GradientCache(model, {"fusion": plain}, {"fusion": 1.0}, 2)


def test_what_cannot_be_is_told():
    bare = dataclasses.replace(SIZES, tokens=dataclasses.replace(IDS, mask=None))
    with pytest.raises(ConfigError, match="no mask token"):
        FusionConfig(writing=0.0, masking=1.0).build(bare)
    with pytest.raises(ConfigError, match=r"without data\.texts\.mark_sentences") as refusal:
        FusionConfig().build(SIZES)
    assert "writing=0" in refusal.value.remedy

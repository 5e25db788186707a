"""Sentences and regions, words and patches, against literal loops; levels, order, micro-batches."""

import dataclasses
import math

import pytest
import torch
from looking import literal_contrast
from marked import IDS, MARK, REPORTS, SIZES, batch, encodings

from medvlp.encoding import ReadText, Sizes
from medvlp.errors import ConfigError
from medvlp.models.projection import LinearProjection
from medvlp.models.tribert import TribertConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.losses.hierarchical import HierarchicalConfig


def build(sizes=SIZES, **values):
    torch.manual_seed(0)
    return HierarchicalConfig(**values).build(sizes).double()


def voxels(level, one, index):
    """Each image's voxels of a map, one at a time, through the level's projection."""
    found = []
    for volume in one.image.maps[index]:
        places = [volume[:, d, h, w] for d, h, w in torch.cartesian_prod(
            *(torch.arange(n) for n in volume.shape[1:])
        )]  # fmt: skip
        found.append([level.image.weight @ place for place in places])
    return found


def literal(objective, one, data):
    """Text by text: its sentences against the second-last map, its words against the third-last."""
    sentences, words, said = [], [], []
    for b, texts in enumerate(data.text_BNT.tolist()):
        for n, ids in enumerate(texts):
            real = data.text_mask_BNT[b, n].tolist()
            ids = [token if held else 0 for token, held in zip(ids, real, strict=True)]
            own = [one.sentence_BNSD[b, n, s] for s in range(ids.count(MARK))]
            if own:
                said.append(tuple(ids))
                sentences.append((b, [objective.sentence.text.weight @ x for x in own]))
            own = [one.state_BNTD[b, n, t] for t, x in enumerate(ids) if x not in IDS.special]
            if own:
                words.append((b, [objective.word.text.weight @ x for x in own]))
    config = objective.config
    how = config.aggregate, said if config.duplicates == "leave-out" else None
    upper = literal_contrast(voxels(objective.sentence, one, -2), sentences, *how)
    lower = literal_contrast(voxels(objective.word, one, -3), words, *how)
    return config.sentence * upper + config.word * lower


@pytest.mark.parametrize("values", [{}, {"aggregate": "sum"}, {"duplicates": "leave-out"}], ids=str)
def test_value_and_gradient_are_those_of_loops(values):
    data = batch()
    for kept in (data.text_BNT, data.text_mask_BNT):
        kept[4] = kept[0]
    one = encodings(data)
    objective = build(**values, sentence=0.5, word=2.0)
    read = [*one.image.maps[1:3], one.state_BNTD, one.sentence_BNSD, *objective.parameters()]
    found, expected = objective(one, data), literal(objective, one, data)
    # Shares of the means are kept in single precision.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, read), torch.autograd.grad(expected, read), rtol=1e-5, atol=1e-8
    )


def test_each_level_alone_is_its_part_of_the_sum():
    data = batch()
    one = encodings(data)
    both = build(sentence=0.5, word=2.0)
    parts = []
    for values in ({"sentence": 0.5, "word": 0.0}, {"sentence": 0.0, "word": 2.0}):
        alone = build(**values)
        alone.load_state_dict(both.state_dict(), strict=False)
        parts.append(alone(one, data))
    torch.testing.assert_close(sum(parts), both(one, data))
    assert {name.split(".")[0] for name, _ in build(word=0.0).named_parameters()} == {"sentence"}


def test_padding_absent_texts_and_the_order_of_samples_play_no_part():
    data, objective = batch(), build()
    one = encodings(data)
    loss = objective(one, data)
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    torch.testing.assert_close(objective(one.rows(order), data.rows(order)), loss)
    absent = torch.tensor([[s is None for s in texts] for texts in REPORTS])
    state, sentence = one.state_BNTD.detach().clone(), one.sentence_BNSD.detach().clone()
    state[absent] = sentence[absent] = 9.0
    state[~data.text_mask_BNT] = state[..., 0, :] = 7.0
    state[data.text_BNT == MARK] = -7.0
    other = dataclasses.replace(one, state_BNTD=state, sentence_BNSD=sentence)
    torch.testing.assert_close(objective(other, data), loss)


@pytest.mark.parametrize("bias", [False, True])
def test_slices_that_are_not_there_play_no_part(bias):
    data = batch()
    one = encodings(data)
    sizes = dataclasses.replace(SIZES, maps=SIZES.maps[:1])
    projection = LinearProjection(bias=bias)
    objective = build(sizes, sentence_map=-1, word_map=-1, projection=projection)
    losses = []
    for absent in (0, 1, 5):
        deep = torch.nn.functional.pad(one.image.maps[0].detach(), (0, 0, 0, 0, 0, absent))
        there = torch.arange(deep.shape[2]) < deep.shape[2] - absent
        mask_BP = there.repeat_interleave(deep[0, 0, 0].numel()).expand(len(deep), -1)
        image = dataclasses.replace(one.image, maps=(deep,), mask_BP=mask_BP)
        losses.append(objective(dataclasses.replace(one, image=image), data))
    torch.testing.assert_close(losses, losses[:1] * 3)


def test_a_longer_report_gains_from_the_sum_alone():
    """Three samples that look and say the same, the second says it twice: by hand."""
    data = batch((((1,),), ((1, 1),), ((1,),)))
    one = encodings(data)
    region = one.image.maps[2][:1, ..., :1].expand(3, -1, -1, -1, -1)
    image = dataclasses.replace(one.image, maps=(*one.image.maps[:2], region, one.image.maps[3]))
    sentence = one.sentence_BNSD[:1, :, :1].expand(3, 1, 3, -1)
    one = dataclasses.replace(one, image=image, sentence_BNSD=sentence)
    mean, summed = (build(word=0.0, aggregate=a)(one, data).item() for a in ("mean", "sum"))
    assert mean == pytest.approx(math.log(3))
    # An image's logits are 0, 10 log 2 and 0; a text's are all the same.
    images = math.log(2 + 2**10) - 10 * math.log(2) / 3
    assert summed == pytest.approx((images + math.log(3)) / 2, rel=1e-6)


def test_nothing_to_read_is_zero_with_a_gradient():
    data = batch((((),), (None,)))
    one, objective = encodings(data), build()
    loss = objective(one, data)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert one.image.maps[1].grad is not None


def towers():
    torch.manual_seed(0)
    image = ResNet3dConfig(widths=(8, 8, 8, 16), blocks=(1, 1, 1, 1), stem_kernel=3).build(1)
    text = TribertConfig(width=16, depth=1, heads=2, max_tokens=16, max_sentences=3)
    return TwoTower(TwoTowerConfig(embed=6), image, text.build(IDS.count, 0, MARK))


def test_micro_batches_give_the_same_loss_and_gradient():
    model, data = towers(), batch(size=(16, 16, 16))
    objectives = torch.nn.ModuleDict({"h": HierarchicalConfig().build(model.sizes(tokens=IDS))})
    found = []
    for cached in (False, True):
        model.zero_grad()
        objectives.zero_grad()
        cache = GradientCache(model, objectives, {"h": 1.0}, 4)
        whole = cache(data, torch.device("cpu"))["loss"] if cached else None
        loss = objectives["h"](model(data), data) if whole is None else whole
        loss.backward()
        modules = torch.nn.ModuleList([model, objectives])
        named = {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}
        found.append((loss.detach(), named))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert any(name.startswith("0.text.") for name in found[0][1])


@pytest.mark.parametrize(("values", "index"), [({}, -3), ({"word": 0.0}, -2)])
def test_a_text_looks_at_places_of_the_map_that_it_was_aligned_with(values, index):
    data = batch()
    one = encodings(data)
    features = one.image.rows(torch.tensor([0]))
    parts_TD = one.state_BNTD[0, 0, 1:3]
    text = ReadText(state_TD=parts_TD, word_TE=torch.empty(2, 0), sentence_SD=parts_TD)
    place = build(**values).text_places(features, torch.empty(0), text)
    assert place.shape == features.maps[index].shape[2:]
    assert place.sum().item() == pytest.approx(1.0)
    assert (place > 0).all()


def test_words_that_name_other_places_look_there():
    data = batch()
    one = encodings(data)
    volume = one.image.rows(torch.tensor([0]))
    objective = build()
    held = objective.word
    words_TD = one.state_BNTD[0, 0, 1:3]
    # Words compete for each voxel, so a place is found by what tells one word from the other.
    apart_E = held.text(words_TD[0] - words_TD[1])
    solution = torch.linalg.lstsq(held.image.weight, 80 * apart_E[:, None]).solution[:, 0]
    planted = torch.zeros_like(volume.maps[-3])
    planted[0, :, -1, 0, -1] = solution
    maps = (*volume.maps[:-3], planted, *volume.maps[-2:])
    text = ReadText(state_TD=words_TD, word_TE=torch.empty(2, 0), sentence_SD=None)
    place = objective.text_places(dataclasses.replace(volume, maps=maps), torch.empty(0), text)
    flat = place.flatten()
    assert flat.argmax().item() == torch.arange(flat.numel()).view(place.shape)[-1, 0, -1].item()


def test_what_the_towers_do_not_give_is_told():
    def refused(match, sizes=SIZES, **values):
        with pytest.raises(ConfigError, match=match):
            HierarchicalConfig(**values).build(sizes)

    refused("special tokens are not known", Sizes(image=4, text=4, embed=4))
    refused("tells no sentences apart", dataclasses.replace(SIZES, sentences=None))
    refused("gives 1 maps, number -2", dataclasses.replace(SIZES, maps=(8,)))
    refused("gives 4 maps, number -5", word_map=-5)
    HierarchicalConfig(sentence=0.0).build(dataclasses.replace(SIZES, sentences=None))
    with pytest.raises(ValueError, match="no weight"):
        HierarchicalConfig(sentence=0.0, word=0.0)

"""Masked volumes: which voxels are read, which are restored, and the error of that."""

import dataclasses

import pytest
import torch

from medvlp.data.batch import Batch
from medvlp.encoding import Sizes
from medvlp.errors import ConfigError
from medvlp.losses.objectives import ClipConfig
from medvlp.models.patch_dropout import keeping
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache
from medvlp_volumetric.encoders.primus import PrimusConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig
from medvlp_volumetric.losses.masked_volume import (
    MaskedVolumeConfig,
    patches_of,
    split_patches,
    standardised,
)

PATCH = (2, 4, 4)
PRIMUS = PrimusConfig(patch=PATCH, width=24, depth=2, heads=2, drop_path=0.0)
VIT = Vit3dConfig(patch=PATCH, width=24, depth=1, heads=2)
CONFIG = MaskedVolumeConfig(hidden=0.6, depth=1, width=24, heads=2)
SIZES = Sizes(image=24, text=8, embed=4, channels=2, patch=PATCH)


def batch(count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.rand(count, 2, 4, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1,
        text_BNT=torch.randint(5, 40, (count, 1, 4), generator=generator),
        text_mask_BNT=torch.ones(count, 1, 4, dtype=torch.bool),
        level_BN=torch.zeros(count, 1, dtype=torch.long),
        labels_BL=torch.zeros(count, 0, dtype=torch.float64),
        sample=tuple(map(str, range(count))),
    )


def model(image=PRIMUS):
    torch.manual_seed(0)
    text = TextTowerConfig(width=12, depth=1, heads=2, max_tokens=8).build(40, 0)
    return TwoTower(TwoTowerConfig(embed=6), image.build(2), text).double()


def objective(config=CONFIG):
    torch.manual_seed(2)
    return config.build(SIZES).double()


class Sees:
    """Encodings of which only the tower may be asked."""

    def __init__(self, tower):
        self.see = tower


def voxels(image, place, sample):
    """A patch's values, voxel by voxel, by its place on the grid (2, 2, 2)."""
    d, h, w = place // 4, place // 2 % 2, place % 2
    return torch.stack(
        [
            image[sample, c, 2 * d + i, 4 * h + j, 4 * w + k]
            for c in range(2)
            for i in range(2)
            for j in range(4)
            for k in range(4)
        ]
    )


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_and_its_gradient_are_those_of_a_loop_over_hidden_voxels(normalise):
    tower, data = model().image, batch()
    one = objective(dataclasses.replace(CONFIG, normalise=normalise))
    (key,), count = one.targets(data)
    assert count == 3
    weights = [*tower.embed.parameters(), *tower.pool.value.parameters(), *one.parameters()]
    found = one.total(Sees(tower), data, (key,)) / 3
    grads = torch.autograd.grad(found, weights)
    terms = []
    for b in range(3):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(int(key[b])))
        seen, hidden = sorted(order[:3].tolist()), sorted(order[3:].tolist())
        with keeping(tower, torch.tensor([seen])):
            tokens = tower(data.image[b : b + 1]).tokens_BPD
        restored = one.decoder(tokens, torch.tensor([seen]), torch.tensor([hidden]), (2, 2, 2))[0]
        errors = []
        for row, place in zip(restored, hidden, strict=True):
            wanted = voxels(data.image, place, b)
            if normalise:
                mean = wanted.mean()
                wanted = (wanted - mean) / ((wanted - mean).square().mean() + 1e-6).sqrt()
            errors += [(x - y) ** 2 for x, y in zip(row, wanted, strict=True)]
        terms.append(torch.stack(errors).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, weights))


@pytest.mark.parametrize("image", [PRIMUS, VIT], ids=["primus", "vit3d"])
def test_hidden_voxels_are_never_read(image):
    tower, data, one = model(image).image.eval(), batch(), objective()
    targets, _ = one.targets(data)
    seen, hidden = split_patches(*targets, 8, 0.6)
    restored = []
    one.decoder.register_forward_hook(lambda *hook: restored.append(hook[2]))
    first = one.total(Sees(tower), data, targets)
    for places in (hidden, seen):
        changed = data.image.clone()
        for b in range(3):
            for place in places[b].tolist():
                d, h, w = 2 * (place // 4), 4 * (place // 2 % 2), 4 * (place % 2)
                changed[b, :, d : d + 2, h : h + 4, w : w + 4] *= -0.3
                changed[b, 0, d, h, w] += 1
        loss = one.total(Sees(tower), dataclasses.replace(data, image=changed), targets)
        assert loss != first
        assert torch.equal(restored[-1], restored[0]) == (places is hidden)


def test_patches_come_in_raster_order_voxel_by_voxel():
    data = batch()
    found = patches_of(data.image, PATCH)
    for b in range(3):
        for place in range(8):
            assert torch.equal(found[b, place], voxels(data.image, place, b))
    even = standardised(torch.tensor([[[2.0, 2, 2], [0, 1, 2]]]))
    assert (even[0, 0] == 0).all()
    torch.testing.assert_close(even[0, 1], torch.tensor([-(1.5**0.5), 0, 1.5**0.5]))


def test_what_is_hidden_follows_from_the_key_and_leaves_something_of_each():
    key = torch.tensor([5, 9, 5])
    seen, hidden = split_patches(key, 20, 0.75)
    assert (seen.shape, hidden.shape) == ((3, 5), (3, 15))
    assert torch.equal(torch.cat([seen, hidden], 1).sort(1).values, torch.arange(20).expand(3, -1))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert [part.shape[1] for part in split_patches(key, 2, 0.99)] == [1, 1]
    assert [part.shape[1] for part in split_patches(key, 9, 0.01)] == [8, 1]


def test_micro_batches_give_the_plain_losses_and_gradients():
    two_tower, data = model(), batch(5)
    modules = {"clip": ClipConfig().build(SIZES), "masked-volume": objective()}
    weights = {"clip": 1.0, "masked-volume": 2.0}
    every = torch.nn.ModuleList([two_tower, *modules.values()])

    def values(size):
        every.zero_grad()
        torch.manual_seed(3)
        found = GradientCache(two_tower, modules, weights, size)(data, torch.device("cpu"))
        found.pop("loss").backward()
        return found, {n: p.grad.clone() for n, p in every.named_parameters() if p.grad is not None}

    every.zero_grad()
    torch.manual_seed(3)
    encodings = two_tower(data)
    plain = {name: one(encodings, data) for name, one in modules.items()}
    sum(weights[name] * value for name, value in plain.items()).backward()
    grads = {n: p.grad.clone() for n, p in every.named_parameters() if p.grad is not None}
    torch.testing.assert_close(values(2), (plain, grads), rtol=1e-7, atol=1e-9)


def test_what_nobody_reads_is_not_encoded():
    two_tower, data, ran = model(), batch(), []
    two_tower.image.register_forward_hook(lambda *_: ran.append("image"))
    two_tower.text.register_forward_hook(lambda *_: ran.append("text"))
    for reads, expected in (
        ({"see"}, []),
        ({"text_BNE"}, ["text"]),
        ({"image"}, ["image"]),
        (ClipConfig().build(SIZES).reads, ["image", "text"]),
        (None, ["image", "text"]),
    ):
        ran.clear()
        encodings = two_tower(data, reads)
        assert ran == expected
        assert encodings.image_BE.isnan().all() == ("image" not in expected)
        assert encodings.text_BNE.isnan().all() == ("text" not in expected)
        assert len(encodings.rows(torch.tensor([2, 0])).image_BE) == 2


def test_a_tower_without_patches_is_refused():
    with pytest.raises(ConfigError, match="no patches to hide"):
        CONFIG.build(dataclasses.replace(SIZES, patch=()))
    with pytest.raises(ValueError, match="multiple of 6"):
        MaskedVolumeConfig(width=32, heads=4)

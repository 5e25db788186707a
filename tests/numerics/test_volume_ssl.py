"""Views of volumes: how they are made, and the three losses over them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medvlp.data.batch import Batch
from medvlp.encoding import ImageFeatures, Sizes
from medvlp.errors import ConfigError
from medvlp.losses.gather import contrast_views
from medvlp_volumetric.encoders.primus import PrimusConfig
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig
from medvlp_volumetric.losses.views import draw_holes, quarter_turns, two_views
from medvlp_volumetric.losses.volume_ssl import MapDecoder, VolumeSslConfig

TOWERS = {
    "resnet3d": ResNet3dConfig(widths=(8, 8, 16, 24), blocks=(1, 1, 1, 1), stem_kernel=3),
    "vit3d": Vit3dConfig(patch=(4, 8, 8), width=24, depth=1, heads=2),
    "primus": PrimusConfig(patch=(4, 8, 8), width=24, depth=1, heads=2),
}
SIZES = Sizes(image=24, text=8, embed=4, channels=2)


def batch(count=2, shape=(8, 16, 16)):
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.rand(count, 2, *shape, generator=generator) * 2 - 1,
        text_BNT=torch.zeros(count, 1, 1, dtype=torch.long),
        text_mask_BNT=torch.zeros(count, 1, 1, dtype=torch.bool),
        level_BN=torch.full((count, 1), -1),
        labels_BL=torch.zeros(count, 0),
        sample=tuple(map(str, range(count))),
    )


class Sees:
    """Encodings of which only the tower may be asked."""

    def __init__(self, see):
        self.see = see


class Told:
    """A tower that gives what it is told, and remembers what it saw."""

    def __init__(self, pooled, maps=()):
        self.features = ImageFeatures(pooled_BD=pooled, tokens_BPD=pooled, grid=(), maps=maps)

    def __call__(self, image):
        self.seen = image
        return self.features


def test_contrast_of_views_and_its_gradient_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    one, other = (
        torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    found = contrast_views(one, other, 2.0)
    views = [*one, *other]

    def likeness(i, k):
        cosine = views[i] @ views[k] / (views[i].norm() * views[k].norm())
        return (cosine / 0.5).exp()

    terms = []
    for i in range(8):
        others = sum(likeness(i, k) for k in range(8) if k != i)
        terms.append(-(likeness(i, (i + 4) % 8) / others).log())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [one, other]), torch.autograd.grad(expected, [one, other])
    )


def test_views_are_turned_crops_of_which_only_the_holes_change():
    image, seen = batch().image, set()
    image[:, 1] += 7  # Noise is of each channel's own range.
    torch.manual_seed(0)
    for _ in range(12):
        views = two_views(image, (6, 12, 12), turns=True, most=0.3, block=0.25)
        cut = views.cut()
        hole = views.hole_VDHW[:, None].expand_as(cut)
        assert torch.equal(cut[~hole], views.whole_VCDHW[~hole])
        assert cut[:, 0].abs().max() <= 1
        assert cut[:, 1].sub(7).abs().max() <= 1
        assert not hole.any() or (cut[hole] != views.whole_VCDHW[hole]).float().mean() > 0.99
        for v in range(4):
            turns = int(views.turn_V[v])
            upright = quarter_turns(views.whole_VCDHW[v], -turns)
            places = [
                (d, h, w)
                for d in range(3)
                for h in range(5)
                for w in range(5)
                if torch.equal(image[v % 2, :, d : d + 6, h : h + 12, w : w + 12], upright)
            ]
            assert len(places) == 1
            seen.add((turns, *places))
        # Both views of a volume are of one crop.
        crops = [quarter_turns(views.whole_VCDHW[v], -int(views.turn_V[v])) for v in (0, 2)]
        assert torch.equal(*crops)
    assert {turns for turns, _ in seen} == {0, 1, 2, 3}
    assert len({place for _, place in seen}) > 10
    whole = two_views(image, None, turns=False, most=0.0, block=0.25)
    assert torch.equal(whole.cut(), torch.cat([image, image]))
    torch.manual_seed(1)
    first = two_views(image, None, turns=True, most=0.3, block=0.25)
    torch.manual_seed(1)
    again = two_views(image, None, turns=True, most=0.3, block=0.25)
    assert torch.equal(first.whole_VCDHW, again.whole_VCDHW)
    assert torch.equal(first.hole_VDHW, again.hole_VDHW)


def test_a_quarter_turn_keeps_slices_and_is_no_mirror_image():
    volume = torch.zeros(2, 3, 3)
    volume[1, 2, 1] = 1  # the back, in the upper slice
    volume[1, 0, 0] = 2
    once = quarter_turns(volume, 1)
    assert once[1, 1, 2] == 1  # the left
    assert once[1, 2, 0] == 2
    assert (once[0] == 0).all()
    assert torch.equal(quarter_turns(once, 3), volume)


def test_holes_are_blocks_up_to_the_largest_share():
    rng = np.random.default_rng(0)
    shares = [draw_holes(rng, (20, 40, 40), most=0.3, block=0.25).mean() for _ in range(60)]
    assert 0.2 < max(shares) <= 0.3
    assert 0.06 < np.mean(shares) < 0.16
    # Room for one of the smallest blocks at most.
    single = [draw_holes(rng, (20, 40, 40), most=7 / 32000, block=0.05) for _ in range(20)]
    sides = [np.ptp(np.argwhere(hole), axis=0) + 1 for hole in single if hole.any()]
    assert 0 < len(sides) < 20
    assert {tuple(side) for side in sides} == {(1, 2, 2)}
    assert {int(hole.sum()) for hole in single} == {0, 4}


def test_a_head_that_knows_nothing_guesses_one_turn_of_four():
    config = VolumeSslConfig(contrast=0, inpaint=0, rotation=2.0)
    objective = config.build(SIZES)
    torch.nn.init.zeros_(objective.rotation.weight)
    torch.nn.init.zeros_(objective.rotation.bias)
    loss = objective(Sees(Told(torch.randn(4, 24))), batch())
    assert loss.item() == pytest.approx(2 * math.log(4))
    # A tower that sees the turn, by a mark at the back, and a head that believes it.
    data = batch()
    image = torch.full_like(data.image, -1.0)
    image[:, :, :, -1, 7:9] = 1

    def look(image):
        at_the = image[..., -1, 7], image[..., 7, -1], image[..., 0, 7], image[..., 7, 0]
        sides = torch.stack([edge[:, 0].amax(1) for edge in at_the], 1)
        return ImageFeatures(pooled_BD=F.pad(sides, (0, 20)), tokens_BPD=sides, grid=(), maps=())

    with torch.no_grad():
        objective.rotation.weight[:, :4] = 50 * torch.eye(4)
    holes = dataclasses.replace(config, max_drop=0.0)
    objective.config = holes
    for _ in range(3):
        assert objective(Sees(look), dataclasses.replace(data, image=image)).item() < 1e-6


def test_what_is_restored_is_compared_with_the_view_before_it_was_cut():
    objective = VolumeSslConfig(contrast=0, rotation=0, inpaint=3.0, stages=2).build(SIZES)
    torch.nn.init.zeros_(objective.inpaint.out.weight)
    with torch.no_grad():
        objective.inpaint.out.bias.copy_(torch.tensor([0.25, -0.5]))
    data = batch()
    tower = Told(torch.randn(4, 24), (torch.randn(4, 24, 2, 2, 2),))
    loss = objective(Sees(tower), data)
    assert not torch.equal(tower.seen, torch.cat([data.image, data.image]))
    wanted = torch.tensor([0.25, -0.5]).view(1, 2, 1, 1, 1)
    assert loss.item() == pytest.approx(3 * (data.image - wanted).abs().mean().item(), rel=1e-5)


def test_the_decoder_reaches_any_shape_from_any_map():
    decoder = MapDecoder(24, 2, 3)
    for start, shape in (
        ((1, 1, 1), (8, 16, 16)),
        ((2, 3, 4), (9, 24, 20)),
        ((4, 4, 4), (4, 4, 4)),
    ):
        assert decoder(torch.randn(2, 24, *start), shape).shape == (2, 2, *shape)


@pytest.mark.parametrize("name", TOWERS)
def test_every_tower_learns_from_all_three(name):
    torch.manual_seed(0)
    tower = TOWERS[name].build(2)
    objective = VolumeSslConfig(embed=8, stages=2, shape=(8, 8, 8)).build(SIZES)
    objective(Sees(tower), batch()).backward()
    for module in (tower, objective):
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all()


def test_parts_without_weight_have_no_head():
    objective = VolumeSslConfig(contrast=1.0, rotation=0, inpaint=0, embed=8).build(SIZES)
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"contrast"}
    with pytest.raises(ValueError, match="no weight"):
        VolumeSslConfig(contrast=0, rotation=0, inpaint=0)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (VolumeSslConfig(), (8, 16, 12), "needs H and W alike"),
        (VolumeSslConfig(shape=(9, 8, 8)), (8, 16, 16), "do not fit into volumes"),
        (VolumeSslConfig(rotation=0), (8, 16, 12), "leaves patches out"),
    ],
)
def test_what_cannot_be_viewed_is_refused(config, shape, message):
    with pytest.raises(ConfigError, match=message):
        config.build(SIZES)(Sees(Told(torch.randn(4, 24))), batch(shape=shape))

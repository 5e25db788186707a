"""Towers that spend less in training: blocks computed twice, and patches left out."""

import copy

import pytest
import torch

from medvlp.data.batch import Batch
from medvlp.models.image2d import ResNet2dConfig, Vit2dConfig
from medvlp.models.patch_dropout import PatchDropout
from medvlp.models.recompute import recompute_blocks
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp_video.encoders import FrameEncoderConfig
from medvlp_volumetric.encoders.resnet3d import ResNet3dConfig
from medvlp_volumetric.encoders.swin3d import Swin3dConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig, sincos_positions

VIT = {"size": 32, "patch": 8, "width": 24, "depth": 3, "heads": 2}
RESNET = {"depths": (2, 2), "widths": (8, 16), "stem": 8}
TOWERS = {
    "resnet": (ResNet2dConfig, RESNET, (2, 1, 32, 32)),
    "bottleneck": (ResNet2dConfig, RESNET | {"block": "bottleneck"}, (2, 1, 32, 32)),
    "vit": (Vit2dConfig, VIT | {"patch_dropout": 0.25}, (2, 1, 32, 32)),
    "resnet3d": (ResNet3dConfig, {"widths": (8, 8, 8, 16), "norm": "batch"}, (2, 1, 16, 32, 32)),
    "swin3d": (
        Swin3dConfig,
        {"embed": 6, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2), "window": (4, 4, 4)},
        (2, 1, 16, 16, 16),
    ),
    "vit3d": (Vit3dConfig, {"width": 24, "depth": 3, "dropout": 0.2}, (2, 1, 16, 32, 32)),
    "text": (TextTowerConfig, {"width": 24, "depth": 3, "dropout": 0.2}, (3, 16)),
}


def build(name, **changes):
    kind, values, shape = TOWERS[name]
    torch.manual_seed(0)
    config = kind(**values, **changes)
    tower = (config.build(40, 0) if name == "text" else config.build(1)).train()
    torch.manual_seed(1)
    if name == "text":
        return tower, (torch.randint(5, 40, shape), torch.ones(shape, dtype=torch.bool))
    return tower, (torch.randn(shape),)


def step(tower, inputs):
    """Gradients, buffers and the bytes that the forward pass keeps for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tower.zero_grad()
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = tower(*inputs)
    pooled = features.pooled_MD if hasattr(features, "pooled_MD") else features.pooled_BD
    pooled.square().sum().backward()
    weights = {p.untyped_storage().data_ptr() for p in tower.parameters()}
    return (
        {name: p.grad for name, p in tower.named_parameters()},
        dict(tower.named_buffers()),
        sum(size for place, size in kept.items() if place not in weights),
    )


@pytest.mark.parametrize("name", TOWERS)
def test_blocks_computed_twice_give_the_same_gradient_from_less_memory(name):
    tower, inputs = build(name)
    grads, buffers, kept = step(tower, inputs)
    frugal, _ = build(name, checkpoint_activations=True)
    assert frugal.state_dict().keys() == tower.state_dict().keys()
    found = step(frugal, inputs)
    torch.testing.assert_close(found[0], grads)
    torch.testing.assert_close(found[1], buffers)
    assert found[2] < 0.7 * kept
    # A copy (of averaged weights, say) computes with its own weights.
    other = copy.deepcopy(frugal)
    with torch.no_grad():
        for weight in frugal.parameters():
            weight.zero_()
    torch.testing.assert_close(step(other, inputs)[0], grads)


@pytest.mark.parametrize("frugal", [False, True])
def test_a_look_counts_in_running_statistics_where_nothing_is_seen_whole(frugal):
    """Views of which a volume is learnt are cropped and cut; whole volumes are judged later."""
    tower, (image,) = build("resnet3d", checkpoint_activations=frugal)
    text = TextTowerConfig(width=8, depth=1, heads=2).build(40, 0)
    model = TwoTower(TwoTowerConfig(embed=4), tower, text).train()
    before = copy.deepcopy(dict(tower.named_buffers()))
    batch = Batch(
        image=image,
        text_BNT=torch.full((2, 1, 3), 7),
        text_mask_BNT=torch.ones(2, 1, 3, dtype=torch.bool),
        level_BN=torch.zeros(2, 1, dtype=torch.long),
        labels_BL=torch.zeros(2, 0),
        sample=("a", "b"),
    )
    found = {}
    for looks in ("first", "both", "turn", "alone"):
        tower.load_state_dict(before, strict=False)
        reads = None if looks in ("first", "both") else {"text_BNE"}
        encodings = model(batch, reads, whole=looks != "alone")
        loss = encodings.text_BNE.sum()
        if reads is None:
            loss = loss + encodings.image_BE.sum()
        if looks != "first":
            loss = loss + encodings.see(3 * image + 1).pooled_BD.square().sum()
        loss.backward()
        found[looks] = copy.deepcopy(dict(tower.named_buffers()))
    torch.testing.assert_close(found["both"], found["first"])
    torch.testing.assert_close(found["turn"], before)
    assert not torch.allclose(found["first"]["stem.1.running_mean"], before["stem.1.running_mean"])
    assert not torch.allclose(
        found["alone"]["stem.1.running_mean"], found["first"]["stem.1.running_mean"]
    )


def test_a_tower_without_blocks_is_refused():
    with pytest.raises(ValueError, match="no LSTM"):
        recompute_blocks(torch.nn.Linear(2, 2), torch.nn.LSTM)


def test_patch_dropout_keeps_other_tokens_of_each_sample_in_order():
    dropout = PatchDropout(0.6, lead=1).train()
    tokens = torch.arange(21.0).expand(50, 21)[..., None].repeat(1, 1, 3)
    torch.manual_seed(0)
    kept = dropout(tokens)[..., 0]
    assert kept.shape == (50, 9)
    assert (kept[:, 0] == 0).all()
    assert (kept.diff(dim=1) > 0).all()
    assert len(kept.unique(dim=0)) > 40
    assert kept.unique().numel() == 21
    assert not torch.equal(dropout(tokens)[..., 0], kept)
    torch.manual_seed(0)
    assert torch.equal(dropout(tokens)[..., 0], kept)
    assert dropout.eval()(tokens) is tokens
    assert PatchDropout(0.99).train()(tokens).shape[1] == 1


FRAMES = {"kind": "frames", "frame": {"kind": "vit", **VIT}}


@pytest.mark.parametrize(
    ("config", "changed", "shape", "grid", "trained"),
    [
        (Vit2dConfig(**VIT), {"patch_dropout": 0.5}, (2, 1, 32, 48), (4, 6), (12,)),
        (
            Vit3dConfig(width=24, depth=1),
            {"patch_dropout": 0.75},
            (2, 1, 16, 32, 32),
            (2, 2, 2),
            (2,),
        ),
        (
            FrameEncoderConfig(frame=Vit2dConfig(**VIT)),
            {"frame": Vit2dConfig(**VIT, patch_dropout=0.5)},
            (2, 3, 1, 32, 32),
            (3, 4, 4),
            (3, 8),
        ),
    ],
)
def test_towers_leave_patches_out_in_training_only(config, changed, shape, grid, trained):
    values = {k: v for k, v in config.__dict__.items() if not k.startswith("__")}
    towers = []
    for one in (config, type(config)(**{**values, **changed})):
        torch.manual_seed(0)
        towers.append(one.build(1))
    image = torch.randn(shape)
    plain, dropping = (tower.eval()(image) for tower in towers)
    assert dropping.grid == grid
    torch.testing.assert_close(dropping.maps, plain.maps)
    torch.testing.assert_close(dropping.pooled_BD, plain.pooled_BD)
    some = towers[1].train()(image)
    assert some.grid == trained
    assert some.maps == ()
    assert some.tokens_BPD.shape[1] == torch.tensor(trained).prod()
    torch.testing.assert_close(some.pooled_BD, some.tokens_BPD.mean(1))


def test_the_tokens_that_stay_have_the_positions_of_their_patches():
    torch.manual_seed(0)
    tower = Vit3dConfig(width=24, depth=1, patch_dropout=0.5).build(1).train()
    seen = []
    tower.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    volume = torch.randn(2, 1, 16, 32, 32)
    tower(volume)
    tower.eval()(volume)
    some, every = (tokens.detach() for tokens in seen)
    for kept, full in zip(some, every, strict=True):
        match = torch.cdist(kept, full).argmin(1)
        torch.testing.assert_close(kept, full[match])
        assert (match.diff() > 0).all()
    assert sincos_positions((2, 2, 2), 24).unique(dim=0).shape[0] == 8

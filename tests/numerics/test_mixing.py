"""MedCutMix: what the mixed image holds, and what it costs."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from exchanged import EFFUSION, NAMES, NO_EFFUSION, PNEUMOTHORAX, RESNET, SILENT, VIT, batch, towers
from torch import nn

from medvlp.data.batch import Batch
from medvlp.data.relations import LEFT, RIGHT
from medvlp.encoding import Encodings
from medvlp.errors import ConfigError
from medvlp.losses.objective import Objective
from medvlp.losses.objectives import ClipConfig, LabelsConfig, SigLipConfig
from medvlp.models.no_image import NoImageEncoderConfig
from medvlp.train.mixing import (
    FIGURES,
    MedCutMixConfig,
    Mixer,
    attention_masks,
    lies_on_side,
    paste,
)


@pytest.mark.parametrize("image", [VIT, RESNET])
def test_an_alteration_that_alters_nothing_is_the_plain_pass(image):
    tower = image.build(1)
    data = torch.randn(2, 1, 40, 32) if image is RESNET else torch.randn(2, 1, 32, 32)
    plain = tower(data)
    grids = []

    def same(tokens, grid):
        grids.append(grid)
        assert tokens.shape[1] == math.prod(grid)
        return tokens

    for depth in range(len(tower.depths())):
        found = tower.forward_altered(data, depth, same)
        assert torch.equal(found.pooled_BD, plain.pooled_BD)
        assert torch.equal(found.tokens_BPD, plain.tokens_BPD)
        assert found.grid == plain.grid
        assert all(torch.equal(a, b) for a, b in zip(found.maps, plain.maps, strict=True))
    assert grids[-1] == plain.grid
    # What is altered shows, and no hook is left behind.
    changed = tower.forward_altered(data, 0, lambda tokens, _: tokens + 1)
    assert not torch.allclose(changed.tokens_BPD, plain.tokens_BPD)
    assert torch.equal(tower(data).tokens_BPD, plain.tokens_BPD)


def test_the_mask_is_where_the_sentence_attends_and_has_the_share_that_was_asked_for():
    patch = F.one_hot(torch.arange(6), 6).float()[None] * torch.arange(1, 7)[:, None]
    text = F.normalize(torch.tensor([[[0.0, 0.3, 0.1, 0.9, 0.0, 0.2]]]), dim=-1)
    mask = attention_masks(text, patch, 3)
    assert mask.tolist() == [[[False, True, False, True, False, True]]]
    flat = attention_masks(torch.zeros(2, 3, 6), patch.expand(2, 6, 6), 4)
    assert (flat.sum(2) == 4).all()


@pytest.mark.parametrize("grid", [(2, 4), (2, 5), (3, 2, 4)])
def test_left_of_the_patient_is_at_the_larger_columns(grid):
    def mask(*columns):
        full = torch.zeros(grid, dtype=torch.bool)
        full[..., list(columns)] = True
        return full.flatten()[None, None]

    last, middle = grid[-1] - 1, grid[-1] // 2
    for columns, side, fits in [
        ((last,), LEFT, True), ((last,), RIGHT, False), ((0,), RIGHT, True), ((0,), LEFT, False),
        ((0, last), LEFT, False), ((0,), 0, True), ((0,), LEFT | RIGHT, True),
    ]:  # fmt: skip
        found = lies_on_side(mask(*columns), grid, torch.tensor([[side]]), 0.5)
        assert found.item() is fits, (columns, side)
    if grid[-1] % 2:
        half = lies_on_side(mask(middle), grid, torch.tensor([[LEFT]]), 0.49)
        assert half.item()


def test_pasted_tokens_are_the_donor_s_at_the_same_positions_and_the_others_stay():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 64, 5, generator=generator)
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, :2, 2:] = True  # upper right of the image: the patient's left
    donor = torch.tensor([2, 0, 1])
    mixed = paste(tokens, (8, 8), donor_B=donor, mask_BP=mask.flatten(1), grid=(4, 4))
    fine = torch.zeros(8, 8, dtype=torch.bool)
    fine[:4, 4:] = True
    fine = fine.flatten()
    assert torch.equal(mixed[0, fine], tokens[2, fine])
    assert torch.equal(mixed[0, ~fine], tokens[0, ~fine])
    assert torch.equal(mixed[1:], tokens[1:])


class Probe(Objective):
    """An objective that no registry knows: reads patches, tokens and labels."""

    scope = "batch"
    reads = frozenset({"patch_BPE", "token_BNTE", "labels_BL"})

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 4)

    def forward(self, encodings: Encodings, batch: Batch):
        known = torch.nan_to_num(batch.labels_BL, 0.5)
        logits = (
            self.mix(encodings.patch_BPE.amax(1)) + encodings.token_BNTE.mean((1, 2, 3))[:, None]
        )
        return F.binary_cross_entropy_with_logits(logits, known)


def mixing(data, image=VIT, objectives=None, step=0, **options):
    model = towers(image)
    mixer = Mixer(MedCutMixConfig(**options), NAMES, model.image, seed=5)
    probe = Probe()
    built = objectives or [probe]

    def value(encodings, given):
        return torch.stack([objective(encodings, given) for objective in built]).sum()

    encodings = model(data)
    plain = value(encodings, data)
    mixed = mixer.mix(model, data, encodings, step)
    losses = mixer.loss(plain, mixed, value)
    return SimpleNamespace(
        model=model, encodings=encodings, plain=plain, mixed=mixed, losses=losses, probe=probe
    )


MIXABLE = [[SILENT, EFFUSION], [PNEUMOTHORAX, SILENT], [NO_EFFUSION, SILENT], [EFFUSION, SILENT]]


@pytest.mark.parametrize("image", [VIT, RESNET])
def test_the_loss_is_the_plain_one_and_both_targets_by_the_mask_s_share(image):
    data = batch(MIXABLE)
    for step in range(4):
        made = mixing(data, image, step=step, weight=0.3, area=(0.2, 0.6))
        (old_part, seen, same), (new_part, exchanged, told) = made.mixed.views
        assert same is data
        assert told.text_BNT.equal(data.text_BNT) is False
        assert old_part + new_part == pytest.approx(1)
        assert seen.image_BE is exchanged.image_BE
        untouched = (seen.image_BE == made.encodings.image_BE).all(1)
        assert made.mixed.shares["mixed"] == (~untouched).float().mean()
        patches = math.prod(seen.image.grid)
        assert (new_part * patches) == pytest.approx(round(new_part * patches))
        assert 0.2 - 0.5 / patches <= new_part <= 0.6 + 0.5 / patches
        probe = made.probe
        value = old_part * probe(seen, data) + new_part * probe(exchanged, told)
        torch.testing.assert_close(made.losses["mixed_loss"], value)
        torch.testing.assert_close(made.losses["loss"], 0.7 * made.plain + 0.3 * value)
        assert set(made.losses) == {"loss", *FIGURES}


@pytest.mark.parametrize("image", [VIT, RESNET])
def test_at_every_block_the_masked_share_is_the_target_s_weight(image, monkeypatch):
    data = batch(MIXABLE)
    calls = []

    def spy(tokens, at, *, donor_B, mask_BP, grid):
        mixed = paste(tokens, at, donor_B=donor_B, mask_BP=mask_BP, grid=grid)
        calls.append((tokens.detach(), mixed.detach(), donor_B))
        return mixed

    monkeypatch.setattr("medvlp.train.mixing.paste", spy)
    blocks = set()
    for step in range(8):
        made = mixing(data, image, step=step)
        tokens, mixed, donor = calls.pop()
        blocks.add(tokens.shape[1:])
        rows = (made.mixed.views[1][2].text_BNT != data.text_BNT).flatten(1).any(1)
        changed = (mixed != tokens).any(2)
        assert torch.equal(changed.any(1), rows)
        share = changed[rows].float().mean(1)
        torch.testing.assert_close(share, torch.full_like(share, made.mixed.views[1][0]))
        assert torch.equal(mixed[changed], tokens[donor][changed])
    assert len(blocks) == (1 if image is VIT else 3)


def test_the_exchanged_report_alone_may_be_the_target():
    made = mixing(batch(MIXABLE), targets="whole", weight=1.0)
    ((part, seen, told),) = made.mixed.views
    assert part == 1.0
    torch.testing.assert_close(made.losses["loss"], made.probe(seen, told))


@pytest.mark.parametrize("patients", [[0, 0, 0, 0], None])
def test_where_nothing_can_be_mixed_the_loss_is_the_plain_one(patients):
    told = MIXABLE if patients else [[SILENT, NO_EFFUSION]] * 4
    made = mixing(batch(told, patients=patients))
    assert made.losses["loss"] is made.plain
    assert torch.equal(made.losses["mixed_loss"], made.plain)
    assert not made.losses["mixed"]


def test_a_sentence_of_a_side_brings_the_mask_of_that_side():
    """A finding bright on the image's right, whose sentence says left, stays on the right."""
    data = batch([[EFFUSION, SILENT], [PNEUMOTHORAX, SILENT]], side=[[LEFT, 0], [0, 0]])
    refused = 0
    for seed in range(12):
        model = towers(seed=seed)
        encodings = model(data)
        mixer = Mixer(MedCutMixConfig(area=(0.25, 0.25)), NAMES, model.image, seed)
        mixed = mixer.mix(model, data, encodings, 0)
        mask = attention_masks(encodings.text_BNE, encodings.patch_BPE, 4)[0, 0].view(4, 4)
        on_left = mask[:, 2:].sum() > 2
        assert mixed.shares["mixed"].item() == (1.0 if on_left else 0.5)
        assert mixed.shares["refused_side"].item() == (0.0 if on_left else 0.5)
        refused += not on_left
    assert 0 < refused < 12


def test_it_composes_with_the_objectives_and_gradients_are_finite():
    model = towers()
    sizes = model.sizes(NAMES)
    torch.manual_seed(1)
    objectives = [c.build(sizes) for c in (ClipConfig(), SigLipConfig(), LabelsConfig())]
    made = mixing(batch(MIXABLE), objectives=objectives)
    made.losses["loss"].backward()
    grads = [p.grad for p in made.model.parameters() if p.grad is not None]
    assert len(grads) > 10
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_the_gradient_is_that_of_the_loss():
    """A step along one weight changes the loss as its gradient says; masks stay what they are."""
    data = batch(MIXABLE)
    made = mixing(data)
    weight = made.model.image_projection.weight
    (gradient,) = torch.autograd.grad(made.losses["loss"], weight)
    direction = gradient / gradient.norm()

    def shifted(by):
        model = towers()
        with torch.no_grad():
            model.image_projection.weight += by * direction
        mixer = Mixer(MedCutMixConfig(), NAMES, model.image, seed=5)
        encodings = model(data)
        mixed = mixer.mix(model, data, encodings, 0)
        value = made.probe
        return mixer.loss(value(encodings, data), mixed, value)["loss"].item()

    slope = (shifted(1e-2) - shifted(-1e-2)) / 2e-2
    assert slope == pytest.approx(gradient.norm().item(), rel=2e-2)


def test_mixed_images_leave_the_running_statistics():
    data = batch(MIXABLE * 3)
    model = towers(dataclasses.replace(RESNET, norm="batch"))
    encodings = model(data)
    plain = copy.deepcopy(dict(model.named_buffers()))
    mixed = Mixer(MedCutMixConfig(), NAMES, model.image, 5).mix(model, data, encodings, 0)
    assert mixed.views
    torch.testing.assert_close(dict(model.named_buffers()), plain, rtol=0, atol=0)


def test_draws_follow_from_seed_and_step():
    data = batch(MIXABLE * 3)
    one, two, other = (mixing(data, step=step) for step in (3, 3, 4))
    assert torch.equal(one.losses["loss"], two.losses["loss"])
    assert not torch.equal(one.losses["loss"], other.losses["loss"])
    state = torch.get_rng_state()
    mixing_model = towers()
    torch.set_rng_state(state)
    encodings = mixing_model(data)
    Mixer(MedCutMixConfig(), NAMES, mixing_model.image, 0).mix(mixing_model, data, encodings, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_that_the_tower_lacks_are_refused():
    with pytest.raises(ConfigError, match=r"mixing\.depths: the image tower has 3 blocks"):
        Mixer(MedCutMixConfig(depths=(3,)), NAMES, towers().image, 0)
    with pytest.raises(ConfigError, match="has 0 blocks"):
        Mixer(MedCutMixConfig(), NAMES, NoImageEncoderConfig().build(1), 0)
    assert Mixer(MedCutMixConfig(depths=(1,)), NAMES, towers().image, 0).depths == (1,)


def test_labels_tell_of_the_observations_that_the_configuration_names():
    config = MedCutMixConfig(labels={"Any": ("effusion", "pneumothorax")})
    tells = Mixer(config, NAMES, towers().image, 0).tells_LQ
    assert tells.tolist() == [
        [True, False, False], [False, True, False], [True, True, False], [False, False, False],
    ]  # fmt: skip

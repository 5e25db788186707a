"""Contrast of organs: against a plain loop, by hand, and whatever the order and micro-batches."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from encoded import EMBED, SIZES, WIDTH, batch, encodings

from medvlp.data.batch import Batch
from medvlp.data.relations import Names
from medvlp.encoding import Encodings, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.losses.contrastive import clip_loss
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.train.gradient_cache import GradientCache
from medvlp_volumetric.encoders.vit3d import Vit3dConfig
from medvlp_volumetric.losses.organs import OrganPool, OrgansConfig, contrast_organs

NAMES = ("lung", "heart", "spleen")
COUNT = 7
GROUPS = torch.tensor(
    [[0, 5, 3], [0, 6, -1], [8, 5, 3], [9, -1, -1], [0, 7, 3], [8, 5, -1], [-1, 5, 3]]
)
"""Of the spleen, all say the same."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def naive(image, text, group, scale, patient=None):
    """Each organ's mean over samples of both cross-entropies with soft targets, term by term."""
    terms = []
    for r in range(group.shape[1]):
        rows = [i for i in range(len(group)) if group[i, r] >= 0]
        if len({int(group[i, r]) for i in rows}) < 2:
            continue
        total = 0.0
        for i in rows:
            same = [j for j in rows if group[j, r] == group[i, r]]
            met = [j for j in rows if patient is None or j in same or patient[j] != patient[i]]
            for one, other in ((image, text), (text, image)):
                left, right = (F.normalize(x[:, r], dim=1) for x in (one, other))
                logits = torch.stack([scale * left[i] @ right[j] for j in met])
                chosen = torch.stack([scale * left[i] @ right[j] for j in same])
                total = total - (chosen - logits.logsumexp(0)).mean() / 2
        terms.append(total / len(rows))
    return torch.stack(terms)


@pytest.mark.parametrize("over", ["mean", "sum"])
@pytest.mark.parametrize("patients", [None, torch.tensor([0, 1, 0, 2, 2, 3, 3])])
def test_it_is_the_plain_loops_value_and_gradients(over, patients):
    image, text = (drawn(COUNT, 3, 4, seed=seed).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(text, dim=2)
    loss = contrast_organs(image, unit, GROUPS, scale, patient_B=patients, over=over)
    expected = getattr(naive(image, text, GROUPS, scale, patients), over)()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(loss, (image, text, scale)),
        torch.autograd.grad(expected, (image, text, scale)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_two_samples_of_one_organ_by_hand():
    eye = torch.eye(2)[:, None]
    # -log(e / (e + 1)), both ways.
    assert contrast_organs(eye, eye, torch.tensor([[1], [2]]), 1.0).item() == pytest.approx(
        0.31326, abs=1e-5
    )
    # Where a third says what the first says, the first's target is half each.
    three = torch.tensor([[1.0, 0], [0, 1], [1, 0]])[:, None]
    e = torch.e
    first, second = -torch.tensor([e / (2 * e + 1), e / (e + 2)]).log()
    found = contrast_organs(three, three, torch.tensor([[1], [2], [1]]), 1.0)
    assert found.item() == pytest.approx((2 * first + second).item() / 3)


def test_where_all_say_the_same_nothing_is_told_apart():
    image, text = (drawn(3, 2, 4, seed=seed).requires_grad_() for seed in (1, 2))
    loss = contrast_organs(image, text, torch.tensor([[0, -1], [0, 4], [0, -1]]), 2.0)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (image, text)))


def test_without_groups_it_is_clip():
    image, text = (F.normalize(drawn(5, 1, 4, seed=seed), dim=2) for seed in (1, 2))
    loss = contrast_organs(image, text, torch.arange(5)[:, None], 4.0)
    torch.testing.assert_close(loss, clip_loss(image[:, 0], text[:, 0], 4.0))


def test_the_order_of_samples_and_organs_is_no_matter():
    image, text = (F.normalize(drawn(COUNT, 3, 4, seed=seed), dim=2) for seed in (1, 2))
    loss = contrast_organs(image, text, GROUPS, 5.0)
    rows, organs = torch.randperm(COUNT), torch.tensor([2, 0, 1])
    moved = (x[rows][:, organs] for x in (image, text, GROUPS))
    torch.testing.assert_close(contrast_organs(*moved, 5.0), loss)


def test_a_query_looks_at_its_organs_tokens_alone():
    torch.manual_seed(0)
    pool = OrganPool(3, 8, 5, heads=2, dropout=0.0).double()
    torch.nn.init.normal_(pool.query_RD)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        parts = (pool.query, pool.key, pool.value)
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.load_state_dict(pool.out.state_dict())
    token, where = drawn(4, 6, 8), drawn(4, 3, 6, seed=3) > 0
    where[1, 2] = False
    found = pool(token, where)
    for b in range(4):
        for r in range(3):
            own = token[b, where[b, r]][None]
            if not own.shape[1]:
                continue
            seen = reference(pool.query_RD[r][None, None], own, own)[0][0, 0]
            expected = seen @ pool.weight_RDE[r] + pool.bias_RE[r]
            torch.testing.assert_close(found[b, r], expected)
    assert found.isfinite().all()


def told(count: int, *, absent: tuple[tuple[int, int], ...] = ()) -> tuple[Encodings, Batch]:
    """Samples with three organs on six tokens; the texts of two samples are the same."""
    one, data = encodings(count, 1), batch(count, 3, absent=absent)
    token = drawn(count, 6, WIDTH, seed=5).requires_grad_()
    image = ImageFeatures(pooled_BD=token.mean(1), tokens_BPD=token, grid=(1, 2, 3), maps=())
    ids, mask = data.text_BNT.clone(), data.text_mask_BNT.clone()
    ids[1], mask[1] = ids[0], mask[0]
    region = F.normalize(drawn(count, 3, EMBED, seed=6), dim=2).requires_grad_()
    cover = (drawn(count, 3, 1, 2, 3, seed=7) > 0).float()
    data = dataclasses.replace(
        data, cover_BRDHW=cover, region_text_BRT=ids, region_mask_BRT=mask,
        normal_BR=torch.zeros(count, 3, dtype=torch.bool), patient_B=torch.arange(count) // 2,
    )  # fmt: skip
    return dataclasses.replace(one, image=image, region_BRE=region), data


def value(config: OrgansConfig, one: Encodings, data: Batch) -> torch.Tensor:
    torch.manual_seed(1)
    objective = config.build(dataclasses.replace(SIZES, regions=NAMES)).double()
    return objective(one, data)


def test_what_is_out_of_view_or_untold_has_no_part():
    config = OrgansConfig(heads=1, dropout=0)
    one, data = told(6, absent=((2, 1),))
    data.cover_BRDHW[3, 0] = 0
    loss = value(config, one, data)
    region, token = torch.autograd.grad(loss, (one.region_BRE, one.image.tokens_BPD))
    silent = torch.zeros(6, 3, dtype=torch.bool)
    silent[2, 1] = silent[3, 0] = True
    assert torch.equal(~region.any(2), silent)
    counted = data.cover_BRDHW.flatten(2) * ~silent[..., None]
    nowhere = ~counted.any(1)
    assert nowhere.any()
    assert torch.equal(~token.any(2), nowhere)


def test_samples_that_are_normal_share_their_target():
    one, data = told(6)
    data.cover_BRDHW[:] = 1
    data.normal_BR[[2, 4, 5], 0] = True
    config = OrgansConfig(heads=1, dropout=0)
    torch.manual_seed(1)
    objective = config.build(dataclasses.replace(SIZES, regions=NAMES)).double()
    seen = objective.pool(one.image.tokens_BPD, torch.ones(6, 3, 6, dtype=torch.bool))
    normal = torch.tensor([[1, 1, 0, 2, 0, 0], [1, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4, 5]]).T
    words = normal.clone()
    words[:, 0] = words[:, 1]
    for alike, groups in (
        ("normal", normal), ("words", words), ("none", torch.arange(6)[:, None].expand(6, 3)),
    ):  # fmt: skip
        for patients in ("negative", "leave-out"):
            config = OrgansConfig(heads=1, dropout=0, alike=alike, same_patient=patients)
            expected = naive(
                seen, one.region_BRE, groups, one.scale,
                data.patient_B if patients == "leave-out" else None,
            ).mean()  # fmt: skip
            torch.testing.assert_close(value(config, one, data), expected)


def test_what_does_not_fit_is_refused():
    one, data = told(4)
    turned = dataclasses.replace(data, cover_BRDHW=data.cover_BRDHW.transpose(3, 4))
    with pytest.raises(ConfigError, match=r"tokens are \(1, 2, 3\), the regions' cells \(1, 3, 2"):
        value(OrgansConfig(heads=1), one, turned)
    with pytest.raises(ConfigError, match="no regions"):
        OrgansConfig().build(SIZES)
    with pytest.raises(ConfigError, match="heads=2 is no divisor"):
        OrgansConfig(heads=2).build(dataclasses.replace(SIZES, regions=NAMES))


def test_micro_batches_give_the_plain_steps_gradient():
    torch.manual_seed(0)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0)
    image = Vit3dConfig(patch=(2, 2, 2), width=12, depth=1, heads=2, dropout=0)
    model = TwoTower(TwoTowerConfig(embed=6), image.build(1), text.build(40, 0)).double()
    sizes = model.sizes(Names(regions=NAMES))
    objective = OrgansConfig(heads=2, dropout=0).build(sizes).double()
    data = dataclasses.replace(told(6, absent=((2, 1),))[1], image=drawn(6, 1, 2, 4, 6, seed=9))
    plain = objective(model(data, objective.reads), data)
    modules = torch.nn.ModuleList([model, objective])
    plain.backward()
    expected = {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}
    assert expected["1.pool.query_RD"].any()
    for size in (1, 4):
        modules.zero_grad()
        cache = GradientCache(model, {"organs": objective}, {"organs": 1.0}, size)
        values = cache(data, torch.device("cpu"))
        values["loss"].backward()
        torch.testing.assert_close(values["organs"], plain.detach())
        for name, weight in modules.named_parameters():
            if name in expected:
                torch.testing.assert_close(weight.grad, expected[name], msg=name)


def test_a_text_that_is_said_often_is_read_once():
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=8, dropout=0)
    image = Vit3dConfig(patch=(2, 2, 2), width=12, depth=1, heads=2)
    model = TwoTower(TwoTowerConfig(embed=6), image.build(1), text.build(40, 0)).double()
    _, data = told(5, absent=((4, 0),))
    counts = []
    model.text.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    found = model(data, {"region_BRE"}).region_BRE
    every = model.embed_text(data.region_text_BRT.flatten(0, 1), data.region_mask_BRT.flatten(0, 1))
    torch.testing.assert_close(found.flatten(0, 1), every)
    assert not found[4, 0].any()
    # Fifteen texts, of which three are said twice.
    assert counts == [12, 15]

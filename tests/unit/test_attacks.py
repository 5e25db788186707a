"""Attacks keep their budget, come in the order of their strength, and meet the closed form."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from medvlp.data.prompts import prompts_from_labels
from medvlp.data.randomness import generator
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.evaluate.robustness.attacks.gradient import (
    fgsm,
    noise,
    pgd,
    to_8bit,
    universal,
    within,
)
from medvlp.evaluate.robustness.attacks.pictures import Answers, Pictures, weights
from medvlp.evaluate.robustness.attacks.words import WordAttack, near_words, over_sizes, versions
from medvlp.evaluate.robustness.attacks.written import opposite, written
from medvlp.evaluate.robustness.cells import attack_measures, corruption_measures
from medvlp.evaluate.robustness.sentences import SCORE
from medvlp.models.bundle import load

GREYS = (1, 2, 4, 8)


def linear_tower(seed, size=12, width=6):
    """A two-tower of one linear map a side, without normalisation: the margin is w·u + b."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(width, size * size, generator=rng)
    text = torch.randn(width, generator=rng)

    def right(pictures):
        return pictures.flatten(1) @ image.T @ text

    slope = (text @ image).view(1, 1, size, size)
    pictures = torch.rand(8, 1, size, size, generator=rng)
    return right, slope, pictures


@pytest.mark.parametrize("grey", GREYS)
@pytest.mark.parametrize("seed", range(3))
def test_on_a_linear_two_tower_fgsm_and_pgd_meet_the_closed_form(grey, seed):
    right, slope, clean = linear_tower(seed)
    eps = grey / 255
    # Each pixel goes by eps against the slope, or until it is black or white.
    room = torch.where(slope > 0, torch.minimum(clean, torch.tensor(eps)),
                       torch.minimum(1 - clean, torch.tensor(eps)))  # fmt: skip
    lowest = right(clean) - (room * slope.abs()).flatten(1).sum(1)
    for attacked in (fgsm(right, clean, eps), pgd(right, clean, eps)):
        torch.testing.assert_close(right(attacked), lowest, rtol=1e-4, atol=1e-4)


def curved_tower(seed, size=12, width=6):
    """A two-tower with a bend and unit vectors, where one step is not the best there is."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.randn(24, size * size, generator=rng) / size
    second = torch.randn(width, 24, generator=rng)
    text = F.normalize(torch.randn(width, generator=rng), dim=0)

    def right(pictures):
        hidden = torch.sin(6 * pictures.flatten(1) @ first.T)
        return F.normalize(hidden @ second.T, dim=-1) @ text

    return right, torch.rand(16, 1, size, size, generator=rng)


@pytest.mark.parametrize("grey", GREYS)
@pytest.mark.parametrize("seed", range(3))
def test_noise_hurts_no_more_than_fgsm_and_fgsm_no_more_than_pgd(grey, seed):
    right, clean = curved_tower(seed)
    eps = grey / 255
    blind = noise(clean, eps, generator(seed, 0, "a", "noise"))
    one, many = fgsm(right, clean, eps), pgd(right, clean, eps)
    assert right(blind).mean() >= right(one).mean() - 1e-6
    assert (right(one) >= right(many) - 1e-6).all()
    assert right(many).mean() < right(one).mean()


@pytest.mark.parametrize("grey", GREYS)
@pytest.mark.parametrize("on_grid", [False, True])
def test_the_budget_holds_after_rounding_to_eight_bits(grey, on_grid):
    right, clean = curved_tower(5)
    if on_grid:
        clean = (clean * 255).round() / 255
    eps = grey / 255
    for attacked in (
        noise(clean, eps, generator(0, 0, "a", "noise")),
        fgsm(right, clean, eps),
        pgd(right, clean, eps),
        torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)),
    ):
        kept = to_8bit(attacked, clean, eps)
        levels = kept.double() * 255
        assert (levels - levels.round()).abs().max() < 1e-4
        assert (kept.double() - clean.double()).abs().max() <= eps + 1e-3 / 255
        assert kept.min() >= 0
        assert kept.max() <= 1
        if on_grid:
            assert (levels.round() - (clean.double() * 255).round()).abs().max() <= grey


def test_rounding_alone_changes_nothing_that_lies_on_a_level():
    clean = torch.arange(256).view(1, 1, 16, 16) / 255
    torch.testing.assert_close(to_8bit(clean, clean, 1 / 255), clean, rtol=0, atol=1e-6)


def test_one_perturbation_for_all_is_the_closed_form_where_all_slopes_agree():
    right, slope, clean = linear_tower(1)
    eps = 12 / 255
    middle = 0.2 + 0.6 * clean
    delta = universal([(right, middle[:4]), (right, middle[4:])], eps)
    torch.testing.assert_close(delta, -eps * slope.sign())
    unseen = 0.2 + 0.6 * torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(9))
    fall = right(unseen) - right(within(unseen + delta, unseen, eps))
    torch.testing.assert_close(fall, (eps * slope.abs()).sum().expand(5), rtol=1e-4, atol=1e-4)


def test_a_gradient_over_sizes_is_that_of_the_mean():
    right, _, clean = linear_tower(2)
    assert over_sizes(right)(clean).shape == (8,)
    flat = torch.full_like(clean, 0.5)
    torch.testing.assert_close(over_sizes(right)(flat), right(flat), rtol=1e-4, atol=1e-4)


def test_margins_of_labels_that_exclude_each_other_weigh_the_true_one_against_the_rest():
    truth = np.array([[1, 0, 0, 0], [0, 0, 1, np.nan]])
    third = 1 / 3
    chosen = [[1, -third, -third, -third], [-0.5, -0.5, 1, 0]]
    apart = [[0.25, -0.25, -0.25, -0.25], [-third, -third, third, 0]]
    np.testing.assert_allclose(weights(truth, True), chosen, rtol=1e-6)
    np.testing.assert_allclose(weights(truth, False), apart, rtol=1e-6)


@pytest.mark.parametrize("domain", ["cxr", "volumetric", "video"])
def test_a_bundle_sees_its_pictures_as_it_sees_the_stored_arrays(tiny_bundle, domain):
    bundle = load(tiny_bundle(domain))
    rng = np.random.default_rng(0)
    arrays = {
        "cxr": rng.integers(0, 65536, (3, 32, 32)).astype(np.uint16),
        "volumetric": rng.integers(-1500, 1500, (3, 16, 32, 32)).astype(np.int16),
        "video": rng.integers(0, 256, (3, 4, 32, 32, 3)).astype(np.uint8),
    }[domain]
    pictures = Pictures(bundle, arrays[0])
    shown = pictures.of(list(arrays))
    assert shown.min() >= 0
    assert shown.max() <= 1
    np.testing.assert_allclose(pictures.seen(shown), bundle.embed_stored(arrays), atol=1e-5)
    truth = np.array([[1.0, 0.0], [0.0, np.nan], [1.0, 1.0]])
    way = rng.standard_normal((1, 2, 8)).astype(np.float32)
    right = Answers(pictures, truth, way, exclusive=False)
    attacked = to_8bit(pgd(right, shown, 4 / 255, 5), shown, 4 / 255)
    assert (right(attacked) < right(shown)).all()
    assert (attacked - shown).abs().max() <= 4.001 / 255
    calm = pictures.calmed(attacked)
    np.testing.assert_allclose(np.linalg.norm(calm, axis=1), 1, atol=1e-5)


def test_words_are_exchanged_one_at_a_time_and_keep_their_case():
    found = versions("No pleural effusion.")
    assert found[0] == "No pleural effusion."
    assert "No pleural fluid." in found
    assert all(text.startswith("No ") for text in found)
    assert len(versions("Cardiac silhouette")) == 2
    assert versions("Cardiac silhouette")[1] == "Heart silhouette"
    meaning = {"no", "not", "without", "left", "right", "upper", "lower", "mild", "severe"}
    told = {word for near in near_words().values() for text in near for word in text.split()}
    assert not meaning & (told | set(near_words()))


def test_the_worst_words_are_never_better_than_the_given_ones(tiny_bundle):
    bundle = load(tiny_bundle("cxr"))
    prompts = prompts_from_labels(["pleural effusion", "lung nodule"])
    rng = np.random.default_rng(1)
    image = rng.standard_normal((6, 8)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    truth = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, np.nan], [np.nan, 0]])
    ways = WordAttack(bundle, prompts, prompts.names).ways(image, truth)
    embedded = bundle.embed_prompts(prompts)
    given = image @ (embedded.positive_LE - embedded.negative_LE).T
    attacked = np.einsum("be,ble->bl", image, ways)
    sign = np.where(truth == 1, 1, np.where(truth == 0, -1, 0))
    assert (sign * attacked <= sign * given + 1e-6).all()
    unknown = np.isnan(truth)
    np.testing.assert_allclose(attacked[unknown], given[unknown], atol=1e-6)


def test_the_opposite_is_written_into_the_corner_and_nowhere_else():
    assert opposite("pleural_effusion", True) == "no pleural effusion"
    assert opposite("phase:cutting", False) == "cutting"
    clean = torch.full((2, 3, 64, 64), 0.5)
    done = written(clean, opposite("pleural_effusion", True))
    assert done.shape == clean.shape
    assert done[..., :6, :40].max() > 0.5
    assert (done[..., 40:, :] == 0.5).all()
    torch.testing.assert_close(done[0, 0], done[1, 2])


def rows_of(cells, truth, patients):
    """Rows named after cells, with these scores (N,)."""
    parts = []
    for cell, score in cells.items():
        for i, (label, value) in enumerate(zip(truth, score, strict=True)):
            parts.append(
                {"model": "m", "protocol": "p", "seed": 0, "sample": f"s{i}",
                 "patient": f"p{patients[i]}", "name": f"{cell}/a/b", "label": label,
                 "score": float(value), "control": False, "time_s": None}
            )  # fmt: skip
    rows = pl.DataFrame(parts, infer_schema_length=None)
    full = rows.with_columns(
        pl.lit(None).alias(name) for name in PREDICTIONS if name not in rows.columns
    ).select(pl.col(name).cast(kind) for name, kind in PREDICTIONS.items())
    return full.with_columns(cluster=pl.Series([patients[int(s[1:])] for s in full["sample"]]))


def values(measures, clusters):
    ones = np.ones((clusters, 1), np.float32)
    return {
        (m.metric, m.name): float(m.statistic(ones)[0]) for m in measures if m.statistic is not None
    }


def test_attack_success_is_clean_minus_attacked_and_what_stays_right_is_a_share():
    truth = [1, 1, 0, 0, 1, 0]
    clean = [0.9, 0.8, 0.1, 0.7, 0.2, 0.3]
    attacked = [0.4, 0.7, 0.6, 0.2, 0.9, 0.3]
    rows = rows_of({"clean/0": clean, "pgd/4": attacked}, truth, range(6))
    measures = attack_measures({}, exclusive=False)(rows, 6)
    found = values(measures, 6)
    assert found["accuracy_attacked", "clean/0"] == pytest.approx(4 / 6)
    assert found["accuracy_attacked", "pgd/4"] == pytest.approx(4 / 6)
    assert found["attack_success", "pgd/4"] == pytest.approx(0)
    assert found["still_right", "pgd/4"] == pytest.approx(2 / 4)
    score = next(m for m in measures if m.metric == SCORE)
    assert score.members == (("still_right", "pgd/4"),)
    limited = values(attack_measures({"a/b": 0.75}, exclusive=False)(rows, 6), 6)
    assert limited["accuracy_attacked", "pgd/4"] == pytest.approx(4 / 6)
    assert limited["accuracy_attacked", "clean/0"] == pytest.approx(5 / 6)


def test_noise_and_defended_rows_have_no_part_in_the_score():
    cells = {k: [0.9, 0.1] for k in ("clean/0", "noise/4", "pgd/4", "pgd+average/4")}
    measures = attack_measures({}, exclusive=False)(rows_of(cells, [1, 0], range(2)), 2)
    score = next(m for m in measures if m.metric == SCORE)
    assert score.members == (("still_right", "pgd/4"),)


def test_what_corruption_leaves_is_counted_above_chance_and_undefined_without_skill():
    truth = [1, 1, 1, 1, 0, 0, 0, 0]
    perfect = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    half = [0.5] * 8
    rows = rows_of({"clean/0": perfect, "gamma/1": perfect, "gamma/2": half}, truth, range(8))
    found = values(corruption_measures(rows, 8), 8)
    assert found[SCORE, "corruption"] == pytest.approx(0.5)
    assert found["auroc_relative", "all"] == pytest.approx(0.75)
    assert found["auroc_changed", "gamma/2"] == pytest.approx(0.5)
    blind = rows_of({"clean/0": half, "gamma/1": perfect}, truth, range(8))
    assert np.isnan(values(corruption_measures(blind, 8), 8)[SCORE, "corruption"])

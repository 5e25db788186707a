"""Heads trained for an evaluation: on made-up pictures, from manifest to metrics."""

import json

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from medvlp.data.manifest import write_manifest
from medvlp.data.splits import subsets
from medvlp.errors import ConfigError, LeakError
from medvlp.evaluate.run import evaluate_protocol

BLIND = ["image-blind", "random-label"]
CONTROLS = {"random-encoder", "image-blind", "random-label"}
COMPUTED = {"chance", "prevalence", "metadata-only"}


def picture(rng, disc, size=48):
    y, x = np.mgrid[:size, :size]
    image = rng.normal(60, 12, (size, size))
    mask = np.zeros((size, size), bool)
    if disc:
        cy, cx = rng.uniform(14, size - 14, 2)
        mask = (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(7, 11) ** 2
    image[mask] += 130
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write(root, *, flip_test=False, copy=False, only=None, train=40):
    """Pictures with or without a bright disc, one a patient, with labels, masks and subsets."""
    rng = np.random.default_rng(1)
    tables = {name: [] for name in ("samples", "labels", "regions")}
    sources = []
    place = 0
    for split, count in (("train", train), ("valid", 24), ("test", 40)):
        for i in range(count):
            name, disc = f"s{place:03d}", bool(i % 2)
            image, mask = picture(rng, disc)
            Image.fromarray(image).save(root / f"{name}.png")
            Image.fromarray(mask.astype(np.uint8) * 2).save(root / f"{name}-mask.png")
            sources += [
                {"source": f"src-{name}", "part": 0, "path": str(root / f"{name}.png")},
                {"source": f"mask-{name}", "part": 0, "path": str(root / f"{name}-mask.png")},
            ]
            sha = 40 if copy and split == "test" and i == 0 else place
            tables["samples"].append(
                {
                    "sample": name, "domain": "cxr", "patient": f"p{place:03d}",
                    "source": f"src-{name}", "sha256": f"{sha:064x}", "kind": "image",
                    "split": only or split, "sex": "FM"[i // 2 % 2], "spacing_mm": [1.0, 1.0],
                }
            )  # fmt: skip
            told = disc != (flip_test and split == "test")
            for label, value in (("disc", float(told)), ("noise", float(rng.random() < 0.5))):
                tables["labels"].append(
                    {"sample": name, "name": label, "value": value, "source": "table"}
                )
            if disc:
                tables["regions"].append(
                    {"sample": name, "name": "disc", "kind": "mask", "geometry": [2.0],
                     "ref": f"mask-{name}"}
                )  # fmt: skip
            place += 1
    tables["subsets"] = list(
        subsets(pl.DataFrame(tables["samples"]), pl.DataFrame(tables["labels"]))
    )
    write_manifest(root / "manifest", tables, sources, {"key_id": "t", "counts": {}}, key=b"k" * 32)
    return root / "manifest"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pictures"))


def evaluate(folder, manifest, bundle, task, **more):
    values = {
        "name": "trial", "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    (folder / "p.yaml").write_text(yaml.safe_dump(values | more))
    evaluate_protocol(folder / "p.yaml", [bundle], folder / "out", [])
    return folder / "out" / "trial"


def values(folder):
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(r["model"], r["metric"], r["name"]): r for r in rows}


def probe(**more):
    return {"kind": "probe", "labels": ["disc", "noise"], **more}


@pytest.fixture(scope="module")
def probed(manifest, tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    return evaluate(folder, manifest, tiny_bundle("cxr"), probe())


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_a_probe_finds_what_is_planted_and_its_controls_stay_at_chance(
    method, manifest, tiny_bundle, tmp_path
):
    folder = evaluate(tmp_path, manifest, tiny_bundle("cxr"), probe(method=method, seeds=3))
    found = values(folder)
    model = {model for model, _, _ in found} - CONTROLS - COMPUTED
    assert model == {"cxr", "all-positive"}
    assert found["cxr", "auroc", "disc"]["value"] > 0.95
    assert found["cxr", "recall", "disc"]["value"] > 0.8
    # A random encoder sees a bright disc, too; nobody sees noise, and the blind see nothing.
    assert found["random-encoder", "auroc", "disc"]["value"] > 0.8
    for model in ("image-blind", "random-label"):
        # Three seeds of 20 against 20: the standard error of an AUROC is about 0.09 each.
        assert 0.25 < found[model, "auroc", "disc"]["value"] < 0.75
    assert 0.25 < found["cxr", "auroc", "noise"]["value"] < 0.75
    assert found["prevalence", "auroc", "disc"]["value"] == 0.5
    assert found["cxr", "auroc", "disc"]["seeds"] == 3


def test_a_random_encoder_is_drawn_anew_with_each_seed_and_leaves_the_model_alone(tiny_bundle):
    import torch

    from medvlp.models.bundle import load
    from medvlp.models.untrained import reinitialised

    bundle = load(tiny_bundle("cxr"))
    before = [weight.clone() for weight in bundle.model.parameters()]
    state = torch.get_rng_state()
    first, again, other = (reinitialised(bundle, seed) for seed in (7, 7, 8))
    assert torch.equal(state, torch.get_rng_state())
    for weight, own, same, one, two in zip(
        before, bundle.model.parameters(), again.model.parameters(), first.model.parameters(),
        other.model.parameters(), strict=True,
    ):  # fmt: skip
        assert torch.equal(weight, own)
        assert torch.equal(one, same)
        if weight.ndim > 2:
            assert not torch.equal(one, weight)
            assert not torch.equal(one, two)
    assert len({bundle.digest, first.digest, other.digest}) == 3


def test_every_model_has_the_same_budget_and_its_trials_are_told(probed):
    trials = pl.read_parquet(probed / "trials.parquet")
    assert set(trials["model"]) == {"cxr"} | CONTROLS
    assert trials["budget"].n_unique() == 1
    assert trials.group_by("model").agg(pl.col("setting").sort())["setting"].n_unique() == 1
    for (_,), rows in trials.group_by("model"):
        chosen = rows.filter("chosen")
        assert len(chosen) == 1
        assert chosen["valid_score"][0] == rows["valid_score"].max()
        assert rows["expected_best"].is_sorted()
        assert rows["expected_best"][0] == pytest.approx(rows["valid_score"].mean())


def test_labels_of_the_evaluated_split_change_nothing_that_is_chosen(probed, tiny_bundle, tmp_path):
    other = write(tmp_path, flip_test=True)
    flipped = evaluate(tmp_path, other, tiny_bundle("cxr"), probe())
    for name in ("trials", "cutoffs"):
        ours, theirs = (pl.read_parquet(f / f"{name}.parquet") for f in (probed, flipped))
        assert ours.equals(theirs)
    before, after = (
        pl.read_parquet(folder / "predictions.parquet").filter(model="cxr")
        for folder in (probed, flipped)
    )
    assert before["score"].equals(after["score"])
    assert not before["label"].equals(after["label"])


def test_the_same_protocol_gives_the_same_predictions_again(
    probed, manifest, tiny_bundle, tmp_path
):
    again = evaluate(tmp_path, manifest, tiny_bundle("cxr"), probe())
    for name in ("predictions", "trials", "cutoffs"):
        assert pl.read_parquet(probed / f"{name}.parquet").equals(
            pl.read_parquet(again / f"{name}.parquet")
        )


def test_shots_are_nested_and_each_draw_is_a_seed(manifest, tiny_bundle, tmp_path):
    from medvlp.data.manifest import open_all
    from medvlp.evaluate.heads.splits import labelled_splits
    from medvlp.evaluate.predict import Study

    study = Study(
        protocol="p", domain="cxr", manifests=tuple(open_all((manifest,))), split="test", seed=0
    )

    def samples(subset, draw=0):
        train = labelled_splits(study, ("disc", "noise"), subset, draw, None).train
        known = np.stack([np.isin(item.labels_L, (0, 1)) for item in train])
        return {item.sample for item in train}, known.sum(axis=0)

    (one, few), (four, more) = samples("1-shot"), samples("4-shot")
    assert one < four < samples("100%")[0]
    assert few.tolist() == [2, 2]
    assert more.tolist() == [8, 8]
    assert samples("1-shot", 1)[0] != one
    assert samples("1%")[0] <= samples("5%")[0] < samples("10%")[0] < samples("100%")[0]
    folder = evaluate(
        tmp_path, manifest, tiny_bundle("cxr"), probe(subset="4-shot", seeds=3, controls=[])
    )
    rows = pl.read_parquet(folder / "predictions.parquet")
    assert set(rows["seed"]) == {0, 1, 2}
    assert values(folder)["cxr", "auroc", "disc"]["seed_sd"] is not None
    assert json.loads((folder / "metrics.json").read_text())["counts"]["training_samples"] <= 16


def test_splits_that_share_a_file_by_content_are_refused(tiny_bundle, tmp_path):
    manifest = write(tmp_path, copy=True)
    with pytest.raises(LeakError, match="1 of 40 samples of split test are the same file"):
        evaluate(tmp_path, manifest, tiny_bundle("cxr"), probe())


def test_an_evaluated_split_that_was_chosen_on_is_refused(manifest, tiny_bundle, tmp_path):
    with pytest.raises((ConfigError, LeakError), match=r"share 24 files|the same file"):
        evaluate(
            tmp_path, manifest, tiny_bundle("cxr"), probe(),
            data={"manifests": [str(manifest)], "split": "valid"},
        )  # fmt: skip


def test_without_a_validation_split_nothing_is_trained(tiny_bundle, tmp_path):
    manifest = write(tmp_path, only="test")
    with pytest.raises(ConfigError, match="split train holds nothing"):
        evaluate(tmp_path, manifest, tiny_bundle("cxr"), probe())


def test_a_label_with_too_few_samples_for_its_shots_is_named(tiny_bundle, tmp_path):
    manifest = write(tmp_path, train=20)
    with pytest.raises(ConfigError, match="no manifest has the training subset 'disc/16-shot/0'"):
        evaluate(tmp_path, manifest, tiny_bundle("cxr"), probe(subset="16-shot"))


def test_fine_tuning_learns_what_is_planted(manifest, tiny_bundle, tmp_path):
    search = {"rates": [0.01, 0.003], "steps": 40, "batch_size": 16, "checks": 2}
    task = {
        "kind": "finetune", "labels": ["disc"], "controls": ["image-blind"], "search": search,
    }  # fmt: skip
    folder = evaluate(tmp_path, manifest, tiny_bundle("cxr"), task)
    found = values(folder)
    assert found["cxr", "auroc", "disc"]["value"] > 0.95
    assert 0.1 < found["image-blind", "auroc", "disc"]["value"] < 0.9
    trials = pl.read_parquet(folder / "trials.parquet")
    assert trials.group_by("model").len()["len"].to_list() == [2, 2]
    assert trials["budget"].n_unique() == 1


@pytest.fixture(scope="module")
def segmented(manifest, tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    return evaluate(folder, manifest, tiny_bundle("cxr"), segmentation("unet", controls=BLIND))


def segmentation(head, **more):
    search = {"rates": [0.01], "steps": 60, "batch_size": 8, "checks": 4}
    return {
        "kind": "segmentation", "structures": ["disc"], "head": head, "width": 16,
        "search": search, **more,
    }  # fmt: skip


def test_a_head_draws_a_bright_disc_and_its_controls_do_not(segmented):
    found = values(segmented)
    assert found["cxr", "dice", "disc"]["value"] > 0.8
    assert found["cxr", "dice_macro", "all"]["value"] == found["cxr", "dice", "disc"]["value"]
    assert found["cxr", "surface_dice", "disc"]["value"] > 0.7
    assert 0 < found["cxr", "hd95_mm", "disc"]["value"] < 12
    # Twenty pictures without a disc count apart.
    assert found["cxr", "dice", "disc"]["n"] == 20
    assert found["cxr", "false_positive_empty", "disc"]["n"] == 20
    assert found["cxr", "false_positive_empty", "disc"]["value"] < 0.3
    for control in ("image-blind", "prevalence"):
        assert found[control, "dice", "disc"]["value"] < 0.5
    # Discs overlap near the middle, so that others' masks are not wholly wrong.
    shuffled = found["random-label", "dice", "disc"]["value"]
    assert shuffled < found["cxr", "dice", "disc"]["value"] - 0.15


def test_masks_lie_beside_the_rows_that_name_them(segmented):
    from medvlp.evaluate.packed import mask_digest, unpack_mask

    rows = pl.read_parquet(segmented / "predictions.parquet")
    masks = pl.read_parquet(segmented / "masks.parquet")
    assert len(rows) == len(masks) == 4 * 40
    joined = rows.join(masks, on=["model", "seed", "sample", "name"], suffix="_mask")
    assert joined["digest"].equals(joined["digest_mask"])
    for row in joined.filter(model="cxr").iter_rows(named=True):
        prediction = unpack_mask(row["prediction"], row["shape"])
        reference = unpack_mask(row["reference"], row["shape"])
        assert mask_digest(prediction) == row["digest"]
        assert reference.any() == row["label"]
        assert prediction.any() == (row["score"] >= 0.5)
        np.testing.assert_allclose(row["spacing_mm"], [1.5, 1.5])
    # What the blind control was shown is another's; what it is held against is the sample's own.
    own = {r["sample"]: r["reference"] for r in masks.filter(model="cxr").iter_rows(named=True)}
    for row in masks.filter(model="image-blind").iter_rows(named=True):
        assert row["reference"] == own[row["sample"]]


@pytest.mark.parametrize(
    ("head", "more"), [("upernet", {}), ("swinunetr", {}), ("unet", {"encoder": "tuned"})]
)
def test_every_head_and_a_tuned_encoder_learn_the_disc(head, more, manifest, tiny_bundle, tmp_path):
    task = segmentation(head, controls=[], **more)
    folder = evaluate(tmp_path, manifest, tiny_bundle("cxr"), task)
    assert values(folder)["cxr", "dice", "disc"]["value"] > 0.75


def test_a_structure_that_nobody_drew_is_refused_by_name(manifest, tiny_bundle, tmp_path):
    task = segmentation("unet", structures=["disk"])
    with pytest.raises(ConfigError, match=r"'disk'.*nearest names there are: disc"):
        evaluate(tmp_path, manifest, tiny_bundle("cxr"), task)

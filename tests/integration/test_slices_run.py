"""Volumes of different depth and single pictures in one run, and the bundle that comes of it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

import medvlp
from medvlp.data.manifest import write_manifest
from medvlp.errors import ConfigError
from medvlp.evaluate.hits import find
from medvlp.evaluate.search import embed_inputs
from medvlp.train.checkpoint import read_checkpoint
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import build_model, train_run
from medvlp.train.prepare import prepare

DEPTHS = (3, 5, 2, 6, 4, 3, 5, 4)


def write_set(root: Path, kind: str) -> Path:
    """Eight patients with a bright end or side, as volumes or as pictures."""
    root.mkdir()
    rng = np.random.default_rng(len(kind))
    tables: dict[str, list[dict]] = {name: [] for name in ("samples", "texts", "labels")}
    sources = []
    for i, depth in enumerate(DEPTHS):
        path = root / (f"{i}.png" if kind == "picture" else f"{i}.nii")
        high = i % 2
        if kind == "picture":
            grey = rng.integers(0, 90, (16, 16)).astype(np.uint8)
            grey[:, 8 * high : 8 * high + 8] += 150
            Image.fromarray(grey).save(path)
        else:
            values = rng.integers(-1000, -500, (16, 16, depth)).astype(np.int16)
            values[..., -1 if high else 0] += 1400
            nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 5, 1])), path)
        name, word = f"{kind}{i}", "high" if high else "low"
        sources.append({"source": f"src-{name}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {
                "sample": name, "domain": "volumetric", "patient": f"p-{name}",
                "source": f"src-{name}", "sha256": f"{len(kind):032x}{i:032x}",
                "kind": "image" if kind == "picture" else "nifti",
                "split": "train" if i < 6 else "valid",
            }
        )  # fmt: skip
        tables["texts"].append(
            {
                "sample": name, "node": f"{name}n", "level": "sentence", "source": "findings",
                "order": 0, "text": f"the {kind} shows an opacity that lies {word}",
            }
        )  # fmt: skip
    out = root / "manifest"
    write_manifest(out, tables, sources, {"key_id": "test", "counts": {}}, key=b"k" * 32)
    return out


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    return {kind: write_set(root / kind, kind) for kind in ("volume", "picture")}


@pytest.fixture(scope="module")
def file(manifests, tmp_path_factory) -> Path:
    values = {
        "domain": "volumetric",
        "data": {
            "manifests": [str(path) for path in manifests.values()],
            "batch_size": 4,
            "texts": {"levels": ["sentence"]},
            "cache": "memory",
            "tokenizer": {"vocab_size": 300},
            "mix": {
                "by": "sample",
                "streams": {name: {"manifests": [str(p)]} for name, p in manifests.items()},
            },
        },
        "preprocess": {"kind": "ct-slices", "size": [16, 16], "spacing_mm": [2, 2]},
        "image": {
            "kind": "slices",
            "heads": 2,
            "encoder": {
                "kind": "vit",
                "size": 16,
                "patch": 8,
                "width": 16,
                "depth": 1,
                "heads": 2,
                "patch_dropout": 0.3,
            },
        },
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 32},
        "model": {"embed": 8},
        "objectives": [{"kind": "clip", "duplicates": "share"}, {"kind": "local"}],
        "optim": {"lr": 0.001, "weight_decay": 0.0, "warmup_steps": 1},
        "trainer": {
            "steps": 2,
            "accelerator": "cpu",
            "log_every": 1,
            "valid_every": 2,
            "save_every": 2,
        },
    }
    path = tmp_path_factory.mktemp("run") / "slices.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    train_run(file, [], file.parent / "whole")
    return file.parent / "whole"


def test_micro_batches_of_2d_and_3d_train_as_whole_batches(file, run, tmp_path) -> None:
    # Without what is drawn in the step, of which each micro-batch draws its own.
    plain = ["image.encoder.patch_dropout=0"]
    train_run(file, plain, tmp_path / "whole")
    train_run(file, [*plain, "trainer.micro_batch=3"], tmp_path / "micro")
    tables = [pl.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "micro")]
    for column in ("loss", "clip", "local", "valid_loss"):
        whole, micro = (table[column].drop_nulls().to_list() for table in tables)
        assert micro == pytest.approx(whole, rel=2e-5)
    weights = [
        read_checkpoint(tmp_path / name / "checkpoints/last.safetensors")["state_dict"]
        for name in ("whole", "micro")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-4)
    assert pl.read_csv(run / "metrics.csv")["loss"].is_finite().all()


def test_the_bundle_sees_each_volume_as_if_it_were_alone(run, manifests, tmp_path) -> None:
    bundle = medvlp.load(run / "bundle")
    trained = read_checkpoint(run / "checkpoints/last.safetensors")["state_dict"]
    for name, value in bundle.model.state_dict().items():
        assert torch.equal(trained[f"model.{name}"], value)
    paths = [manifests["volume"].parent / f"{i}.nii" for i in range(4)]
    paths.append(manifests["picture"].parent / "0.png")
    stored = [bundle.preprocess.read([path]) for path in paths]
    assert [len(array) for array in stored] == [3, 5, 2, 6, 1]
    together = bundle.embed_stored(stored)
    alone = np.concatenate([bundle.embed_stored([array]) for array in stored])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(bundle.embed_image(paths, batch_size=2), alone, atol=1e-6)
    text = "the volume shows an opacity that lies high"
    for array in (stored[3], stored[4]):
        found = bundle.heatmap_stored(array, text)
        assert found.grid.shape == (len(array), 2, 2)
        assert found.map_HW.shape == (16, 16)
        assert found.share_D.sum() == pytest.approx(1, abs=1e-6)
        assert len(found.share_D) == len(array)
        assert found.index == found.grid.reshape(len(array), -1).max(1).argmax()
    # The whole index at once, and the depth that a text points to, in each volume's own slices.
    embed_inputs(run / "bundle", [manifests["volume"]], tmp_path / "index")
    slabs = np.load(tmp_path / "index/slabs.npy")
    assert slabs.shape == (8, 6, 8)
    assert (~np.isnan(slabs[..., 0])).sum(1).tolist() == list(DEPTHS)
    for hit in find(bundle.embed_text(text)[0], tmp_path / "index", 8):
        count = DEPTHS[int(hit.sample.removeprefix("volume"))]
        assert (hit.depth[1] - hit.depth[0]) * count == pytest.approx(1)


def test_the_2d_tower_starts_from_what_was_trained_without_the_slices(
    file, tiny_bundle, tmp_path
) -> None:
    flat = "{kind: resnet, depths: [1, 1], widths: [8, 16], stem: 8, norm: group}"
    init = tiny_bundle("cxr", 1)
    options = [f"image.encoder={flat}", "text.max_tokens=16", f"init={init}"]
    experiment = load_experiment(file, options)
    model = build_model(experiment, prepare(experiment, tmp_path))
    theirs = medvlp.load(init).model
    for name, value in theirs.state_dict().items():
        place = name.replace("image.", "image.encoder.", 1)
        torch.testing.assert_close(model.state_dict()[place], value)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("image={kind: resnet3d}", "image.kind=resnet3d takes volumes of one depth"),
        ("image={kind: vit}", "image.kind=vit takes volumes of one depth"),
        ("preprocess={kind: ct}", "image.kind=slices reads where each slice lies"),
        (
            "image.encoder.patch_dropout=0 & objectives=[{kind: fusion, matching: 0}]",
            "fusion attends to patches",
        ),
        ("trainer.strategy=fsdp", "image.at_once"),
    ],
)
def test_what_cannot_take_such_volumes_is_refused(file, override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(file, override.split(" & "))
    assert reason in str(error.value)

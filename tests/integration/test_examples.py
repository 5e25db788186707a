"""The scripts and the plug-in domain under examples/ do what they say."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medvlp
from medvlp.archive.index import index_archive
from medvlp.config import read_yaml, validate
from medvlp.data.prompts import prompts_from_labels
from medvlp.data.tokenizer import train_tokenizer
from medvlp.domain import domains, get_domain
from medvlp.losses.objectives import ClipConfig
from medvlp.models.bundle import save_bundle
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(2)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def test_zero_shot_folder(tiny_bundle, pictures, capsys):
    module = script("zero_shot_folder")
    module.main(str(tiny_bundle("cxr")), str(pictures))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[3] == "3.png: not read (not_a_picture)"
    scores = medvlp.load(tiny_bundle("cxr")).zero_shot(pictures / "0.png", module.QUESTIONS)
    edema, heart = scores.probability_NL[0]
    assert lines[0] == f"0.png: edema {edema:.2f}, cardiomegaly {heart:.2f}"


def test_embed_and_search(tiny_bundle, pictures, capsys):
    script("embed_and_search").main(str(tiny_bundle("cxr")), str(pictures), "mild edema", "2")
    lines = capsys.readouterr().out.splitlines()
    bundle = medvlp.load(tiny_bundle("cxr"))
    names = [f"{i}.png" for i in (0, 1, 2, 4, 5)]
    scores = bundle.embed_image([pictures / n for n in names]) @ bundle.embed_text("mild edema")[0]
    best = np.argsort(-scores)[:2]
    assert lines == [f"{scores[i]:+.3f}  {names[i]}" for i in best]


@pytest.fixture
def fundus(tmp_path, monkeypatch):
    """The plug-in as pip would leave it: on the path, with its entry point in a dist-info."""
    info = tmp_path / "site" / "medvlp_fundus-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medvlp-fundus\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[medvlp.domains]\nfundus = medvlp_fundus:DOMAIN\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "own_domain"))
    domains.cache_clear()
    yield get_domain("fundus")
    domains.cache_clear()
    for name in [name for name in sys.modules if name.startswith("medvlp_fundus")]:
        del sys.modules[name]


@pytest.fixture
def photographs(tmp_path):
    """Red retinas are sick, green ones healthy, and the table says so; one file is broken."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rows = []
    for i in range(40):
        sick = i % 2
        picture = np.zeros((48, 60, 3), np.uint8)
        picture[..., 0 if sick else 1] = 180 + i
        Image.fromarray(picture).save(folder / f"{i}.png")
        report = "Retinopathy is seen." if sick else "No retinopathy is seen."
        rows.append({"file": f"{i}.png", "patient": f"p{i}", "report": report, "dr": sick})
    (folder / "0.png").write_bytes(b"broken")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


INDEX = ["domain=fundus", "columns.path=file", "columns.patient=patient", "columns.text=report",
         "columns.labels=[dr]"]  # fmt: skip


def test_own_domain_indexes_and_its_bundle_works(fundus, photographs, tmp_path):
    summary = index_archive(
        photographs / "table.csv", kind="table", out=tmp_path / "manifest", overrides=INDEX
    )
    assert summary.samples == 39
    assert ("read", "not_a_picture") in summary.by_code or summary.quarantined == 1
    values = read_yaml(EXAMPLES / "own_domain" / "fundus.yaml")
    contract = validate(fundus.preprocess["fundus"].load(), values["preprocess"], "preprocess")
    image = validate(fundus.encoders["patches"].load(), values["image"], "image")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Retinopathy is seen.", "No retinopathy is seen."] * 4, 300)
    towers = image.build(contract.channels), text.build(len(tokenizer), tokenizer.pad_token_id)
    model = TwoTower(TwoTowerConfig(embed=16), *towers)
    clip = ClipConfig(), ClipConfig().build(model.sizes())
    save_bundle(
        tmp_path / "bundle", model=model, domain="fundus", preprocess=contract, image=image,
        text=text, tokenizer=tokenizer, objectives={"clip": clip},
        prompts=prompts_from_labels(["retinopathy"]),
    )  # fmt: skip
    bundle = medvlp.load(tmp_path / "bundle")
    # Photographs of one colour embed alike, and apart from the other colour.
    image_NE = bundle.embed_image([photographs / f"{i}.png" for i in (1, 2, 3, 4)])
    assert image_NE[0] @ image_NE[2] > image_NE[0] @ image_NE[1]
    heatmap = bundle.heatmap(photographs / "1.png", "Retinopathy.")
    assert heatmap.picture.shape == (64, 64, 3)
    assert heatmap.grid.shape == (8, 8)


@pytest.mark.slow
def test_own_domain_trains_from_its_configuration(fundus, photographs, tmp_path):
    from medvlp.train.experiment import schema
    from medvlp.train.fit import train_run

    schema.cache_clear()
    index_archive(
        photographs / "table.csv", kind="table", out=tmp_path / "manifest", overrides=INDEX
    )
    small = [f"data.manifests=[{tmp_path / 'manifest'}]", "trainer.steps=60", "preprocess.size=32",
             "trainer.accelerator=cpu"]  # fmt: skip
    train_run(EXAMPLES / "own_domain" / "fundus.yaml", small, tmp_path / "run")
    bundle = medvlp.load(tmp_path / "run" / "bundle")
    words = ["Retinopathy is seen.", "No retinopathy is seen."]
    cosine = (
        bundle.embed_image([photographs / "1.png", photographs / "2.png"])
        @ bundle.embed_text(words).T
    )
    # Of a red retina and a green one, each is nearer to its own sentence than the other is.
    assert cosine[0, 0] > cosine[1, 0]
    assert cosine[1, 1] > cosine[0, 1]
    schema.cache_clear()

"""`medvlp structure` on small manifests, by each of its backends."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from medvlp.archive.index import index_archive
from medvlp.cli import app
from medvlp.data.manifest import Manifest
from medvlp.data.structure.extract import load_extractor
from medvlp.data.tokenizer import save_tokenizer, train_tokenizer
from medvlp.data.verify import verify_manifest
from medvlp.errors import ConfigError, ManifestError
from medvlp.guarded import run_guarded
from medvlp.models.triple_reader import TripleReader, parse_answer
from medvlp.structured import Asked, structure_manifest

REPORTS = (
    "INDICATION: Pneumonia.\nFINDINGS: The lungs are clear. Small left pleural effusion.",
    "FINDINGS: No pneumothorax. Possible right lower lobe pneumonia. The patient moved.",
    "IMPRESSION: Normal chest radiograph.",
)


@pytest.fixture
def manifest(tmp_path):
    root = tmp_path / "hospital"
    root.mkdir()
    lines = ["path;patient;study;text;Edema"]
    for i, text in enumerate(REPORTS):
        Image.fromarray(np.full((12, 16), i, np.uint8)).save(root / f"{i}.png")
        lines.append(f'{i}.png;{4711000 + i};S{i};"{text}";{i % 2}')
    (root / "t.csv").write_text("\n".join(lines))
    settings = ["domain=cxr", "columns.labels=[Edema]", "workers=1"]
    index_archive(root / "t.csv", kind="table", out=tmp_path / "m", overrides=settings)
    return tmp_path / "m"


def call(*words):
    return run_guarded(lambda: app([str(word) for word in words], standalone_mode=False))


def test_rows_labels_and_the_seal(manifest, capsys):
    assert call("structure", manifest, "--labels") == 0
    said = capsys.readouterr().out
    assert "m: 6 sentences read by rules, 5 triples, 1 sentences without one" in said
    verify_manifest(manifest)
    opened = Manifest.open(manifest)
    texts = dict(opened.texts.select("node", "text").iter_rows())
    rows = {
        (texts[r["node"]], r["anatomy"], r["observation"], r["presence"], r["laterality"],
         r["severity"], r["source"])
        for r in opened.entities.to_dicts()
    }  # fmt: skip
    assert rows == {
        ("The lungs are clear.", "lung", "opacity", 0.0, None, None, "rules"),
        ("Small left pleural effusion.", "pleural_space", "pleural_effusion", 1.0, "left", "mild",
         "rules"),
        ("No pneumothorax.", "pleural_space", "pneumothorax", 0.0, None, None, "rules"),
        ("Possible right lower lobe pneumonia.", "lower_lobe", "pneumonia", -1.0, "right", None,
         "rules"),
        ("Normal chest radiograph.", "chest", "abnormality", 0.0, None, None, "rules"),
    }  # fmt: skip
    ours = opened.labels.filter(pl.col("source") == "rules")
    values = {(r["name"], r["value"]) for r in ours.to_dicts()}
    assert values == {
        ("Lung Opacity", 0.0), ("Pleural Effusion", 1.0), ("Pneumothorax", 0.0),
        ("Pneumonia", -1.0), ("Lung Opacity", -1.0), ("No Finding", 1.0), ("No Finding", 0.0),
    }  # fmt: skip
    assert opened.labels.filter(pl.col("name") == "Edema").height == 3


def test_a_second_run_changes_nothing(manifest):
    before = Manifest.open(manifest)
    structure_manifest(manifest, Asked(labels=True))
    first = Manifest.open(manifest)
    assert first.samples.equals(before.samples)
    made = ("tables", "audit", "private", "mac")
    assert {k: v for k, v in first.info.items() if k not in made} == {
        k: v for k, v in before.info.items() if k not in made
    }
    assert first.texts.equals(before.texts)
    assert first.digest != before.digest
    structure_manifest(manifest, Asked(labels=True))
    second = Manifest.open(manifest)
    assert second.digest == first.digest
    # Other words give other rows in place of the old ones; labels are left where none are asked.
    structure_manifest(manifest, Asked(language="de"))
    assert Manifest.open(manifest).entities["observation"].to_list() == ["pneumothorax"]
    assert Manifest.open(manifest).labels.height == first.labels.height
    log = (second.private / "audit.jsonl").read_text()
    assert log.count('"structure"') == 3
    verify_manifest(manifest)


def test_rows_of_others_are_kept(manifest, monkeypatch):
    structure_manifest(manifest, Asked())
    theirs = Manifest.open(manifest).entities
    stranger = type("Stranger", (), {"source": "radgraph", "dropped": 2})
    stranger.read = lambda self, texts: [load_extractor("cxr").sentence(t)[:1] for t in texts]
    monkeypatch.setattr(
        "medvlp.structured.BACKENDS", {"radgraph": lambda weights, extractor: stranger()}
    )
    said = structure_manifest(manifest, Asked(backend="radgraph", labels=True))
    assert "2 answers were of no use" in said
    both = Manifest.open(manifest).entities
    assert both.filter(pl.col("source") == "rules").equals(theirs)
    assert both.height == 2 * theirs.height
    verify_manifest(manifest)


def test_a_label_that_another_source_gave_stays(manifest, tmp_path):
    words = tmp_path / "mine.yaml"
    words.write_text(
        "anatomies: {lung: [lungs]}\n"
        "observations: {edema: {words: [clear]}}\n"
    )  # fmt: skip
    said = structure_manifest(manifest, Asked(vocabulary=words, labels=True))
    assert "1 labels of other sources kept" in said
    labels = Manifest.open(manifest).labels.filter(pl.col("name") == "Edema")
    assert set(labels["source"]) != {"rules"}
    assert labels.height == 3
    verify_manifest(manifest)


def test_refusals_are_one_line(manifest, capsys, tmp_path):
    for words, said in (
        (["--backend", "magic"], "there is no backend magic"),
        (["--language", "xx"], "no words of language xx"),
        (["--weights", tmp_path], "rules have no weights"),
        (["--backend", "radgraph"], "no folder of weights"),
        (["--backend", "llm"], "no folder of a language model"),
        (["--vocabulary", tmp_path / "missing.yaml"], "missing.yaml is not there"),
    ):
        digest = Manifest.open(manifest).digest
        assert call("structure", manifest, *words) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert said in err
        assert "remedy:" in err
        assert Manifest.open(manifest).digest == digest


def test_a_manifest_without_sentences_is_refused(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(root / "0.png")
    (root / "t.csv").write_text("path;patient\n0.png;1\n")
    index_archive(
        root / "t.csv", kind="table", out=tmp_path / "m", overrides=["domain=cxr", "workers=1"]
    )
    with pytest.raises(ManifestError, match="no sentences"):
        structure_manifest(tmp_path / "m", Asked())


def test_the_rules_import_no_torch():
    code = (
        "import sys, medvlp.structured as s; "
        "from medvlp.data.structure.extract import load_extractor; "
        "load_extractor('cxr').sentence('No edema.'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


ROW = {"anatomy": "lung", "observation": "edema", "presence": 1, "side": "", "severity": "mild"}


def test_answers_of_a_language_model():
    names = load_extractor("cxr").vocabulary
    (found,) = parse_answer(json.dumps([ROW, ROW]), "Mild edema.", names)
    assert (found.anatomy, found.observation, found.severity) == ("lung", "edema", "mild")
    assert found.span == (0, 11)
    assert parse_answer(" [] \n", "Nothing.", names) == ()


@pytest.mark.parametrize(
    "answer",
    [
        "", "edema", json.dumps(ROW), "Sure: " + json.dumps([ROW]), json.dumps([ROW]) + " Done.",
        json.dumps([{**ROW, "presence": 2}]), json.dumps([{**ROW, "presence": True}]),
        json.dumps([{**ROW, "presence": 1.0}]), json.dumps([{**ROW, "anatomy": "moon"}]),
        json.dumps([{**ROW, "observation": "joy"}]), json.dumps([{**ROW, "side": "top"}]),
        json.dumps([{**ROW, "severity": None}]), json.dumps([{**ROW, "why": "so"}]),
        json.dumps([{k: v for k, v in ROW.items() if k != "side"}]), json.dumps([1]),
        json.dumps([ROW, {}]), "[" * 5000,
    ],
)  # fmt: skip
def test_answers_that_are_not_what_was_asked_for(answer):
    assert parse_answer(answer, "Mild edema.", load_extractor("cxr").vocabulary) is None


@pytest.fixture
def language_model(tmp_path):
    folder = tmp_path / "llm"
    tokenizer = train_tokenizer(REPORTS * 2, 300)
    save_tokenizer(tokenizer, folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=8192, n_embd=8, n_layer=1, n_head=1,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_language_model_from_a_local_folder(manifest, language_model):
    said = structure_manifest(manifest, Asked(backend="llm", weights=language_model))
    # Random weights answer nothing that could be used, and all of it is counted.
    assert "6 sentences read by llm, 0 triples" in said
    assert "6 answers were of no use" in said
    verify_manifest(manifest)
    reader = TripleReader(language_model, load_extractor("cxr").vocabulary)
    reader._answer = lambda sentence: json.dumps([ROW])
    assert [len(t) for t in reader.read(["Mild edema.", "Nothing."])] == [1, 1]
    assert reader.dropped == 0


def test_folders_that_are_no_language_model(language_model, tmp_path):
    names = load_extractor("cxr").vocabulary
    config = json.loads((language_model / "config.json").read_text())
    for change, said in (
        ({"n_positions": 16}, "cannot be loaded|shapes differ"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"model_type": "own", "auto_map": {"AutoModel": "code.py"}}, "none of transformers"),
    ):
        (language_model / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ConfigError, match=said):
            TripleReader(language_model, names)
    (language_model / "config.json").write_text(json.dumps(config))
    (language_model / "model.safetensors").rename(language_model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        TripleReader(language_model, names)

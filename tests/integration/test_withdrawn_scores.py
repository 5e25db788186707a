"""A withdrawal reaches what `medvlp evaluate` really writes, and the report can still be made."""

import json
import re

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.data.manifest import Manifest
from medvlp.digest import digest_file
from medvlp.evaluate.run import evaluate_protocol
from medvlp.forget import check_forgotten, forget
from medvlp.report.build import build_report

PATIENTS = 16


@pytest.fixture
def manifest(tmp_path):
    """Two pictures a patient, of whom twelve are test patients."""
    rng = np.random.default_rng(0)
    lines = ["path,patient,study,text,edema,split"]
    for i in range(2 * PATIENTS):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / f"{i}.png")
        n = i // 2
        text = f"Edema of size {n}." if n % 2 else f"No edema, size {n}."
        lines.append(f"{i}.png,{n},S{n},{text},{n % 2},{'train' if n < 4 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    options = ["domain=cxr", "columns.labels=[edema]", "workers=1", "split.policy=source"]
    index_archive(tmp_path / "t.csv", kind="table", out=tmp_path / "m", overrides=options)
    return Manifest.open(tmp_path / "m")


def protocol(folder, name, task):
    values = {
        "name": name, "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(folder / "m")]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


@pytest.mark.slow
def test_predictions_ranks_and_examples_lose_the_patient(manifest, tiny_bundle, tmp_path):
    prompts = {"edema": {"positive": ["Edema."], "negative": ["No edema."]}}
    task = {"kind": "zero-shot", "prompts": {"mode": "independent", "labels": prompts}}
    out = tmp_path / "out"
    for name, asked in (("zero", task), ("find", {"kind": "retrieval"})):
        evaluate_protocol(protocol(tmp_path, name, asked), [tiny_bundle("cxr")], out, [])
    zero = pl.read_parquet(out / "zero" / "predictions.parquet")
    examples = json.loads((out / "zero" / "examples" / "examples.json").read_text())
    shown = examples[0]
    keys = {name: shown[name] for name in ("model", "name", "score")}
    patient = zero.filter(**keys)["patient"][0]
    gone = manifest.samples.filter(patient=patient)
    text = manifest.texts.filter(pl.col("sample") == gone["sample"][0])["text"][0]
    report = forget(tmp_path / "m", [patient], [out])
    assert re.search(r"zero: \d+ predictions removed", report)
    assert re.search(r"find: \d+ predictions removed", report)
    assert ": 0 found" in check_forgotten(tmp_path / "m", [out])
    left = json.loads((out / "zero" / "examples" / "examples.json").read_text())
    assert shown not in left
    assert left
    assert not (out / "zero" / "examples" / shown["picture"]).exists()
    for name in ("zero", "find"):
        metrics = json.loads((out / name / "metrics.json").read_text())
        beside = {f for f in (out / name).rglob("*") if f.is_file() and f.name != "metrics.json"}
        told = {out / name / file: digest for file, digest in metrics["artefacts"].items()}
        assert told == {file: digest_file(file) for file in beside}
        assert {row["n"] for row in metrics["rows"]} <= set(range(PATIENTS * 2 - 4))
        words = {patient, *gone["sample"], *gone["study"], text}
        for file in (*beside, out / name / "metrics.json"):
            data = file.read_bytes()
            if file.suffix == ".parquet":
                data = json.dumps(pl.read_parquet(file).to_dicts()).encode()
            assert not [word for word in words if word.encode() in data], file.name
    page = build_report(out).read_text()
    assert "zero" in page

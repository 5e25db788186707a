"""The report from a predictions folder: complete, self-contained, and readable in a browser."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from medvlp.errors import InputError
from medvlp.evaluate.metrics.estimate import metric_rows, plain_rows
from medvlp.evaluate.metrics.findings import finding_measures
from medvlp.evaluate.metrics.phases import phase_measures
from medvlp.evaluate.metrics.retrieval import retrieval_measures
from medvlp.evaluate.predictions import PREDICTIONS
from medvlp.report.build import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def findings(rng):
    for model, skill in (("phantom-run", 1.5), ("image-blind", 0), ("chance", 0)):
        for i in range(120):
            for name in ("cardiomegaly", "<edema & more>"):
                label = int(rng.random() < 0.3)
                score = 1 / (1 + np.exp(-(rng.normal() + skill * label - 1)))
                yield row(model, i, name, label, score)


def phases(rng):
    for model in ("phantom-run", "chance"):
        for i in range(4):
            for t in range(20):
                truth = rng.integers(3)
                score = rng.random(3) + 0.5 * (np.arange(3) == truth) * (model != "chance")
                for k, name in enumerate(("preparation", "dissection", "closure")):
                    yield row(model, i, name, int(k == truth), score[k] / 2, t + 0.5)


def retrieval(rng):
    for model in ("phantom-run", "chance"):
        for i in range(40):
            for name in ("image-to-text/report", "text-to-image/report"):
                yield row(model, i, name, 1, 1 / rng.integers(1, 20))


def row(model, i, name, label, score, time_s=None):
    return dict.fromkeys(PREDICTIONS.names()) | {
        "model": model, "protocol": "p", "seed": 0, "sample": f"s{i}", "patient": f"p{i // 2}",
        "name": name, "label": label, "score": float(score), "sex": "FM"[i % 2],
        "control": model != "phantom-run", "time_s": time_s,
    }  # fmt: skip


TASKS = {
    "zero-shot": (findings, finding_measures({"cardiomegaly": 0.3})),
    "phases": (phases, phase_measures),
    "retrieval": (retrieval, retrieval_measures((1, 5, 10))),
}


def write_protocol(folder, kind, domain="cxr"):
    rows, measures = TASKS[kind]
    frame = pl.DataFrame(list(rows(np.random.default_rng(0))), schema=PREDICTIONS)
    folder.mkdir(parents=True)
    frame.write_parquet(folder / "predictions.parquet")
    metrics = metric_rows(
        frame, lambda *_: measures, domain=domain, draws=40, confidence=0.95, seed=0
    )
    (folder / "metrics.json").write_text(
        json.dumps(
            {
                "domain": domain, "protocol": folder.name, "version": 1, "digest": "ab" * 32,
                "counts": {"uncertain_labels": 3, "unknown_labels": 5}, "undefined_draws": [],
                "artefacts": {}, "rows": plain_rows(metrics),
            }
        )
    )  # fmt: skip
    bundles = [
        {"name": "phantom-run", "digest": "cd" * 32, "control": None},
        {"name": "image-blind", "digest": "ef" * 32, "control": "image-blind"},
    ]
    (folder / "bundles.json").write_text(json.dumps(bundles))
    protocol = {
        "name": folder.name, "version": 1, "domain": domain, "task": {"kind": kind},
        "data": {"split": "test"}, "bootstrap": {"draws": 40, "confidence": 0.95, "seed": 0},
    }  # fmt: skip
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    return frame


def write_examples(folder):
    (folder / "examples").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / "examples" / name)
    entry = {"picture": "a.png", "overlay": "b.png", "name": "cardiomegaly", "label": 1,
             "score": 0.9, "model": "phantom-run", "outcome": "found"}  # fmt: skip
    (folder / "examples" / "examples.json").write_text(json.dumps([entry]))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluated")
    write_protocol(root / "cxr-zero-shot", "zero-shot")
    write_examples(root / "cxr-zero-shot")
    write_protocol(root / "video-phases", "phases", "video")
    write_protocol(root / "ct-retrieval", "retrieval", "volumetric")
    build_report(root)
    return root


def test_report_json_holds_every_row_with_the_promised_keys(evaluated):
    report = json.loads((evaluated / "report.json").read_text())
    written = [
        r
        for name in ("ct-retrieval", "cxr-zero-shot", "video-phases")
        for r in json.loads((evaluated / name / "metrics.json").read_text())["rows"]
    ]
    assert report["rows"] == written
    keys = {"domain", "protocol", "model", "control", "metric", "name", "value", "low", "high", "n"}
    keys |= {"seeds", "seed_sd", "interval"}
    assert all(set(r) == keys for r in report["rows"])


def test_page_shows_values_and_controls_and_escapes_names(evaluated):
    page = (evaluated / "report.html").read_text()
    rows = json.loads((evaluated / "cxr-zero-shot" / "metrics.json").read_text())["rows"]
    (macro,) = (r for r in rows if r["metric"] == "auroc_macro" and r["model"] == "phantom-run")
    assert f"{macro['value']:.3f}" in page
    assert "image-blind" in page
    assert "&lt;edema &amp; more&gt;" in page
    assert "<edema" not in page
    assert "Chest X-ray" in page
    assert "data:image/png;base64," in page


def test_page_needs_nothing_from_outside(evaluated):
    page = (evaluated / "report.html").read_text()
    assert not re.search(r"(https?:)?//[a-z]", page)
    assert not re.search(r"<script|<link|@import", page)


def test_ids_are_unique_and_references_resolve(evaluated):
    page = (evaluated / "report.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert {a or b for a, b in targets} <= set(ids)


def test_tables_and_pictures_are_labelled(evaluated):
    page = (evaluated / "report.html").read_text()
    assert page.count("<table") == page.count("<caption")
    assert all(" alt=" in tag for tag in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in tag for tag in re.findall(r"<th[ >][^>]*", page))


def test_same_folder_gives_the_same_page(evaluated):
    first = (evaluated / "report.html").read_bytes()
    build_report(evaluated)
    assert (evaluated / "report.html").read_bytes() == first


def test_a_protocol_folder_itself_is_enough(tmp_path):
    write_protocol(tmp_path / "one", "zero-shot")
    assert build_report(tmp_path / "one") == tmp_path / "one" / "report.html"


def test_a_single_class_label_is_shown_as_undefined(tmp_path):
    folder = tmp_path / "one"
    frame = write_protocol(folder, "zero-shot").with_columns(label=pl.lit(0, pl.Int8))
    frame.write_parquet(folder / "predictions.parquet")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = metric_rows(
        frame, lambda *_: finding_measures({}), domain="cxr", draws=5, confidence=0.95, seed=0
    )
    (folder / "metrics.json").write_text(json.dumps(metrics | {"rows": plain_rows(rows)}))
    assert "–" in build_report(folder).read_text()


def test_empty_folder_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="medvlp evaluate"):
        build_report(tmp_path)


def test_damaged_file_is_named_without_its_path(evaluated, tmp_path):
    shutil.copytree(evaluated / "cxr-zero-shot", tmp_path / "p")
    (tmp_path / "p" / "predictions.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError) as error:
        build_report(tmp_path)
    assert "p/predictions.parquet" in error.value.message
    assert str(tmp_path) not in error.value.message


def test_report_room_imports_no_torch():
    code = "import sys, medvlp.report.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_page_opens_in_a_browser(evaluated, tmp_path):
    picture = tmp_path / "page.png"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
        "--window-size=1200,1600", f"--screenshot={picture}",
        (evaluated / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert pixels.shape == (1600, 1200)
    assert pixels.std() > 10

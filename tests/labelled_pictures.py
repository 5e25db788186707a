"""Labelled pictures with reports, small bundles and protocols, for tests of evaluations."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
import yaml
from PIL import Image

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.manifest import write_manifest
from medvlp.data.prompts import prompts_from_labels
from medvlp.data.relations import Names
from medvlp.data.tokenizer import train_tokenizer
from medvlp.losses.objectives import LabelsConfig
from medvlp.models.bundle import save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.models.zero_shot import Calibration

PATIENTS = 36
PROMPTS = prompts_from_labels(["edema", "mass"])
PHASES = ("opening", "closing")
TEXTS = ("Edema is seen.", "No edema.", "A mass.", "Normal.", "Mass and edema.")


def write_archive(root):
    """Two pictures a study, shared report texts, and labels of all four kinds."""
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "regions")}
    sources = []
    for i in range(2 * PATIENTS):
        patient = i // 2
        path = root / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {
                "sample": f"s{i:02d}", "domain": "cxr", "patient": f"p{patient:02d}",
                "study": f"t{patient:02d}", "source": f"src{i}", "sha256": f"{i:064x}",
                "kind": "image", "split": "train" if patient < 12 else "test",
                "sex": "FM"[patient % 2], "view": "PA", "duration_s": 10.0,
            }
        )  # fmt: skip
        tables["texts"].append(
            {
                "sample": f"s{i:02d}", "node": f"n{i}", "level": "report", "source": "report",
                "order": 0, "text": TEXTS[patient % len(TEXTS)],
            }
        )  # fmt: skip
        edema = {0: None, 2: -1.0}.get(i % 24, float(patient % 2))
        for name, value in (("edema", edema), ("mass", float(rng.random() < 0.5))):
            tables["labels"].append(
                {"sample": f"s{i:02d}", "name": name, "value": value, "source": "table"}
            )
        for name, span in zip(PHASES, ((0.0, 4.0), (4.0, 8.0)), strict=True):
            tables["regions"].append(
                {"sample": f"s{i:02d}", "name": name, "kind": "interval", "geometry": list(span)}
            )
    # one archive may hold several domains: this one is none of the protocol's
    tables["samples"].append(
        {
            "sample": "other", "domain": "volumetric", "patient": "p90", "study": "t90",
            "source": "src90", "sha256": "9" * 64, "kind": "series", "split": "test",
        }
    )  # fmt: skip
    tables["texts"].append(
        {"sample": "other", "node": "n90", "level": "report", "source": "report", "order": 0,
         "text": "CT."}
    )  # fmt: skip
    tables["labels"].append({"sample": "other", "name": "mass", "value": 1.0, "source": "table"})
    sources.append({"source": "src90", "part": 0, "path": str(root / "absent")})
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


def write_bundle(
    folder, seed=0, control="none", thresholds=None, labels=("mass", "edema"), operating=None
):
    torch.manual_seed(seed)
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    tokenizer = train_tokenizer(list(TEXTS) * 3, 300)
    towers = image.build(1), text.build(len(tokenizer), tokenizer.pad_token_id)
    model = TwoTower(TwoTowerConfig(embed=8), *towers)
    head = LabelsConfig().build(model.sizes(Names(labels=tuple(labels))))
    save_bundle(
        folder, model=model, domain="cxr", preprocess=CxrPreprocessConfig(size=32), image=image,
        text=text, tokenizer=tokenizer, objectives={"labels": (LabelsConfig(), head)},
        names=Names(labels=tuple(labels)), prompts=PROMPTS,
        calibration=Calibration(
            prompts=PROMPTS.digest, thresholds=thresholds or {"mass": 0.5},
            operating=operating or {},
        ),
        provenance={"control": control},
    )  # fmt: skip
    return folder


def write_protocol(folder, manifest, task, name="trial", **more):
    values = {
        "name": name, "version": 1, "domain": "cxr", "task": task,
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 20},
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values | more))
    return path


def predictions(folder):
    return pl.read_parquet(folder / "out" / "trial" / "predictions.parquet")

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from medvlp.data.manifest import write_manifest

PATIENTS = 24


@pytest.fixture(scope="session")
def bright_manifest(tmp_path_factory) -> Path:
    """X-rays of 24 patients: a bright side, and one sentence that names it."""
    root = tmp_path_factory.mktemp("bright")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("samples", "texts", "labels", "subsets")}
    sources = []
    for i in range(PATIENTS):
        sample, split = f"s{i:02d}", "train" if i < 16 else "valid"
        left = i % 2
        pixels = rng.integers(0, 60, (32, 32)).astype(np.uint8)
        pixels[:, 16 * left : 16 * left + 16] += 120
        path = root / f"{i}.png"
        Image.fromarray(pixels).save(path)
        sources.append({"source": f"src{i}", "part": 0, "path": str(path)})
        tables["samples"].append(
            {
                "sample": sample,
                "domain": "cxr",
                "patient": f"p{i:02d}",
                "source": f"src{i}",
                "sha256": f"{i:064x}",
                "kind": "image",
                "split": split,
            }
        )
        side = "left" if left else "right"
        for order, text in enumerate((f"opacity on the {side} side", f"the {side} lung is dense")):
            tables["texts"].append(
                {
                    "sample": sample,
                    "node": f"{sample}n{order}",
                    "level": "sentence",
                    "source": "findings",
                    "order": order,
                    "text": text,
                }
            )
        tables["labels"].append(
            {"sample": sample, "name": "left", "value": float(left), "source": "table"}
        )
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


@pytest.fixture
def experiment_file(bright_manifest: Path, tmp_path: Path) -> Path:
    """A tiny experiment on `bright_manifest`: a one-block ViT, dropout and augmentation on."""
    values = {
        "domain": "cxr",
        "seed": 3,
        "data": {
            "manifests": [str(bright_manifest)],
            "batch_size": 8,
            "labels": ["left"],
            "cache": "memory",
            "tokenizer": {"vocab_size": 300},
            "texts": {"levels": ["sentence"]},
        },
        "preprocess": {"kind": "cxr", "size": 32},
        "image": {"kind": "vit", "size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16, "dropout": 0.1},
        "model": {"embed": 8},
        "objectives": [{"kind": "clip"}],
        "optim": {"lr": 0.005, "warmup_steps": 2},
        "trainer": {
            "steps": 10,
            "accelerator": "cpu",
            "log_every": 1,
            "valid_every": 4,
            "save_every": 5,
        },
        "prompts": {
            "mode": "independent",
            "labels": {
                "left": {
                    "positive": ["opacity on the left side"],
                    "negative": ["opacity on the right side"],
                }
            },
        },
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def medvlp_process(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the command line in a process of its own."""
    script = tmp_path / "medvlp_main.py"
    script.write_text(
        "from medvlp.cli import main\n\nif __name__ == '__main__':\n    main()\n", encoding="utf-8"
    )

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture
def read_losses() -> Callable[[Path], list[float]]:
    """The losses of a run folder's metrics.csv, in step order."""

    def read(run: Path) -> list[float]:
        return pl.read_csv(run / "metrics.csv")["loss"].to_list()

    return read

"""A made-up archive that generation and question answering share: one bright side an image."""

import numpy as np
import torch
from PIL import Image

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.manifest import write_manifest
from medvlp.data.tokenizer import train_tokenizer
from medvlp.models.bundle import save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig

SPLITS = {"train": 48, "valid": 16, "test": 32}
REPORTS = {
    "left": "Left pleural effusion. No pneumothorax.",
    "right": "No pleural effusion. Right pneumothorax.",
}
WORDS = [*REPORTS.values(), "On which side is the opacity?", "Is there an effusion?", "yes no"]


def write_sided(root, splits=SPLITS, seed=0):
    """A manifest of one image a patient, whose bright side decides its report."""
    rng = np.random.default_rng(seed)
    tables = {"samples": [], "texts": [], "labels": [], "entities": []}
    sources = []
    number = 0
    for split, count in splits.items():
        for i in range(count):
            side = ("left", "right")[i % 2]
            pixels = rng.integers(0, 60, (32, 32)).astype(np.uint8)
            pixels[:, 16 * (side == "left") : 16 * (side == "left") + 16] += 120
            path = root / f"{number}.png"
            Image.fromarray(pixels).save(path)
            sample = f"s{number:03d}"
            sources.append({"source": f"src{number}", "part": 0, "path": str(path)})
            tables["samples"].append(
                {
                    "sample": sample, "domain": "cxr", "patient": f"p{number:03d}",
                    "source": f"src{number}", "sha256": f"{number:064x}", "kind": "image",
                    "split": split,
                }
            )  # fmt: skip
            tables["texts"].append(
                {
                    "sample": sample, "node": f"n{number}", "level": "report", "source": "report",
                    "order": 0, "text": REPORTS[side],
                }
            )  # fmt: skip
            tables["labels"].append(
                {"sample": sample, "name": "effusion", "value": float(side == "left"),
                 "source": "table"}
            )  # fmt: skip
            tables["entities"].append(
                {
                    "sample": sample, "node": f"n{number}", "anatomy": "lung",
                    "observation": "opacity", "presence": 1.0, "laterality": side,
                }
            )  # fmt: skip
            number += 1
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root / "manifest"


def write_sided_bundle(folder, seed=0, control="none"):
    """An untrained bundle: even random filters keep where an image is bright."""
    torch.manual_seed(seed)
    image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=32)
    tokenizer = train_tokenizer(WORDS * 3, 320)
    towers = image.build(1), text.build(len(tokenizer), tokenizer.pad_token_id)
    save_bundle(
        folder, model=TwoTower(TwoTowerConfig(embed=8), *towers), domain="cxr",
        preprocess=CxrPreprocessConfig(size=32), image=image, text=text, tokenizer=tokenizer,
        provenance={"control": control},
    )  # fmt: skip
    return folder

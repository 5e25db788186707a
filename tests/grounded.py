"""What tests of grounding share: prompts, tiny bundles, a protocol, and what comes out."""

import json

import torch
import yaml

from medvlp.cxr.preprocess import CxrPreprocessConfig
from medvlp.data.prompts import Prompts, PromptSet
from medvlp.data.tokenizer import train_tokenizer
from medvlp.models.bundle import save_bundle
from medvlp.models.image2d import ResNet2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp_volumetric.encoders.vit3d import Vit3dConfig
from medvlp_volumetric.preprocess import CtPreprocessConfig

TEXTS = ("Edema is seen.", "No edema.", "A mass.", "Fluid in the lungs.", "A mass on the left.")
PROMPTS = PromptSet(
    mode="independent",
    labels={
        "edema": Prompts(positive=(TEXTS[0], TEXTS[3]), negative=(TEXTS[1],)),
        "mass": Prompts(positive=("A mass.",), negative=("No mass.",)),
        "absent": Prompts(positive=("Normal.",), negative=("Not normal.",)),
    },
)  # fmt: skip


def region(sample, name, kind, geometry):
    return {"sample": sample, "name": name, "kind": kind, "geometry": geometry}


def write_bundle(folder, domain="cxr", control="none", size=32, towers=None):
    torch.manual_seed(0)
    if towers is not None:
        contract, image = towers
    elif domain == "cxr":
        contract = CxrPreprocessConfig(size=size)
        image = ResNet2dConfig(depths=(1, 1), widths=(8, 16), stem=8, norm="group")
    else:
        contract = CtPreprocessConfig(shape=(16, 24, 24), spacing_mm=(2, 2, 2))
        image = Vit3dConfig(width=12, depth=1, heads=2, patch=(4, 6, 6))
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    tokenizer = train_tokenizer(list(TEXTS) * 3, 300)
    towers = image.build(contract.channels), text.build(len(tokenizer), tokenizer.pad_token_id)
    save_bundle(
        folder, model=TwoTower(TwoTowerConfig(embed=8), *towers), domain=domain,
        preprocess=contract, image=image, text=text, tokenizer=tokenizer,
        provenance={"control": control},
    )  # fmt: skip
    return folder


def write_protocol(folder, manifest, domain="cxr", prompts=True, name="trial", **task):
    sides = {
        label: {"positive": list(words.positive), "negative": list(words.negative)}
        for label, words in PROMPTS.labels.items()
    }
    if prompts:
        task["prompts"] = {"mode": "independent", "labels": sides}
    values = {
        "name": name, "version": 1, "domain": domain, "task": {"kind": "grounding", **task},
        "data": {"manifests": [str(manifest)]}, "bootstrap": {"draws": 50},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def told(folder):
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(r["model"], r["metric"], r["name"]): r for r in rows}

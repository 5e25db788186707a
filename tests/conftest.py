"""What all tests share: real data where it is present, and the devices that are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports matplotlib: no test has a display.
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real, de-identified data sets; the test skips where it is absent."""
    folder = Path(os.environ.get("MEDVLP_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("no real data here: set MEDVLP_SHARED to the folder that holds data/")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_bundle(domain, seed=0)``: an untrained bundle of a domain, made once a session."""
    folder = tmp_path_factory.mktemp("bundles")

    def bundle(domain: str, seed: int = 0) -> Path:
        place = folder / (f"{domain}-{seed}" if seed else domain)
        if not place.exists():
            _save_tiny(place, domain, seed)
        return place

    return bundle


def _save_tiny(folder: Path, domain: str, seed: int) -> None:
    import torch

    from medvlp.config import validate
    from medvlp.data.prompts import prompts_from_labels
    from medvlp.data.tokenizer import train_tokenizer
    from medvlp.domain import get_domain
    from medvlp.models.bundle import save_bundle
    from medvlp.models.image2d import ResNet2dConfig
    from medvlp.models.text import TextTowerConfig
    from medvlp.models.two_tower import TwoTower, TwoTowerConfig

    flat = {"depths": (1, 1), "widths": (8, 16), "stem": 8, "norm": "group"}
    encoders = {
        "cxr": ("resnet", flat),
        "volumetric": (
            "resnet3d",
            {"widths": (8, 8, 8, 8), "blocks": (1, 1, 1, 1), "stem_kernel": 3},
        ),
        "video": ("frames", {"frame": {"kind": "resnet", **flat}}),
    }
    contracts = {
        "cxr": ("cxr", {"size": 32}),
        "volumetric": ("ct", {"shape": (16, 32, 32), "fit": "resize"}),
        "video": ("clip", {"frames": 4, "size": 32}),
    }
    brought = get_domain(domain)
    kind, values = encoders[domain]
    image = (
        ResNet2dConfig(**values)
        if kind == "resnet"
        else validate(brought.encoders[kind].load(), values, kind)
    )
    kind, values = contracts[domain]
    contract = validate(brought.preprocess[kind].load(), values, kind)
    text = TextTowerConfig(width=16, depth=1, heads=2, max_tokens=16)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["No edema is seen.", "Mild edema and cardiomegaly."] * 4, 300)
    towers = image.build(contract.channels), text.build(len(tokenizer), tokenizer.pad_token_id)
    save_bundle(
        folder,
        model=TwoTower(TwoTowerConfig(embed=8), *towers),
        domain=domain,
        preprocess=contract,
        image=image,
        text=text,
        tokenizer=tokenizer,
        prompts=prompts_from_labels(["edema", "cardiomegaly"]),
    )

"""What all tests share: real data where it is present, and the devices that are."""

from __future__ import annotations

import os
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

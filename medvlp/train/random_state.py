"""The global random generators of each rank, taken along in checkpoints.

What the data and the steps draw follows from counters (`medvlp.data.randomness`, `Task`) and needs
none of this; it is for code that draws from a global generator between steps.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from medvlp.data.batch import Batch
from medvlp.data.randomness import generator
from medvlp.train.ranks import gather_text

_KEY = "random_states"


class RandomState(Callback):
    """Seeds the generators of torch, NumPy and Python; saves and restores them.

    A rank that the checkpoint does not know, because there were fewer, is seeded anew.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.states: list[str] = []
        self.ready = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add every rank's state."""
        checkpoint[_KEY] = gather_text(trainer, _state(trainer.strategy.root_device))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states until training begins: loaders draw before."""
        self.states = checkpoint[_KEY]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Set the generators before the first step."""
        if self.ready:
            return
        self.ready = True
        rank = trainer.global_rank
        if rank < len(self.states):
            _restore(self.states[rank], trainer.strategy.root_device)
            return
        rng = generator(self.seed, batch_idx, str(rank), "process")
        torch.manual_seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))
        random.seed(int(rng.integers(2**63)))


def _state(device: torch.device) -> str:
    _, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return json.dumps(
        {
            "torch": bytes(torch.get_rng_state().tolist()).hex(),
            "cuda": bytes(torch.cuda.get_rng_state(device).tolist()).hex()
            if device.type == "cuda"
            else "",
            "numpy": [np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
            "python": random.getstate(),
        }
    )


def _restore(text: str, device: torch.device) -> None:
    state = json.loads(text)
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if state["cuda"] and device.type == "cuda":
        held = torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8)
        torch.cuda.set_rng_state(held, device)
    keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))

"""A frozen text tower with `text.cache` trains as without, and reads each text once."""

from pathlib import Path

import pytest
import torch

from medvlp.errors import ConfigError
from medvlp.models.text import TextTowerConfig
from medvlp.models.text_memory import remember_texts
from medvlp.train.fit import train_run

# With dropout, so that a frozen tower is seen to be as in evaluation.
FROZEN = [
    "optim.freeze=[{part: text}]",
    "text.dropout=0.5",
    "trainer.steps=6",
    "trainer.valid_every=3",
]


def test_a_run_with_remembered_texts_is_the_run_without(
    experiment_file: Path, tmp_path: Path, read_losses, monkeypatch
) -> None:
    read = []
    tower = type(TextTowerConfig(width=16, depth=1, heads=2).build(40, 0))
    original = tower.forward

    def count(self, ids_MT, mask_MT):
        read.append(len(ids_MT))
        return original(self, ids_MT, mask_MT)

    monkeypatch.setattr(tower, "forward", count)
    train_run(experiment_file, FROZEN, tmp_path / "plain")
    plain = sum(read)
    for name, options in {"kept": [], "micro": ["trainer.micro_batch=3"]}.items():
        read.clear()
        train_run(experiment_file, [*FROZEN, *options, "text.cache=true"], tmp_path / name)
        losses = [read_losses(tmp_path / run) for run in ("plain", name)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        # The archive has four texts; the finished bundle reads its own prompts.
        assert sum(read) < plain / 5


def test_texts_are_known_by_their_tokens_and_read_anew_by_a_tower_that_learns() -> None:
    torch.manual_seed(0)
    tower = TextTowerConfig(width=16, depth=1, heads=2).build(40, 0)
    tower.requires_grad_(False)
    ids, mask = torch.randint(5, 40, (4, 8)), torch.ones(4, 8, dtype=torch.bool)
    ids[1], mask[2, 4:], mask[3] = ids[0], False, False
    expected = tower(ids, mask)
    remember_texts(tower)
    found = tower(ids, mask)
    torch.testing.assert_close(found.pooled_MD[:3], expected.pooled_MD[:3])
    assert found.tokens_MTD.shape == (4, 0, 16)
    torch.testing.assert_close(tower(ids[:, :4], mask[:, :4]).pooled_MD[2], found.pooled_MD[2])
    tower.backbone.requires_grad_(True)
    assert tower(ids, mask).tokens_MTD.shape == (4, 8, 16)
    with pytest.raises(ConfigError, match="the text tower learns"):
        remember_texts(tower)

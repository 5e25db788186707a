from pathlib import Path

import polars as pl
import pytest

import medvlp
from medvlp.errors import InputError
from medvlp.train.fit import train_run

TEXT_ONLY = [
    "preprocess={kind: none}",
    "image={kind: none}",
    "objectives=[{kind: masked-text, fraction: 0.3}]",
    "prompts=null",
    "trainer.steps=8",
]


@pytest.mark.slow
def test_reports_alone_train_a_text_tower_that_an_image_run_starts_from(
    experiment_file: Path, bright_manifest: Path, tmp_path: Path
) -> None:
    run = tmp_path / "text"
    train_run(experiment_file, TEXT_ONLY, run)
    losses = pl.read_csv(run / "metrics.csv")["masked-text"]
    assert losses.is_finite().all()
    bundle = medvlp.load(run / "bundle")
    assert bundle.embed_text(["bright", "dark"]).shape[0] == 2
    with pytest.raises(InputError, match="texts alone"):
        bundle.embed_image(bright_manifest.parent / "1.png")
    both = tmp_path / "both"
    gently = ["trainer.steps=2", "optim.lr=1e-9"]
    train_run(experiment_file, [f"init={run / 'bundle'}", *gently], both)
    started, text = medvlp.load(both / "bundle").model.state_dict(), bundle.model.state_dict()
    shared = [name for name in text if name.startswith("text.")]
    assert shared
    for name in shared:
        assert started[name].sub(text[name]).abs().max() < 1e-6, name

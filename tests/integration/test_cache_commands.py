"""`medvlp cache build|check|bench` on a manifest of X-rays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from medvlp.cache import commands
from medvlp.data.cache_bench import Speed, bench_formats, recommend
from medvlp.data.seal import SOURCES
from medvlp.data.swap import private_folder
from medvlp.errors import ConfigError, RunError
from medvlp.train.cache_build import build_cache
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run


def told(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(commands, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("workers", [0, 2])
def test_a_built_cache_is_all_that_a_run_reads(
    experiment_file: Path, tmp_path: Path, workers: int
) -> None:
    cache = tmp_path / "cache"
    said = build_cache(experiment_file, [f"data.cache={cache}"], workers)
    files = {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")}
    assert f"written {len(files)}" in said
    assert "kept" in build_cache(experiment_file, [f"data.cache={cache}"], workers)
    train_run(experiment_file, [f"data.cache={cache}", "trainer.steps=4"], tmp_path / "run")
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")} == files
    as_blosc2 = [f"data.cache={cache}", "data.cache_format=blosc2"]
    assert f"rewritten {len(files)}" in build_cache(experiment_file, as_blosc2, workers)
    assert {p.suffix for p in cache.rglob("*.*")} == {".b2nd"}


def test_check_tells_the_damaged_the_stale_the_orphaned_and_the_missing(
    experiment_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    build_cache(experiment_file, [f"data.cache={cache}"], 0)
    entries = sorted(cache.rglob("*.npy"))
    assert told("check", cache)[0] == 0
    entries[0].write_bytes(entries[0].read_bytes()[:-3])
    entries[1].rename(entries[1].with_name("f" * 64 + entries[1].name[64:]))
    (cache / "x.tmp").write_bytes(b"half")
    code, text = told("check", cache, "--config", experiment_file)
    assert code == 2, text
    sound = len(entries) - 2
    assert f"sound {sound}, damaged 1, stale 0, orphaned 1, left 1, missing 2" in text
    assert f"damaged: {entries[0].name[:12]}" in text
    assert "x.tmp" not in text
    _, text = told("check", cache, "--config", experiment_file, "--set", "preprocess.size=16")
    assert f"sound 0, damaged 1, stale {sound}, orphaned 1" in text
    assert told("check", cache, "--remove")[0] == 0
    assert not entries[0].exists()
    assert told("check", cache)[0] == 0


def test_bench_measures_both_formats_and_leaves_nothing(
    experiment_file: Path, tmp_path: Path
) -> None:
    code, text = told("bench", experiment_file, f"data.cache={tmp_path / 'cache'}")
    assert code == 0
    assert "npy" in text
    assert "Recommended: data.cache_format=" in text
    assert not list((tmp_path / "cache").iterdir())
    smooth = np.broadcast_to(np.arange(64, dtype=np.int16), (16, 64, 64))
    plain, packed = bench_formats([smooth], tmp_path)
    assert packed.size < 0.3 < 1 <= plain.size


@pytest.mark.parametrize(
    ("packed_first", "packed_size", "form"),
    [(20, 0.4, "npy"), (10, 0.4, "blosc2"), (9, 1.0, "npy")],
)
def test_the_recommended_format_is_the_one_that_pays(packed_first, packed_size, form) -> None:
    plain = Speed(form="npy", size=1, write_ms=1, first_ms=10, full_ms=1, crop_ms=1)
    packed = Speed(
        form="blosc2", size=packed_size, write_ms=1, first_ms=packed_first, full_ms=1, crop_ms=1
    )
    assert recommend([plain, packed])[0] == form


def test_a_cache_of_nothing_is_refused(experiment_file: Path, tmp_path: Path) -> None:
    original, *_ = load_experiment(experiment_file).data.manifests
    manifest = tmp_path / "m"
    shutil.copytree(original, manifest)
    shutil.copytree(private_folder(original), private_folder(manifest))
    sources = private_folder(manifest) / SOURCES
    rows = pl.read_parquet(sources)
    rows.with_columns(path=pl.col("path") + ".gone").write_parquet(sources)
    changes = [f"data.manifests=[{manifest}]", f"data.cache={tmp_path / 'cache'}"]
    with pytest.raises(RunError, match=r"no array could be read: unread: unreadable 24"):
        build_cache(experiment_file, changes, 0)


def test_what_has_no_cache_or_no_manifest_is_refused(experiment_file: Path) -> None:
    with pytest.raises(ConfigError, match="names no folder"):
        build_cache(experiment_file, [], 0)
    phantom = ["data.manifests=[]", "data.phantom={n: 2, kind: dicom}", "data.cache=c"]
    with pytest.raises(ConfigError, match="written by the run"):
        build_cache(experiment_file, phantom, 0)

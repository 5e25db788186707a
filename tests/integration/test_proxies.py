"""Proxies from `medvlp cache build` to what a run and an evaluation say that they have read."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from films import CONSTANT, spoilt, write_video
from PIL import Image
from typer.testing import CliRunner

from medvlp.cache import commands
from medvlp.data.items import Item
from medvlp.data.manifest import Manifest, write_manifest
from medvlp.data.proxies import Proxies
from medvlp.data.proxy_files import ProxyConfig
from medvlp.data.readers import how_read
from medvlp.digest import digest_file
from medvlp.domain import Ref
from medvlp.errors import ConfigError
from medvlp.evaluate.run import evaluate_protocol
from medvlp.train import proxy_build
from medvlp.train.cache_build import build_cache
from medvlp.train.fit import train_run
from medvlp.train.proxy_build import build_proxies
from medvlp_video.preprocess import ClipPreprocessConfig

TINY = {"kind": "resnet", "depths": [1, 1], "widths": [8, 16], "stem": 8, "norm": "group"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two recordings to train on, one of them with bad frames, a validation one, and frames."""
    root = tmp_path_factory.mktemp("recordings")
    spoilt(root / "bad.mp4", 0.5, 12, options={"g": "6", "bf": "2"})
    for name in ("good", "valid"):
        write_video(root / f"{name}.mp4", CONSTANT, options={"g": "90" if name == "good" else "9"})
    Image.new("RGB", (80, 32), (90, 20, 30)).save(root / "0.png")
    tables, sources = {"samples": [], "texts": []}, []
    for name, split, reader in (
        ("bad.mp4", "train", "pyav"), ("good.mp4", "train", "decord"),
        ("0.png", "train", "frames"), ("valid.mp4", "valid", "decord"),
    ):  # fmt: skip
        path = root / name
        sources.append({"source": name, "part": 0, "path": str(path)})
        about = {"sample": f"s-{name}", "patient": f"p-{name}", "source": name, "split": split}
        frames = reader == "frames"
        tables["samples"].append(
            {
                **about,
                "domain": "video",
                "sha256": digest_file(path),
                "kind": "frames" if frames else "video",
                "reader": reader,
                "duration_s": 1.0 if frames else 3.6,
            }
        )
        for k, span in enumerate([(0.0, 0.4)] if frames else [(0.0, 0.8), (0.8, 1.4)]):
            node = {"sample": f"s-{name}", "node": f"{name}{k}", "level": "clip", "order": k}
            text = f"The hook dissects the {name.partition('.')[0]} tissue {k}."
            told = {"source": "asr", "text": text, "start_s": span[0], "end_s": span[1]}
            tables["texts"].append({**node, **told})
    info = {"key_id": "test", "counts": {}}
    write_manifest(root / "manifest", tables, sources, info, key=b"k" * 32)
    return root


@pytest.fixture
def experiment(recordings, tmp_path):
    values = {
        "domain": "video",
        "data": {
            "manifests": [str(recordings / "manifest")],
            "batch_size": 2,
            "texts": {"levels": ["clip"]},
            "tokenizer": {"vocab_size": 300},
            "proxies": {"folder": str(tmp_path / "proxies"), "settings": ["short_side=16"]},
            "cache": str(tmp_path / "cache"),
        },
        "preprocess": {"kind": "clip", "frames": 2, "size": 16},
        "image": {"kind": "frames", "frame": TINY},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_tokens": 16},
        "model": {"embed": 8},
        "objectives": [{"kind": "clip"}],
        "optim": {"warmup_steps": 0},
        "trainer": {"steps": 1, "accelerator": "cpu"},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(*arguments):
    done = CliRunner().invoke(commands, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_what_is_built_is_what_runs_and_evaluations_read(
    recordings, experiment, tmp_path, tiny_bundle
):
    # What was decoded from the originals is not taken for what proxies show.
    without = build_cache(experiment, ["data.proxies=null"], 0)
    assert "unread: bad_frame 1, written 6; " in without
    proxies, cache = tmp_path / "proxies", tmp_path / "cache"
    code, text = command("build", experiment, "--workers", 2)
    assert code == 0
    assert "read as they are 1, written 3; " in text
    assert "frames do not decode" in text
    assert "dB" in text
    # Of six readable arrays, one is of frames that have no proxy.
    assert "kept 1, unread: bad_frame 1, written 5; " in text
    made = sorted(proxies.rglob("*.proxy"))
    assert sorted(file for file in proxies.rglob("*") if file.is_file()) == made
    assert {file.name[:64] for file in made} == {
        digest_file(recordings / f"{name}.mp4") for name in ("bad", "good", "valid")
    }
    assert {file.stat().st_mode & 0o777 for file in made} == {0o600}

    assert command("check", proxies, "--config", experiment)[1].startswith("sound 3, damaged 0")
    assert "missing 0" in command("check", proxies, "--config", experiment)[1]
    data = made[0].read_bytes()
    made[0].write_bytes(data[:-1])
    code, text = command("check", proxies)
    assert (code, text.partition("\n")[0]) == (
        2, "sound 2, damaged 1, stale 0, orphaned 0, left 0, missing 0",
    )  # fmt: skip
    assert "kept 2, read as they are 1, written 1; " in build_cache(experiment, [], 1)
    assert made[0].read_bytes() == data

    train_run(experiment, [], tmp_path / "run")
    reading = json.loads((tmp_path / "run" / "data.json").read_text())["reading"]
    assert reading["readers"] == {"frames": 1, "proxy": 3}
    assert reading["proxies"] == {"short_side": 16, "key_every": 25, "crf": 20}
    assert "presentation time" in reading["moments"]
    bundle = json.loads((tmp_path / "run" / "bundle" / "bundle.json").read_text())
    assert bundle["provenance"]["data"]["reading"] == reading
    assert len(list(cache.rglob("*.npy"))) == 6 + 5

    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(
        yaml.safe_dump(
            {
                "name": "moments",
                "version": 1,
                "domain": "video",
                "task": {"kind": "retrieval", "levels": ["clip"]},
                "data": {"manifests": [str(recordings / "manifest")], "split": "valid"},
                "bootstrap": {"draws": 0},
            }
        )
    )
    settings = f"data.proxies={{folder: {proxies}, settings: [short_side=16]}}"
    evaluate_protocol(protocol, [tiny_bundle("video")], tmp_path / "out", [settings])
    folder = tmp_path / "out" / "moments"
    told = json.loads((folder / "study.json").read_text())["reading"]
    assert told == {**reading, "readers": {"proxy": 1}}
    assert json.loads((folder / "metrics.json").read_text())["reading"] == told


def test_readers_are_told_as_they_were_used(recordings):
    manifest = Manifest.open(recordings / "manifest")
    samples = manifest.samples["sample"]
    indexed = {"decord": 2, "frames": 1, "pyav": 1}
    assert how_read([manifest], samples) == {"readers": indexed}
    # Whatever a file has earned, the contract reads by timestamp.
    told = how_read([manifest], samples, ClipPreprocessConfig().build())
    assert told["readers"] == {"frames": 1, "pyav": 3}
    assert how_read([manifest], samples[:1])["readers"].keys() <= indexed.keys()


class Deeds:
    """Proxies whose making does what the file says; see tests/unit/reading/misbehaving.py."""

    version = 1
    make = Ref("misbehaving:make")

    def check(self):
        pass

    def takes(self, paths):
        return True

    def holds(self, path, sha256):
        return path.is_file()


def test_a_maker_that_hangs_or_crashes_costs_its_own_recording_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "unit" / "reading")
    monkeypatch.setattr(proxy_build, "_SILENCE_S", 1.0)
    proxies = Proxies("video", ProxyConfig(folder=tmp_path / "proxies"))
    proxies.maker, proxies.settings = Deeds(), {}
    items = []
    for k, deed in enumerate(("good", "half", "abort", "fine")):
        (tmp_path / deed).write_text(deed)
        items.append(
            Item(
                sample=deed, patient=deed, sha256=f"{k:064x}", source_paths=(tmp_path / deed,),
                span=None, texts=(), labels_L=np.zeros(0, np.float32), split="train",
            )
        )  # fmt: skip
    left = proxies.folder / "aa" / "x.proxy.0000.part"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (time.time() - 7200,) * 2)
    tally = build_proxies(proxies, items, 2)
    assert dict(tally.done) == {"written": 2, "refused: timeout": 1, "refused: decoder_crash": 1}
    found = [path for path in proxies.folder.rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in found) == ["fine", "good"]
    assert {path.suffix for path in found} == {".proxy"}
    # A second command takes up what is left.
    (tmp_path / "half").write_text("well")
    tally = build_proxies(proxies, items[:2], 1)
    assert dict(tally.done) == {"kept": 1, "written": 1}


def test_domains_and_settings_without_proxies_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cxr reads its files as they are"):
        Proxies("cxr", ProxyConfig(folder=tmp_path))
    with pytest.raises(ConfigError, match=r"data\.proxies\.settings.*short"):
        Proxies("video", ProxyConfig(folder=tmp_path, settings=("short=3",)))

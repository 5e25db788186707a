"""YAML: experiments, protocols, prompts, headings, options of an index, run folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hostile.case import Hostile, Place
from medvlp.archive.index import index_archive
from medvlp.config import override
from medvlp.data.prompts import load_prompts
from medvlp.data.sections import load_headings
from medvlp.errors import ConfigError
from medvlp.evaluate.protocol import load_protocol
from medvlp.train.experiment import load_experiment
from medvlp.train.fit import train_run

APPLY = "!!python/object/apply:os.system ['{command}']"


def text(name: str, content: str, door: Callable[[Path], Any]) -> Hostile:
    """A YAML file; ``{command}`` becomes the payload's command."""
    return Hostile(
        name=f"yaml-{name}",
        write=lambda place: place.file("a.yaml", content.replace("{command}", place.command)),
        open=door,
        refused=ConfigError,
    )


def laughs(levels: int = 30, width: int = 10) -> str:
    """Aliases of aliases: 10^30 values in a kilobyte."""
    lines = ["a0: &a0 [lol]"]
    for i in range(1, levels):
        names = ", ".join([f"*a{i - 1}"] * width)
        lines.append(f"a{i}: &a{i} [{names}]")
    return "\n".join([*lines, f"domain: cxr\ndata: *a{levels - 1}\n"])


def merges(levels: int = 30) -> str:
    """The same with merge keys, which a loader flattens into lists."""
    lines = ["a0: &a0 {k: v}"]
    for i in range(1, levels):
        names = ", ".join([f"*a{i - 1}"] * 10)
        lines.append(f"a{i}: &a{i} {{<<: [{names}], k{i}: v}}")
    return "\n".join([*lines, "domain: cxr"])


def pipe(place: Place) -> Path:
    os.mkfifo(place.inside / "a.yaml")
    return place.inside / "a.yaml"


def endless(place: Place) -> Path:
    (place.inside / "a.yaml").symlink_to("/dev/zero")
    return place.inside / "a.yaml"


def sparse(place: Place) -> Path:
    with (place.inside / "a.yaml").open("wb") as file:
        file.truncate(1 << 34)
    return place.inside / "a.yaml"


def run_folder(place: Place) -> Path:
    """A run folder that somebody prepared, and an innocent experiment beside it."""
    place.file("run/config.yaml", f"domain: {APPLY}".replace("{command}", place.command))
    manifest = {"manifests": [str(place.inside)], "batch_size": 2}
    values = {
        "domain": "cxr",
        "data": manifest,
        "preprocess": {"kind": "cxr", "size": 32},
        "image": {"kind": "vit", "size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "depth": 1, "heads": 2},
        "objectives": [{"kind": "clip"}],
        "trainer": {"steps": 1, "accelerator": "cpu"},
    }
    import yaml

    return place.file("a.yaml", yaml.safe_dump(values))


def indexed(path: Path) -> Any:
    (path.parent / "t.csv").write_text("patient,text\np1,No edema.\n")
    return index_archive(
        path.parent / "t.csv", kind="table", out=path.parent / "manifest", config=path
    )


EXPERIMENT = partial(text, door=load_experiment)

CASES = (
    EXPERIMENT("apply", f"domain: {APPLY}\n"),
    EXPERIMENT("apply-as-key", f"? {APPLY}\n: cxr\n"),
    EXPERIMENT("new", "domain: !!python/object/new:os.system ['{command}']\n"),
    EXPERIMENT("name", "domain: !!python/name:os.system\n"),
    EXPERIMENT("module", "domain: !!python/module:antigravity\n"),
    EXPERIMENT("tuple-of-apply", "domain: !!python/tuple [!!python/object/apply:os.getcwd []]\n"),
    EXPERIMENT("custom-tag", "domain: !include {command}\n"),
    EXPERIMENT("billion-laughs", laughs()),
    EXPERIMENT("merge-bomb", merges()),
    EXPERIMENT("alias-of-itself", "domain: cxr\ndata: &a [*a]\n"),
    EXPERIMENT("merge-of-itself", "domain: cxr\ndata: &a {<<: *a}\n"),
    EXPERIMENT("deep", "domain: cxr\ndata: " + "[" * 20_000),
    EXPERIMENT("deep-mappings", "\n".join(" " * i + "a:" for i in range(800))),
    EXPERIMENT("duplicate-keys", "domain: cxr\ndomain: video\n"),
    EXPERIMENT("list-as-key", "domain: cxr\n? [a, b]\n: c\n"),
    EXPERIMENT("endless-integer", "domain: cxr\nseed: " + "9" * 100_000),
    EXPERIMENT("sexagesimal-integer", "domain: cxr\nseed: 1" + ":59" * 100_000),
    EXPERIMENT("impossible-date", "domain: cxr\nseed: 9999-99-99\n"),
    EXPERIMENT("impossible-integer", "domain: cxr\nseed: !!int a\n"),
    EXPERIMENT("two-documents", "domain: cxr\n---\ndomain: video\n"),
    EXPERIMENT("not-text", "\x00\x01\x02"),
    text("prompts", f"mode: independent\nlabels: {APPLY}\n", load_prompts),
    text("prompts-bomb", laughs().replace("data:", "labels:"), load_prompts),
    text("headings", f"findings: [{APPLY}]\n", load_headings),
    text("protocol", f"domain: cxr\nname: {APPLY}\n", load_protocol),
    text(
        "protocol-name-leads-out",
        "name: ../../outside\nversion: 1\ndomain: cxr\ntask: {kind: retrieval}\n"
        "data: {manifests: [m]}\n",
        load_protocol,
    ),
    text("options-of-index", f"reports: {APPLY}\n", indexed),
    text("override", APPLY, lambda path: override({}, [f"trainer.steps={path.read_text()}"])),
    Hostile(name="yaml-pipe", write=pipe, open=load_experiment, refused=ConfigError),
    Hostile(name="yaml-endless", write=endless, open=load_experiment, refused=ConfigError),
    Hostile(name="yaml-sparse-16-gib", write=sparse, open=load_prompts, refused=ConfigError),
    Hostile(
        name="yaml-run-folder",
        write=run_folder,
        open=lambda path: train_run(path, [], path.parent / "run"),
        refused=ConfigError,
    ),
)

"""What tests of the leakage gate share: archives with planted leaks, and what the gate finds."""

import io
from functools import cache
from typing import get_args

import numpy as np
import polars as pl
from PIL import Image

from medvlp.archive.index import index_archive
from medvlp.cxr.phantom import expose, paint
from medvlp.cxr.phantom_findings import draw_findings
from medvlp.data.keys import KEY
from medvlp.data.manifest import Manifest
from medvlp.data.prompts import prompts_from_labels
from medvlp.evaluate.leakage.gate import inspect_leaks
from medvlp.evaluate.leakage.leak import Kind, LeakageConfig
from medvlp.evaluate.predict import Study
from medvlp.evaluate.scorers import open_scorers
from medvlp.evaluate.tasks.zero_shot import ZeroShotConfig

PROMPTS = prompts_from_labels(["mass"])
ZERO_SHOT = ZeroShotConfig(prompts=PROMPTS)
LONG = (
    "The lungs are expanded with a small left pleural effusion and streaky opacity at the left "
    "base that likely reflects atelectasis. The cardiac silhouette is mildly enlarged. No "
    "pneumothorax is seen. Degenerative changes of the thoracic spine are unchanged since then."
)


@cache
def xray(patient):
    """A phantom X-ray, (256, 256) of 8 bits."""
    rng = np.random.default_rng([7, patient])
    canvas, _ = paint(draw_findings(rng), 256, np.random.default_rng([8, patient]))
    return (np.asarray(expose(canvas, rng)) // 16).astype(np.uint8)


def jpeg(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=30)
    return np.asarray(Image.open(stream))


def windowed(values):
    low, high = np.percentile(values, (10, 95))
    return (255 * np.clip((values - low) / (high - low), 0, 1) ** 1.4).astype(np.uint8)


def resized(values):
    return np.asarray(Image.fromarray(values).resize((180, 180), Image.Resampling.BICUBIC))


def archive(root, rows, key=None):
    """Index rows (name with suffix, values or bytes, patient, study, split, text)."""
    root.mkdir()
    listed = []
    for name, values, patient, study, split, text in rows:
        if isinstance(values, bytes):
            (root / name).write_bytes(values)
        else:
            Image.fromarray(np.ascontiguousarray(values)).save(root / name)
        listed.append(
            {"path": name, "patient": patient, "study": study, "split": split, "text": text,
             "mass": len(listed) % 2}
        )  # fmt: skip
    pl.DataFrame(listed).write_csv(root / "t.csv")
    out = root.parent / f"m-{root.name}"
    options = ["domain=cxr", "workers=1", "split.policy=source", "columns.labels=[mass]"]
    index_archive(root / "t.csv", kind="table", out=out, overrides=options, key=key)
    return out


def clean(first, count, split):
    return [
        (f"c{i}.png", xray(i), f"P{i}", f"S{i}", split, f"Patient number {i}. Nothing acute.")
        for i in range(first, first + count)
    ]


def key_of(manifest):
    return manifest.with_name(f"{manifest.name}.private") / KEY


def planted(tmp_path, train, row):
    """A test manifest of one sample, with the training manifest's key."""
    return archive(tmp_path / "one", [row], key=key_of(train))


def study_of(*paths, domain="cxr"):
    manifests = tuple(Manifest.open(path) for path in paths)
    return Study(protocol="trial", domain=domain, manifests=manifests, split="test", seed=0)


def found(study, task=ZERO_SHOT, bundles=(), **config):
    """Kinds that the gate finds, with every kind allowed."""
    allowed = LeakageConfig(allow=get_args(Kind), **config)
    scorers = open_scorers(bundles, study.domain, None)
    return inspect_leaks(study, task, allowed, scorers, bundles)


def kinds(inspected):
    return {leak.kind: leak.count for leak in inspected.leaks}


def named(test, hits):
    """Samples of a manifest by the stem of their file."""
    manifest = Manifest.open(test)
    source = dict(manifest.samples.select("sample", "source").iter_rows())
    return {
        kind: {manifest.paths(source[sample])[0].stem for sample in samples}
        for kind, samples in hits.items()
    }

"""What heads are trained, chosen and judged on: three splits that share no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from medvlp.config import STRICT
from medvlp.data.items import Item, window_items
from medvlp.data.manifest import Manifest
from medvlp.data.randomness import generator
from medvlp.data.splits import DRAWS
from medvlp.errors import ConfigError
from medvlp.evaluate.cases import sample_items
from medvlp.evaluate.predict import Study

Share = Literal["1%", "5%", "10%", "100%"]
"""Of the training split's patients; each is within the next."""

Subset = Literal[Share, "1-shot", "4-shot", "16-shot"]
"""How much of the training split a protocol trains on; each is within the next of its row."""

Seconds = Annotated[float, Field(gt=0)]


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class Windows:
    """Recordings are cut into windows, each labelled by the intervals at its middle."""

    window_s: Seconds
    stride_s: Seconds


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The items of one training."""

    train: tuple[Item, ...]
    valid: tuple[Item, ...]
    """What settings, calibration and thresholds are chosen on."""

    test: tuple[Item, ...]

    def named(self, evaluated: str) -> dict[str, tuple[Item, ...]]:
        """The three by name, for messages."""
        return {"train": self.train, "valid": self.valid, f"{evaluated} (evaluated)": self.test}


def labelled_splits(
    study: Study, names: Sequence[str], subset: Subset, draw: int, windows: Windows | None
) -> Splits:
    """Labelled items of the training, the validation and the evaluated split.

    Args:
        study: The manifests, and which split is evaluated.
        names: Labels, in the order of the items' `labels_L`.
        subset: Which part of the training split. For k shots each label has samples of its own:
            in the others' samples it is not known.
        draw: Which of the manifest's draws, for k shots.
        windows: How recordings are cut; None for images.

    Raises:
        ConfigError: A split is empty, two share a file, or the manifests lack the subset.
    """

    def items(split: str) -> list[Item]:
        if windows is None:
            return sample_items(study.manifests, split, names, domain=study.domain)
        return [
            item
            for manifest in study.manifests
            for item in window_items(manifest, split, windows.window_s, windows.stride_s, names)
        ]

    found = Splits(
        train=tuple(narrowed(items("train"), study.manifests, names, subset, draw)),
        valid=tuple(items("valid")),
        test=tuple(items(study.split)),
    )
    check_apart(found.named(study.split))
    return found


def check_apart(parts: Mapping[str, Sequence[Item]]) -> None:
    """See that nothing is trained or chosen on what is evaluated, by the files' content.

    Args:
        parts: Split -> its items.

    Raises:
        ConfigError: A split is empty, or two hold the same file.
    """
    for name, items in parts.items():
        if not items:
            raise ConfigError(
                f"split {name} holds nothing: a trained task needs train, valid and what it "
                "evaluates",
                remedy="use manifests whose splits are filled (split.fractions of medvlp index)",
            )
    for (one, ours), (other, theirs) in combinations(parts.items(), 2):
        shared = {item.sha256 for item in ours} & {item.sha256 for item in theirs}
        if shared:
            raise ConfigError(
                f"splits {one} and {other} share {len(shared)} files by content (SHA-256)",
                remedy="evaluate another split, or index again with duplicates=group so that "
                "copies stay together",
            )


def narrowed(
    train: Sequence[Item],
    manifests: Sequence[Manifest],
    names: Sequence[str],
    subset: Subset,
    draw: int,
) -> list[Item]:
    """The training items of a subset, as `labelled_splits` has them.

    Raises:
        ConfigError: The manifests do not have it.
    """
    if subset == "100%":
        return list(train)
    if subset.endswith("%"):
        members = _members(manifests, subset)
        return [item for item in train if item.sample in members]
    member_of = [_members(manifests, f"{name}/{subset}/{draw % DRAWS}") for name in names]
    kept = []
    for item in train:
        mine = np.array([item.sample in members for members in member_of])
        if mine.any():
            labels_L = np.where(mine, item.labels_L, np.nan).astype(np.float32)
            kept.append(dataclasses.replace(item, labels_L=labels_L))
    return kept


def shuffle_images(items: Sequence[Item], seed: int) -> list[Item]:
    """Every patient's labels with the images of a patient drawn at random, maybe their own.

    In training alone this is the random-label control: images and labels are as many as ever,
    and one tells nothing of the other.
    """
    by_patient: dict[str, list[Item]] = {}
    for item in items:
        by_patient.setdefault(item.patient, []).append(item)
    patients = sorted(by_patient)
    order = generator(seed, 0, "patients", "random-label").permutation(len(patients))
    donor_of = {
        patient: by_patient[patients[k]] for patient, k in zip(patients, order, strict=True)
    }
    shuffled = []
    for patient, own in by_patient.items():
        donors = donor_of[patient]
        for i, item in enumerate(own):
            donor = donors[i % len(donors)]
            shuffled.append(
                dataclasses.replace(
                    item,
                    sha256=donor.sha256,
                    source_paths=donor.source_paths,
                    span=donor.span,
                    flags=donor.flags,
                )
            )
    return shuffled


def _members(manifests: Sequence[Manifest], subset: str) -> set[str]:
    found = {
        sample
        for manifest in manifests
        for sample in manifest.subsets.filter(pl.col("subset") == subset)["sample"]
    }
    if not found:
        raise ConfigError(
            f"no manifest has the training subset {subset!r}",
            remedy="leave out labels with too few samples, or name a smaller subset; a manifest "
            "that was indexed before there was this one has it once it is indexed again",
        )
    return found

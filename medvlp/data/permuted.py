"""The image-blind control: every patient with another patient's images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlp.data.items import Item
from medvlp.data.randomness import generator
from medvlp.errors import ConfigError

_OF_IMAGE = ("sha256", "source_paths", "span", "flags", "regions")
"""Fields of an item that tell of its image alone."""


def permute_images(items: Sequence[Item], seed: int) -> list[Item]:
    """The image-blind control: every patient's texts and labels with another patient's images.

    Patients are permuted along one seeded cycle, so nobody keeps an image of their own, and one
    patient's images stay together.

    Raises:
        ConfigError: Fewer than two patients.
    """
    by_patient: dict[str, list[Item]] = {}
    for item in items:
        by_patient.setdefault(item.patient, []).append(item)
    patients = sorted(by_patient)
    if len(patients) < 2:
        raise ConfigError(
            f"control image-blind: {len(patients)} patient(s) in a split cannot be permuted",
            remedy="use data of at least two patients per split",
        )
    order = generator(seed, 0, "patients", "image-blind").permutation(len(patients))
    following = {patients[a]: patients[b] for a, b in zip(order, np.roll(order, 1), strict=True)}
    rank = {id(item): i for group in by_patient.values() for i, item in enumerate(group)}

    def image(item: Item) -> dict[str, Any]:
        donors = by_patient[following[item.patient]]
        donor = donors[rank[id(item)] % len(donors)]
        return {name: getattr(donor, name) for name in _OF_IMAGE}

    return [dataclasses.replace(item, **image(item)) for item in items]

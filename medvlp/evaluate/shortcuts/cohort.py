"""Cohorts of real samples for the audit: views, facts from the manifests, words known before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from medvlp.data.items import Item
from medvlp.data.manifest import Manifest
from medvlp.evaluate.predict import Scorer
from medvlp.evaluate.predictions import SUBGROUPS
from medvlp.evaluate.shortcuts.audit import Cohort

MOMENTS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Where a volume or a clip is looked at."""

_NUMBERS = ("fps", "duration_s")
_KNOWN_BEFORE = "indication"
"""The section of a report that was written before the image was read."""


def cohort_of(
    scorer: Scorer, items: Sequence[Item], manifests: Sequence[Manifest], column: int
) -> Cohort:
    """A cohort for one label; items that do not know it are left out.

    Args:
        scorer: Whose preprocessing shows the views; an X-ray is looked at once.
        items: Labelled items of one split.
        manifests: Where they come from.
        column: The label's place in the items' `labels_L`.
    """
    known = [item for item in items if item.labels_L[column] in (0, 1)]
    picture = scorer.bundle.preprocess.picture
    views = []
    for stored in scorer.stored(known):
        seen = np.stack([picture(stored, at)[..., 0] for at in MOMENTS])
        views.append(seen[0] if (seen == seen[0]).all() else seen)
    order = pl.DataFrame({"sample": [item.sample for item in known]})
    facts = pl.concat([_facts(manifest) for manifest in manifests])
    said = pl.concat(
        [
            manifest.texts.filter(pl.col("source") == _KNOWN_BEFORE)
            .group_by("sample")
            .agg(words=pl.col("text").str.join(" "))
            for manifest in manifests
        ]
    )
    table = order.join(facts, on="sample", how="left", maintain_order="left")
    words = order.join(said, on="sample", how="left", maintain_order="left")["words"]
    return Cohort(
        views=views,
        facts=table.drop("sample"),
        words=words.fill_null("").to_list(),
        label_N=np.array([item.labels_L[column] == 1 for item in known]),
        patient=[item.patient for item in known],
    )


def _facts(manifest: Manifest) -> pl.DataFrame:
    """What the manifest knows of a sample besides its image; its size as it was before resizing."""
    shape, spacing = pl.col("shape"), pl.col("spacing_mm")
    return manifest.samples.select(
        "sample",
        *SUBGROUPS,
        "modality",
        *_NUMBERS,
        rows=shape.list.get(-2, null_on_oob=True),
        columns=shape.list.get(-1, null_on_oob=True),
        depth=pl.when(shape.list.len() > 2).then(shape.list.get(0, null_on_oob=True)),
        aspect=shape.list.get(-2, null_on_oob=True) / shape.list.get(-1, null_on_oob=True),
        spacing=spacing.list.get(-1, null_on_oob=True),
    )

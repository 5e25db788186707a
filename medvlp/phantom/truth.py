"""Ground-truth tables of a phantom: what `medvlp index` reads as labels, regions and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medvlp.phantom.grammar import Finding, Wording

REPORTS = "reports.csv"
LABELS = "truth/labels.csv"
REGIONS = "truth/regions.parquet"
ENTITIES = "truth/entities.parquet"
INDEX_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "reports": REPORTS, "labels": LABELS, "regions": REGIONS, "entities": ENTITIES,
        "label_source": "truth",
    }
)  # fmt: skip
"""What ``index.yaml`` says of an archive with these tables."""


def radiology_tables(key: str) -> dict[str, dict[str, Any]]:
    """The tables of a radiology phantom whose samples are named by the column `key`."""
    text, number = pl.String(), pl.Float64()
    return {
        REPORTS: {"accession": text, "study_uid": text, "text": text},
        LABELS: {key: text, "name": text, "value": number},
        REGIONS: {
            key: text, "name": text, "kind": text,
            **dict.fromkeys(("x0", "y0", "z0", "x1", "y1", "z1"), number),
            "file": text, "value": pl.Int32(),
        },
        ENTITIES: {
            key: text, "anatomy": text, "observation": text, "presence": number,
            "laterality": text, "place": text, "severity": text, "size_mm": number,
        },
    }  # fmt: skip


def label_rows(
    key: str, sample: str, findings: Sequence[Finding], names: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a label: 1 drawn, 0 not drawn, -1 drawn faintly and told with doubt."""
    values = {finding.name: finding.presence for finding in findings}
    return [{key: sample, "name": name, "value": values.get(name, 0.0)} for name in names]


def entity_rows(
    key: str, sample: str, findings: Sequence[Finding], denied: Sequence[str],
    words: Mapping[str, Wording],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a finding that the report speaks of, affirmed, doubted or denied."""
    told = [*findings, *(Finding(name=name, presence=0.0) for name in denied)]
    return [
        {
            key: sample, "anatomy": words[f.name].anatomy, "observation": f.name,
            "presence": f.presence, "laterality": f.side, "place": f.place,
            "severity": f.severity, "size_mm": f.size_mm,
        }
        for f in told
    ]  # fmt: skip


def box_row(key: str, sample: str, name: str, mask: NDArray[np.bool_]) -> dict[str, Any] | None:
    """The tight box around `mask`, (H,W) or (D,H,W); None if it is empty.

    The far edges are exclusive: ``mask[y0:y1, x0:x1]`` holds the whole region.
    """
    row: dict[str, Any] = {key: sample, "name": name, "kind": "box"}
    for axis, letter in zip(range(mask.ndim), "zyx"[-mask.ndim :], strict=True):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if not len(hit):
            return None
        row[f"{letter}0"], row[f"{letter}1"] = float(hit[0]), float(hit[-1] + 1)
    return row


def mask_row(
    key: str, sample: str, name: str, file: Path, value: int | None = None
) -> dict[str, Any]:
    """A mask in `file`, relative to the archive; `value` is the region's number in a label map."""
    return {
        key: sample, "name": name, "kind": "mask", "file": file.as_posix(), "value": value,
    }  # fmt: skip

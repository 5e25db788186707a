"""k-anonymity: how many patients share what somebody else may know of a patient.

Age band, sex, modality, month and site are no names, yet together they may single a patient out.
A list of splits is published only if at least k patients share each combination in it.
"""

from __future__ import annotations

import io

import polars as pl

from medvlp.data.manifest import Manifest
from medvlp.errors import ManifestError

K = 5
QUASI = ("age_band", "sex", "modality", "month", "site")
"""What may be known of a patient from elsewhere."""

_COARSE_AGES = {"0-9": "0-29", "10-19": "0-29", "20-29": "0-29", "30-39": "30-59"}
_COARSE_AGES |= {"40-49": "30-59", "50-59": "30-59", "60-69": "60-89", "70-79": "60-89"}
_COARSE_AGES |= {"80-89": "60-89"}


def small_groups(rows: pl.DataFrame, k: int = K) -> pl.DataFrame:
    """Combinations of `QUASI` that fewer than `k` patients share, with their ``patients``."""
    groups = rows.group_by(QUASI).agg(patients=pl.col("patient").n_unique())
    return groups.filter(pl.col("patients") < k)


def split_rows(manifest: Manifest) -> pl.DataFrame:
    """``patient, sample, split`` and `QUASI` of every sample."""
    month = pl.col("acquired").str.slice(0, 7)
    columns = ("patient", "sample", "split", "age_band", "sex", "modality")
    return manifest.samples.select(*columns, month=month, site="site").sort("patient", "sample")


def statement(manifest: Manifest, k: int = K) -> str:
    """A line on the manifest's own k-anonymity."""
    rows = split_rows(manifest)
    small = small_groups(rows, k)
    whom = rows.join(small, on=QUASI, how="semi", nulls_equal=True)["patient"].n_unique()
    total = rows["patient"].n_unique()
    return (
        f"k-anonymity: {whom:,} of {total:,} patients share age band, sex, modality, month and "
        f"site with fewer than {k - 1} others"
    )


def publish_splits(
    manifest: Manifest, *, k: int = K, coarsen: bool = False, suppress: bool = False
) -> bytes:
    """The splits as CSV, if at least `k` patients share each combination of `QUASI` in it.

    Args:
        manifest: The manifest.
        k: The least number of patients.
        coarsen: Years in place of months, bands of thirty years of age, no site.
        suppress: Blank `QUASI` in the rows of combinations that are too small.

    Raises:
        ManifestError: Fewer share one.
    """
    rows = split_rows(manifest)
    if coarsen:
        rows = rows.with_columns(
            age_band=pl.col("age_band").replace(_COARSE_AGES),
            month=pl.col("month").str.slice(0, 4),
            site=pl.lit(None, pl.String),
        )
    if suppress:
        rows = _suppressed(rows, k)
    small = small_groups(rows, k)
    if small.height:
        raise ManifestError(
            f"{small.height} combinations of age band, sex, modality, month and site are shared by "
            f"fewer than {k} patients ({small['patients'].sum()} in all): the file would single "
            "them out",
            remedy="add --suppress or --coarsen, or both",
        )
    buffer = io.BytesIO()
    rows.write_csv(buffer)
    return buffer.getvalue()


def _suppressed(rows: pl.DataFrame, k: int) -> pl.DataFrame:
    """Small combinations blanked, and more of them until the blank ones are enough to hide in."""
    blank = [pl.lit(None, pl.String).alias(name) for name in QUASI]
    while True:
        groups = rows.group_by(QUASI).agg(patients=pl.col("patient").n_unique())
        empty = pl.all_horizontal(pl.col(name).is_null() for name in QUASI)
        small = groups.filter((pl.col("patients") < k) & ~empty)
        if small.is_empty():
            lonely = groups.filter(empty & (pl.col("patients") < k))
            others = groups.filter(~empty).sort("patients", *QUASI)
            if lonely.is_empty() or others.is_empty():
                return rows
            small = others.head(1)
        hit = rows.join(small.select(QUASI), on=QUASI, how="semi", nulls_equal=True)
        rest = rows.join(small.select(QUASI), on=QUASI, how="anti", nulls_equal=True)
        blanked = hit.with_columns(blank)
        rows = pl.concat([rest, blanked.select(rest.columns)]).sort("patient", "sample")

"""Copies between manifests that are used together: what is tested must not be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medvlp.archive.duplicates.find import image_copies
from medvlp.archive.privacy.stored import StoredReadings
from medvlp.archive.spool import item_from_text
from medvlp.data.manifest import Manifest, open_all
from medvlp.data.paths import path_from_text
from medvlp.data.tables import TEXT_ONLY
from medvlp.digest import digest_plain
from medvlp.domain import get_domain


@dataclass(frozen=True)
class Together:
    """What several manifests have in common."""

    patients: int
    """Patients who stand in more than one."""
    samples: int
    compared: int
    """Samples whose decoded pixels could be compared, too: their private folder is at hand."""
    exact: int
    """Samples with equal files or pixels in another manifest."""
    near: int
    """Pairs of near copies."""
    other_patient: int
    """Samples with either in another manifest under another patient."""
    recordings: int
    """Samples of a published recording that another manifest holds, too, whatever its pixels."""
    across_splits: int
    """Samples with any of these in another manifest and another split."""

    def __str__(self) -> str:
        return "\n".join(
            (
                f"together: one key, {self.samples:,} samples, {self.patients:,} patients shared, "
                "none in two splits",
                f"  copies between them: exact {self.exact:,} samples, near {self.near:,} pairs "
                f"(pixels of {self.compared:,} samples compared)",
                f"  samples of one published recording {self.recordings:,}, with a copy of another "
                f"patient {self.other_patient:,}, in another split {self.across_splits:,}",
            )
        )


def compare_manifests(paths: Sequence[Path]) -> Together:
    """What manifests that are used together have in common.

    Args:
        paths: Two manifests or more; near copies are looked for where their private folders are.

    Raises:
        ManifestError: Their keys differ, a sample stands in two of them, or a patient stands in
            two splits.
    """
    manifests = open_all(paths)
    columns = ("sample", "patient", "split", "sha256", "source", "kind")
    samples = pl.concat(
        [m.samples.select(*columns, place=pl.lit(i)) for i, m in enumerate(manifests)]
    ).filter(pl.col("kind") != TEXT_ONLY)
    pixels = pl.from_dicts(
        [row for manifest in manifests for row in prints(manifest) if row["fingerprint"]],
        schema={name: pl.String() for name in ("sample", "digest", "fingerprint")},
    )
    named = pl.DataFrame(
        [pair for manifest in manifests for pair in recordings(manifest, manifest.samples)],
        schema={"sample": pl.String(), "recording": pl.String()},
        orient="row",
    )
    seen = samples.join(pixels, on="sample", how="left").join(named, on="sample", how="left")
    exact = _linked(seen, "sha256") | _linked(seen, "digest")
    near = _near(seen)
    people = samples.group_by("patient").agg(pl.col("place").n_unique())

    def differing(column: str, *further: str) -> int:
        same = (_linked(seen, trait, column) for trait in ("sha256", "digest", *further))
        return len(_ends(near, seen, column).union(*same))

    return Together(
        patients=people.filter(pl.col("place") > 1).height,
        samples=samples.height,
        compared=pixels.height,
        exact=len(exact),
        near=len(near),
        other_patient=differing("patient"),
        recordings=len(_linked(seen, "recording")),
        across_splits=differing("split", "recording"),
    )


def _linked(seen: pl.DataFrame, trait: str, differs: str = "place") -> set[str]:
    """Samples that share a trait with one of another manifest (and of another `differs`)."""
    known = seen.filter(pl.col(trait).is_not_null())
    sizes = known.group_by(trait).agg(
        places=pl.col("place").n_unique(), others=pl.col(differs).n_unique()
    )
    shared = sizes.filter((pl.col("places") > 1) & (pl.col("others") > 1))
    return set(known.join(shared, on=trait, how="semi")["sample"])


def _near(seen: pl.DataFrame) -> list[tuple[str, str]]:
    """Pairs of near copies in different manifests."""
    place = dict(seen.select("sample", "place").iter_rows())
    patient = dict(seen.select("sample", "patient").iter_rows())
    rows = seen.filter(pl.col("digest").is_not_null())
    prints = rows.select("sample", "digest", "fingerprint").iter_rows(named=True)
    pairs = [(c.sample, c.other) for c in image_copies(prints, patient) if c.kind == "image"]
    return [(one, other) for one, other in pairs if place[one] != place[other]]


def _ends(pairs: Iterable[tuple[str, str]], seen: pl.DataFrame, column: str) -> set[str]:
    """The samples of pairs that differ in a column."""
    value = dict(seen.select("sample", column).iter_rows())
    return {name for pair in pairs if value[pair[0]] != value[pair[1]] for name in pair}


def recordings(manifest: Manifest, samples: pl.DataFrame) -> list[tuple[str, str]]:
    """Sample and name of those that show a published recording, by where their files lie.

    Nothing comes of a manifest without its private folder.

    Args:
        manifest: The manifest.
        samples: Rows of its table of samples.
    """
    if not manifest.private.is_dir():
        return []
    found: list[tuple[str, str]] = []
    for (domain,), part in samples.group_by("domain", maintain_order=True):
        if (ref := get_domain(str(domain)).recording) is None:
            continue
        name = ref.load()
        for sample, source in part.select("sample", "source").iter_rows():
            if told := name(manifest.paths(source)):
                found.append((sample, told))
    return found


def prints(manifest: Manifest) -> Iterator[Mapping[str, str]]:
    """Rows ``sample, digest, fingerprint`` of the samples whose pixels the ledger knows.

    The fingerprint is blank where there is nothing to see, and where near copies were not looked
    for when the manifest was made. Nothing comes of a manifest without its private folder.
    """
    if not manifest.private.is_dir():
        return
    facts: dict[tuple[Path, ...], tuple[str, str]] = {}
    for item, result in StoredReadings(manifest.private):
        told = _told(result)
        if found := _pixels(told):
            # An item may be a folder, whose sample is made of the files that were found there.
            files = tuple(map(path_from_text, told.get("paths", ())))
            facts[files or item_from_text(item)] = found
    for sample, source in manifest.samples.select("sample", "source").iter_rows():
        paths = manifest.paths(source)
        if paths in facts:
            yield {"sample": sample, "digest": facts[paths][0], "fingerprint": facts[paths][1]}
            continue
        parts = [facts[path,] for path in paths if (path,) in facts]
        if paths and len(parts) == len(paths):
            digests = [digest for digest, _ in parts]
            digest = digests[0] if len(digests) == 1 else digest_plain(digests)
            shown = parts[len(parts) // 2][1]
            yield {"sample": sample, "digest": digest, "fingerprint": shown}


def _told(result: Any) -> Mapping[str, Any]:
    """What a reading found, as plain values; of published sets, what it measured."""
    told: Any = result.get("result") if isinstance(result, dict) else None
    inner = told.get("measured", told) if isinstance(told, dict) else None
    return inner if isinstance(inner, dict) else {}


def _pixels(told: Mapping[str, Any]) -> tuple[str, str] | None:
    """Digest and fingerprint, if a reading was of pixels."""
    pixels = told.get("pixels") or told.get("probe") or {}
    digest = pixels.get("digest") or pixels.get("pixels_digest")
    return (digest, pixels.get("fingerprint") or "") if digest else None

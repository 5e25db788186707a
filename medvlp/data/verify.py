"""`medvlp verify`: everything a manifest promises, checked against its tables."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import polars as pl

from medvlp.data.anonymity import statement
from medvlp.data.keys import KEY
from medvlp.data.manifest import Manifest
from medvlp.data.regions import fault_of
from medvlp.data.seal import check_seal
from medvlp.data.splits import DRAWS, SHARES, SHOTS
from medvlp.data.tables import DUPLICATE_KINDS, LEVELS, SPLITS
from medvlp.errors import ManifestError

_REMEDY = "index the source again with medvlp index"
_SHAPES = ("ellipse", "polygon", "runs")
_REGION_KINDS = ("box", "mask", "interval", *_SHAPES)
_ROWS = "row"
_TOLERANCE_S = 1e-6


def verify_manifest(path: Path) -> str:
    """Check a manifest and say in a few lines what is in it.

    Raises:
        ManifestError: The first promise that does not hold: schema, digests, references, text
            tree, splits, allowed values, counts of files, subsets, the private folder's modes, the
            seal, or the audit log.
    """
    manifest = Manifest.open(path)
    checks: tuple[Callable[[Manifest], None], ...] = (
        _samples, _references, _tree, _spans, _values, _regions, _copies, _counts, _subsets,
        _private,
    )  # fmt: skip
    for check in checks:
        check(manifest)
    sealed = check_seal(manifest.path, manifest.info, manifest.private)
    return f"{_summary(manifest)}\n  {statement(manifest)}\n  {sealed}"


def _refuse(manifest: Manifest, what: str) -> ManifestError:
    return ManifestError(f"{manifest.path.name}: {what}", remedy=_REMEDY)


def _none(manifest: Manifest, bad: pl.DataFrame, what: str) -> None:
    if bad.height:
        raise _refuse(manifest, f"{bad.height} {what}")


def _samples(manifest: Manifest) -> None:
    samples = manifest.samples
    needed = ("sample", "domain", "patient", "study", "source", "sha256", "kind", "split")
    for name in needed:
        _none(manifest, samples.filter(pl.col(name).is_null()), f"samples have no {name}")
    _none(manifest, samples.filter(pl.col("sample").is_duplicated()), "samples share their id")
    _none(manifest, samples.filter(~pl.col("split").is_in(SPLITS)), "samples are in no known split")
    splits = samples.group_by("patient").agg(pl.col("split").n_unique())
    _none(manifest, splits.filter(pl.col("split") > 1), "patients stand in more than one split")


def _references(manifest: Manifest) -> None:
    for name in ("texts", "labels", "entities", "regions", "subsets"):
        table: pl.DataFrame = getattr(manifest, name)
        lost = table.join(manifest.samples, on="sample", how="anti", nulls_equal=True)
        _none(manifest, lost, f"rows of {name} name a sample that is not there")
    nodes = manifest.texts.select("sample", "node")
    lost = manifest.entities.filter(pl.col("node").is_not_null()).join(
        nodes, on=["sample", "node"], how="anti"
    )
    _none(manifest, lost, "entities name a text node that is not there")
    shown = manifest.regions.filter(pl.col("ref").str.starts_with(pl.col("sample") + "-"))
    lost = shown.join(nodes, left_on=["sample", "ref"], right_on=["sample", "node"], how="anti")
    _none(manifest, lost, "regions name a text node that is not there")


def _tree(manifest: Manifest) -> None:
    texts = manifest.texts
    _none(manifest, texts.filter(pl.col("node").is_duplicated()), "text nodes share their id")
    children = texts.filter(pl.col("parent").is_not_null())
    lost = children.join(
        texts, left_on=["sample", "parent"], right_on=["sample", "node"], how="anti"
    )
    _none(manifest, lost, "text nodes name a parent that is not there")
    # Peel the tree from its roots: what is never reached hangs in a cycle.
    left = children.select("node", "parent")
    reached = texts.filter(pl.col("parent").is_null()).select(parent="node")
    while left.height and reached.height:
        below = left.join(reached, on="parent", how="semi")
        left = left.join(reached, on="parent", how="anti")
        reached = below.select(parent="node")
    _none(manifest, left, "text nodes hang in a cycle")


def _spans(manifest: Manifest) -> None:
    texts = manifest.texts
    start, end = pl.col("start_s"), pl.col("end_s")
    _none(manifest, texts.filter(start.is_null() != end.is_null()), "text spans lack an end")
    timed = texts.filter(start.is_not_null())
    _none(manifest, timed.filter((start < 0) | (end < start)), "text spans are inverted")
    parents = timed.select(parent="node", from_s="start_s", to_s="end_s")
    # What was said (a clip) may drift over the edge of the phase it belongs to; phases may not.
    inside = timed.filter(pl.col("level") != "clip").join(parents, on="parent")
    outside = (start < pl.col("from_s") - _TOLERANCE_S) | (end > pl.col("to_s") + _TOLERANCE_S)
    _none(manifest, inside.filter(outside), "text spans leave their parent's")
    durations = manifest.samples.select("sample", "duration_s")
    late = timed.join(durations, on="sample").filter(end > pl.col("duration_s") + _TOLERANCE_S)
    _none(manifest, late, "text spans end after their video")


def _values(manifest: Manifest) -> None:
    levels = manifest.texts.filter(~pl.col("level").is_in(LEVELS))
    _none(manifest, levels, "text nodes have no known level")
    blank = manifest.texts.filter(pl.col("text").fill_null("").str.strip_chars() == "")
    _none(manifest, blank, "text nodes are blank")
    labels = manifest.labels
    wrong = labels.filter(~pl.col("value").is_in([1.0, 0.0, -1.0]))
    _none(manifest, wrong, "labels are none of 1, 0, -1 and null")
    twice = labels.filter(pl.struct("sample", "name").is_duplicated())
    _none(manifest, twice, "labels stand twice for one sample")


def _regions(manifest: Manifest) -> None:
    regions = manifest.regions
    kind, values = pl.col("kind"), pl.col("geometry")
    unknown = regions.filter(~kind.is_in(_REGION_KINDS))
    _none(manifest, unknown, f"regions are none of {', '.join(_REGION_KINDS)}")
    shapeless = regions.filter((kind == "mask") & pl.col("ref").is_null())
    _none(manifest, shapeless, "masks name no file")
    sizes = values.list.len().fill_null(0)
    ill = regions.filter(
        ((kind == "box") & ~sizes.is_in([4, 6])) | ((kind == "interval") & (sizes != 2))
    )
    _none(manifest, ill, "regions have a geometry of the wrong length")
    # The first half of a geometry is its low corner (or start), the second its high one.
    low = values.list.head(sizes // 2)
    high = values.list.tail(sizes // 2)
    formed = regions.filter(kind.is_in(["box", "interval"])).with_columns(low=low, high=high)
    pairs = formed.explode("low", "high") if formed.height else formed
    if formed.height:
        _none(manifest, pairs.filter(pl.col("high") < pl.col("low")), "regions are inverted")
    shapes = regions.filter(kind.is_in(_SHAPES)).select("kind", values.fill_null([]))
    faults = [fault for row in shapes.iter_rows() if (fault := fault_of(*row))]
    if faults:
        raise _refuse(manifest, f"{len(faults)} regions have a wrong geometry: {faults[0]}")


def _copies(manifest: Manifest) -> None:
    copies = manifest.duplicates
    kinds = copies.filter(~pl.col("kind").is_in(DUPLICATE_KINDS))
    _none(manifest, kinds, "duplicates are neither exact, image nor text")
    place = manifest.samples.select("sample", "patient", "split", "flags")
    both = copies.join(place, on="sample").join(place, left_on="other", right_on="sample")
    if both.height != copies.height:
        raise _refuse(manifest, "rows of duplicates name a sample that is not there")
    people = pl.col("same_patient") != (pl.col("patient") == pl.col("patient_right"))
    _none(manifest, both.filter(people), "duplicates are wrong about patients")
    across = pl.col("split") != pl.col("split_right")
    wrong = both.filter(pl.col("across_splits") != across)
    _none(manifest, wrong, "duplicates are wrong about splits")
    flagged = place.filter(pl.col("flags").list.contains("duplicate_across_splits"))
    leaking = copies.filter("across_splits")
    named = pl.concat([leaking["sample"], leaking["other"]]).unique()
    if set(flagged["sample"]) != set(named):
        raise _refuse(manifest, "the flag duplicate_across_splits is not where duplicates say")


def _counts(manifest: Manifest) -> None:
    counts = manifest.info.get("counts", {})
    parts = [counts.get(name) for name in ("found", "accepted", "quarantined", "ignored")]
    if not all(isinstance(n, int) for n in parts):
        raise _refuse(manifest, "manifest.json has no counts of files")
    found, accepted, quarantined, ignored = parts
    if found != accepted + quarantined + ignored:
        raise _refuse(
            manifest, f"found {found} is not accepted {accepted} + quarantined {quarantined} "
            f"+ ignored {ignored}",
        )  # fmt: skip
    stages = manifest.rejects["stage"]
    listed = int((stages == "ignored").sum()), int((~stages.is_in(["ignored", _ROWS])).sum())
    if listed != (ignored, quarantined):
        raise _refuse(
            manifest, f"rejects list {listed[1]} quarantined and {listed[0]} ignored files, "
            f"manifest.json {quarantined} and {ignored}",
        )  # fmt: skip


def _subsets(manifest: Manifest) -> None:
    split = manifest.samples.select("sample", "split")
    strangers = manifest.subsets.join(split, on="sample").filter(pl.col("split") != "train")
    _none(manifest, strangers, "subset rows are not of the training split")
    members = {
        str(name): set(group["sample"]) for (name,), group in manifest.subsets.group_by("subset")
    }
    bases = {name.rsplit("/", 2)[0] for name in members if name.endswith(_draw_ends())}
    chains = [[name for name, _ in SHARES]]
    chains += [[f"{b}/{k}-shot/{d}" for k in SHOTS] for b in bases for d in range(DRAWS)]
    for chain in chains:
        _nested(manifest, chain, [members.get(name, set()) for name in chain])


def _draw_ends() -> tuple[str, ...]:
    return tuple(f"-shot/{draw}" for draw in range(DRAWS))


def _nested(manifest: Manifest, names: Iterable[str], sets: list[set[str]]) -> None:
    there = [members for members in sets if members]
    if any(not small <= large for small, large in pairwise(there)):
        raise _refuse(manifest, f"subsets {', '.join(names)} are not nested")


def _private(manifest: Manifest) -> None:
    """The private folder may be elsewhere; if it is here, nobody else may read it."""
    if not manifest.private.is_dir():
        return
    open_to_others = [
        path.name
        for path in (manifest.private, *sorted(manifest.private.iterdir()))
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_to_others:
        raise ManifestError(
            f"others may read {', '.join(open_to_others)} of {manifest.private.name}",
            remedy=f"chmod -R go= {manifest.private.name}",
        )
    if not (manifest.private / KEY).is_file():
        raise _refuse(manifest, f"{manifest.private.name} has no {KEY}")
    known = manifest.samples["source"].to_list()
    if known:
        manifest.paths(known[0])


def _summary(manifest: Manifest) -> str:
    counts = manifest.info["counts"]
    splits = manifest.samples["split"]
    by_split = ", ".join(f"{name} {int((splits == name).sum()):,}" for name in SPLITS)
    return "\n".join(
        (
            f"{manifest.path.name}: every check passed",
            f"  domains {', '.join(manifest.domains)}; key {manifest.key_id}; "
            f"digest {manifest.digest[:16]}",
            "  files " + ", ".join(f"{name} {n:,}" for name, n in counts.items()),
            f"  samples {manifest.samples.height:,} of "
            f"{manifest.samples['patient'].n_unique():,} patients ({by_split})",
            f"  texts {manifest.texts.height:,}, labels {manifest.labels.height:,}, "
            f"regions {manifest.regions.height:,}, rejects {manifest.rejects.height:,}",
            f"  pairs of copies {manifest.duplicates.height:,}, across splits "
            f"{int(manifest.duplicates['across_splits'].sum()):,}",
        )
    )

"""Made-up data on demand: a phantom archive written and indexed into a folder, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlp.archive.index import index_archive
from medvlp.config import plain
from medvlp.data.keys import write_key
from medvlp.data.phantom_source import PhantomData
from medvlp.digest import digest_plain
from medvlp.domain import Ref

_WRITE = Ref("medvlp.phantom.write:write_phantom")
"""The phantom room lies above this one; it is reached by name."""


def phantom_manifest(
    domain: str, phantom: PhantomData, folder: Path, overrides: Sequence[str] = ()
) -> Path:
    """The manifest of a phantom; what stands in `folder` already is used again.

    The pseudonyms' key follows from the phantom's settings: nobody is hidden behind them, and
    the same phantom gets the same splits anywhere.

    Args:
        domain: The domain's name.
        phantom: What to make up.
        folder: Takes ``archive``, ``manifest`` and its private folder.
        overrides: Index options such as ``split.fractions.test=0.5``.
    """
    archive, manifest = folder / "archive", folder / "manifest"
    if manifest.exists():
        return manifest
    if not archive.exists():
        _WRITE.load()(domain, archive, n=phantom.n, seed=phantom.seed, settings=phantom.settings)
    key = folder / "key"
    key.unlink(missing_ok=True)
    write_key(key, bytes.fromhex(digest_plain({"domain": domain, "phantom": plain(phantom)})))
    index_archive(
        archive,
        kind=phantom.kind,
        out=manifest,
        config=archive / "index.yaml",
        # Every phantom is drawn anew: there are no near copies to look for.
        overrides=("duplicates=exact", *overrides),
        key=key,
    )
    return manifest

"""Regions in a run: what they need of its image tower and contracts, and what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import mod
from typing import Any

from medvlp.data.cache import ArrayCache
from medvlp.data.preprocess import mirror_share
from medvlp.data.region_maps import MapCache, RegionMaps
from medvlp.data.region_texts import RegionConfig


def region_faults(config: RegionConfig, image: Any, contracts: Sequence[Any]) -> Iterator[str]:
    """What hinders an objective that reads regions, in words.

    Args:
        config: The regions.
        image: The image tower's configuration.
        contracts: All preprocessing contracts of the run.
    """
    where, cell = "data.regions", region_cell(config, image)
    if not config.names:
        yield f"{where}: an objective asks for them; name some"
    if not cell:
        yield f"{where}: image.kind={image.kind} has no patch; set cell to the voxels of a token"
    if getattr(image, "patch_dropout", 0):
        yield f"{where}: tokens that are left out lie nowhere; set image.patch_dropout=0"
    for contract in contracts:
        shape = getattr(contract, "shape", ())
        if not hasattr(contract.build(), "moved") or mirror_share(contract):
            yield f"{where}: preprocess.kind={contract.kind} does not move them with its images"
        elif cell and (len(shape) != len(cell) or any(map(mod, shape, cell))):
            yield f"{where}: preprocess.shape={shape} is not made of cells of {tuple(cell)}"


def region_cell(config: RegionConfig, image: Any) -> tuple[int, ...]:
    """Pixels of the stored grid along each axis for a token of the tower; none if not known."""
    cell: tuple[int, ...] = config.cell or getattr(image, "patch", None) or ()
    return cell


def region_maps(
    config: RegionConfig, image: Any, contract: Any, cache: ArrayCache | None
) -> RegionMaps:
    """What reads items' regions by a contract.

    Args:
        config: The regions.
        image: The image tower's configuration.
        contract: By which images are read.
        cache: Of those images.
    """
    maps = None if cache is None else MapCache(config.in_view, cache)
    return RegionMaps(config, contract.build(), region_cell(config, image), maps)

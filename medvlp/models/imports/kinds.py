"""The kinds of published weights, by the word after ``--as``."""

from __future__ import annotations

from medvlp.models.imports import (
    biovil,
    chexzero,
    clip,
    cxr_clip,
    gloria,
    medclip,
    medklip,
    mgca,
    open_clip,
    siglip,
)
from medvlp.models.imports.recipe import Kind

KINDS: dict[str, Kind] = {
    "biovil": biovil.KIND,
    "chexzero": chexzero.KIND,
    "clip": clip.KIND,
    "cxr-clip": cxr_clip.KIND,
    "gloria": gloria.KIND,
    "medclip": medclip.KIND,
    "medklip": medklip.KIND,
    "mgca": mgca.KIND,
    "open-clip": open_clip.KIND,
    "siglip": siglip.KIND,
}

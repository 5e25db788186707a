"""Soft dynamic time warping: alignments of frames with the steps that they show.

`soft_dtw` is the minimum over monotone alignments, softened so that it has a gradient;
`soft_drop_dtw` lets frames belong to no step at a cost. Costs come in, whatever they are made of.
"""

from medvlp_video.soft_dtw.alignment import (
    SoftMin,
    alignment_path,
    expected_alignment,
    soft_drop_dtw,
    soft_dtw,
    soft_dtw_divergence,
)
from medvlp_video.soft_dtw.procedural import (
    frame_cost,
    order_loss,
    procedural_loss,
    reversed_steps,
)

__all__ = [
    "SoftMin",
    "alignment_path",
    "expected_alignment",
    "frame_cost",
    "order_loss",
    "procedural_loss",
    "reversed_steps",
    "soft_drop_dtw",
    "soft_dtw",
    "soft_dtw_divergence",
]

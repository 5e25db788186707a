"""fVLM (Shui et al. 2025, arXiv:2501.14548): its two towers, without their organ-level space.

The published model compares organs, not volumes, with texts: a query of each organ looks at that
organ's patches alone, which a segmentation tells. No vector of a whole volume was ever trained.
"""

from __future__ import annotations

import torch

from medvlp.models.imports.keys import left_out
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, tensor
from medvlp_volumetric.imports.known import VOLUME
from medvlp_volumetric.imports.monai_vit import grid_of, monai_vit, monai_vit_rules

_IMAGE, _TEXT = "visual_encoder.", "text_encoder."
_SHAPE, _PATCH = (112, 256, 352), (16, 16, 32)

_RULES = (
    left_out(r"attention\..*|vision_projs\..*|query_tokens|text_proj\..*|temp"),
    left_out(r"text_encoder\.(cls\..*|encoder\.layer\.\d+\.crossattention\..*)"),
    *monai_vit_rules(_IMAGE, "image."),
    *bert_rules(_TEXT),
)


def read(source: Source) -> Recipe:
    """The recipe for a checkpoint of fVLM's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("model.pth", "model.safetensors")
    weights, image = monai_vit(weights, _IMAGE, _PATCH, grid_of(_SHAPE, _PATCH))
    # Its BERT may be built without types of tokens, which is as if they were zero.
    width = tensor(weights, f"{_TEXT}embeddings.word_embeddings.weight", 2).shape[1]
    weights.setdefault(f"{_TEXT}embeddings.token_type_embeddings.weight", torch.zeros(2, width))
    return Recipe(
        weights=weights,
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        preprocess={
            "kind": "ct",
            "spacing_mm": (3.0, 1.0, 1.0),
            "shape": _SHAPE,
            "window_hu": (-1150.0, 350.0),
            "scale_to": (0.0, 1.0),
            "antialias": False,
        },
        image=image,
        text=bert(weights, _TEXT, pool="cls", longest=384),
        model={
            "embed": width,
            "image_projection": {"kind": "none"},
            "text_projection": {"kind": "none"},
        },
        notes=(
            "only the towers are imported, for training (init), probes and segmentation: cosines "
            "of volumes and texts mean nothing",
            "organ queries, their attention and both projections are left out",
            "the original crops about the organs, 15 mm beyond them along D and 20 mm within "
            "slices, and this contract about the middle",
        ),
    )


KIND = Kind(
    title="fVLM: ViT-B of patches 16x16x32 and CXR-BERT (specialized), the towers alone",
    read=read,
    licence="no licence file; trained on CT-RATE, CC BY-NC-SA",
    domain="volumetric",
    known=VOLUME,
)

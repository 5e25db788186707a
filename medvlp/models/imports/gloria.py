"""GLoRIA (Huang et al. 2021): a ResNet-50 that shows its third stage to words, and a BERT.

A text's embedding is the sum of the last four layers over its tokens; the published code divides by
a constant length, which is lost in the norm, as is our mean.
"""

from __future__ import annotations

from medvlp.models.imports.contracts import contract
from medvlp.models.imports.keys import renamed, to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, resnet, resnet_rules, tensor

_IMAGE, _TEXT = "img_encoder.model.", "text_encoder.model."

_RULES = (
    *resnet_rules(_IMAGE),
    *bert_rules(_TEXT),
    to(r"img_encoder\.global_embedder\.(weight|bias)", r"image_projection.\1"),
    to(r"img_encoder\.local_embedder\.weight", "patch_projection.weight"),
)


def read(source: Source) -> Recipe:
    """The recipe for a checkpoint of GLoRIA's.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    raw = source.tensors("chexpert_resnet50.ckpt", "model.safetensors")
    weights = renamed(raw, {r"^gloria\.": ""})
    local = "img_encoder.local_embedder.weight"
    weights[local] = tensor(weights, local, 4).flatten(1)
    return Recipe(
        weights=weights,
        texts="lower",
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        preprocess=contract(size=224, resize="letterbox", resize_to=256, mean=0.5, std=0.5),
        image=resnet(weights, _IMAGE, enlarge_to=299, token_stage=-2),
        text=bert(weights, _TEXT, pool="mean", layers=(-4, -3, -2, -1), longest=97),
        model={
            "embed": tensor(weights, "img_encoder.global_embedder.weight", 2).shape[0],
            "image_projection": {"kind": "linear", "bias": True},
            "text_projection": {"kind": "none"},
            "patch_projection": {"kind": "linear"},
        },
        notes=(
            "scores are those of the global embeddings; GLoRIA adds its local similarity and "
            "standardises over the test batch, for which see the rules of evaluation",
            "the file holds no temperature: probabilities are those of the default one",
        ),
    )


KIND = Kind(
    title="GLoRIA: ResNet-50 and Bio_ClinicalBERT",
    read=read,
    licence="code: Apache-2.0; weights from CheXpert's images and reports: research use agreement",
)

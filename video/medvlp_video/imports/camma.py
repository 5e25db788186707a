"""SurgVLP, HecVL and PeskaVLP: one network, trained with three losses.

SurgVLP (Yuan et al. 2023, arXiv:2307.15220), HecVL (2024, arXiv:2405.10075), PeskaVLP (2024,
arXiv:2410.00263): a ResNet-50 on each frame, its mean, a matrix; and Bio_ClinicalBERT, whose last
four layers are added up and averaged over all positions. The published code first adds up the
pieces of each word and counts zeros for padding: neither changes a direction, since the sum over
words of the sums over their pieces is the sum over tokens.
"""

from __future__ import annotations

from medvlp.models.imports.keys import to
from medvlp.models.imports.recipe import Kind, Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.towers import bert, bert_rules, resnet, resnet_rules, tensor
from medvlp_video.imports.known import CLIP

_IMAGE, _TEXT = "backbone_img.model.", "backbone_text.model."
_HEAD = "backbone_img.global_embedder"

_RULES = (
    *resnet_rules(_IMAGE, "image.frame.backbone."),
    *bert_rules(_TEXT),
    to(rf"{_HEAD}\.(weight|bias)", r"image_projection.\1"),
)


def read(source: Source) -> Recipe:
    """The recipe for the file of any of the three.

    Raises:
        ConfigError: A file is missing or another model's.
    """
    weights = source.tensors("SurgVLP.pth", "HecVL.pth", "PeskaVLP.pth", "model.safetensors")
    return Recipe(
        weights=weights,
        texts="lower",
        rules=_RULES,
        own=("log_scale", "logit_bias"),
        preprocess={
            "kind": "clip",
            "frames": 1,
            "sampling": "center",
            "size": 224,
            "fit": "center-crop",
            "resize_to": (360, 640),
            "border": "keep",
        },
        image={"kind": "frames", "frame": resnet(weights, _IMAGE), "pool": "mean"},
        text=bert(weights, _TEXT, pool="mean", layers=(-4, -3, -2, -1), longest=77),
        model={
            "embed": tensor(weights, f"{_HEAD}.weight", 2).shape[0],
            "image_projection": {"kind": "linear", "bias": True},
            "text_projection": {"kind": "none"},
            "init_temperature": 0.1,
            "learn_temperature": False,
        },
        notes=(
            "of a 16:9 picture the contract keeps the middle 21.8 % of the area, as the published "
            "evaluations do; for the whole picture, set preprocess.fit=letterbox and "
            "preprocess.resize_to=null",
            "one frame, the middle of a span, as in the published evaluations; it was trained on 4 "
            "frames of 336 px (preprocess.frames=4 preprocess.size=336)",
            "probabilities are those of the training's temperature, 0.1; the published evaluations "
            "multiply cosines by 100 (model.init_temperature=0.01) and some cut texts at 35 tokens "
            "(text.max_tokens=35)",
        ),
    )


def _kind(name: str) -> Kind:
    return Kind(
        title=f"{name}: ResNet-50 on frames and Bio_ClinicalBERT",
        read=read,
        licence="CC BY-NC-SA 4.0: no commercial use, and what is made of it under the same licence",
        domain="video",
        known=CLIP,
    )


SURGVLP, HECVL, PESKAVLP = (_kind(name) for name in ("SurgVLP", "HecVL", "PeskaVLP"))

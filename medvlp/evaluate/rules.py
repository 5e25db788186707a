"""How published systems turn embeddings into zero-shot scores, as pure functions of a bundle.

The formulas decide as much as the weights: with one checkpoint, the same images and prompts give
other numbers under another rule. A protocol therefore names its rule. v is the image's unit
vector, u_j the projection of the j-th prompt of one side before it is normalised, t_j = u_j/|u_j|,
cos(a,b) their cosine.

========== ======================================================================= ==============
rule       score of one label                                                      a probability
========== ======================================================================= ==============
medvlp     sigmoid(s·(cos(v,t⁺) − cos(v,t⁻))), t± = norm(mean_j t_j), s the model's  yes
chexzero   e^c⁺/(e^c⁺ + e^c⁻), c± = cos(v,t±), t± = norm(mean_j t_j), no temperature yes
biovil     as chexzero, but t± = norm(mean_j u_j): longer vectors weigh more         yes
gloria     max_j ½(cos(v,t_j) + local_j), standardised over the evaluated images     no
medclip    s·max_j cos(v,t_j)                                                        no
medclip-mean  s·mean_j cos(v,t_j)                                                    no
cxr-clip   e^c⁺/(e^c⁺ + e^c⁻), c± = mean_j cos(v,t_j), called present from ½ on      yes
label-head the label head's sigmoid: the softmax over the two logits (0, z) of a query yes
native     as label-head where the trained head knows all labels, else as medvlp        yes
========== ======================================================================= ==============

Sources: CheXzero (Tiu et al. 2022, doi:10.1038/s41551-022-00936-9), BioViL (arXiv:2204.09817),
GLoRIA (Huang et al., ICCV 2021), MedCLIP (arXiv:2210.10163), CXR-CLIP (arXiv:2310.13292), and for
query books MedKLIP (arXiv:2301.02228). With exclusive prompt sets, rules of one side give the
softmax over labels where they are probabilities. GLoRIA's is transductive: the score of an image
depends on the other images, so its counts say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor

from medvlp.data.preprocess import model_input
from medvlp.data.prompts import PromptSet
from medvlp.errors import ConfigError
from medvlp.losses.local import word_agreement
from medvlp.models.bundle import Bundle, ProjectedText
from medvlp.models.inputs import chunks

RuleName = Literal[
    "medvlp", "chexzero", "biovil", "gloria", "medclip", "medclip-mean", "cxr-clip", "label-head",
    "native",
]  # fmt: skip
RULES: tuple[RuleName, ...] = get_args(RuleName)

NO_PROBABILITY = ("gloria", "medclip", "medclip-mean")
"""Rules whose scores rank images and say no more: nothing is calibrated, no threshold carries
over."""

OWN = ("medvlp", "native")
"""Rules of prompts whose scores a bundle's calibration, thresholds and operating points are about;
``native`` for the models that it asks by prompts."""

TRANSDUCTIVE = ("gloria",)
"""Rules that standardise scores over the evaluated images."""

HALF = ("cxr-clip",)
"""Rules that call a label present from one half on, whatever validation data say."""

Floats = NDArray[np.float64]


def rule_scores(
    rule: RuleName, bundle: Bundle, arrays: Iterable[NDArray[Any]], prompts: PromptSet
) -> Floats:
    """(N,L) scores of stored arrays for the labels of a prompt set.

    Args:
        rule: One of `RULES` that asks with prompts; neither ``label-head`` nor ``native``.
        bundle: The model.
        arrays: Stored arrays, in order.
        prompts: What it is asked.

    Raises:
        ConfigError: The rule contrasts a label with its negation, and the labels exclude each
            other.
    """
    if rule == "gloria":
        return _standardised(_local_and_global(bundle, arrays, prompts))
    return embedding_scores(rule, bundle, bundle.embed_stored(arrays), prompts)


def embedding_scores(
    rule: RuleName, bundle: Bundle, image_NE: NDArray[np.floating[Any]], prompts: PromptSet
) -> Floats:
    """`rule_scores` of images that are embedded already, for the rules that need no patches.

    Raises:
        ConfigError: See `rule_scores`.
        ValueError: The rule needs patches, or is none of the prompts'.
    """
    image = np.asarray(image_NE, dtype=np.float64)
    exclusive = prompts.mode == "exclusive"
    if rule == "medvlp":
        logits = bundle.score(image_NE, prompts).logits_NL.astype(np.float64)
        return np.asarray(softmax(logits, axis=1) if exclusive else expit(logits))
    if rule in ("medclip", "medclip-mean"):
        reduce = np.max if rule == "medclip" else np.mean
        return bundle.scale * _each(image, bundle, prompts, "positive", reduce)
    if rule == "cxr-clip":
        present = _each(image, bundle, prompts, "positive", np.mean)
        if exclusive:
            return np.asarray(softmax(present, axis=1))
        return np.asarray(expit(present - _each(image, bundle, prompts, "negative", np.mean)))
    if rule not in ("chexzero", "biovil"):
        raise ValueError(f"rule {rule} does not score embeddings")
    if exclusive:
        raise ConfigError(
            f"task.rule: {rule} contrasts a label with its negation; the prompt set is exclusive",
            remedy="use an independent prompt set, or another rule",
        )
    joined = _normalised_mean if rule == "chexzero" else _mean_of_projections
    sides = [
        np.stack([joined(bundle.project_texts(texts)) for texts in _texts(prompts, side)])
        for side in ("positive", "negative")
    ]
    return np.asarray(expit(image @ (sides[0] - sides[1]).T))


def _texts(prompts: PromptSet, side: str) -> list[tuple[str, ...]]:
    return [getattr(label, side) for label in prompts.labels.values()]


def _each(
    image_NE: Floats,
    bundle: Bundle,
    prompts: PromptSet,
    side: str,
    reduce: Callable[..., Any],
) -> Floats:
    """(N,L) cosines with a label's prompts, reduced over the prompts."""
    columns = []
    for texts in _texts(prompts, side):
        text_ME = bundle.embed_text(texts).astype(np.float64)
        columns.append(reduce(image_NE @ text_ME.T, axis=1))
    return np.stack(columns, axis=1)


def _unit(vector_E: Floats) -> Floats:
    return vector_E / max(float(np.linalg.norm(vector_E)), 1e-12)


def _normalised_mean(texts: list[ProjectedText]) -> Floats:
    return _unit(np.mean([_unit(text.pooled_E) for text in texts], axis=0))


def _mean_of_projections(texts: list[ProjectedText]) -> Floats:
    return _unit(np.mean([text.pooled_E for text in texts], axis=0))


@torch.inference_mode()
def _local_and_global(bundle: Bundle, arrays: Iterable[NDArray[Any]], prompts: PromptSet) -> Floats:
    """GLoRIA's similarity of each image with the best of each label's prompts, (N,L)."""
    texts = [bundle.project_texts(label.positive) for label in prompts.labels.values()]
    parts = [np.empty((0, len(texts)))]
    for chunk in chunks(arrays, 16):
        image = model_input(bundle.preprocess, chunk, bundle.device)
        _, image_BE, patch_BPE = bundle.model.encode_image(image)
        columns = [
            torch.stack([_agreement(image_BE, patch_BPE, text) for text in label]).amax(0)
            for label in texts
        ]
        parts.append(torch.stack(columns, 1).cpu().double().numpy())
    return np.concatenate(parts)


def _agreement(image_BE: Tensor, patch_BPE: Tensor, text: ProjectedText) -> Tensor:
    """½(global + local) of a batch of images and one text, (B,)."""
    text_E = torch.from_numpy(_unit(text.pooled_E)).to(image_BE)
    words_TE = torch.from_numpy(text.words_TE).to(image_BE)
    return (image_BE @ text_E + local_agreement(patch_BPE, words_TE)) / 2


def local_agreement(patch_BPE: Tensor, words_TE: Tensor) -> Tensor:
    """How well some word of a text agrees with the places that it looks at, (B,).

    ``max_w 5·cos(w, c_w)``, see `word_agreement`; in training it is a sum in the logarithm.

    Args:
        patch_BPE: Projected patches, not normalised.
        words_TE: Projected tokens of the text's own words, not normalised; at least one.
    """
    real_1T = torch.ones(1, len(words_TE), dtype=torch.bool, device=words_TE.device)
    return word_agreement(patch_BPE, words_TE[None], real_1T).amax((1, 2))


def _standardised(score_NL: Floats) -> Floats:
    """Each label's scores with mean 0 and deviation 1 over the images; constant ones become 0."""
    spread_L = score_NL.std(axis=0)
    return np.asarray((score_NL - score_NL.mean(axis=0)) / np.where(spread_L > 0, spread_L, 1))

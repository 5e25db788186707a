"""CheXbert's labeller (Smit et al. 2020, arXiv:2004.09167) from the user's copy of its weights.

A BERT encoder and fourteen linear heads on its first token: thirteen findings are blank, positive,
negative or uncertain, and "no finding" is blank or positive. Nothing is downloaded, and no code of
a file is run: the published ``.pth``, a pickle, must be converted (docs/protocols.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from medvlp.data.findings import NO_FINDING
from medvlp.data.tokenizer import load_tokenizer, panics_named
from medvlp.errors import ConfigError
from medvlp.models.bounded import IMPOSSIBLE, Bounded
from medvlp.models.pretrained import from_description
from medvlp.plain_files import own_file, read_json

CHEXBERT = (
    "enlarged_cardiomediastinum", "cardiomegaly", "lung_opacity", "lung_lesion", "edema",
    "consolidation", "pneumonia", "atelectasis", "pneumothorax", "pleural_effusion",
    "pleural_other", "fracture", "support_devices", NO_FINDING,
)  # fmt: skip
"""The heads in their order, by our names."""

WEIGHTS = "model.safetensors"

_VALUES = (None, 1, 0, -1)
"""What a head's classes mean: blank, positive, negative, uncertain."""

_LONGEST = 512
_REMEDY = (
    "name a folder with config.json (of the BERT), vocab.txt or tokenizer.json, and "
    "model.safetensors, made of the published chexbert.pth as docs/protocols.md says"
)


class CheXbert:
    """Labels reports; made by `load_chexbert`."""

    names: tuple[str, ...] = CHEXBERT

    def __init__(self, encoder: BertModel, heads: nn.ModuleList, tokenizer: Any) -> None:
        self._encoder = encoder.eval()  # type: ignore[no-untyped-call]
        self._heads = heads.eval()
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def label(self, texts: Sequence[str], batch_size: int = 16) -> list[dict[str, int | None]]:
        """Finding -> 1 present, 0 absent, -1 uncertain, None not mentioned, for each text."""
        found: list[dict[str, int | None]] = []
        for start in range(0, len(texts), batch_size):
            with panics_named():
                encoded = self._tokenizer(
                    [" ".join(text.split()) for text in texts[start : start + batch_size]],
                    padding=True,
                    truncation=True,
                    max_length=min(_LONGEST, self._encoder.config.max_position_embeddings),
                    return_tensors="pt",
                )
            first_BD = self._encoder(
                input_ids=encoded.input_ids, attention_mask=encoded.attention_mask
            ).last_hidden_state[:, 0]
            class_LB = [head(first_BD).argmax(-1).tolist() for head in self._heads]
            found += [
                {name: _VALUES[k] for name, k in zip(CHEXBERT, classes, strict=True)}
                for classes in zip(*class_LB, strict=True)
            ]
        return found


def chexbert_weights(folder: Path) -> Path:
    """The file in a folder that holds the weights.

    Raises:
        ConfigError: There is none of the folder's own.
    """
    if (file := own_file(folder, WEIGHTS)) is not None:
        return file
    raise ConfigError(f"chexbert: {folder.name} holds no weights of its own", remedy=_REMEDY)


def load_chexbert(folder: Path) -> CheXbert:
    """CheXbert from a local folder.

    Raises:
        ConfigError: A file is missing, is no plain file of tensors, or belongs to another model.
        InputError: There is no tokenizer that can be read.
    """
    file = chexbert_weights(folder)
    if own_file(folder, "config.json") is None:
        raise ConfigError(f"chexbert: {folder.name} holds no config.json", remedy=_REMEDY)
    config = from_description(read_json(folder / "config.json"))
    if not isinstance(config, BertConfig):
        raise ConfigError(f"chexbert: {folder.name} describes no BERT", remedy=_REMEDY)
    weights = _weights(file)
    try:
        with torch.random.fork_rng(devices=[]), Bounded(weights):
            encoder = BertModel(config, add_pooling_layer=False)
            sizes = [4] * (len(CHEXBERT) - 1) + [2]
            heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in sizes)
        encoder.load_state_dict(_under(weights, "bert."))
        heads.load_state_dict(_under(weights, "linear_heads."))
    except IMPOSSIBLE as error:
        raise ConfigError(
            f"chexbert: the weights in {folder.name} are not CheXbert's for its config.json",
            remedy=_REMEDY,
        ) from error
    return CheXbert(encoder, heads, load_tokenizer(folder))


def _weights(file: Path) -> dict[str, Tensor]:
    """Name -> tensor, without the prefixes of the published checkpoint."""
    try:
        return {name.removeprefix("module."): t for name, t in load_file(file).items()}
    # What is no plain file of tensors fails in as many ways as there are libraries below.
    except Exception as error:
        raise ConfigError(
            f"chexbert: {file.name} is no plain file of tensors", remedy=_REMEDY
        ) from error


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one part; those that the encoder here does without are left out."""
    unused = ("bert.pooler.", "bert.embeddings.position_ids")
    return {
        name.removeprefix(prefix): value.float()
        for name, value in weights.items()
        if name.startswith(prefix) and not name.startswith(unused)
    }

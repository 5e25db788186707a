"""A causal language model from a local folder, asked a question at a time.

The folder is in the layout of transformers, safetensors alone, and none of its code is run; nothing
is downloaded. Answers are greedy, so that the same question always gets the same one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from medvlp.data.tokenizer import load_tokenizer, panics_named
from medvlp.errors import ConfigError
from medvlp.models.pretrained import from_description, load_pretrained
from medvlp.plain_files import own_file, read_json

_ENDLESS = 1 << 20
"""Tokens that a model without positions reads."""


class LanguageModel:
    """Answers questions.

    Args:
        folder: The model's.
        option: The option that names the folder, for what the user is told.

    Raises:
        ConfigError: No folder, or none of a causal language model in safetensors.
        InputError: Its tokenizer cannot be read.
    """

    def __init__(self, folder: Path | None, *, option: str) -> None:
        remedy = (
            "name a folder with config.json, tokenizer.json and model.safetensors of a causal "
            f"language model with {option}"
        )
        if folder is None or own_file(folder, "config.json") is None:
            raise ConfigError("llm: no folder of a language model is named", remedy=remedy)
        self._tokenizer = load_tokenizer(folder)
        self._model = _load(folder, remedy)
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._reads: int = positions or _ENDLESS

    def room(self, prompt: str) -> int:
        """Tokens that are left for an answer; none where the model cannot even read the prompt."""
        return max(0, self._reads - len(self._ids(prompt)))

    @torch.inference_mode()
    def answer(self, prompt: str, most: int) -> str:
        """What the model writes behind `prompt`, in at most `most` tokens.

        Raises:
            ConfigError: The prompt leaves no room for an answer.
        """
        asked_T = self._ids(prompt)
        if len(asked_T) >= self._reads:
            raise ConfigError(
                f"llm: the question has {len(asked_T)} tokens, the model reads {self._reads}",
                remedy="name a model that reads longer texts",
            )
        generate: Any = self._model.generate
        answer_1T = generate(
            input_ids=torch.tensor([asked_T]),
            attention_mask=torch.ones(1, len(asked_T), dtype=torch.long),
            do_sample=False,
            max_new_tokens=min(most, self._reads - len(asked_T)),
            eos_token_id=self._tokenizer.eos_token_id or self._tokenizer.sep_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return str(self._tokenizer.decode(answer_1T[0, len(asked_T) :], skip_special_tokens=True))

    def _ids(self, prompt: str) -> list[int]:
        with panics_named():
            ids: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids


def _load(folder: Path, remedy: str) -> PreTrainedModel:
    config = from_description(read_json(folder / "config.json"))
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise ConfigError(
            f"llm: {folder.name} holds no causal language model ({config.model_type})",
            remedy=remedy,
        )
    model = load_pretrained(model_class, str(folder))
    model.eval()  # type: ignore[no-untyped-call]
    return model

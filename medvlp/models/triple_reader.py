"""A local language model that reads sentences into triples.

The model comes from a folder in the layout of transformers, safetensors alone, without any code of
the folder; nothing is downloaded. It is asked with one fixed prompt and answers greedily. Its
answer must be a JSON array of the asked form, with names of the vocabulary only; any other answer
is counted and dropped, because a half-understood answer is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from medvlp.data.structure.extract import Triple
from medvlp.data.structure.vocabulary import Vocabulary
from medvlp.data.tokenizer import load_tokenizer, panics_named
from medvlp.errors import ConfigError
from medvlp.models.pretrained import from_description, load_pretrained
from medvlp.plain_files import own_file, read_json
from medvlp.progress import track

_SIDES = ("", "left", "right", "bilateral")
_SEVERITIES = ("", "mild", "moderate", "severe")
_KEYS = {"anatomy", "observation", "presence", "side", "severity"}
_LONGEST_ANSWER = 512
_REMEDY = (
    "name a folder with config.json, tokenizer.json and model.safetensors of a causal language "
    "model with --weights"
)

_PROMPT = """\
Task: write down what one sentence of a radiology report says, as JSON.
Answer with one JSON array and nothing else. Each finding is one object with exactly these keys:
"anatomy": one of {anatomies}
"observation": one of {observations}
"presence": 1 if the sentence affirms it, 0 if it denies it, -1 if it leaves it in doubt
"side": "left", "right", "bilateral" or ""
"severity": "mild", "moderate", "severe" or "", and "" for what is denied
A place called normal denies what would be wrong there. History and advice are no findings.
Sentence: No pleural effusion.
JSON: [{{"anatomy": "pleural_space", "observation": "pleural_effusion", "presence": 0, \
"side": "", "severity": ""}}]
Sentence: {sentence}
JSON:"""


class TripleReader:
    """Reads sentences by a language model.

    Args:
        folder: The model's.
        vocabulary: The names that an answer may hold.

    Raises:
        ConfigError: No folder, or none of a causal language model in safetensors.
        InputError: Its tokenizer cannot be read.
    """

    source = "llm"

    def __init__(self, folder: Path | None, vocabulary: Vocabulary) -> None:
        if folder is None or own_file(folder, "config.json") is None:
            raise ConfigError("llm: no folder of a language model is named", remedy=_REMEDY)
        self.dropped = 0
        self._vocabulary = vocabulary
        self._tokenizer = load_tokenizer(folder)
        self._model = _load(folder)

    def read(self, sentences: Sequence[str]) -> list[tuple[Triple, ...]]:
        """The triples of each sentence; nothing where the answer cannot be used."""
        found = []
        for text in track(sentences, "Reading sentences by a language model"):
            triples = parse_answer(self._answer(text), text, self._vocabulary)
            self.dropped += triples is None
            found.append(triples or ())
        return found

    @torch.inference_mode()
    def _answer(self, sentence: str) -> str:
        prompt = _PROMPT.format(
            anatomies=", ".join(self._vocabulary.anatomies),
            observations=", ".join(self._vocabulary.observations),
            sentence=" ".join(sentence.split()),
        )
        with panics_named():
            asked_T = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        room = getattr(self._model.config, "max_position_embeddings", None) or len(asked_T) + 1
        if len(asked_T) >= room:
            raise ConfigError(
                f"llm: the question has {len(asked_T)} tokens, the model reads {room}",
                remedy="name a model that reads longer texts",
            )
        generate: Any = self._model.generate
        answer_1T = generate(
            input_ids=torch.tensor([asked_T]),
            attention_mask=torch.ones(1, len(asked_T), dtype=torch.long),
            do_sample=False,
            max_new_tokens=min(_LONGEST_ANSWER, room - len(asked_T)),
            eos_token_id=self._tokenizer.eos_token_id or self._tokenizer.sep_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        text = self._tokenizer.decode(answer_1T[0, len(asked_T) :], skip_special_tokens=True)
        # Models that were not taught to stop go on with a sentence of their own.
        return str(text).partition("\nSentence:")[0]


def parse_answer(answer: str, sentence: str, vocabulary: Vocabulary) -> tuple[Triple, ...] | None:
    """The triples in an answer; None unless all of it is what was asked for.

    Args:
        answer: What the model wrote.
        sentence: What it was asked about; each triple spans the whole of it.
        vocabulary: The names that there are.
    """
    try:
        rows = json.loads(answer.strip())
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list) or not all(_is_row(row, vocabulary) for row in rows):
        return None
    span = (0, len(sentence))
    return tuple(dict.fromkeys(Triple(**row, sentence=sentence, span=span) for row in rows))


def _is_row(row: Any, vocabulary: Vocabulary) -> bool:
    if not isinstance(row, dict) or set(row) != _KEYS:
        return False
    words = (row["anatomy"], row["observation"], row["side"], row["severity"])
    # True is equal to 1, but no answer to what was asked.
    return (
        all(isinstance(word, str) for word in words)
        and type(row["presence"]) is int
        and row["presence"] in (1, 0, -1)
        and row["anatomy"] in vocabulary.anatomies
        and row["observation"] in vocabulary.observations
        and row["side"] in _SIDES
        and row["severity"] in _SEVERITIES
    )


def _load(folder: Path) -> PreTrainedModel:
    config = from_description(read_json(folder / "config.json"))
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise ConfigError(
            f"llm: {folder.name} holds no causal language model ({config.model_type})",
            remedy=_REMEDY,
        )
    model = load_pretrained(model_class, str(folder))
    model.eval()  # type: ignore[no-untyped-call]
    return model

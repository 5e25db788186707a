"""A local language model that reads sentences into triples.

It (`medvlp.models.language_model`) is asked with one fixed prompt. Its answer must be a JSON array
of the asked form, with names of the vocabulary only; any other answer is counted and dropped,
because a half-understood answer is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlp.data.structure.extract import Triple
from medvlp.data.structure.vocabulary import Vocabulary
from medvlp.models.language_model import LanguageModel
from medvlp.progress import track

_SIDES = ("", "left", "right", "bilateral")
_SEVERITIES = ("", "mild", "moderate", "severe")
_KEYS = {"anatomy", "observation", "presence", "side", "severity"}
_LONGEST_ANSWER = 512

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
        self.dropped = 0
        self._vocabulary = vocabulary
        self._model = LanguageModel(folder, option="--weights")

    def read(self, sentences: Sequence[str]) -> list[tuple[Triple, ...]]:
        """The triples of each sentence; nothing where the answer cannot be used."""
        found = []
        for text in track(sentences, "Reading sentences by a language model"):
            triples = parse_answer(self._answer(text), text, self._vocabulary)
            self.dropped += triples is None
            found.append(triples or ())
        return found

    def _answer(self, sentence: str) -> str:
        prompt = _PROMPT.format(
            anatomies=", ".join(self._vocabulary.anatomies),
            observations=", ".join(self._vocabulary.observations),
            sentence=" ".join(sentence.split()),
        )
        # Models that were not taught to stop go on with a sentence of their own.
        return self._model.answer(prompt, _LONGEST_ANSWER).partition("\nSentence:")[0]


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

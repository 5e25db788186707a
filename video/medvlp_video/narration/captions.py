"""Captions of units by a local language model, believed only where the talk bears them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlp.models.language_model import LanguageModel
from medvlp_video.narration.lexicon import Lexicon
from medvlp_video.narration.settings import NarrationConfig

_PROMPT = """\
Task: sentences were said during one part of an operation. Write one sentence that says what is \
done in this part. Use only what the sentences say. Do not name persons, dates or places.
Sentences: We lift the omentum. The grasper takes the adhesions apart near the liver.
Caption: The adhesions near the liver are divided and the omentum is lifted with the grasper.
Sentences: {sentences}
Caption:"""

_TOKENS_A_WORD = 3
_LEAST_WORDS = 3
_QUOTES = " \t\"'“”«»`*-"


class Captioner:
    """Writes captions of units by a language model in a local folder.

    Args:
        folder: The model's, in the layout of transformers.
        lexicon: Knows what a caption may speak of.
        config: The limits.

    Raises:
        ConfigError: No folder of a causal language model in safetensors.
        InputError: Its tokenizer cannot be read.
    """

    def __init__(self, folder: Path, lexicon: Lexicon, config: NarrationConfig) -> None:
        self._model = LanguageModel(folder, option="--llm")
        self._lexicon = lexicon
        self._config = config

    def caption(self, sentences: Sequence[str]) -> str | None:
        """A caption of what the sentences say; None where what the model writes is of no use.

        Where the model cannot read all sentences, every second one is left out, as often as
        needed.
        """
        most = self._config.caption_words * _TOKENS_A_WORD
        said = list(sentences)
        prompt = _PROMPT.format(sentences=" ".join(said))
        while self._model.room(prompt) < most and len(said) > 1:
            said = said[::2]
            prompt = _PROMPT.format(sentences=" ".join(said))
        answer = self._model.answer(prompt, most) if self._model.room(prompt) > 0 else ""
        return usable(answer, sentences, self._lexicon, self._config)


def usable(
    answer: str, sentences: Sequence[str], lexicon: Lexicon, config: NarrationConfig
) -> str | None:
    """The caption in a model's answer, its first line; None if it cannot be believed.

    It has to be as surgical as a sentence, of three to `caption_words` words, and speak of no
    instrument, place or deed (strong terms of the lexicon) that the sentences do not speak of.
    """
    lines = [line.strip(_QUOTES) for line in answer.splitlines()]
    caption = " ".join(next(filter(None, lines), "").split())
    if not _LEAST_WORDS <= len(caption.split()) <= config.caption_words:
        return None
    weighed = lexicon.weigh(caption)
    known = frozenset[str]().union(*(lexicon.weigh(s).surgical for s in sentences))
    if weighed.score < config.least_surgical or not weighed.surgical <= known:
        return None
    return caption

"""The tokenizer of imported weights, which must be the one that they were trained with."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from medvlp.data.tokenizer import encode, load_tokenizer
from medvlp.errors import ConfigError

_SPARE = 128
"""Rows that a table of embeddings may have over, so that its length suits the hardware."""


Rewriting = Literal["plain", "lower", "canonical", "spaced"]
"""What is done to texts first.

``lower``: they lose capitals and accents, although the vocabulary has them; so did those of all who
loaded Bio_ClinicalBERT's tokenizer by its name, for want of a setting in its folder
(github.com/EmilyAlsentzer/clinicalBERT, issue 26). ``canonical``: they lose punctuation and
capitals, as SigLIP's do. ``spaced``: they lose capitals, and runs of letters and digits and runs of
other signs stand apart, with one space between, as Merlin's do.
"""


def tokenizer_for(folder: Path, rows: int, *, texts: Rewriting) -> Any:
    """The tokenizer in a folder, checked against the weights.

    Args:
        folder: With ``tokenizer.json`` or ``vocab.txt``.
        rows: Tokens that the text tower knows.
        texts: What is done to texts first.

    Raises:
        ConfigError: It has another number of tokens, or does not mark a text's end.
        InputError: There is none that can be read.
    """
    tokenizer = load_tokenizer(folder)
    if not 0 <= rows - len(tokenizer) < _SPARE:
        raise ConfigError(
            f"import: the tokenizer has {len(tokenizer)} tokens, the weights know {rows}",
            remedy="name the folder of the tokenizer that they were trained with (--tokenizer)",
        )
    if texts == "lower":
        _before(tokenizer, [normalizers.BertNormalizer(lowercase=True)])
    elif texts != "plain":
        _before(tokenizer, _rewriting(*_REPLACED[texts]))
    ids = encode(tokenizer, "a", 16)
    if not ids or ids[-1] not in tokenizer.all_special_ids:
        raise ConfigError(
            "import: the tokenizer puts no token at a text's end",
            remedy="name a folder whose tokenizer.json holds the post-processor, too",
        )
    return tokenizer


def no_words() -> PreTrainedTokenizerFast:
    """The tokenizer of a model that reads no text; a bundle always has one."""
    rules = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]"
    )


_REPLACED: dict[str, tuple[str, str]] = {
    "canonical": (f"[{re.escape(string.punctuation)}]", ""),
    "spaced": (r"(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\w)", " "),
}
"""Pattern and what stands in its place."""


def _rewriting(pattern: str, by: str) -> list[Any]:
    return [
        normalizers.Lowercase(),
        normalizers.Replace(Regex(pattern), by),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]


def _before(tokenizer: Any, first: list[Any]) -> None:
    """Have the tokenizer do this to texts before what it does itself."""
    rules = tokenizer.backend_tokenizer
    after = [] if rules.normalizer is None else [rules.normalizer]
    rules.normalizer = normalizers.Sequence([*first, *after])

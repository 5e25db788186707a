"""Tokenizers: trained on the user's own reports by default, or loaded from a local folder."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from medvlp.data.batch import TokenIds
from medvlp.data.sentences import sentences
from medvlp.digest import digest_bytes
from medvlp.errors import ConfigError, InputError
from medvlp.plain_files import read_json, read_text

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_LARGEST = 1 << 26
_TOKENS = (
    *("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
    *("bos_token", "eos_token"),
)
_SIDES = ("padding_side", "truncation_side")

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SENTENCE = "[SEN]"
"""Stands before each sentence. A tokenizer that has it as a special token *marks sentences*: begin,
then this token and the sentence's words, sentence by sentence, and no end."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for these texts: any language, lower case, no unknown words.

    (WordPiece training in `tokenizers` numbers its pieces anew in every process, so that no run
    would repeat.)

    Args:
        texts: The training split's texts; never those of other splits.
        vocab_size: Upper limit of entries; a piece must occur twice to become one, so that no
            word of a single report stands in the vocabulary.

    Raises:
        InputError: There is no text.
    """
    corpus = list(texts)
    if not any(text.strip() for text in corpus):
        raise InputError(
            "tokenizer: the training split holds no text of the wanted levels and sources",
            remedy="widen data.texts.levels and data.texts.sources",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return _wrap(tokenizer)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A tokenizer from a local folder, ours or any pretrained model's, or from a ``vocab.txt``.

    Raises:
        InputError: The folder or file is missing or holds no tokenizer that can be read.
    """
    try:
        with panics_named():
            if path.is_dir() and (path / TOKENIZER).is_file():
                tokenizer = _from_folder(path)
            else:
                tokenizer = _from_vocabulary(path if path.is_file() else path / "vocab.txt")
    # The library raises plain Exception at what it cannot parse.
    except Exception as error:
        raise InputError(
            f"tokenizer: {path.name} holds no readable tokenizer.json or vocab.txt",
            remedy="name a folder with tokenizer.json, or a vocab.txt with one piece a line",
        ) from error
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"tokenizer: {path.name} has no padding token",
            remedy="add a pad_token to its tokenizer_config.json",
        )
    return tokenizer


def mark_sentences(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the tokenizer `SENTENCE`, behind its other tokens unless it has it.

    Raises:
        ConfigError: It puts nothing at a text's beginning.
    """
    if _begin(tokenizer) is None:
        raise ConfigError(
            "data.texts.mark_sentences: the tokenizer has no token for a text's beginning",
            remedy="use one with a cls_token, or set data.texts.mark_sentences=false",
        )
    tokenizer.add_special_tokens({"extra_special_tokens": [SENTENCE]})


def sentence_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id of `SENTENCE`; None for a tokenizer that marks no sentences."""
    if SENTENCE not in tokenizer.all_special_tokens:
        return None
    found: int | None = tokenizer.backend_tokenizer.token_to_id(SENTENCE)
    return found


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write ``tokenizer.json`` and its config to `folder`."""
    tokenizer.save_pretrained(folder)


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """The same vocabulary, rules and special tokens give the same digest."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    # Encoding leaves its last truncation and padding in the object; they are no part of it.
    backend.no_truncation()
    backend.no_padding()
    return digest_bytes(backend.to_str().encode())


def token_ids(tokenizer: PreTrainedTokenizerFast) -> TokenIds:
    """The ids that objectives on text need."""
    return TokenIds(
        count=len(tokenizer),
        mask=tokenizer.mask_token_id,
        special=tuple(sorted(tokenizer.all_special_ids)),
        begin=_begin(tokenizer),
        end=_first(tokenizer.sep_token_id, tokenizer.eos_token_id),
        sentence=sentence_id(tokenizer),
        encode=functools.partial(encode_padded, tokenizer),
    )


def _begin(tokenizer: PreTrainedTokenizerFast) -> int | None:
    return _first(tokenizer.cls_token_id, tokenizer.bos_token_id)


def _first(*ids: int | None) -> int | None:
    return next((one for one in ids if one is not None), None)


def encode_padded(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    max_tokens: int | None = None,
    max_sentences: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(M,T) ids and mask of texts, padded to the longest; whole ones where there is no limit."""
    if sentence_id(tokenizer) is not None:
        rows = [encode(tokenizer, text, max_tokens, max_sentences) for text in texts]
        ids_MT = pad_sequence(
            [torch.tensor(row) for row in rows],
            batch_first=True,
            padding_value=float(tokenizer.pad_token_id),
        )
        length_M1 = torch.tensor([len(row) for row in rows])[:, None]
        return ids_MT, torch.arange(ids_MT.shape[1]) < length_M1
    with panics_named():
        encoded = tokenizer(
            list(texts),
            padding=True,
            truncation=max_tokens is not None,
            max_length=max_tokens,
            return_tensors="pt",
        )
    return encoded["input_ids"], encoded["attention_mask"].bool()


def encode(
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    max_tokens: int | None,
    max_sentences: int | None = None,
) -> list[int]:
    """Token ids with special tokens, as many as the limits allow from the beginning on."""
    return joined(drawn_parts(encode_parts(tokenizer, text, max_tokens), max_sentences), max_tokens)


def encode_words(
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    max_tokens: int,
    max_sentences: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The ids of `encode` (T,), and which of them the tokenizer has not put there itself."""
    mark = sentence_id(tokenizer)
    if mark is not None:
        ids_T = torch.tensor(encode(tokenizer, text, max_tokens, max_sentences))
        return ids_T, (ids_T != mark) & (torch.arange(len(ids_T)) > 0)
    with panics_named():
        encoded = tokenizer(
            text, truncation=True, max_length=max_tokens, return_special_tokens_mask=True
        )
    return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["special_tokens_mask"]) == 0


def encode_parts(
    tokenizer: PreTrainedTokenizerFast, text: str, max_tokens: int | None
) -> list[list[int]]:
    """A text's token ids in parts that may be left out; `joined` makes one list of them.

    Where sentences are marked: the beginning, and each sentence behind its mark. Otherwise one
    part, the whole text with its special tokens, at most `max_tokens`.
    """
    mark = sentence_id(tokenizer)
    with panics_named():
        if mark is None:
            limit = max_tokens is not None
            return [tokenizer(text, truncation=limit, max_length=max_tokens)["input_ids"]]
        said = sentences(text)
        words = tokenizer(said, add_special_tokens=False)["input_ids"] if said else []
    # A report may spell the mark itself.
    parts = [[mark, *(token for token in ids if token != mark)] for ids in words]
    begin = _begin(tokenizer)
    assert begin is not None
    return [[begin], *parts]


def joined(parts: Sequence[Sequence[int]], max_tokens: int | None) -> list[int]:
    """The token ids of a text's parts, at most `max_tokens`; no sentence is left without a word."""
    ids = [token for part in parts for token in part][:max_tokens]
    # Where the limit falls on a mark, it would stand for nothing.
    marks = {part[0] for part in parts[1:]}
    return ids[:-1] if len(parts) > 1 and ids[-1] in marks else ids


def drawn_parts(
    parts: list[list[int]], max_sentences: int | None, rng: np.random.Generator | None = None
) -> list[list[int]]:
    """A text's parts with at most `max_sentences` sentences, in their order.

    Args:
        parts: Of `encode_parts`.
        max_sentences: None for no limit.
        rng: Draws which are left out; the last ones without it.
    """
    first, *rest = parts
    if max_sentences is None or len(rest) <= max_sentences:
        return parts
    if rng is None:
        return [first, *rest[:max_sentences]]
    kept = rng.choice(len(rest), max_sentences, replace=False)
    return [first, *(rest[i] for i in sorted(kept.tolist()))]


@contextmanager
def panics_named() -> Iterator[None]:
    """Turn a panic of the tokenizer's library, which is no `Exception`, into an error.

    A regular expression in the rules that backtracks without end is given up with a panic.

    Raises:
        InputError: It panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(
            "tokenizer: its rules fail on a text", remedy="use another tokenizer"
        ) from error


def _from_folder(folder: Path) -> PreTrainedTokenizerFast:
    """``tokenizer.json`` and, of the files beside it, the special tokens and sides alone.

    Not `from_pretrained`: it takes from those files whatever argument of its classes they name.
    """
    rules = read_text(folder / TOKENIZER, _LARGEST, what="JSON")
    told: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            told |= read_json(folder / name, _LARGEST)
    tokens = {name: _token(told[name]) for name in _TOKENS if told.get(name) is not None}
    sides = {name: told[name] for name in _SIDES if told.get(name) in ("left", "right")}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(rules), **tokens, **sides
    )
    added = tokenizer.added_tokens_decoder.values()
    if SENTENCE in {token.content for token in added if token.special}:
        mark_sentences(tokenizer)
    return tokenizer


def _token(value: Any) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise ValueError("a special token is no text")
    return content


def _from_vocabulary(path: Path) -> PreTrainedTokenizerFast:
    pieces = read_text(path, _LARGEST, what="vocabulary").splitlines()
    if not set(SPECIAL) <= set(pieces):
        raise ValueError("a WordPiece vocabulary holds " + ", ".join(SPECIAL))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    lowercase = not any(p != p.lower() for p in pieces if p not in SPECIAL)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )

from pathlib import Path

import pytest

from medvlp.data.tokenizer import (
    encode,
    load_tokenizer,
    save_tokenizer,
    tokenizer_digest,
    train_tokenizer,
)
from medvlp.errors import InputError

REPORTS = [
    "No pleural effusion. Heart size is normal.",
    "Small pleural effusion on the left; Herzgröße normal.",
    "Opacity of 2.5 cm in the right lower lobe. No pneumothorax.",
] * 3


def test_training_twice_gives_the_same_tokenizer() -> None:
    a, b = train_tokenizer(REPORTS, 320), train_tokenizer(REPORTS, 320)
    assert tokenizer_digest(a) == tokenizer_digest(b)
    assert tokenizer_digest(a) != tokenizer_digest(train_tokenizer(REPORTS[:1] * 3, 320))
    assert len(a) <= 320


def test_known_words_survive_and_umlauts_stay() -> None:
    tokenizer = train_tokenizer(REPORTS, 300)
    ids = encode(tokenizer, "PLEURAL effusion, Herzgröße", 32)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "pleural effusion, herzgröße"
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id


def test_long_texts_are_cut_and_keep_their_end_token() -> None:
    tokenizer = train_tokenizer(REPORTS, 300)
    ids = encode(tokenizer, " ".join(REPORTS), 8)
    assert len(ids) == 8
    assert ids[-1] == tokenizer.sep_token_id


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(REPORTS, 300)
    encode(tokenizer, REPORTS[0], 8)  # leaves a truncation in the object
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert encode(loaded, REPORTS[2], 64) == encode(tokenizer, REPORTS[2], 64)
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)


def test_a_vocabulary_file_is_enough(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pleural", "eff", "##usion"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    for path in (tmp_path, tmp_path / "vocab.txt"):
        assert encode(load_tokenizer(path), "Pleural effusion zzz", 9) == [2, 5, 6, 7, 1, 3]


def test_what_holds_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(["  "], 100)

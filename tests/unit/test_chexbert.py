"""CheXbert from a folder in the published layout, made small here."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from medvlp.errors import ConfigError
from medvlp.models.chexbert import CHEXBERT, load_chexbert

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "edema", "no", "mass", "heart", "##s"]
TEXTS = ["edema", "no edema", "", "mass heart no mass", "heart\n\nno   edema unknown"]


class Published(nn.Module):
    """The layout of the published checkpoint: an encoder with its pooler, and the heads."""

    def __init__(self, config):
        super().__init__()
        self.bert = BertModel(config)
        sizes = [4] * 13 + [2]
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, n) for n in sizes)


@pytest.fixture
def published():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=8,
    )  # fmt: skip
    model = Published(config).eval()
    for head in model.linear_heads:
        nn.init.normal_(head.weight, std=3.0)  # so that all classes occur
    return model


def write_folder(folder, model):
    folder.mkdir(exist_ok=True)
    model.bert.config.to_json_file(folder / "config.json")
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


def literally(model, text):
    """The labels as the published code has them, one text at a time."""
    ids = [2, *(PIECES.index(w) if w in PIECES else 1 for w in text.split()), 3]
    ids = torch.tensor([ids[:8] if len(ids) <= 8 else [*ids[:7], 3]])
    first = model.bert(ids).last_hidden_state[:, 0]
    classes = [head(first).argmax().item() for head in model.linear_heads]
    return dict(zip(CHEXBERT, ({0: None, 1: 1, 2: 0, 3: -1}[k] for k in classes), strict=True))


def test_labels_equal_the_published_computation(tmp_path, published):
    labeller = load_chexbert(write_folder(tmp_path / "w", published))
    found = labeller.label(TEXTS, batch_size=2)
    assert found == [literally(published, text) for text in TEXTS]
    values = {value for labels in found for value in labels.values()}
    assert values == {None, 0, 1, -1}


def test_weights_of_another_model_are_refused(tmp_path, published):
    folder = write_folder(tmp_path / "w", published)
    other = BertConfig(**{**published.bert.config.to_dict(), "num_hidden_layers": 2})
    other.to_json_file(folder / "config.json")
    with pytest.raises(ConfigError, match="not CheXbert's"):
        load_chexbert(folder)


def test_a_file_that_would_run_code_is_refused(tmp_path, published):
    class Sly:
        def __reduce__(self):
            return (print, ("code ran",))

    folder = write_folder(tmp_path / "w", published)
    torch.save({"model_state_dict": Sly()}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="no plain file of tensors"):
        load_chexbert(folder)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(tmp_path, published, missing):
    folder = write_folder(tmp_path / "w", published)
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match="holds no"):
        load_chexbert(folder)


def test_a_description_of_a_giant_is_refused(tmp_path, published):
    folder = write_folder(tmp_path / "w", published)
    giant = BertConfig(**{**published.bert.config.to_dict(), "vocab_size": 10**9})
    giant.to_json_file(folder / "config.json")
    with pytest.raises(ConfigError):
        load_chexbert(folder)

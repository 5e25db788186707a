"""Bundles, checkpoints and folders of pretrained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import medvlp
from hostile.case import Hostile, Place
from hostile.formats import entry, pickled, safetensors, sealed, torch_zip, tree
from medvlp.data.tokenizer import load_tokenizer
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import BundleError, ConfigError, InputError, MedvlpError, RunError
from medvlp.models.image2d import Vit2dConfig
from medvlp.models.text import TextTowerConfig
from medvlp.train.checkpoint import read_checkpoint

Change = Callable[[Place, Path], None]

ONE = entry(1, at=(0, 4))
EVIL_MODULE = "import os\nos.system('{command}')\nclass Evil: pass\n"
AUTO_MAP = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "evil.Evil")
HEADERS: dict[str, bytes] = {
    "length-2-63": safetensors("{}", length=1 << 63),
    "length-100-gb": safetensors("{}", b"x" * 99, length=10**11),
    "not-json": safetensors("{'a': }"),
    "not-utf8": safetensors(b"\xff\xfe{}"),
    "deep-json": safetensors('{"a":' + "[" * 100_000),
    "no-header": b"",
    "overlap": safetensors({"a": entry(2, at=(0, 8)), "b": entry(2, at=(4, 12))}, bytes(12)),
    "beyond-the-end": safetensors({"a": entry(9, at=(0, 36))}, bytes(4)),
    "backwards": safetensors({"a": entry(1, at=(4, 0))}, bytes(4)),
    "shape-overflows": safetensors({"a": entry(2**40, 2**40, at=(0, 4))}, bytes(4)),
    "negative-shape": safetensors({"a": entry(-1, at=(0, 4))}, bytes(4)),
    "unknown-type": safetensors({"a": entry(1, at=(0, 4), dtype="OBJECT")}, bytes(4)),
    "name-twice": safetensors(
        '{"a":' + json.dumps(ONE) + ',"a":' + json.dumps(entry(1, at=(4, 8))) + "}", bytes(8)
    ),
    "hole": safetensors({"a": entry(1, at=(4, 8))}, bytes(8)),
    "metadata-is-no-text": safetensors({"__metadata__": {"a": [1]}, "a": ONE}, bytes(4)),
}


def signed(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda values: None) -> None:
    """Make all digests of a changed bundle right again, as whoever changed it would."""
    values = json.loads((folder / "bundle.json").read_text())
    values.pop("digest")
    for name in values["files"]:
        values["files"][name] = digest_file(folder / name)
    change(values)
    text = json.dumps(values | {"digest": digest_plain(values)})
    (folder / "bundle.json").write_text(text)


def bundle(
    name: str, change: Change, refused: Any = BundleError, door: Any = medvlp.load
) -> Hostile:
    def write(place: Place) -> Path:
        folder = place.inside / "bundle"
        shutil.copytree(place.bundle, folder)
        change(place, folder)
        return folder

    return Hostile(name=f"bundle-{name}", write=write, open=door, refused=refused)


def told(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda place, folder: signed(folder, change)


def weights(data: Callable[[Place], bytes]) -> Change:
    def change(place: Place, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(data(place))
        signed(folder)

    return change


def beside(place: Place, folder: Path) -> None:
    """Pickles and code that nobody asked for."""
    for name in ("pytorch_model.bin", "optimizer.pt", "model.ckpt", "model.pkl"):
        (folder / name).write_bytes(torch_zip(place.command))
    code(place, folder)
    signed(folder)


def code(place: Place, folder: Path) -> None:
    for name in ("evil.py", "sitecustomize.py", "__init__.py", "modeling_evil.py"):
        (folder / name).write_text(EVIL_MODULE.replace("{command}", place.command))


def linked(name: str) -> Change:
    """A file of the folder becomes a link to the same bytes outside."""

    def change(place: Place, folder: Path) -> None:
        (folder / name).rename(place.outside / name)
        (folder / name).symlink_to(place.outside / name)

    return change


def tokenizer(**more: Any) -> Change:
    def change(place: Place, folder: Path) -> None:
        code(place, folder)
        file = folder / "tokenizer_config.json"
        values = json.loads(file.read_text()) | more
        file.write_text(json.dumps(values).replace("{outside}", str(place.outside)))
        signed(folder)

    return change


def rules(text: Callable[[dict[str, Any]], str]) -> Change:
    def change(place: Place, folder: Path) -> None:
        file = folder / "tokenizer.json"
        file.write_text(text(json.loads(file.read_text())))
        signed(folder)

    return change


def backtracking(values: dict[str, Any]) -> str:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    return json.dumps(values | {"pre_tokenizer": split})


def embed(path: Path) -> None:
    medvlp.load(path).embed_text("a" * 3000 + "!")


ARCHITECTURE = {"model_type": "bert", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 64,
                "max_position_embeddings": 16}  # fmt: skip
FOREIGN = {
    "auto_map": AUTO_MAP,
    "_attn_implementation_internal": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "attn_implementation": "evil/kernel",
    "_experts_implementation_internal": "evil/kernel",
    "quantization_config": {"quant_method": "evil", "modules_to_not_convert": ["a"]},
    "trust_remote_code": True,
    "custom_pipelines": {"evil": {"impl": "evil.Evil"}},
    "use_kernels": True,
}


def architecture(**more: Any) -> Change:
    return told(lambda v: v["text"].update(architecture={**ARCHITECTURE, **more}))


def checkpoint(name: str, data: Callable[[Place], bytes]) -> Hostile:
    return Hostile(
        name=f"checkpoint-{name}",
        write=lambda place: place.file("last.safetensors", data(place)),
        open=read_checkpoint,
        refused=RunError,
    )


def tower(path: Path) -> Any:
    return TextTowerConfig(pretrained=str(path)).build(50, 0)


def pretrained(
    name: str, change: Change, refused: type[MedvlpError] | None = ConfigError, door: Any = tower
) -> Hostile:
    def write(place: Place) -> Path:
        folder = place.inside / "encoder"
        shutil.copytree(place.encoder, folder)
        change(place, folder)
        return folder

    return Hostile(name=f"pretrained-{name}", write=write, open=door, refused=refused)


def config(**more: Any) -> Change:
    def change(place: Place, folder: Path) -> None:
        code(place, folder)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | more))

    return change


def only_pickle(name: str, place: Place, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(torch_zip(place.command))


def adapter(place: Place, folder: Path) -> None:
    shutil.copytree(folder, place.outside / "base")
    values = {"base_model_name_or_path": str(place.outside / "base"), "peft_type": "LORA",
              "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    (folder / "adapter_model.bin").write_bytes(torch_zip(place.command))


def shards(where: str) -> Change:
    def change(place: Place, folder: Path) -> None:
        shutil.move(folder / "model.safetensors", place.outside / "model.safetensors")
        target = where.format(outside=place.outside)
        index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": target}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def replaced(name: str, text: str) -> Change:
    return lambda place, folder: (folder / name).write_text(text) and None


BUNDLES = (
    bundle("pickle-as-weights", weights(lambda place: pickled(place.command))),
    bundle("torch-zip-as-weights", weights(lambda place: torch_zip(place.command))),
    *(
        bundle(f"weights-{name}", weights(lambda place, data=data: data))  # type: ignore[misc]
        for name, data in HEADERS.items()
    ),
    bundle("pickles-and-code-beside", beside, refused=None),
    bundle("weights-are-a-link", linked("model.safetensors")),
    bundle("tokenizer-is-a-link", linked("tokenizer.json")),
    bundle("file-name-leads-out",
           told(lambda v: v["files"].update({"../../outside/secret.txt": "0" * 64}))),
    bundle("file-name-is-absolute", told(lambda v: v["files"].update({"/etc/passwd": "0" * 64}))),
    bundle("file-name-is-parent", told(lambda v: v["files"].update({"..": "0" * 64}))),
    bundle("weights-not-listed", told(lambda v: v["files"].pop("model.safetensors"))),
    bundle("auto-map", told(lambda v: v.update(auto_map=AUTO_MAP))),
    bundle("auto-map-of-tower", told(lambda v: v["text"].update(auto_map=AUTO_MAP))),
    bundle("kind-is-a-path", told(lambda v: v["image"].update(kind="os:system"))),
    bundle("domain-is-a-module", told(lambda v: v.update(domain="os"))),
    bundle("names-other-weights", told(lambda v: v["text"].update(pretrained="../../outside"))),
    bundle("names-other-weights-nested",
           told(lambda v: v["image"].update(frame={"pretrained": "/tmp"}))),
    bundle("architecture-with-code", architecture(**FOREIGN)),
    bundle("architecture-unknown", architecture(model_type="../evil")),
    bundle("architecture-huge", architecture(hidden_size=1 << 40)),
    bundle("architecture-deep", architecture(num_hidden_layers=1 << 40)),
    bundle("architecture-impossible", architecture(hidden_size="os.system", hidden_act=[])),
    bundle("width-huge", told(lambda v: v["text"].update(width=1 << 40))),
    bundle("depth-huge", told(lambda v: v["text"].update(depth=1 << 40))),
    bundle("heads-zero", told(lambda v: v["text"].update(heads=0))),
    bundle("vocabulary-huge", told(lambda v: v.update(vocab_size=1 << 60))),
    bundle("index-deep", replaced("bundle.json", '{"digest":' + "[" * 100_000)),
    bundle("index-endless-number", replaced("bundle.json", '{"format": ' + "9" * 100_000 + "}")),
    bundle("index-is-a-list", replaced("bundle.json", "[]")),
    bundle("tokenizer-class", tokenizer(tokenizer_class="Evil", auto_map=AUTO_MAP,
                                        trust_remote_code=True, chat_template="{{ 1 / 0 }}"),
           refused=None),
    bundle("tokenizer-arguments", tokenizer(
        tokenizer_file="{outside}/secret.txt", vocab_file="{outside}/secret.txt",
        gguf_file="{outside}/secret.txt", tokenizer_object={"a": 1}, init_inputs=["x"] * 9),
        refused=None),
    bundle("tokenizer-token-is-a-list", tokenizer(pad_token=["a"])),
    bundle("tokenizer-deep", rules(lambda values: '{"model":' + "[" * 100_000)),
    bundle("tokenizer-unknown-parts", rules(lambda v: json.dumps(v | {"model": {"type": "Evil"}}))),
    bundle("tokenizer-is-a-pickle", rules(lambda values: "\x80\x04cos\nsystem\n")),
    bundle("tokenizer-backtracks", rules(backtracking), refused=InputError, door=embed),
)  # fmt: skip

CHECKPOINTS = (
    checkpoint("pickle", lambda place: pickled(place.command)),
    checkpoint("sealed-pickle", lambda place: sealed(pickled(place.command))),
    checkpoint("torch-zip", lambda place: sealed(torch_zip(place.command))),
    *(checkpoint(name, lambda place, data=data: sealed(data)) for name, data in HEADERS.items()),  # type: ignore[misc]
    checkpoint("tree-deep", lambda place: tree("[" * 50_000)),
    checkpoint("tree-names-no-tensor", lambda place: tree('{"a": {"$tensor": "b"}}')),
    checkpoint("tree-key-is-a-list", lambda place: tree('{"$items": [[["a"], 1]]}')),
    checkpoint("tree-of-a-name", lambda place: tree('{"a": {"$tensor": {"b": []}}}')),
)  # fmt: skip

PRETRAINED = (
    *(
        pretrained(f"only-{name}", partial(only_pickle, name))
        for name in ("pytorch_model.bin", "tf_model.h5", "model.ckpt", "model.bin.index.json")
    ),
    pretrained("pickle-as-weights", lambda place, folder: weights_of(place, folder)),
    pretrained("code-in-config", config(**FOREIGN), refused=None),
    pretrained("only-kernel", config(_attn_implementation_internal="evil/kernel"), refused=None),
    pretrained("other-backbone", config(model_type="rt_detr", backbone="evil/repo",
                                        use_pretrained_backbone=True)),
    pretrained("model-type-is-a-module", config(model_type="evil", auto_map=AUTO_MAP)),
    pretrained("layers-without-end", config(num_hidden_layers=10**12)),
    pretrained("width-without-end", config(hidden_size=1 << 50)),
    pretrained("positions-without-end", config(max_position_embeddings=10**12)),
    pretrained("adapter-names-other-weights", adapter, refused=None),
    pretrained("shard-outside", shards("../../outside/model.safetensors")),
    pretrained("shard-absolute", shards("{outside}/model.safetensors")),
    pretrained("weights-are-a-link", linked("model.safetensors")),
    pretrained("config-is-a-link", linked("config.json")),
    pretrained("config-deep", replaced("config.json", '{"a":' + "[" * 100_000)),
    pretrained("config-of-another-model", config(model_type="bert"),
               door=lambda path: Vit2dConfig(pretrained=str(path)).build(1)),
    Hostile(
        name="pretrained-tokenizer-of-code",
        write=lambda place: place.file(
            "t/tokenizer_config.json", json.dumps({"auto_map": AUTO_MAP, "tokenizer_class": "Evil"})
        ).parent,
        open=load_tokenizer,
        refused=InputError,
    ),
)  # fmt: skip


def weights_of(place: Place, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickled(place.command))


CASES = (*BUNDLES, *CHECKPOINTS, *PRETRAINED)

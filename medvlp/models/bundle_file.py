"""A bundle on disk: what stands in ``bundle.json``, atomic writing, and checked reading."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvlp import __version__
from medvlp.archive.duplicates.footprint import Footprint
from medvlp.config import STRICT, plain, validate
from medvlp.data.paths import with_parent
from medvlp.data.preprocess import contract_digest
from medvlp.data.prompts import PromptSet
from medvlp.data.relations import NO_NAMES, Names
from medvlp.data.tokenizer import TOKENIZER, TOKENIZER_CONFIG, save_tokenizer
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import BundleError, ConfigError
from medvlp.models.bundle_footprint import write_footprint
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.models.zero_shot import Calibration
from medvlp.plain_files import own_file, read_json

FORMAT = 1
INDEX = "bundle.json"
WEIGHTS = "model.safetensors"
_LARGEST_INDEX = 1 << 24


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BundleInfo:
    """``bundle.json`` without its own digest; tower and contract configurations in plain values."""

    format: int = FORMAT
    medvlp: str = __version__
    """Version that wrote it."""

    domain: str
    preprocess: dict[str, Any]
    contract: str
    """`contract_digest` of `preprocess`, computed where the model was trained."""

    image: dict[str, Any]
    text: dict[str, Any]
    model: TwoTowerConfig
    objectives: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The objectives trained with, by name; those with weights of their own keep them."""

    names: Names = NO_NAMES
    """What the columns of labels and relations were called in training."""

    vocab_size: int
    pad_id: int
    prompts: PromptSet | None = None
    calibration: Calibration | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Data digest, seed, versions, metrics: whatever the training run knows of itself."""

    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every other file of the bundle."""


def save_bundle(
    folder: Path,
    *,
    model: TwoTower,
    domain: str,
    preprocess: Any,
    image: Any,
    text: Any,
    tokenizer: Any,
    objectives: Mapping[str, tuple[Any, nn.Module]] | None = None,
    names: Names = NO_NAMES,
    prompts: PromptSet | None = None,
    calibration: Calibration | None = None,
    provenance: Mapping[str, Any] | None = None,
    footprint: Footprint | None = None,
) -> str:
    """Write a bundle; it appears under its name only when it is complete.

    Args:
        folder: Where; a bundle that stands there already is replaced.
        model: The trained model.
        domain: The domain's name.
        preprocess: The preprocessing contract.
        image: The image tower's configuration.
        text: The text tower's configuration.
        tokenizer: The tokenizer that made the ids.
        objectives: Name to configuration and module.
        names: What the columns of labels and relations were called in training.
        prompts: The prompt set that travels along.
        calibration: Fitted for `prompts` on validation data.
        provenance: Plain values about the run; no path, no identifier.
        footprint: What can be known again of the training data.

    Returns:
        The bundle's digest.

    Raises:
        BundleError: Something that is no bundle stands at `folder`.
    """
    if folder.exists() and not (folder / INDEX).is_file():
        raise BundleError(
            f"{with_parent(folder)} exists and is no bundle",
            remedy="name another folder, or move it away",
        )
    trained = dict(objectives or {})
    info = BundleInfo(
        domain=domain,
        preprocess=plain(preprocess),
        contract=contract_digest(preprocess),
        image=plain(model.image.portable or image),
        text=plain(model.text.portable or text),
        model=model.config,
        objectives={name: plain(config) for name, (config, _) in trained.items()},
        names=names,
        vocab_size=len(tokenizer),
        pad_id=tokenizer.pad_token_id,
        prompts=prompts,
        calibration=calibration,
        provenance=dict(provenance or {}),
    )
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, (_, module) in trained.items():
        weights |= {f"objectives.{name}.{k}": v for k, v in module.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(folder)
    try:
        if footprint is not None:
            write_footprint(partial, footprint)
        digest = _write(partial, info, weights, tokenizer)
        _put(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digest


def read_info(folder: Path) -> tuple[BundleInfo, str]:
    """The checked contents of ``bundle.json`` and their digest; every file's digest holds.

    Raises:
        BundleError: No bundle, another format, or a file missing, changed or a link.
    """
    name = with_parent(folder)
    try:
        values = read_json(folder / INDEX, _LARGEST_INDEX)
        stated, version = values.pop("digest"), values["format"]
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{name} holds no readable {INDEX}", remedy="name a bundle's folder"
        ) from error
    if version != FORMAT:
        raise BundleError(
            f"{name} has bundle format {version}, this medvlp reads {FORMAT}",
            remedy="install the medvlp that wrote it, or train again",
        )
    if digest_plain(values) != stated:
        raise BundleError(f"{name}: {INDEX} was changed", remedy="copy the bundle again")
    try:
        info: BundleInfo = validate(BundleInfo, values, INDEX)
    except ConfigError as error:
        raise BundleError(f"{name}: {error.message}", remedy="copy the bundle again") from error
    for file in sorted({*info.files, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG}):
        _check_file(folder, file, info.files.get(file))
    return info, stated


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the bundle.

    Raises:
        BundleError: The file is no safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"{with_parent(folder)}: {WEIGHTS} cannot be read", remedy="copy the bundle again"
        ) from error
    return tensors


def _check_file(folder: Path, file: str, digest: str | None) -> None:
    path = own_file(folder, file)
    if path is None or digest is None:
        raise BundleError(
            f"{with_parent(folder)}: {file} is missing, or no file of its own",
            remedy="copy the bundle again, with files in place of links",
        )
    if digest_file(path) != digest:
        raise BundleError(
            f"{with_parent(folder)}: {file} was changed (its SHA-256 differs)",
            remedy="copy the bundle again",
        )


def _write(folder: Path, info: BundleInfo, weights: dict[str, Tensor], tokenizer: Any) -> str:
    save_tokenizer(tokenizer, folder)
    # Own copies: safetensors refuses tensors that share memory.
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    save_file(copies, folder / WEIGHTS)
    files = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    # Through JSON once, so that the digest is that of what a reader will see.
    values = json.loads(json.dumps(plain(info) | {"files": files}, allow_nan=False))
    digest = digest_plain(values)
    text = json.dumps(values | {"digest": digest}, indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    return digest


def _put(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = _beside(folder)
    folder.rename(old / "old")
    partial.rename(folder)
    shutil.rmtree(old)


def _beside(folder: Path) -> Path:
    """A new hidden folder next to `folder`, with the rights that any new folder gets."""
    made = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    made.mkdir()
    return made


def weights_under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name[len(prefix) :]: w for name, w in weights.items() if name.startswith(prefix)}


def fill(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load `weights` into `module`, all of them and nothing else.

    Raises:
        BundleError: Names or shapes differ.
    """
    expected = {name: value.shape for name, value in module.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if expected != found:
        differing = sorted(k for k in expected | found if expected.get(k) != found.get(k))
        raise BundleError(
            f"{what}: {len(differing)} weights do not fit the architecture, first {differing[0]}",
            remedy="install the medvlp that wrote the bundle",
        )
    with torch.no_grad():
        module.load_state_dict(dict(weights))

"""Tensors from a file of unknown origin: safetensors, or a checkpoint of torch without its code.

A ``.pt``, ``.bin``, ``.ckpt`` or ``.pth`` is a pickle, which may hold a program. Only torch's
reader for plain tensors opens it (``weights_only``): it runs nothing that the file names. What else
training frameworks leave in their checkpoints is known by name and becomes an empty object.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.models.imports.keys import Weights

LARGEST = 1 << 34
"""Bytes that a file of weights may have."""

_STATES = ("state_dict", "model_state_dict", "model", "net")
"""Under which of its entries a checkpoint keeps the model's state."""

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that data-parallel training and compiling put before every name."""

_IGNORED = (
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "argparse.Namespace",
    "collections.defaultdict",
    "easydict.EasyDict",
    "pathlib.PosixPath",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "typing.Any",
    *(f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool")),
    *(f"__builtin__.{name}" for name in ("dict", "list", "int", "float", "str", "bool")),
)
"""What settings of training are made of; none of it is imported or called."""

_ALONE = (
    "on a machine that you can spare, save the state alone: "
    "torch.save(checkpoint['state_dict'], FILE), or as safetensors"
)


class _Ignored:
    """Stands where a checkpoint names an object of a training framework."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_tensors(path: Path) -> Weights:
    """The model's tensors in a file, by name; wrappers' prefixes are taken off.

    Raises:
        ConfigError: No such file, too large, a link, an archive of files, code or objects beside
            the tensors, or no tensors at all.
    """
    _check_size(path)
    if path.suffix == ".safetensors":
        try:
            found: Weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"import: {path.name} is no safetensors file", remedy="copy the file again"
            ) from error
    else:
        found = _state(_loaded(path), path.name)
    for name, value in found.items():
        _check_plain(name, value)
    if not found:
        raise ConfigError(f"import: {path.name} holds no tensor", remedy="name another file")
    return _unwrapped(found)


def _check_size(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        raise ConfigError(
            f"import: {path.name} is missing, or no file of its own",
            remedy="name a file; of a download cache, copy what its links point to (cp -L)",
        )
    if path.stat().st_size > LARGEST:
        raise ConfigError(
            f"import: {path.name} is larger than {LARGEST >> 30} GiB",
            remedy="save the model's state alone, without the optimiser's",
        )


def _loaded(path: Path) -> Any:
    zipped = _check_container(path)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED]),
        ):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    # The reader fails at what it does not allow, and at damage, in many ways.
    except Exception as error:
        raise ConfigError(
            f"import: {path.name} is damaged, or holds code or objects beside its tensors; "
            "it was not run",
            remedy=_ALONE,
        ) from error


def _check_container(path: Path) -> bool:
    """Whether it is one of torch's zip files; other archives are refused by what they are."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b":
        raise ConfigError(
            f"import: {path.name} is a tar or gzip archive", remedy="unpack it, and name the file"
        )
    if head[:4] != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ConfigError(f"import: {path.name} is damaged", remedy="copy it again") from error
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "data.pkl" not in names:
        raise ConfigError(
            f"import: {path.name} is a zip archive of files", remedy="unpack it, and name the file"
        )
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise ConfigError(
            f"import: {path.name} is a TorchScript program", remedy="name the file of the weights"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ConfigError(
            f"import: {path.name} is compressed, which torch's own files are not", remedy=_ALONE
        )
    return True


def _state(loaded: Any, name: str) -> Weights:
    while isinstance(loaded, Mapping):
        inner = next((key for key in _STATES if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"import: {name} holds no state of a model", remedy=_ALONE)
    odd = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if odd or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(
            f"import: {name} holds more than tensors, first {str(odd[:1])[:60]}", remedy=_ALONE
        )
    return dict(loaded)


def _check_plain(name: str, value: Tensor) -> None:
    # A stride of 0 lets a few bytes claim to be a terabyte.
    plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    if not plain or value.nbytes > value.untyped_storage().nbytes():
        raise ConfigError(
            f"import: {name} is no plain tensor", remedy="save the weights unquantised and dense"
        )


def _unwrapped(weights: Weights) -> Weights:
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            return _unwrapped({name[len(prefix) :]: value for name, value in weights.items()})
    return weights

"""What the user names: a file of weights, or a folder with its descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlp.digest import digest_file
from medvlp.errors import ConfigError
from medvlp.models.imports.checkpoint import read_tensors
from medvlp.models.imports.keys import Weights
from medvlp.models.pretrained import describe_config, from_description, shards
from medvlp.plain_files import own_file, read_json

_LARGEST_CONFIG = 1 << 24


class Source:
    """One file or folder; remembers which files were read.

    Args:
        path: What the user named.

    Raises:
        ConfigError: There is no such file or folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ConfigError(
                "import: there is no such file or folder", remedy="check the path of SOURCE"
            )
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.files: dict[str, str] = {}
        """SHA-256 of every file that was read, by name."""

    def tensors(self, *names: str) -> Weights:
        """The tensors of the file that was named, or of the folder's first file of these names.

        A name may be that of an index of safetensors shards.

        Raises:
            ConfigError: There is none, or it cannot be read.
        """
        if not self.path.is_dir():
            return self._read(self.path)
        name = next((n for n in names if own_file(self.folder, n) is not None), None)
        if name is None:
            raise ConfigError(
                f"import: {self.folder.name} holds none of {', '.join(names)} of its own",
                remedy="name the folder or the file of the weights; copy what links point to",
            )
        if not name.endswith(".index.json"):
            return self._read(self.folder / name)
        found: Weights = {}
        for shard in shards(self.folder):
            found |= self._read(self.folder / Path(shard).name)
        return found

    def matching(self, pattern: str) -> Weights:
        """The tensors of the one file of the folder whose name matches.

        Raises:
            ConfigError: There is none, or more than one.
        """
        found = sorted(p for p in self.folder.glob(pattern) if own_file(self.folder, p.name))
        if len(found) != 1:
            raise ConfigError(
                f"import: {self.folder.name} holds {len(found)} files {pattern}, one is needed",
                remedy="leave one in the folder",
            )
        return self._read(found[0])

    def description(self, *names: str) -> dict[str, Any]:
        """The JSON file of the folder that has one of these names; empty if there is none.

        Raises:
            ConfigError: It is no JSON object.
        """
        for name in names:
            if own_file(self.folder, name) is not None:
                values = read_json(self.folder / name, _LARGEST_CONFIG)
                if not isinstance(values, dict):
                    raise ConfigError(f"import: {name} is damaged", remedy="copy it again")
                self.files[name] = digest_file(self.folder / name)
                return values
        return {}

    def described(self, kind: str) -> dict[str, Any]:
        """The folder's ``config.json``, which must be of one `model_type`.

        Raises:
            ConfigError: It is missing, or of another.
        """
        values = self.description("config.json")
        if values.get("model_type") != kind:
            raise ConfigError(
                f"import: {self.folder.name} has no config.json of model_type {kind} "
                f"(found {str(values.get('model_type'))[:40]})",
                remedy="name the folder of such a model, or another --as",
            )
        return values

    def _read(self, path: Path) -> Weights:
        found = read_tensors(path)
        self.files[path.name] = digest_file(path)
        return found


def needed(values: dict[str, Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """The nested object under the first of `names` that is there.

    Raises:
        ConfigError: There is none.
    """
    for name in names:
        if isinstance(values.get(name), dict):
            found: dict[str, Any] = values[name]
            return found
    raise ConfigError(f"import: {where} has no {names[0]}", remedy="copy the folder again")


def weights_of(source: Source) -> Weights:
    """The tensors of a folder of transformers, in one file or in shards.

    Raises:
        ConfigError: There are none, or they cannot be read.
    """
    return source.tensors("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def whole(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """A tower's description of its own: with the defaults, without what is no size or switch.

    Args:
        values: Part of a ``config.json``.
        kind: The tower's `model_type`.

    Raises:
        ConfigError: Values that such a tower cannot have.
    """
    return describe_config(from_description(values | {"model_type": kind}))

"""What a result was made with: versions of packages, and a digest of the code itself."""

from __future__ import annotations

import platform
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path

from medvlp.digest import digest_file, digest_plain
from medvlp.domain import GROUP

PACKAGES = ("medvlp-platform", "numpy", "polars", "scikit-learn", "scipy", "torch")
"""Packages whose version can move a number."""


def environment() -> dict[str, str]:
    """Name -> version of Python, of the system and of `PACKAGES`; nothing about the machine."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.system(), **found}


@cache
def code_digest() -> str:
    """SHA-256 over the Python files of medvlp and of every installed domain, and their YAML.

    Two results of the same digest were computed by the same lines and word lists, whatever the
    version says.
    """
    brought = {point.value.partition(":")[0] for point in entry_points(group=GROUP)}
    found = {}
    for name in sorted({"medvlp", *(module.partition(".")[0] for module in brought)}):
        root = Path(str(import_module(name).__file__)).parent
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".yaml")):
            found[f"{name}/{path.relative_to(root)}"] = digest_file(path)
    return digest_plain(found)

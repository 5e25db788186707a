"""Which proxies a run or an evaluation reads."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from medvlp.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProxyConfig:
    """Where proxies lie, and how they were made; `medvlp.data.proxies` says what they are."""

    folder: Path
    settings: tuple[str, ...] = ()
    """Of the domain's proxies, such as ``short_side=480``."""

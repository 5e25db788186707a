"""Bundles opened as scorers, under names that no two of them share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlp.data.proxies import Proxies
from medvlp.errors import BundleError
from medvlp.evaluate.controls.computed import TRAINED
from medvlp.evaluate.controls.table import RESERVED
from medvlp.evaluate.predict import Scorer
from medvlp.models.bundle import load


def open_scorers(
    bundles: Sequence[Path], domain: str, cache: Path | None, proxies: Proxies | None = None
) -> list[Scorer]:
    """Open bundles under unique names: that of the run folder, or of the bundle's own.

    Raises:
        BundleError: A bundle is damaged or of another domain, or two are the same control.
    """
    opened = [(path, load(path)) for path in bundles]
    for path, bundle in opened:
        if bundle.info.domain != domain:
            raise BundleError(
                f"{_name(path)} is of domain {bundle.info.domain}, the protocol of {domain}",
                remedy="name a bundle of the protocol's domain",
            )
    controls = [_control(bundle.info.provenance.get("control")) for _, bundle in opened]
    names = scorer_names([(path, told) for (path, _), told in zip(opened, controls, strict=True)])
    return [
        Scorer(name=name, control=control, bundle=bundle, cache=cache, proxies=proxies)
        for name, control, (_, bundle) in zip(names, controls, opened, strict=True)
    ]


def scorer_names(bundles: Sequence[tuple[Path, str | None]]) -> list[str]:
    """The names of bundles' rows: the control's, else the run folder's or the bundle's own.

    Args:
        bundles: Folder, and what its provenance says it was trained as.

    Raises:
        BundleError: Two are the same control.
    """
    names: list[str] = []
    for path, told in bundles:
        control = _control(told)
        if control in names:
            raise BundleError(
                f"{_name(path)} is a second bundle of control {control}",
                remedy="name one bundle of each control",
            )
        names.append(control or _unique(_name(path), [*names, *RESERVED]))
    return names


def _control(told: str | None) -> str | None:
    return told if told in TRAINED else None


def _name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "bundle" else resolved.name


def _unique(name: str, taken: Sequence[str]) -> str:
    count = Counter(taken)
    if not count[name]:
        return name
    return next(f"{name}-{k}" for k in range(2, len(taken) + 3) if not count[f"{name}-{k}"])

"""How the core finds its domains: one `Domain` object each, through an entry-point group.

A domain package (chest X-ray, CT, surgical video, or a hospital's own) declares

    [project.entry-points."medvlp.domains"]
    mydomain = "my_package:DOMAIN"

and the core needs no change. Everything a domain brings is named by a `Ref`, which imports its
module only when it is used, so that the command line starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from medvlp.errors import ConfigError

GROUP = "medvlp.domains"


@dataclass(frozen=True)
class Ref:
    """A name to import later, written ``package.module:attribute``."""

    target: str

    def load(self) -> Any:
        """Import the module and return the attribute."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What one domain brings to the core; `docs/architecture.md` gives each signature."""

    name: str
    """The word in configs and manifests, such as ``cxr``."""

    title: str
    """The words for people, such as ``Chest X-ray``."""

    modalities: tuple[str, ...] = ()
    """DICOM modalities that an archive's files of this domain carry."""

    dicom_unit: Literal["file", "series"] = "file"
    """Whether one DICOM file or one series makes a sample."""

    suffixes: tuple[str, ...] = ()
    """Endings of this domain's files that are no DICOM, such as ``.nii.gz``."""

    kinds: Mapping[str, Ref] = field(default_factory=dict)
    """``--kind`` word -> source kind: ``(root, intake) -> None``."""

    probe: Ref
    """``(paths) -> Probe``: shape, spacing, rate and duration of one sample's files, which are
    judged as this domain's kinds judge them. One of CT takes ``accept_not_hu``, too."""

    recordings: bool = False
    """Whether samples last: `medvlp embed` cuts them into windows."""

    resolve: Ref
    """``(path) -> list[tuple[Path, ...]]``: the samples in what a user names to a command."""

    view: Ref | None = None
    """``(paths) -> View``: what `medvlp inspect` shows of one sample."""

    check_volume: Ref | None = None
    """``(facts: Facts) -> tuple[str, ...]``: flags of a series that hardly shows what it claims
    (`medvlp.archive.series.bodypart`)."""

    recording: Ref | None = None
    """``(paths) -> str | None``: the name of a published recording that several data sets share,
    by which a leak between them is found."""

    preprocess: Mapping[str, Ref]
    """``kind`` -> configuration class of a contract, with ``build() -> Preprocess``."""

    encoders: Mapping[str, Ref] = field(default_factory=dict)
    """``kind`` -> configuration class, ``build(channels) -> ImageEncoder``; beside the core's."""

    objectives: Mapping[str, Ref] = field(default_factory=dict)
    """``kind`` -> configuration class, ``build(sizes) -> Objective``; beside the core's."""

    imports: Mapping[str, Ref] = field(default_factory=dict)
    """Word after ``--as`` -> `medvlp.models.imports.recipe.Kind`: published weights for this
    domain; beside the core's, which are for chest X-rays."""

    tasks: Mapping[str, Ref] = field(default_factory=dict)
    """``kind`` -> evaluation task; beside the core's."""

    vocabulary: Path | None = None
    """Folder with ``names.yaml`` and a words file a language: what `medvlp structure` reads from
    reports (`medvlp.data.structure`)."""

    proxies: Ref | None = None
    """`medvlp.data.proxy_files.ProxyMaker`: what makes smaller copies of recordings, to be read in
    their place."""

    phantom: Ref | None = None
    """`medvlp.phantom.write.Phantom`: what writes an archive whose ground truth is known."""

    commands: Mapping[str, Ref] = field(default_factory=dict)
    """Further command-line commands, such as the video domain's ``timeline``."""


@cache
def domains() -> dict[str, Domain]:
    """All installed domains by name, in name order."""
    found = {point.name: point.load() for point in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def get_domain(name: str) -> Domain:
    """The domain called `name`.

    Raises:
        ConfigError: No such domain is installed.
    """
    known = domains()
    if name not in known:
        raise ConfigError(
            f"domain {name!r} is not installed (installed: {', '.join(known) or 'none'})",
            remedy="correct the name, or install the package that brings the domain",
        )
    return known[name]

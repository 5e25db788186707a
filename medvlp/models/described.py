"""From a bundle's description to its modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlp.config import validate
from medvlp.data.paths import with_parent
from medvlp.data.tokenizer import sentence_id, token_ids
from medvlp.domain import Domain, Ref
from medvlp.errors import BundleError
from medvlp.losses.objectives import CORE_OBJECTIVES
from medvlp.models.bounded import IMPOSSIBLE, Bounded
from medvlp.models.bundle_file import INDEX, BundleInfo, fill, read_weights, weights_under
from medvlp.models.image2d import CORE_ENCODERS
from medvlp.models.text import CORE_TEXT_TOWERS
from medvlp.models.two_tower import TwoTower


def modules_of(
    folder: Path, info: BundleInfo, domain: Domain, channels: int, tokenizer: Any
) -> tuple[TwoTower, nn.ModuleDict]:
    """The described modules with the bundle's own weights.

    Raises:
        BundleError: They cannot be built, or the weights are not theirs.
    """
    weights = read_weights(folder)
    # Weights are drawn only to be overwritten: the caller's random state is none of ours.
    with torch.random.fork_rng(devices=[]), Bounded(weights), _description(folder):
        model, objectives = drawn(info, domain, channels, tokenizer)
    fill(model, weights_under(weights, "model."), with_parent(folder))
    for name, objective in objectives.items():
        fill(objective, weights_under(weights, f"objectives.{name}."), with_parent(folder))
    return model, objectives


def drawn(
    info: BundleInfo, domain: Domain, channels: int, tokenizer: Any
) -> tuple[TwoTower, nn.ModuleDict]:
    """The described modules with weights drawn from torch's random state."""
    image = config_of(info.image, CORE_ENCODERS, domain.encoders, "image")
    text = config_of(info.text, CORE_TEXT_TOWERS, {}, "text")
    kinds = {
        name: config_of(values, CORE_OBJECTIVES, domain.objectives, "objectives")
        for name, values in info.objectives.items()
    }
    known = info.vocab_size, info.pad_id, sentence_id(tokenizer)
    model = TwoTower(info.model, image.build(channels), text.build(*known))
    sizes = model.sizes(info.names, token_ids(tokenizer), channels=channels, prompts=info.prompts)
    return model, nn.ModuleDict({name: kind.build(sizes) for name, kind in kinds.items()})


@contextmanager
def _description(folder: Path) -> Iterator[None]:
    """What the code of an architecture raises at impossible sizes, as an error of the bundle."""
    try:
        yield
    except IMPOSSIBLE as error:
        raise BundleError(
            f"{with_parent(folder)}: no model can be built from its {INDEX}",
            remedy="copy the bundle again",
        ) from error


def config_of(
    values: dict[str, Any], core: Mapping[str, type], more: Mapping[str, Ref], what: str
) -> Any:
    """The configuration that a description names.

    Args:
        values: With its `kind`.
        core: Kind -> class, of the core.
        more: Kind -> class, of the domain.
        what: For the message.

    Raises:
        BundleError: The kind is not known, or weights would come from another folder.
        ConfigError: The values are wrong.
    """
    kind = values.get("kind")
    if kind not in (known := {**more, **core}):
        raise BundleError(
            f"{what}: kind {kind!r} is not known (known: {', '.join(sorted(known))})",
            remedy="install the package that brings it",
        )
    if _names_folder(values):
        raise BundleError(
            f"{what}: the bundle names a folder of other weights",
            remedy="use a bundle that medvlp wrote: it holds all its weights",
        )
    chosen = core[kind] if kind in core else more[kind].load()
    return validate(chosen, values, what)


def _names_folder(values: Any) -> bool:
    """Whether a tower would fetch weights from somewhere: a bundle brings its own."""
    if isinstance(values, dict):
        return bool(values.get("pretrained")) or any(map(_names_folder, values.values()))
    return isinstance(values, list) and any(map(_names_folder, values))

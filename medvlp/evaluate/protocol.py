"""A protocol: the named, versioned, hashed file that says what is evaluated and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, load_config, one_of_kinds, override, plain, read_yaml
from medvlp.data.phantom_source import PhantomData
from medvlp.data.proxy_files import ProxyConfig
from medvlp.digest import digest_plain
from medvlp.domain import Ref, get_domain
from medvlp.errors import ConfigError
from medvlp.evaluate.leakage.leak import LeakageConfig
from medvlp.evaluate.metrics.intervals import Method
from medvlp.evaluate.predictions import Stated

TASKS = {
    "zero-shot": Ref("medvlp.evaluate.tasks.zero_shot:ZeroShotConfig"),
    "retrieval": Ref("medvlp.evaluate.tasks.retrieval:RetrievalConfig"),
    "class-retrieval": Ref("medvlp.evaluate.tasks.class_retrieval:ClassRetrievalConfig"),
    "grounding": Ref("medvlp.evaluate.tasks.grounding:GroundingConfig"),
    "shortcuts": Ref("medvlp.evaluate.tasks.shortcuts:ShortcutsConfig"),
    "phases": Ref("medvlp.evaluate.tasks.phases:PhasesConfig"),
    "polarity": Ref("medvlp.evaluate.robustness.axes.linguistic:PolarityConfig"),
    "laterality": Ref("medvlp.evaluate.robustness.axes.linguistic:LateralityConfig"),
    "severity": Ref("medvlp.evaluate.robustness.axes.linguistic:SeverityConfig"),
    "grounded": Ref("medvlp.evaluate.robustness.axes.grounded:GroundedConfig"),
    "corruption": Ref("medvlp.evaluate.robustness.axes.corruption:CorruptionConfig"),
    "adversarial": Ref("medvlp.evaluate.robustness.axes.adversarial:AdversarialConfig"),
    "generation": Ref("medvlp.evaluate.tasks.generation:GenerationConfig"),
    "vqa": Ref("medvlp.evaluate.tasks.answering:AnsweringConfig"),
    "probe": Ref("medvlp.evaluate.tasks.probe:ProbeConfig"),
    "finetune": Ref("medvlp.evaluate.tasks.finetune:FinetuneConfig"),
    "segmentation": Ref("medvlp.evaluate.tasks.segmentation:SegmentationConfig"),
}
"""Tasks that every domain may name, beside its own."""

TRAINED = ("probe", "finetune", "segmentation", "generation", "vqa")
"""Tasks that train, and so need a training and a validation split beside what is evaluated."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationData:
    """Which samples are evaluated."""

    manifests: tuple[Path, ...] = ()
    """Manifest folders; a patient may stand in one split only, over all of them."""

    phantom: PhantomData | None = None
    """Made-up patients instead of manifests, written beside the predictions; give it another
    seed than the training's."""

    split: str = "test"
    cache: Path | None = None
    """Folder for decoded arrays, shared with training if it names the same folder."""

    proxies: ProxyConfig | None = None
    """Smaller copies of recordings, read in their place; `medvlp cache build` makes them."""

    def __post_init__(self) -> None:
        if bool(self.manifests) == (self.phantom is not None):
            raise ValueError("give either manifests or phantom")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BootstrapConfig:
    """The patient-clustered intervals."""

    draws: Annotated[int, Field(ge=0)] = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: int = 0
    method: Method = "bca"
    """How intervals are made of draws; `medvlp.evaluate.metrics.intervals` says what each is."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Protocol:
    """One evaluation; `schema` gives a domain's tasks their types."""

    name: Name
    """The folder of the predictions."""

    version: int
    """Raised whenever a change makes numbers incomparable."""

    domain: str
    task: Any
    data: EvaluationData
    seed: int = 0
    """Of what the evaluation itself draws: chance scores and the image-blind permutation."""

    bootstrap: BootstrapConfig = BootstrapConfig()
    stated: Stated = field(default_factory=Stated)
    """Of the place where a model would be used: prevalences, and from when one would act."""
    leakage: LeakageConfig = LeakageConfig()
    """What is known already refuses the evaluation, unless it is allowed here."""

    @property
    def digest(self) -> str:
        """SHA-256 of what makes numbers comparable: all but where the data lie."""
        values = plain(self)
        values["data"] = {"split": self.data.split, "phantom": values["data"]["phantom"]}
        leakage = values.pop("leakage")
        if leakage["allow"]:
            values["leakage"] = {"allow": sorted(leakage["allow"])}
        return digest_plain(values)


def load_protocol(path: Path, overrides: Sequence[str] = ()) -> Protocol:
    """Read a protocol; a prompt file in it is looked for beside it and taken in.

    Raises:
        ConfigError: Names file, key, value and reason.
    """
    values = read_yaml(path)
    domain = override(values, overrides).get("domain") if isinstance(values, dict) else None
    if not isinstance(domain, str):
        raise ConfigError(
            f"{path}: domain is missing", remedy="write for example domain: cxr at the top"
        )
    loaded: Protocol = load_config(schema(domain), path, overrides)
    return dataclasses.replace(loaded, task=loaded.task.resolve(path.parent))


@cache
def schema(domain: str) -> type[Protocol]:
    """The protocol class of a domain, with the core's tasks and its own."""
    tasks = {**TASKS, **get_domain(domain).tasks}
    kinds = {"task": one_of_kinds(ref.load() for ref in tasks.values())}
    plain_class = type(f"{domain.capitalize()}Protocol", (Protocol,), {"__annotations__": kinds})
    made: Any = dataclass(frozen=True, kw_only=True, config=STRICT)(plain_class)
    checked: type[Protocol] = made
    return checked

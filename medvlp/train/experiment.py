"""An experiment: everything that one training run is, as one strict configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import (
    STRICT,
    load_config,
    one_of_kinds,
    override,
    plain,
    read_yaml,
    validate,
)
from medvlp.data.items import DataConfig
from medvlp.data.no_image import CORE_PREPROCESS
from medvlp.data.preprocess import absent_slice, mirror_share
from medvlp.data.prompts import PromptSet
from medvlp.data.text_policy import TextPolicy
from medvlp.domain import Domain, Ref, get_domain
from medvlp.errors import ConfigError
from medvlp.losses.objectives import CORE_OBJECTIVES, LABEL_HEADS
from medvlp.models.image2d import CORE_ENCODERS
from medvlp.models.lora import LoraConfig
from medvlp.models.text import CORE_TEXT_TOWERS
from medvlp.models.two_tower import TwoTowerConfig
from medvlp.train.curriculum import WeightChange, curriculum_faults, objective_names
from medvlp.train.mixing import MedCutMixConfig
from medvlp.train.optim import OptimConfig
from medvlp.train.regions import region_faults

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainerConfig:
    """How long, on what, and how often something is written."""

    steps: Count
    """Optimiser steps of the whole run."""

    accumulate: Count = 1
    """Batches whose gradients are summed into one optimiser step; each batch is contrasted
    within itself."""

    micro_batch: Count | None = None
    """Samples that a device encodes at once, however large the batch is: the gradient stays that
    of the whole batch, memory is that of the micro-batch, and a step costs one more forward pass
    (gradient caching, arXiv:2101.06983). Needs norm layers that do not mix samples (group norm).
    None encodes a device's share of the batch at once."""

    precision: Literal["bf16", "fp32"] = "fp32"
    matmul: Literal["highest", "high", "medium"] = "high"
    """Precision of fp32 matrix products on a GPU: ``high`` lets them use TF32."""

    compile: bool = False
    """Compile the towers (`torch.compile`): pays on GPUs, after a minute or more of compiling."""

    channels_last: bool = False
    """Store the image tower's convolutions with the channels last."""

    devices: Count = 1
    """Devices of each machine; data-parallel if there is more than one in all."""

    nodes: Count = 1
    """Machines; torchrun or SLURM starts the command on each of them."""

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work. ``ddp``: each has the whole model. ``fsdp``: each has
    its share of the towers' weights, gradients and moments, and fetches the rest as it needs it;
    for towers that one device cannot hold. ``auto``: ddp where there is more than one device."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    log_every: Count = 10
    """Steps between rows of metrics.csv."""

    valid_every: Count = 100
    """Steps between passes over the validation split."""

    save_every: Count = 100
    """Steps between checkpoints."""

    save_async: bool = False
    """Write checkpoints while training goes on; takes the memory of one more copy of the state."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    """One training run; `schema` gives the components of a domain their types."""

    domain: str
    seed: int = 0
    control: Literal["none", "image-blind", "supervised-unimodal"] = "none"
    """``image-blind``: images permuted across patients. ``supervised-unimodal``: the label
    objectives alone, without text."""

    init: Path | None = None
    """A bundle whose weights and tokenizer the run starts from."""

    data: DataConfig
    preprocess: Any
    image: Any
    text: Any
    model: TwoTowerConfig = TwoTowerConfig()
    lora: LoraConfig | None = None
    """Low-rank adapters that learn in the place of a tower's weights; the bundle holds the sum."""

    objectives: tuple[Any, ...]
    weight_schedule: tuple[WeightChange, ...] = ()
    """Later weights of the objectives, by ascending step. Validation is by the last weights, so
    that its loss is comparable from one time to the next."""

    mixing: MedCutMixConfig | None = None
    """Part of the loss is computed on images and reports of which parts were exchanged."""

    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig
    prompts: Path | PromptSet | None = None
    """The prompt set that travels in the bundle, or the file that holds it, named from the
    working folder or from that of the configuration."""

    def __post_init__(self) -> None:
        for broken in (
            *_schedule_faults(self),
            *_objective_faults(self),
            *_stream_faults(self),
            *_sentence_faults(self),
            *_depth_faults(self),
            *_mixing_faults(self),
            *_mirror_faults(self),
            *_region_faults(self),
        ):
            raise ValueError(broken)

    @property
    def active_objectives(self) -> tuple[Any, ...]:
        """The objectives that the run computes: a supervised control keeps those on labels."""
        if self.control == "supervised-unimodal":
            return tuple(o for o in self.objectives if o.kind in LABEL_HEADS)
        return self.objectives

    @property
    def active_mixing(self) -> MedCutMixConfig | None:
        """The mixing that the run does: a supervised control, which reads no text, does none."""
        return None if self.control == "supervised-unimodal" else self.mixing

    @property
    def reads_regions(self) -> bool:
        """Whether `data.regions` are read: only an objective that asks for them needs them."""
        return any(getattr(o, "READS_REGIONS", False) for o in self.active_objectives)

    @property
    def weights(self) -> dict[str, float]:
        """The name and first weight of each active objective."""
        active = self.active_objectives
        return {n: o.weight for n, o in zip(objective_names(active), active, strict=True)}

    def contract(self, stream: str) -> Any:
        """The preprocessing contract of a stream.

        Raises:
            ConfigError: The contract has no such key, or not with that value.
        """
        mix = self.data.mix
        changes = {} if mix is None else mix.streams[stream].preprocess
        if not changes:
            return self.preprocess
        values = plain(self.preprocess) | changes
        where = f"data.mix.streams.{stream}.preprocess"
        return validate(type(self.preprocess), values, where)


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment; which components it may name follows from its domain.

    Raises:
        ConfigError: Names file, key, value and reason.
    """
    values = read_yaml(path)
    name = override(values, overrides).get("domain") if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise ConfigError(
            f"{path}: domain is missing", remedy="write for example domain: cxr at the top"
        )
    loaded: Experiment = load_config(schema(get_domain(name).name), path, overrides)
    return loaded


@cache
def schema(domain: str) -> type[Experiment]:
    """The experiment class of a domain: its encoders, objectives and preprocessing contracts."""
    brought: Domain = get_domain(domain)
    objective: Any = _kinds(brought.objectives, CORE_OBJECTIVES.values())
    components = {
        "preprocess": _kinds(brought.preprocess, CORE_PREPROCESS.values()),
        "image": _kinds(brought.encoders, CORE_ENCODERS.values()),
        "text": one_of_kinds(CORE_TEXT_TOWERS.values(), default="bert"),
        "objectives": Annotated[tuple.__class_getitem__((objective, ...)), Field(min_length=1)],
    }
    name = f"{domain.capitalize()}Experiment"
    plain_class = type(name, (Experiment,), {"__annotations__": components})
    return cast(type[Experiment], dataclass(frozen=True, kw_only=True, config=STRICT)(plain_class))


def _kinds(refs: Mapping[str, Ref], core: Iterable[type] = ()) -> Any:
    return one_of_kinds([*core, *(ref.load() for ref in refs.values())])


def _schedule_faults(e: Experiment) -> list[str]:
    faults = []
    if e.optim.warmup_steps > e.trainer.steps:
        faults.append(
            f"optim.warmup_steps={e.optim.warmup_steps} exceeds trainer.steps={e.trainer.steps}"
        )
    if e.data.batch_size % (e.trainer.devices * e.trainer.nodes):
        faults.append(
            f"data.batch_size={e.data.batch_size} is no multiple of "
            f"trainer.devices={e.trainer.devices} on trainer.nodes={e.trainer.nodes}"
        )
    if e.trainer.strategy == "fsdp" and e.optim.ema is not None:
        faults.append("optim.ema averages whole weights; trainer.strategy=fsdp shares them out")
    return faults


def _stream_faults(e: Experiment) -> list[str]:
    mix = e.data.mix
    faults = list(
        curriculum_faults(mix, e.weights, e.weight_schedule, objective_names(e.objectives))
    )
    for name in {} if mix is None else mix.streams:
        try:
            e.contract(name)
        except ConfigError as error:
            faults.append(error.message)
    if mix is not None:
        apart = any(stream.objectives is not None for stream in mix.streams.values())
        if mix.by == "sample" and apart and e.trainer.micro_batch:
            faults.append(
                "trainer.micro_batch: with data.mix.by=sample every objective must count for "
                "every stream"
            )
        sizes = {size for _, r in mix.ratios() for size in mix.sizes(r, e.data.batch_size).values()}
        ranks = e.trainer.devices * e.trainer.nodes
        if uneven := sorted(size for size in sizes if size % ranks):
            faults.append(
                f"data.mix: a stream's {uneven[0]} samples of a batch are no multiple of "
                f"the {ranks} devices"
            )
    return faults


def marks_sentences(e: Experiment) -> bool:
    """Whether the run's texts, and all that its bundle reads, have their sentences marked."""
    return any(policy.mark_sentences for policy in _policies(e))


def _policies(e: Experiment) -> list[TextPolicy]:
    streams = () if e.data.mix is None else e.data.mix.streams.values()
    return [stream.texts or e.data.texts for stream in streams] or [e.data.texts]


def _sentence_faults(e: Experiment) -> list[str]:
    marked = {policy.mark_sentences for policy in _policies(e)}
    faults = []
    if len(marked) > 1:
        faults.append("data.mix: mark_sentences must be the same in the texts of all streams")
    if e.text.kind == "tribert" and marked != {True}:
        faults.append("text: tribert reads marked sentences; set data.texts.mark_sentences=true")
    return faults


def _depth_faults(e: Experiment) -> list[str]:
    contract, tower = f"preprocess.kind={e.preprocess.kind}", f"image.kind={e.image.kind}"
    ragged = absent_slice(e.preprocess) is not None
    if ragged != getattr(type(e.image), "TAKES_ABSENT", False):
        return [
            f"{tower} takes volumes of one depth, {contract} gives them as deep as they are; "
            "choose a tower that pools slices, or a contract of one shape"
            if ragged
            else f"{tower} reads where each slice lies, which {contract} does not tell; choose a "
            "contract of slices"
        ]
    faults = [
        f"objectives: {o.kind} {o.NEEDS_GRID}, of which volumes of different depth have different "
        f"numbers; leave it out, or choose another contract than {contract}"
        for o in e.objectives
        if ragged and hasattr(o, "NEEDS_GRID")
    ]
    if getattr(e.image, "at_once", None) and e.trainer.strategy == "fsdp":
        faults.append(
            "image.at_once: ranks with other numbers of slices would wait for each other for ever; "
            "set image.at_once=null"
        )
    return faults


def _objective_faults(e: Experiment) -> list[str]:
    kinds = [objective.kind for objective in e.objectives]
    faults = []
    if "siglip" in kinds and e.model.init_bias == 0:
        faults.append("objectives: siglip needs a bias; set model.init_bias, such as -10")
    for objective in e.objectives if e.text.cache else ():
        if does := getattr(objective, "reads_tokens", None):
            faults.append(f"objectives: {objective.kind} {does}; set text.cache=false")
    for objective in e.objectives:
        if does := getattr(objective, "NEEDS_PLACES", None):
            faults += [
                f"objectives: {objective.kind} {does}, and patches that are left out change that; "
                f"set {setting}=0"
                for setting in _patch_dropouts(e.image, "image")
            ]
    if e.text.cache and e.trainer.strategy == "fsdp":
        faults.append("text.cache: ranks that know other texts cannot share a tower's weights")
    faults += [
        f"objectives: {kind} needs the names in data.labels"
        for kind in (*LABEL_HEADS, "unicl")
        if kind in kinds and not e.data.labels
    ]
    return [*faults, *_control_faults(e)]


def _patch_dropouts(tower: Any, where: str) -> Iterator[str]:
    """The settings by which a tower, or the one that it applies to parts, leaves patches out."""
    if getattr(tower, "patch_dropout", 0):
        yield f"{where}.patch_dropout"
    for within in ("encoder", "frame"):
        if hasattr(tower, within):
            yield from _patch_dropouts(getattr(tower, within), f"{where}.{within}")


def _control_faults(e: Experiment) -> list[str]:
    if e.control != "supervised-unimodal":
        return []
    faults, heads = [], e.active_objectives
    if not heads:
        kinds = " or ".join(LABEL_HEADS)
        faults.append(f"control: supervised-unimodal needs an objective of kind {kinds}")
    if any(o.kind == "label-text" and o.prototypes == "text" for o in heads):
        faults.append("control: supervised-unimodal reads no text; set prototypes: learned")
    return faults


def _mixing_faults(e: Experiment) -> list[str]:
    if e.mixing is None:
        return []
    faults = list(e.mixing.faults(e.data.names))
    if not any(policy.n >= 2 and "sentence" in policy.levels for policy in _policies(e)):
        faults.append(
            "mixing: sentences are exchanged; set data.texts.levels=[sentence] and data.texts.n=2 "
            "or more"
        )
    for broken, fault in (
        (not e.data.entities.observations, "no sentence tells what it affirms; name data.entities"),
        (e.trainer.micro_batch, "both samples must be at hand; leave out trainer.micro_batch"),
        (e.trainer.compile, "a compiled tower has no blocks to alter; set trainer.compile=false"),
        (e.image.kind == "none", "there is no image to mix; leave it out"),
        (e.reads_regions, "regions and their texts stay where they are; leave out what reads them"),
        (
            getattr(e.image, "patch_dropout", 0),
            "each sample keeps other patches; set image.patch_dropout=0",
        ),
    ):
        if broken:
            faults.append(f"mixing: {fault}")
    return faults


def _mirror_faults(e: Experiment) -> list[str]:
    if e.data.sides is None and any(map(mirror_share, _contracts(e))):
        return [
            "preprocess.augment.mirror: left and right must change in the texts, too; set "
            "data.sides=en for English reports, or name a file with the words of theirs"
        ]
    return []


def _region_faults(e: Experiment) -> list[str]:
    if not e.reads_regions:
        return []
    return list(region_faults(e.data.regions, e.image, _contracts(e)))


def _contracts(e: Experiment) -> list[Any]:
    contracts = [e.preprocess]
    for stream in () if e.data.mix is None else e.data.mix.streams:
        with suppress(ConfigError):  # which `_stream_faults` tells
            contracts.append(e.contract(stream))
    return contracts

"""Exact gradients of large batches on small devices (GradCache: Gao et al. 2021, arXiv:2101.06983).

A contrastive loss needs the embeddings of the whole batch, but not their activations:

1. every micro-batch is encoded without a graph, and only its embeddings are kept;
2. the loss is computed on all embeddings, and its gradient with respect to them is kept;
3. every micro-batch is encoded again, now with a graph, and that gradient is carried on to the
   weights: the chain rule, d loss / d w = sum over samples of d loss / d e_i · d e_i / d w.

Memory is that of one micro-batch, the price one more forward pass. The result is the gradient of
the plain step as long as a sample's embedding depends on that sample alone (no batch norm) and
both passes draw the same random numbers (dropout): the generators' states are kept and restored.
Objectives that are means over samples' terms are taken in the last pass; their numbers of terms
are known before (`medvlp.losses.objective.SampleObjective`), so that nothing is approximated.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvlp.data.batch import Batch
from medvlp.data.preprocess import Preprocess
from medvlp.encoding import Encodings, ImageFeatures
from medvlp.errors import ConfigError
from medvlp.losses.objective import Objective, SampleObjective, reads_of, share
from medvlp.models.two_tower import TwoTower

_EMBEDDINGS = (
    *("image_BE", "patch_BPE", "text_BNE", "token_BNTE"),
    *("state_BNTD", "sentence_BNSD", "region_BRE", "image_raw_BE", "text_raw_BNE"),
)
_READABLE = {*_EMBEDDINGS, "image", "scale", "bias", *(f.name for f in dataclasses.fields(Batch))}


class GradientCache:
    """The losses of a batch, computed a micro-batch at a time.

    Args:
        model: The model.
        objectives: The objectives by name.
        weights: Each objective's weight in the loss.
        size: Samples that are encoded together; the last micro-batch may be smaller.
        preprocess: Makes the model's input of each micro-batch; None if the batch is ready.

    Raises:
        ConfigError: A norm layer that mixes samples, or an objective that cannot be split.
    """

    def __init__(
        self,
        model: TwoTower,
        objectives: Mapping[str, Objective],
        weights: Mapping[str, float],
        size: int,
        preprocess: Preprocess | None = None,
    ) -> None:
        _refuse_batch_norm(model)
        self.model = model
        self.objectives = dict(objectives)
        self.weights = dict(weights)
        self.size = size
        self.preprocess = preprocess
        whole = {n: o for n, o in objectives.items() if not isinstance(o, SampleObjective)}
        for name, objective in whole.items():
            _check_reads(name, objective)

    @property
    def reads(self) -> frozenset[str]:
        """What the objectives over the whole batch read."""
        whole = (o for o in self.objectives.values() if not isinstance(o, SampleObjective))
        found = reads_of(whole)
        return found if self.model.text.max_sentences else found - {"sentence_BNSD"}

    def of(self, weights: Mapping[str, float], preprocess: Preprocess | None) -> GradientCache:
        """The same with the objectives that have a weight in `weights`, and those weights."""
        changed = copy.copy(self)
        changed.preprocess = preprocess
        changed.weights = dict(weights)
        changed.objectives = {n: o for n, o in self.objectives.items() if n in weights}
        return changed

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The weighted sum, ``loss``, and each objective's own value.

        ``loss.backward()`` hands over the gradients, which are known by then. Under
        `torch.no_grad` only the values are computed.

        Args:
            batch: This rank's samples; the images may lie in the host's memory, from where each
                micro-batch is fetched when its turn comes.
            device: Where to compute.
        """
        if not torch.is_grad_enabled():
            values = self._values(batch, device, learn=False)
            return {"loss": self._sum(values), **values}
        with _own_gradients(_learning(self.model, *self.objectives.values())) as gradients:
            values = self._values(batch, device, learn=True)
            found = gradients()
        total: Tensor = _Attach.apply(  # type: ignore[no-untyped-call]
            self._sum(values), [grad for _, grad in found], *(weight for weight, _ in found)
        )
        return {"loss": total, **values}

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum()

    def _values(self, batch: Batch, device: torch.device, *, learn: bool) -> dict[str, Tensor]:
        rows = [slice(i, i + self.size) for i in range(0, len(batch.sample), self.size)]
        first = self._embed(batch, rows, device, learn=learn) if self.reads else _First()
        values: dict[str, Tensor] = {}
        contrasts: list[_Root] = []
        targets: dict[str, _Targets] = {}
        # In the objectives' order, so that they draw what they would in the plain step.
        for name, objective in self.objectives.items():
            if isinstance(objective, SampleObjective):
                tensors, count = objective.targets(batch)
                targets[name] = _Targets(objective, tensors, share(count))
                values[name] = torch.zeros((), device=device)
            else:
                value = objective(self._joined(first), batch)
                values[name] = value.detach()
                contrasts.append((self.weights[name] * value, None))
        if learn:
            _backward(contrasts)
        if learn or targets:
            self._again(self._parts(batch, rows, device), rows, first, targets, values, learn=learn)
        return values

    def _parts(self, batch: Batch, rows: Sequence[slice], device: torch.device) -> Iterator[Batch]:
        parts = (batch.part(part).to(device) for part in rows)
        if self.preprocess is None:
            return parts
        return map(methodcaller("ready", self.preprocess), parts)

    @torch.no_grad()
    def _embed(
        self, batch: Batch, rows: Sequence[slice], device: torch.device, *, learn: bool
    ) -> _First:
        """The first pass: what the objectives read, and from where random numbers were drawn."""
        states: list[list[Tensor]] = []
        kept: list[list[Tensor]] = []
        masks: list[Tensor] = []
        grid: tuple[int, ...] = ()
        # In both passes, or they would not draw the same random numbers.
        every = reads_of(self.objectives.values())
        for part in self._parts(batch, rows, device):
            states.append(_random_states(device))
            encodings = self.model(part, every)
            kept.append(_pick(encodings, self.reads))
            grid = encodings.image.grid
            if encodings.image.mask_BP is not None:
                masks.append(encodings.image.mask_BP)
            del part, encodings  # Or they would outlive the making of the next.
        # A weight that was cast without a graph must not serve the pass that needs one.
        torch.clear_autocast_cache()
        leaves = [torch.cat(parts).requires_grad_(learn) for parts in zip(*kept, strict=True)]
        return _First(states, leaves, grid, torch.cat(masks) if masks else None)

    def _again(
        self,
        parts: Iterator[Batch],
        rows: Sequence[slice],
        first: _First,
        targets: Mapping[str, _Targets],
        values: dict[str, Tensor],
        *,
        learn: bool,
    ) -> None:
        """The last pass: samples' terms, and the gradients of everything."""
        every = reads_of(self.objectives.values())
        for k, part in enumerate(parts):
            if first.states:
                _draw_again(first.states[k], part.image.device)
            encodings = self.model(part, every)
            roots: list[_Root] = []
            for name, target in targets.items():
                term = target.term(encodings, part, rows[k])
                values[name] = values[name] + term.detach()
                roots.append((self.weights[name] * term, None))
            if learn:
                roots += first.roots(_pick(encodings, self.reads), rows[k])
                _backward(roots)
                torch.clear_autocast_cache()
            del part, encodings, roots

    def _joined(self, first: _First) -> Encodings:
        # What no objective declares to read is no number, so that a wrong declaration is noticed.
        rest = iter(first.leaves)
        unread = first.leaves[0].new_full((), torch.nan)
        named = {n: next(rest) if n in self.reads else unread for n in _EMBEDDINGS}
        image = ImageFeatures(pooled_BD=unread, tokens_BPD=unread, grid=first.grid, maps=())
        if "image" in self.reads:
            pooled_BD, tokens_BPD, *maps = rest
            image = ImageFeatures(
                pooled_BD=pooled_BD,
                tokens_BPD=tokens_BPD,
                grid=first.grid,
                maps=tuple(maps),
                mask_BP=first.mask_BP,
            )
        return Encodings(
            image=image,
            **named,
            scale=self.model.scale,
            bias=self.model.logit_bias,
            see=_no_tower,
            read=_no_tower,
            embed=_no_tower,
            place=_no_tower,
        )


_Root = tuple[Tensor, Tensor | None]
"""Where a backward pass starts, and the gradient there (none: 1)."""


@dataclasses.dataclass(frozen=True)
class _First:
    """What the first pass leaves behind."""

    states: list[list[Tensor]] = dataclasses.field(default_factory=list)
    leaves: list[Tensor] = dataclasses.field(default_factory=list)
    grid: tuple[int, ...] = ()
    mask_BP: Tensor | None = None

    def roots(self, encoded: Sequence[Tensor], rows: slice) -> list[_Root]:
        """A micro-batch's embeddings with their gradients."""
        pairs = zip(encoded, self.leaves, strict=True)
        return [(tensor, leaf.grad[rows]) for tensor, leaf in pairs if leaf.grad is not None]


@dataclasses.dataclass(frozen=True)
class _Targets:
    """What a sample objective is to predict in the whole batch."""

    objective: SampleObjective
    tensors: tuple[Tensor, ...]
    share: Tensor

    def term(self, encodings: Encodings, part: Batch, rows: slice) -> Tensor:
        """A micro-batch's part of the mean."""
        mine = tuple(tensor[rows] for tensor in self.tensors)
        return (self.share * self.objective.total(encodings, part, mine)).sum()


class _Attach(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grad.mul_(outer[0]) for grad in ctx.grads)


@contextmanager
def _own_gradients(
    weights: Sequence[nn.Parameter],
) -> Iterator[Callable[[], list[tuple[nn.Parameter, Tensor]]]]:
    """Lay the weights' gradients aside, give those that come in the meantime, put them back.

    Lightning clears gradients between the step and its backward pass; and data-parallel training
    must see each weight's gradient once, summed over the micro-batches, to exchange it once.
    """
    before = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    try:
        yield lambda: [(weight, weight.grad) for weight in weights if weight.grad is not None]
    finally:
        for weight, grad in zip(weights, before, strict=True):
            weight.grad = grad


def _learning(*modules: nn.Module) -> list[nn.Parameter]:
    found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return list(found.values())


def _pick(encodings: Encodings, reads: frozenset[str]) -> list[Tensor]:
    """The tensors of the fields that the objectives read, in a fixed order."""
    found = [getattr(encodings, name) for name in _EMBEDDINGS if name in reads]
    if "image" in reads:
        image = encodings.image
        found += [image.pooled_BD, image.tokens_BPD, *image.maps]
    return found


def _backward(roots: Sequence[_Root]) -> None:
    """One backward pass from all roots that depend on a weight."""
    learning = [(t, torch.ones_like(t) if g is None else g) for t, g in roots if t.requires_grad]
    if not learning:
        return
    tensors, grads = zip(*learning, strict=True)
    # As in a backward pass after the step: each operation in the precision of its forward pass.
    with torch.autocast(tensors[0].device.type, enabled=False):
        torch.autograd.backward(tensors, grads)


def _random_states(device: torch.device) -> list[Tensor]:
    """Where the host's generator stands and, on a GPU, the device's."""
    host = torch.get_rng_state()
    return [host, torch.cuda.get_rng_state(device)] if device.type == "cuda" else [host]


def _draw_again(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _no_tower(*_: object) -> Any:
    raise AssertionError("an objective over the whole batch has no tower")


def _refuse_batch_norm(model: nn.Module) -> None:
    model.train()
    if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
        raise ConfigError(
            "trainer.micro_batch: the model has batch norm, which mixes a micro-batch's samples",
            remedy="set the image tower's norm to group, or trainer.micro_batch=null",
        )


def _check_reads(name: str, objective: Objective) -> None:
    if objective.scope == "sample":
        raise ConfigError(
            f"trainer.micro_batch: objective {name} is not made of samples' terms",
            remedy="derive it from SampleObjective, or set trainer.micro_batch=null",
        )
    unknown = sorted(objective.reads - _READABLE)
    if unknown or not objective.reads & {*_EMBEDDINGS, "image"}:
        raise ConfigError(
            f"trainer.micro_batch: objective {name} reads no embedding, or reads "
            f"{', '.join(unknown) or 'nothing else'} of the whole batch",
            remedy="leave the objective out, or set trainer.micro_batch=null",
        )

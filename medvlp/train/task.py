"""The training task: a batch becomes named losses; it knows no modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from medvlp.data.batch import BadSample, Batch, TokenIds
from medvlp.data.preprocess import Preprocess
from medvlp.data.prompts import PromptSet
from medvlp.data.randomness import generator
from medvlp.encoding import OF_IMAGE, Encodings
from medvlp.losses.objective import Objective, reads_of
from medvlp.models.text_memory import remember_texts
from medvlp.models.two_tower import TwoTower
from medvlp.train.average import Average
from medvlp.train.curriculum import (
    ever_weighted,
    objective_names,
    stream_objectives,
    weights_at,
)
from medvlp.train.experiment import Experiment
from medvlp.train.freezing import freeze
from medvlp.train.gradient_cache import GradientCache
from medvlp.train.mixing import MedCutMixConfig, Mixer
from medvlp.train.optim import build_optimizer, build_schedule


class Task(LightningModule):
    """A two-tower model under a weighted sum of objectives.

    Args:
        experiment: The run's configuration.
        model: The model.
        tokens: The tokenizer's ids.
    """

    def __init__(self, experiment: Experiment, model: TwoTower, tokens: TokenIds) -> None:
        super().__init__()
        self.experiment = experiment
        self.model = model
        prompts = experiment.prompts
        sizes = model.sizes(
            experiment.data.names,
            tokens,
            channels=experiment.preprocess.channels,
            mean=getattr(experiment.preprocess, "mean", 0.0),
            std=getattr(experiment.preprocess, "std", 1.0),
            prompts=prompts if isinstance(prompts, PromptSet) else None,
        )
        configs = experiment.active_objectives
        names = objective_names(configs)
        self.configs = dict(zip(names, configs, strict=True))
        self.objectives = nn.ModuleDict({n: c.build(sizes) for n, c in self.configs.items()})
        freeze(self, experiment.optim.freeze)
        ema = experiment.optim.ema
        self.average = None if ema is None else Average(ema, self)
        if experiment.text.cache:
            remember_texts(model.text)
        size = experiment.trainer.micro_batch
        self.cache = None if size is None else self._gradient_cache(size)
        mixing = experiment.active_mixing
        self.mixer = None if mixing is None else self._mixer(mixing)
        self.batch_idx = 0
        self.counted = stream_objectives(experiment.data.mix, names)
        self.contracts: dict[str, Preprocess] = {
            stream: experiment.contract(stream).build() for stream in self.counted
        }
        # Mixing reads everything.
        self.whole = self.mixer is not None or not OF_IMAGE.isdisjoint(self._reads())

    def trained(self) -> dict[str, tuple[Any, nn.Module]]:
        """Each objective's configuration and module, as a bundle stores them."""
        return {name: (config, self.objectives[name]) for name, config in self.configs.items()}

    def settle(self) -> None:
        """Let objectives keep what they need of the trained text tower; training has ended."""
        self.eval()
        for objective in self.objectives.values():
            cast(Objective, objective).settle(self.model.text)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum, ``loss``, and the own value of each objective that counts now.

        In training with `Experiment.mixing`, ``loss`` holds the mixed batch, too, the objectives'
        values do not, and `medvlp.train.mixing.FIGURES` stand beside them.
        """
        weights = self.weights(batch)
        if self.cache is not None:
            return self.cache.of(weights, self.contract(batch))(batch, self.device)
        mixes = self.mixer is not None and self.training
        counting = (cast(Objective, self.objectives[name]) for name in weights)
        encodings = self.model(batch, None if mixes else reads_of(counting), whole=self.whole)
        named = self.terms(encodings, batch, weights)
        total = _weighted(named, weights)
        if self.mixer is None or not mixes:
            return {"loss": total, **named}
        mixed = self.mixer.mix(self.model, batch, encodings, self.batch_idx)

        def value(encodings: Encodings, batch: Batch) -> Tensor:
            return _weighted(self.terms(encodings, batch, weights), weights)

        return named | self.mixer.loss(total, mixed, value)

    def weights(self, batch: Batch) -> dict[str, float]:
        """The weights, other than 0, of the objectives for which some of the batch's samples count.

        In validation, the weights are those of the run's end.
        """
        experiment = self.experiment
        step = self.global_step if self.training else experiment.trainer.steps
        weights = weights_at(step, experiment.weights, experiment.weight_schedule)
        counted = {name for stream in self._streams(batch) for name in self.counted[stream]}
        return {name: w for name, w in weights.items() if w and name in counted}

    def contract(self, batch: Batch) -> Preprocess:
        """What makes the model's input of the batch; streams that share a batch share it."""
        return self.contracts[self._streams(batch)[0]]

    def terms(self, encodings: Encodings, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Each named objective's value over the samples that count for it."""
        present = self._streams(batch)
        named = {}
        for name in names:
            wanted = [stream for stream in present if name in self.counted[stream]]
            if len(wanted) == len(present):
                named[name] = self.objectives[name](encodings, batch)
                continue
            kept = [i for i, stream in enumerate(batch.stream) if stream in wanted]
            index_K = torch.tensor(kept, device=encodings.image_BE.device)
            named[name] = self.objectives[name](encodings.rows(index_K), batch.rows(index_K))
        return named

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key what torch draws in the step (dropout, masks), so that a resumed run repeats it."""
        self._key(batch_idx, "step")
        self.batch_idx = batch_idx

    def on_validation_batch_start(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Key the draws of validation, so that its loss is comparable from one time to the next."""
        self._key(batch_idx, "validation")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Losses of one batch."""
        losses = self.losses(batch)
        return {
            "loss": losses["loss"],
            "named": {name: value.detach().float() for name, value in losses.items()},
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to ``valid_loss`` and to its stream's part of it."""
        with self._validated_weights():
            loss = self.losses(batch)["loss"].float()
        # Sorted: ranks must exchange them in one order.
        names = ["valid_loss"] + [
            f"valid_{stream}" for stream in sorted(set(batch.stream)) if len(self.counted) > 1
        ]
        for name in names:
            self.log(name, loss, batch_size=len(batch.sample), sync_dist=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, and of the weights' average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self, self.global_step)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take up a checkpoint's tensors; older ones hold no averages of running statistics."""
        if self.average is not None:
            state_dict = self.average.completed(state_dict, "average.")
        return super().load_state_dict(state_dict, strict, assign)

    def _validated_weights(self) -> AbstractContextManager[None]:
        if self.average is None or not self.average.config.validate_average:
            return nullcontext()
        return self.average.in_place(self)

    def transfer_batch_to_device(
        self, batch: Batch | BadSample, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the batch, and make the model's input of it there.

        Raises:
            RunError: A sample of the batch could not be read.
        """
        if isinstance(batch, BadSample):
            raise batch.error()
        if self.cache is not None:
            # With micro-batches, images go to the device a micro-batch at a time.
            return batch.to(device, images=False)
        return batch.to(device).ready(self.contract(batch))

    def _gradient_cache(self, size: int) -> GradientCache:
        weights = {name: config.weight for name, config in self.configs.items()}
        objectives = cast(dict[str, Objective], dict(self.objectives.items()))
        return GradientCache(self.model, objectives, weights, size)

    def _mixer(self, config: MedCutMixConfig) -> Mixer:
        experiment = self.experiment
        return Mixer(config, experiment.data.names, self.model.image, experiment.seed)

    def _reads(self) -> frozenset[str]:
        """What is read in whatever step of the run."""
        weighted = ever_weighted(self.experiment.weights, self.experiment.weight_schedule)
        counting = weighted.intersection(name for names in self.counted.values() for name in names)
        return reads_of(cast(Objective, self.objectives[name]) for name in counting)

    def _streams(self, batch: Batch) -> list[str]:
        return list(dict.fromkeys(batch.stream)) or list(self.counted)

    def _key(self, batch_idx: int, purpose: str) -> None:
        rng = generator(self.experiment.seed, batch_idx, str(self.global_rank), purpose)
        torch.manual_seed(int(rng.integers(2**63)))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, and its schedule by step."""
        optimizer = build_optimizer(self, self.experiment.optim)
        steps = self.experiment.trainer.steps
        schedule = build_schedule(optimizer, self.experiment.optim, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _weighted(named: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * value for name, value in named.items()]).sum()

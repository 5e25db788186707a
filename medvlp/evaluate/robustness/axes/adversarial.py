"""Task `adversarial`: what stays right when somebody wants it to be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.special import expit, softmax
from torch import Tensor

from medvlp.config import STRICT
from medvlp.data.items import Item
from medvlp.data.preprocess import contract_digest
from medvlp.data.prompts import PromptSet
from medvlp.data.randomness import generator
from medvlp.evaluate.cases import subgroups
from medvlp.evaluate.controls.computed import Scores
from medvlp.evaluate.metrics.estimate import Measures
from medvlp.evaluate.predict import Predicted, Scorer, Study, as_predictions
from medvlp.evaluate.predictions import Evidence
from medvlp.evaluate.robustness.asking import CLEAN, Sheet, lookers, probabilities
from medvlp.evaluate.robustness.attacks.gradient import (
    fgsm,
    noise,
    pgd,
    to_8bit,
    universal,
    within,
)
from medvlp.evaluate.robustness.attacks.pictures import (
    Answers,
    Floats,
    Pictures,
    label_directions,
)
from medvlp.evaluate.robustness.attacks.words import WordAttack, over_sizes
from medvlp.evaluate.robustness.attacks.written import opposite, written
from medvlp.evaluate.robustness.axes.imaged import ImagedConfig
from medvlp.evaluate.robustness.cells import attack_measures
from medvlp.evaluate.tasks.zero_shot import resolved
from medvlp.models.inputs import chunks
from medvlp.progress import track

BATCH = 16
Attack = Literal["noise", "fgsm", "pgd", "transfer", "universal", "sga", "burned-in"]
ATTACKS: tuple[Attack, ...] = (
    "noise", "fgsm", "pgd", "transfer", "universal", "sga", "burned-in"
)  # fmt: skip
Grey = Annotated[int, Field(ge=1, le=64)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdversarialConfig(ImagedConfig):
    """Attacks of several kinds and budgets; budgets are grey levels of 255."""

    kind: Literal["adversarial"] = "adversarial"
    attacks: tuple[Attack, ...] = ATTACKS
    eps: tuple[Grey, ...] = (1, 2, 4, 8)
    """Budgets of noise, FGSM and PGD."""

    steps: Annotated[int, Field(ge=1)] = 20
    """Of PGD."""

    transfer_eps: Grey = 8
    universal_eps: Grey = 12
    """As ETU and C-PGC use."""

    universal_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of patients on whose items the universal perturbation is learnt; it is tested on the
    others alone."""

    sga_eps: Grey = 2
    defence: bool = False
    """Adds rows ``clean+average`` and ``pgd+average``: test-time averaging over a blurred and a
    JPEG version, which the attacker did not reckon with."""

    def predict(self, study: Study, scorers: Sequence[Scorer]) -> Predicted:
        """Scores of the clean and of every attacked version of each item.

        Raises:
            ConfigError: There is nothing to ask about.
        """
        items, prompts = self.drawn(study), resolved(self.prompts)
        sheet = Sheet(items, self.names, subgroups(study.manifests))
        targets = [_Target(scorer, items, prompts, self) for scorer in lookers(scorers)]
        skipped = 0
        for target in targets:
            for cell, found_NL, among_N in target.answers():
                sheet.add(target.scorer, cell, found_NL, among_N)
            if "transfer" in self.attacks and len(targets) > 1:
                skipped += _transfer(target, targets, sheet, self)
        return Predicted(
            rows=as_predictions(sheet.rows, study),
            counts={"items": len(items), "transfers_between_other_contracts": skipped},
            prompts=prompts,
            thresholds={t.scorer.name: t.scorer.calibration(prompts).thresholds for t in targets},
        )

    def measures(self, evidence: Evidence) -> Measures:
        """Attack success, what stays right, and AUROC under attack."""
        exclusive = resolved(self.prompts).mode == "exclusive"
        return attack_measures(evidence.thresholds, exclusive=exclusive)


Answer = tuple[str, Scores, NDArray[np.bool_] | None]
"""(cell, (N,L) scores, which items count)."""


class _Target:
    """One bundle with its pictures, and what it answers under attack."""

    def __init__(
        self, scorer: Scorer, items: Sequence[Item], prompts: PromptSet, config: AdversarialConfig
    ) -> None:
        self.scorer, self.items, self.prompts, self.config = scorer, items, prompts, config
        self.exclusive = prompts.mode == "exclusive"
        self.arrays = list(scorer.stored(items))
        self.pictures = Pictures(scorer.bundle, self.arrays[0])
        self.truth_NL = np.stack([item.labels_L for item in items])
        self.column = [prompts.names.index(name) for name in config.names]
        self.way_1LE = label_directions(scorer.bundle, prompts, config.names)[None]

    def answers(self) -> Iterator[Answer]:
        """The clean cell, then those of every attack on this bundle itself."""
        yield CLEAN, self.whole(lambda clean, rows: clean), None
        wanted = self.config.attacks
        plain = [name for name in ("noise", "fgsm", "pgd") if name in wanted]
        cells = [(name, eps) for name in plain for eps in self.config.eps]
        for name, eps in track(cells, f"{self.scorer.name}: attacks"):
            yield f"{name}/{eps}", self.whole(self._attack(name, eps)), None
        if "universal" in wanted:
            yield from self._universal()
        if "sga" in wanted:
            yield f"sga/{self.config.sga_eps}", self._sga(), None
        if "burned-in" in wanted:
            yield "burned-in/0", self._burned_in(), None
        if self.config.defence:
            yield "clean+average/0", self._calmed(lambda clean, rows: clean), None
            for eps in self.config.eps if "pgd" in wanted else ():
                yield f"pgd+average/{eps}", self._calmed(self._attack("pgd", eps)), None

    def whole(self, change: Any) -> Scores:
        """(N,L) answers to changed pictures; `change` takes clean pictures and their rows."""
        return self._scores([self.pictures.seen(p) for p in self.changed(change)])

    def changed(self, change: Any) -> Iterator[Tensor]:
        """Changed pictures, a batch at a time."""
        for rows in chunks(range(len(self.items)), BATCH):
            clean = self.pictures.of([self.arrays[i] for i in rows])
            yield change(clean, list(rows))

    def right(self, rows: Sequence[int]) -> Answers:
        """How right the answers to these items' pictures are."""
        return self._answers(self.truth_NL[list(rows)], self.way_1LE)

    def _answers(self, truth_BL: NDArray[Any], way_BLE: Floats) -> Answers:
        return Answers(self.pictures, truth_BL, way_BLE, exclusive=self.exclusive)

    def _attack(self, name: str, eps: int) -> Any:
        budget = eps / 255

        def change(clean: Tensor, rows: Sequence[int]) -> Tensor:
            right = self.right(rows)
            if name == "noise":
                rng = generator(self.config.seed, eps, self.items[rows[0]].key, "attack noise")
                attacked = noise(clean, budget, rng)
            elif name == "fgsm":
                attacked = fgsm(right, clean, budget)
            else:
                attacked = pgd(right, clean, budget, self.config.steps)
            return to_8bit(attacked, clean, budget)

        return change

    def _universal(self) -> Iterator[Answer]:
        patients = sorted({item.patient for item in self.items})
        if len(patients) < 2:
            return
        order = generator(self.config.seed, 0, "patients", "universal").permutation(len(patients))
        count = min(len(patients) - 1, max(1, round(self.config.universal_share * len(patients))))
        learnt = {patients[i] for i in order[:count]}
        among_N = np.array([item.patient not in learnt for item in self.items])
        budget = self.config.universal_eps / 255
        batches = [
            (self.right(rows), self.pictures.of([self.arrays[i] for i in rows]))
            for rows in chunks(np.flatnonzero(~among_N).tolist(), BATCH)
        ]
        delta = universal(batches, budget)

        def change(clean: Tensor, rows: Sequence[int]) -> Tensor:
            return to_8bit(within(clean + delta, clean, budget), clean, budget)

        yield f"universal/{self.config.universal_eps}", self.whole(change), among_N

    def _sga(self) -> Scores:
        budget = self.config.sga_eps / 255
        words = WordAttack(self.scorer.bundle, self.prompts, self.config.names)
        found = []
        for rows in chunks(range(len(self.items)), BATCH):
            clean = self.pictures.of([self.arrays[i] for i in rows])
            truth_BL = self.truth_NL[list(rows)]
            ways = words.ways(self.pictures.seen(clean), truth_BL)
            right = over_sizes(self._answers(truth_BL, ways))
            attacked = to_8bit(pgd(right, clean, budget, self.config.steps), clean, budget)
            image_BE = self.pictures.seen(attacked)
            ways = words.ways(image_BE, truth_BL)
            found.append(words.logits(self.scorer.bundle.scale, image_BE, ways))
        logits_NL = np.concatenate(found) / self._temperature()
        scores: Scores = softmax(logits_NL, axis=1) if self.exclusive else expit(logits_NL)
        return scores

    def _temperature(self) -> float:
        calibration = self.scorer.bundle.info.calibration
        same = calibration is not None and calibration.prompts == self.prompts.digest
        return calibration.temperature if same and calibration is not None else 1.0

    def _burned_in(self) -> Scores:
        """Answers to pictures that say the opposite.

        Each label is asked of pictures that deny it where it is there, and affirm it where it is
        not. Of labels that exclude each other, the picture names the one after the true one.
        """
        scores = np.full(self.truth_NL.shape, np.nan)
        names = self.config.names
        for column, name in enumerate(names):
            for present in (True,) if self.exclusive else (False, True):
                text = opposite(name, present)
                if self.exclusive:
                    text = opposite(names[(column + 1) % len(names)], False)
                among = np.flatnonzero(self.truth_NL[:, column] == present).tolist()
                for rows in chunks(among, BATCH):
                    clean = self.pictures.of([self.arrays[i] for i in rows])
                    found = self._scores([self.pictures.seen(written(clean, text))])
                    asked = slice(None) if self.exclusive else column
                    scores[rows, asked] = found[:, asked]
        return scores

    def _calmed(self, change: Any) -> Scores:
        return self._scores([self.pictures.calmed(p) for p in self.changed(change)])

    def _scores(self, parts: Sequence[NDArray[np.float32]]) -> Scores:
        return probabilities(self.scorer, np.concatenate(parts), self.prompts)[:, self.column]


def _transfer(
    source: _Target, targets: Sequence[_Target], sheet: Sheet, config: AdversarialConfig
) -> int:
    """PGD pictures made on one bundle, shown to all others; how many could not be shown them."""
    own = contract_digest(source.scorer.bundle.preprocess.config)
    others = [target for target in targets if target is not source]
    alike = [t for t in others if contract_digest(t.scorer.bundle.preprocess.config) == own]
    if alike:
        made = list(source.changed(source._attack("pgd", config.transfer_eps)))
        cell = f"transfer-from-{source.scorer.name}/{config.transfer_eps}"
        for target in alike:
            scores = target._scores([target.pictures.seen(pictures) for pictures in made])
            sheet.add(target.scorer, cell, scores)
    return len(others) - len(alike)

"""Answers by a model: chosen by a trained head or by likeness, or written by the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.evaluate.heads.decoder import weigh
from medvlp.evaluate.heads.fusion import Case, Fusion, case_logits, case_losses
from medvlp.evaluate.heads.learning import fit
from medvlp.evaluate.heads.search import Found, SearchConfig
from medvlp.evaluate.heads.visual import Visual
from medvlp.evaluate.heads.writers import (
    Decoding,
    Learnt,
    Parts,
    Writer,
    language_of,
    learn,
)
from medvlp.evaluate.questions import CLOSED, OPEN, Asked, Question, same
from medvlp.losses.fusion.decoder import DecoderConfig
from medvlp.models.language import Language
from medvlp.models.writing import Passage

Answers = dict[str, str]
"""Question's name -> what was answered."""

BATCH = 64


class Pupil:
    """One model or control with one seed, before the questions.

    Args:
        writer: The model and the images that it is shown.
        asked: All questions.
        row_of: Sample -> its row among the images.
        decoder: Size of the decoder, whose width and heads the classifier has, or the bundle's.
        config: The budget of each training; None takes the bundle's decoder as it is.
        seed: Of each training.
    """

    def __init__(
        self,
        writer: Writer,
        asked: Asked,
        row_of: Mapping[str, int],
        decoder: Decoding,
        config: SearchConfig | None,
        seed: int,
    ) -> None:
        self.writer = writer
        self._row_of = row_of
        self._decoder, self._config, self._seed = decoder, config, seed
        self.searches: dict[str, Found[Any]] = {}
        """``closed``, ``open`` or ``both`` -> the search behind the answers that were given."""

        self._closed = {part: _of(q, CLOSED) for part, q in asked.parts.items()}
        self._open = {part: _of(q, OPEN) for part, q in asked.parts.items()}
        self._known: dict[str, str] = {}
        """The answers that training knows: as compared -> as first written."""
        for question in self._closed["train"]:
            self._known.setdefault(same(question.answer), question.answer)

    def choose(self) -> Answers:
        """Closed answers by a classifier over image and question.

        It chooses among a question's options, or all answers of training; an answer that training
        does not have is never right.
        """
        test = self._closed["test"]
        if not test or not self._known:
            return {q.name: "" for q in test}
        bundle, visual = self.writer.scorer.bundle, self.writer.visual()
        texts = sorted({q.question for part in self._closed.values() for q in part})
        text_of = {text: k for k, text in enumerate(texts)}
        question_NQ = torch.from_numpy(bundle.embed_text(texts)).to(bundle.device)
        model = self._classifier(question_NQ, text_of, visual)
        found: Answers = {}
        for start in range(0, len(test), BATCH):
            chunk = test[start : start + BATCH]
            cases = self._cases(chunk, text_of)
            with torch.no_grad():
                logits_BA = case_logits(model, visual, question_NQ, cases)
            for q, logit_A in zip(chunk, logits_BA.tolist(), strict=True):
                found[q.name] = self._best(q, logit_A)
        return found

    def _classifier(
        self, question_NQ: Tensor, text_of: Mapping[str, int], visual: Visual
    ) -> Fusion:
        train, valid = (
            self._cases([q for q in self._closed[part] if same(q.answer) in self._known], text_of)
            for part in ("train", "valid")
        )
        assert isinstance(self._decoder, DecoderConfig)
        assert self._config is not None
        width, heads = self._decoder.width, self._decoder.heads
        if not valid:
            raise ConfigError(
                "split valid has no closed question whose answer training knows",
                remedy="ask closed questions about samples of train and valid, too",
            )
        device = question_NQ.device
        found = fit(
            lambda: Fusion(width, heads, question_NQ.shape[1], visual.shape, len(self._known)).to(
                device
            ),
            visual,
            lambda model, cases: case_losses(model, visual, question_NQ, cases),
            train,
            valid,
            self._config,
            seed=self._seed,
            label=f"{self.writer.name}, seed {self._seed}: closed answers",
        )
        self.searches[CLOSED] = found
        return found.best

    def _cases(self, questions: Sequence[Question], text_of: Mapping[str, int]) -> list[Case]:
        number = {key: k for k, key in enumerate(self._known)}
        return [
            Case(
                image=self._row_of[q.item.sample],
                question=text_of[q.question],
                answer=number.get(same(q.answer), -1),
            )
            for q in questions
        ]

    def _best(self, question: Question, logit_A: Sequence[float]) -> str:
        number = {key: k for k, key in enumerate(self._known)}
        offered = [same(option) for option in question.options] or list(self._known)
        allowed = [key for key in offered if key in number]
        best = max(allowed, key=lambda key: logit_A[number[key]], default="")
        return self._known.get(best, "")

    def match(self, parts: Parts) -> Answers:
        """Closed answers without training: the text "question answer" most like the image.

        Args:
            parts: The images asked about.
        """
        questions = self._closed["test"]
        offers = {q.name: self._offers(q) for q in questions}
        texts = sorted({f"{q.question} {o}" for q in questions for o in offers[q.name]})
        scorer = self.writer.scorer
        image_NE = scorer.embed(self.writer.shown(parts)[-len(parts["test"]) :])
        image_of = {item.sample: row for row, item in enumerate(parts["test"])}
        text_NE = scorer.bundle.embed_text(texts)
        text_of = {text: row for row, text in enumerate(texts)}
        found: Answers = {}
        for q in questions:
            rows = [text_of[f"{q.question} {option}"] for option in offers[q.name]]
            scores = text_NE[rows] @ image_NE[image_of[q.item.sample]]
            found[q.name] = offers[q.name][int(np.argmax(scores))] if rows else ""
        return found

    def write(self, beams: int, *, closed: bool) -> Answers:
        """Answers by the decoder, with the question before the answer.

        An open one is written; a closed one is the option that is likeliest behind the question.
        One decoder learns all of them.

        Args:
            beams: Of open answers.
            closed: Whether closed questions are asked, too.

        Raises:
            ConfigError: Nothing to learn from, or to choose the weights by.
        """
        asked = {
            part: [*self._open[part], *(self._closed[part] if closed else ())]
            for part in self._open
        }
        if not asked["test"]:
            return {}
        if self._config is not None and not (asked["train"] and asked["valid"]):
            raise ConfigError(
                f"{'questions' if closed else 'open questions'} stand in the evaluated split, but "
                "not in train and valid both",
                remedy="ask such questions about samples of train and valid, too",
            )
        language = language_of(self.writer.scorer, self._decoder)
        train, valid = (
            [self._passage(language, q, q.answer) for q in asked[part]]
            for part in ("train", "valid")
        )
        learnt = learn(
            self.writer, language, train, valid,
            decoder=self._decoder, config=self._config, seed=self._seed,
        )  # fmt: skip
        if learnt.found is not None:
            self.searches["both" if closed else OPEN] = learnt.found
        return self._written(learnt, language, beams) | (
            self._likeliest(learnt, language) if closed else {}
        )

    def _written(self, learnt: Learnt, language: Language, beams: int) -> Answers:
        test = self._open["test"]
        prompts = [
            Passage(image=self._row_of[q.item.sample], ids=language.start(q.question)) for q in test
        ]
        label = f"{self.writer.name}, seed {self._seed}"
        texts = learnt.write(language, prompts, beams=beams, label=label)
        return {q.name: text for q, text in zip(test, texts, strict=True)}

    def _likeliest(self, learnt: Learnt, language: Language) -> Answers:
        offered = [(q, option) for q in self._closed["test"] for option in self._offers(q)]
        passages = [self._passage(language, q, option) for q, option in offered]
        best: dict[str, tuple[float, str]] = {}
        for (q, option), weight in zip(
            offered, weigh(learnt.decoder, learnt.visual, passages), strict=True
        ):
            if q.name not in best or weight > best[q.name][0]:
                best[q.name] = weight, option
        return {q.name: best[q.name][1] if q.name in best else "" for q in self._closed["test"]}

    def _passage(self, language: Language, question: Question, answer: str) -> Passage:
        start = language.start(question.question)
        ids = language.after(start, answer)
        return Passage(image=self._row_of[question.item.sample], ids=ids, prefix=len(start))

    def _offers(self, question: Question) -> tuple[str, ...]:
        """What may be answered: the question's options, or else all answers of training."""
        return question.options or tuple(self._known.values())


def _of(questions: Sequence[Question], kind: str) -> list[Question]:
    return [question for question in questions if question.kind == kind]

"""Answers by a model: chosen by a trained head or by likeness, or written by the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvlp.errors import ConfigError
from medvlp.evaluate.heads.decoder import DecoderConfig
from medvlp.evaluate.heads.fusion import Case, Fusion, case_logits, case_losses
from medvlp.evaluate.heads.learning import fit
from medvlp.evaluate.heads.search import Found, SearchConfig
from medvlp.evaluate.heads.visual import Visual
from medvlp.evaluate.heads.writers import Language, Parts, Writer, learn_and_write
from medvlp.evaluate.questions import CLOSED, OPEN, Asked, Question, same

Answers = dict[str, str]
"""Question's name -> what was answered."""

BATCH = 64


class Pupil:
    """One model or control with one seed, before the questions.

    Args:
        writer: The model and the images that it is shown.
        asked: All questions.
        row_of: Sample -> its row among the images.
        decoder: Size of the decoder; the classifier has its width and heads.
        config: The budget of each training.
        seed: Of each training.
    """

    def __init__(
        self,
        writer: Writer,
        asked: Asked,
        row_of: Mapping[str, int],
        decoder: DecoderConfig,
        config: SearchConfig,
        seed: int,
    ) -> None:
        self.writer = writer
        self._row_of = row_of
        self._decoder, self._config, self._seed = decoder, config, seed
        self.searches: dict[str, Found[Any]] = {}
        """``closed`` and ``open`` -> the search behind the answers, once they are given."""

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
        offers = {q.name: q.options or tuple(self._known.values()) for q in questions}
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

    def write(self, beams: int) -> Answers:
        """Open answers by the decoder, with the question before the answer.

        Raises:
            ConfigError: Nothing to learn from, or to choose the weights by.
        """
        if not self._open["test"]:
            return {}
        if not self._open["train"] or not self._open["valid"]:
            raise ConfigError(
                "open questions stand in the evaluated split, but not in train and valid both",
                remedy="ask open questions about samples of train and valid, too",
            )
        language = Language(self.writer.scorer, self._decoder.max_tokens)
        train, valid = (
            [
                language.passage(self._row_of[q.item.sample], q.answer, q.question)
                for q in self._open[part]
            ]
            for part in ("train", "valid")
        )
        test = self._open["test"]
        prompts = [language.prefix(self._row_of[q.item.sample], q.question) for q in test]
        texts, self.searches[OPEN] = learn_and_write(
            self.writer, language, train, valid, prompts,
            decoder=self._decoder, config=self._config, beams=beams, seed=self._seed,
        )  # fmt: skip
        return {q.name: text for q, text in zip(test, texts, strict=True)}


def _of(questions: Sequence[Question], kind: str) -> list[Question]:
    return [question for question in questions if question.kind == kind]

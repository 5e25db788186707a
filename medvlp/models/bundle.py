"""A trained model as an object: load a bundle, embed, score, and show where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvlp.archive.verdict import Verdict
from medvlp.data.no_image import CORE_PREPROCESS
from medvlp.data.paths import with_parent
from medvlp.data.preprocess import Preprocess, contract_digest, model_input
from medvlp.data.prompts import PromptSet
from medvlp.data.tokenizer import encode_padded, load_tokenizer
from medvlp.data.underlay import Underlay
from medvlp.domain import get_domain
from medvlp.encoding import ImageFeatures
from medvlp.errors import BundleError, ConfigError, InputError
from medvlp.losses.fusion.decoder import TextDecoder
from medvlp.losses.fusion.objective import FusionObjective
from medvlp.losses.objective import AnsweringObjective
from medvlp.models.bundle_file import BundleInfo, read_info, save_bundle
from medvlp.models.described import config_of, modules_of
from medvlp.models.heatmap import Heatmap, text_heatmaps
from medvlp.models.inputs import Input, Source, chunks, expand, read, read_each, read_in_place
from medvlp.models.projected import ProjectedText, project_text
from medvlp.models.two_tower import TwoTower
from medvlp.models.writing import Scribe
from medvlp.models.zero_shot import PromptEmbeddings, Scores, prompt_embeddings, score

__all__ = ["Bundle", "BundleInfo", "Embedded", "ProjectedText", "load", "save_bundle"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What became of one sample."""

    source: Source
    embedding_E: Floats | None
    """Unit vector; None if the sample could not be read."""

    code: str | None
    """Why it could not be read."""


class Bundle:
    """A trained model with everything that it needs to be used rightly; made by `load`."""

    def __init__(
        self,
        info: BundleInfo,
        digest: str,
        *,
        model: TwoTower,
        objectives: nn.ModuleDict,
        preprocess: Preprocess,
        tokenizer: Any,
        device: torch.device,
    ) -> None:
        self.info = info
        self.digest = digest
        self.model = model.eval().to(device)
        self.objectives = objectives.eval().to(device)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.device = device
        self._resolve = get_domain(info.domain).resolve.load()
        self._prompt_embeddings: dict[str, PromptEmbeddings] = {}

    @property
    def prompts(self) -> PromptSet | None:
        """The prompt set that travels along."""
        return self.info.prompts

    @property
    def scale(self) -> float:
        """The model's inverse temperature."""
        return self.model.scale.item()

    def embed_image(self, inputs: Input | Iterable[Input], batch_size: int = 16) -> Floats:
        """Unit vectors (n,E) of one input or many; n counts samples, of which a folder has many.

        With ``model.image_mean: units`` they are shorter: the more so the more a clip's frames
        differ. Arrays of CT are taken to have the contract's spacing; for another one, embed what
        ``bundle.preprocess.from_array(array, spacing_mm)`` gives with `embed_stored`.

        Raises:
            InputError: An input cannot be read; `iter_embed` goes on past such.
        """
        return self.embed_stored(self._read_all(inputs), batch_size)

    def iter_embed(
        self, inputs: Input | Iterable[Input], batch_size: int = 16
    ) -> Iterator[Embedded]:
        """Embed any number of samples in order, holding `batch_size` of them in memory.

        Files are read in a process of their own, which a damaged one cannot take this one with.

        Raises:
            InputError: An input names nothing (raised at once, before any work).
        """
        return self._iter_embed(expand(inputs, self._resolve), batch_size)

    def features_stored(self, arrays: Iterable[NDArray[Any]], batch_size: int = 16) -> Floats:
        """(n,D) pooled features of the image tower, before the projection, of stored arrays."""
        width = self.model.image.width
        return self.rows_stored(arrays, batch_size, width, lambda features, _: features.pooled_BD)

    def embed_stored(self, arrays: Iterable[NDArray[Any]], batch_size: int = 16) -> Floats:
        """Unit vectors (n,E) of stored arrays, as the preprocessing's `read` and a cache give."""
        return self.rows_stored(
            arrays, batch_size, self.model.config.embed, lambda _, image_BE: image_BE
        )

    @torch.inference_mode()
    def embed_text(self, texts: str | Sequence[str], batch_size: int = 64) -> Floats:
        """Unit vectors (n,E) of one text or many."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        parts = [np.empty((0, self.model.config.embed), np.float32)]
        for chunk in chunks(listed, batch_size):
            text = self.model.text
            ids_MT, mask_MT = encode_padded(
                self.tokenizer, chunk, text.max_tokens, text.max_sentences
            )
            text_ME, _ = self.model.encode_text(ids_MT.to(self.device), mask_MT.to(self.device))
            parts.append(text_ME.cpu().numpy())
        return np.concatenate(parts)

    def project_texts(self, texts: Sequence[str]) -> list[ProjectedText]:
        """Texts in the joint space, pooled and word by word, neither normalised."""
        return [project_text(self.model, self.tokenizer, text, self.device) for text in texts]

    def zero_shot(
        self,
        inputs: Input | Iterable[Input],
        prompts: PromptSet | None = None,
        batch_size: int = 16,
    ) -> Scores:
        """Score inputs for every label of a prompt set, by default the bundle's own.

        Raises:
            InputError: An input cannot be read, or there is no prompt set at all.
        """
        return self.score(self.embed_image(inputs, batch_size), prompts)

    def score(self, image_NE: Floats, prompts: PromptSet | None = None) -> Scores:
        """`zero_shot` of images that are embedded already.

        Raises:
            InputError: There is no prompt set.
        """
        embedded = self.embed_prompts(prompts)
        return score(image_NE, embedded, self.scale, self.info.calibration)

    def embed_prompts(self, prompts: PromptSet | None = None) -> PromptEmbeddings:
        """A prompt set in the joint space, by default the bundle's own.

        Raises:
            InputError: There is no prompt set.
        """
        chosen = prompts or self.prompts
        if chosen is None:
            raise InputError(
                "the bundle brings no prompts and none were given",
                remedy="give a prompt file or label names",
            )
        if chosen.digest not in self._prompt_embeddings:
            self._prompt_embeddings[chosen.digest] = prompt_embeddings(self.embed_text, chosen)
        return self._prompt_embeddings[chosen.digest]

    @property
    def answers(self) -> tuple[str, ...]:
        """What the trained head answers by name; nothing where the model has none."""
        head = self._head()
        return () if head is None else head.answers

    def label_scores(self, inputs: Input | Iterable[Input], batch_size: int = 16) -> Floats:
        """The trained head's probabilities (n,L) in the order of `answers`.

        Raises:
            BundleError: The model was trained without such a head.
            InputError: An input cannot be read.
        """
        return self.label_scores_stored(self._read_all(inputs), batch_size)

    def label_scores_stored(self, arrays: Iterable[NDArray[Any]], batch_size: int = 16) -> Floats:
        """`label_scores` of stored arrays.

        Raises:
            BundleError: The model was trained without such a head.
        """
        head = self._head()
        if head is None:
            raise BundleError(
                "the bundle has no label head",
                remedy="train with an objective of kind labels or label-text",
            )
        count = len(head.answers)
        return self.rows_stored(arrays, batch_size, count, lambda f, _: head.scores(f).sigmoid())

    def _head(self) -> AnsweringObjective | None:
        heads = (o for o in self.objectives.values() if isinstance(o, AnsweringObjective))
        return next(heads, None)

    @property
    def decoder(self) -> TextDecoder | None:
        """The trained decoder of text; None where the model has none that has learnt to write."""
        held = (o for o in self.objectives.values() if isinstance(o, FusionObjective))
        return next((o.decoder for o in held if o.writes), None)

    def write(
        self,
        inputs: Input | Iterable[Input],
        prompt: str = "",
        *,
        beams: int = 1,
        max_tokens: int | None = None,
        batch_size: int = 16,
    ) -> list[str]:
        """A report for each sample, behind its first words `prompt`; see `Scribe.write`.

        Raises:
            BundleError: The model was trained without a decoder.
            InputError: An input cannot be read.
        """
        scribe = self._scribe()
        return scribe.write(self._features(inputs, batch_size), prompt, beams, max_tokens)

    def answer(
        self,
        inputs: Input | Iterable[Input],
        question: str,
        choices: Sequence[str] | None = None,
        *,
        beams: int = 1,
        batch_size: int = 16,
    ) -> list[str]:
        """An answer for each sample: the likeliest of `choices`, or free words without any.

        Raises:
            BundleError: The model was trained without a decoder.
            InputError: An input cannot be read, or `choices` is empty.
        """
        scribe = self._scribe()
        return scribe.answer(self._features(inputs, batch_size), question, choices, beams)

    def _scribe(self) -> Scribe:
        if self.decoder is None:
            raise BundleError(
                "the bundle has no decoder", remedy="train with an objective of kind fusion"
            )
        return Scribe(self.decoder, self.tokenizer)

    def heatmap(self, one: Input, text: str) -> Heatmap:
        """Where in one input a text is found.

        Raises:
            InputError: The input is not exactly one sample, or cannot be read.
        """
        return self.heatmaps(one, [text])[0]

    def heatmaps(self, one: Input, texts: Sequence[str]) -> list[Heatmap]:
        """`heatmap` of several texts, for which the input is read and encoded once.

        Raises:
            InputError: The input is not exactly one sample, or cannot be read.
        """
        sources = expand([one], self._resolve)
        if len(sources) != 1:
            raise InputError(
                f"a heatmap is of one sample, the input holds {len(sources)}",
                remedy="name one of its files, or the files of one series as a tuple",
            )
        with _named(sources[0]):
            stored, underlay = read_in_place(sources[0], self.preprocess)
        return self._heatmaps(stored, texts, underlay)

    def heatmap_stored(self, stored: NDArray[Any], text: str) -> Heatmap:
        """`heatmap` of a stored array, which lies nowhere in a patient."""
        return self._heatmaps(stored, [text], None)[0]

    def _heatmaps(
        self, stored: NDArray[Any], texts: Sequence[str], underlay: Underlay | None
    ) -> list[Heatmap]:
        text_NE = torch.from_numpy(self.embed_text(texts)).to(self.device)
        pairs = list(zip(texts, text_NE, strict=True))
        return text_heatmaps(self.model, self.preprocess, stored, pairs, underlay)

    @torch.inference_mode()
    def rows_stored(
        self,
        arrays: Iterable[NDArray[Any]],
        batch_size: int,
        width: int,
        output: Callable[[ImageFeatures, Tensor], Tensor],
    ) -> Floats:
        """(n,`width`) rows of what `output` makes of the tower's features and the embeddings."""
        parts = [np.empty((0, width), np.float32)]
        for chunk in chunks(arrays, batch_size):
            image = model_input(self.preprocess, chunk, self.device)
            features, image_BE, _ = self.model.encode_image(image)
            parts.append(output(features, image_BE).cpu().numpy())
        return np.concatenate(parts)

    def _iter_embed(self, sources: list[Source], batch_size: int) -> Iterator[Embedded]:
        for chunk in chunks(read_each(sources, self.preprocess), batch_size):
            rows = iter(self.embed_stored(a for _, a in chunk if not isinstance(a, str)))
            for source, array in chunk:
                bad = isinstance(array, str)
                yield Embedded(
                    source=source,
                    embedding_E=None if bad else next(rows),
                    code=array if isinstance(array, str) else None,
                )

    def _read_all(self, inputs: Input | Iterable[Input]) -> Iterator[NDArray[Any]]:
        return (self._read(source) for source in expand(inputs, self._resolve))

    def _read(self, source: Source) -> NDArray[Any]:
        with _named(source):
            return read(source, self.preprocess)

    @torch.inference_mode()
    def _features(
        self, inputs: Input | Iterable[Input], batch_size: int
    ) -> Iterator[ImageFeatures]:
        for chunk in chunks(self._read_all(inputs), batch_size):
            image = model_input(self.preprocess, chunk, self.device)
            yield self.model.encode_image(image)[0]


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Tell which of the user's inputs cannot be read, and why."""
    try:
        yield
    except Verdict as verdict:
        raise InputError(
            f"input {source.position + 1} cannot be read: {verdict.code}",
            remedy="leave it out, or mend the file",
        ) from verdict


def load(path: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Open a bundle.

    Args:
        path: The bundle's folder.
        device: Where the model shall compute.

    Raises:
        BundleError: A file is missing or changed, the format or the preprocessing contract is not
            the installed code's, or the tokenizer does not fit the model.
    """
    folder = Path(path)
    info, digest = read_info(folder)
    try:
        return _assemble(folder, info, digest, torch.device(device))
    except (ConfigError, InputError) as error:
        raise BundleError(f"{with_parent(folder)}: {error.message}", remedy=error.remedy) from error


def _assemble(folder: Path, info: BundleInfo, digest: str, device: torch.device) -> Bundle:
    domain = get_domain(info.domain)
    contract = config_of(info.preprocess, CORE_PREPROCESS, domain.preprocess, "preprocess")
    if contract_digest(contract) != info.contract:
        raise BundleError(
            f"{with_parent(folder)} was trained with another preprocessing contract than the "
            f"installed one of kind {info.preprocess['kind']}",
            remedy=f"install medvlp {info.medvlp}, or train again",
        )
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) != info.vocab_size or tokenizer.pad_token_id != info.pad_id:
        raise BundleError(
            f"{with_parent(folder)}: the tokenizer has {len(tokenizer)} tokens, the model expects "
            f"{info.vocab_size}",
            remedy="copy the bundle again",
        )
    model, objectives = modules_of(folder, info, domain, contract.channels, tokenizer)
    return Bundle(
        info,
        digest,
        model=model,
        objectives=objectives,
        preprocess=contract.build(),
        tokenizer=tokenizer,
        device=device,
    )

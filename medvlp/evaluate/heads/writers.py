"""Who writes: every model, and the controls that are the same training with altered images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlp.data.items import Item
from medvlp.data.permuted import permute_images
from medvlp.errors import BundleError
from medvlp.evaluate.heads.decoder import passage_losses, write
from medvlp.evaluate.heads.learning import fit
from medvlp.evaluate.heads.search import Found, SearchConfig
from medvlp.evaluate.heads.visual import Visual, see
from medvlp.evaluate.predict import Scorer
from medvlp.losses.fusion.decoder import DecoderConfig, TextDecoder
from medvlp.models.language import Language
from medvlp.models.writing import Passage

OF_BUNDLE: Literal["bundle"] = "bundle"
Decoding = DecoderConfig | Literal["bundle"]
"""Sizes of a decoder that is trained from the start, the same for every model; ``bundle``: each
bundle's own, from where its training left it."""

Control = Literal["text-only", "image-blind"]
"""``text-only``: the decoder of the first model, trained and tested on blank images;
``image-blind``: trained and tested with images permuted across patients."""

Parts = Mapping[str, Sequence[Item]]
"""The items of ``train``, ``valid`` and ``test``, in this order."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """One model or control with what it sees."""

    name: str
    control: bool
    scorer: Scorer
    permuted: int | None = None
    """The seed with which images are permuted across patients, if they are."""

    visual: Callable[[], Visual]
    """The images of all parts, one after another; anew for each training if a tower is tuned."""

    def shown(self, parts: Parts) -> list[Item]:
        """The items of all parts, one after another, with the images that are shown."""
        return _items(parts, self.permuted)


def writers(
    scorers: Sequence[Scorer],
    parts: Parts,
    controls: Sequence[Control],
    *,
    seed: int,
    limit: int | None,
    tune: bool,
) -> Iterator[Writer]:
    """The models, then the controls that no bundle stands for.

    Args:
        scorers: The bundles; one trained image-blind goes on without its own images.
        parts: What all train, choose and are judged on.
        controls: Which controls are wanted, made from the first model.
        seed: Of the permutation.
        limit: The most visual tokens an image; all of them if None.
        tune: Whether the image tower is trained along.
    """
    for scorer in scorers:
        blind = scorer.control == "image-blind"
        yield Writer(
            name=scorer.name,
            control=scorer.control is not None,
            scorer=scorer,
            permuted=seed if blind else None,
            visual=_source(scorer, _items(parts, seed if blind else None), limit, tune),
        )
    models = [scorer for scorer in scorers if scorer.control is None]
    taken = {scorer.name for scorer in scorers}
    for control in controls if models else ():
        if control not in taken:
            yield _control(control, models[0], parts, seed, limit, tune)


def _control(
    control: Control, scorer: Scorer, parts: Parts, seed: int, limit: int | None, tune: bool
) -> Writer:
    if control == "image-blind":
        visual = _source(scorer, _items(parts, seed), limit, tune)
    else:
        blank = see(scorer, parts["train"][:1], limit=limit, tune=False).blank()

        def visual() -> Visual:
            return blank

    permuted = seed if control == "image-blind" else None
    return Writer(name=control, control=True, scorer=scorer, permuted=permuted, visual=visual)


def _items(parts: Parts, permuted: int | None) -> list[Item]:
    if permuted is None:
        return [item for items in parts.values() for item in items]
    return [item for items in parts.values() for item in permute_images(items, permuted)]


def _source(
    scorer: Scorer, items: list[Item], limit: int | None, tune: bool
) -> Callable[[], Visual]:
    known: list[Visual] = []

    def visual() -> Visual:
        if tune or not known:
            known[:] = [see(scorer, items, limit=limit, tune=tune)]
        return known[0]

    return visual


def language_of(scorer: Scorer, decoder: Decoding) -> Language:
    """A bundle's tokenizer, with the longest text that the decoder takes.

    Raises:
        BundleError: It marks no beginning and end, or a decoder is wanted that is not there.
    """
    longest = (scorer_decoder(scorer).config if decoder == OF_BUNDLE else decoder).max_tokens
    return Language(scorer.bundle.tokenizer, longest, scorer.name)


def scorer_decoder(scorer: Scorer) -> TextDecoder:
    """The bundle's own decoder.

    Raises:
        BundleError: It was trained without.
    """
    if scorer.bundle.decoder is None:
        raise BundleError(
            f"{scorer.name}: the bundle has no decoder",
            remedy="train with an objective of kind fusion, or leave task.decoder=bundle out",
        )
    return scorer.bundle.decoder


def fault_of(decoder: Decoding, config: SearchConfig | None) -> str | None:
    """Why such a decoder cannot be judged with such a budget, if it cannot."""
    if config is None and decoder != OF_BUNDLE:
        return "search=null judges a decoder as it is: it needs decoder=bundle"
    return None


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A decoder, what it sees, and the search that chose it."""

    decoder: TextDecoder
    visual: Visual
    found: Found[TextDecoder] | None
    """None where the bundle's decoder is taken as it is."""

    def write(
        self, language: Language, prompts: Sequence[Passage], *, beams: int, label: str
    ) -> list[str]:
        """A text for each prompt."""
        texts = write(
            self.decoder,
            self.visual,
            prompts,
            end=language.end,
            beams=beams,
            forbidden=language.forbidden,
            label=f"{label}: writing",
        )
        return [language.text(ids) for ids in texts]


def learn(
    writer: Writer,
    language: Language,
    train: Sequence[Passage],
    valid: Sequence[Passage],
    *,
    decoder: Decoding,
    config: SearchConfig | None,
    seed: int,
) -> Learnt:
    """Train a decoder with one seed, from a start of its own or from the bundle's weights.

    Args:
        writer: The model or control.
        language: Its words.
        train: What is learnt.
        valid: What chooses.
        decoder: Sizes of a new one, or the bundle's own.
        config: The budget; None takes the bundle's decoder as it is.
        seed: Of the training.
    """
    visual, device = writer.visual(), writer.scorer.bundle.device
    count, width = visual.shape
    if config is None:
        return Learnt(decoder=scorer_decoder(writer.scorer), visual=visual, found=None)

    def make() -> TextDecoder:
        if decoder == OF_BUNDLE:
            # The bundle itself stays what its digest says.
            return copy.deepcopy(scorer_decoder(writer.scorer)).requires_grad_(True)
        return TextDecoder(decoder, language.size, width, count).to(device)

    found = fit(
        make,
        visual,
        lambda model, batch: passage_losses(model, visual, batch),
        train,
        valid,
        config,
        seed=seed,
        label=f"{writer.name}, seed {seed}: training",
    )
    return Learnt(decoder=found.best, visual=visual, found=found)

"""Who writes: every model, and the controls that are the same training with altered images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medvlp.data.items import Item, permute_images
from medvlp.data.tokenizer import panics_named
from medvlp.errors import BundleError
from medvlp.evaluate.heads.decoder import (
    DecoderConfig,
    Passage,
    TextDecoder,
    passage_losses,
    write,
)
from medvlp.evaluate.heads.learning import fit
from medvlp.evaluate.heads.search import Found, SearchConfig
from medvlp.evaluate.heads.visual import Visual, see
from medvlp.evaluate.predict import Scorer

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
    limit: int,
    tune: bool,
) -> Iterator[Writer]:
    """The models, then the controls that no bundle stands for.

    Args:
        scorers: The bundles; one trained image-blind goes on without its own images.
        parts: What all train, choose and are judged on.
        controls: Which controls are wanted, made from the first model.
        seed: Of the permutation.
        limit: The most visual tokens an image.
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
    control: Control, scorer: Scorer, parts: Parts, seed: int, limit: int, tune: bool
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


def _source(scorer: Scorer, items: list[Item], limit: int, tune: bool) -> Callable[[], Visual]:
    known: list[Visual] = []

    def visual() -> Visual:
        if tune or not known:
            known[:] = [see(scorer, items, limit=limit, tune=tune)]
        return known[0]

    return visual


class Language:
    """A bundle's tokenizer as a writer needs it.

    Args:
        scorer: The bundle.
        max_tokens: Longest text.

    Raises:
        BundleError: Its tokenizer marks no beginning and end of a text.
    """

    def __init__(self, scorer: Scorer, max_tokens: int) -> None:
        self._tokenizer: Any = scorer.bundle.tokenizer
        self._max_tokens = max_tokens
        of = self._tokenizer
        begin = of.cls_token_id if of.cls_token_id is not None else of.bos_token_id
        end = of.sep_token_id if of.sep_token_id is not None else of.eos_token_id
        if begin is None or end is None:
            raise BundleError(
                f"{scorer.name}: its tokenizer marks no beginning and end of a text",
                remedy="train with a tokenizer that has [CLS] and [SEP], such as our own",
            )
        self.begin, self.end = int(begin), int(end)
        self.size = len(of)
        self.forbidden = sorted(set(map(int, of.all_special_ids)) - {self.end})

    def passage(self, image: int, text: str, question: str | None = None) -> Passage:
        """A text to learn about an image; a question before it is given."""
        prefix = self.prefix(image, question).ids
        room = self._max_tokens - len(prefix) - 1
        ids = (*prefix, *self._ids(text)[: max(room, 0)], self.end)
        return Passage(image=image, ids=ids, prefix=len(prefix))

    def prefix(self, image: int, question: str | None = None) -> Passage:
        """What is given before a text: at most three quarters of the longest text."""
        if question is None:
            return Passage(image=image, ids=(self.begin,))
        asked = self._ids(question)[: 3 * self._max_tokens // 4 - 2]
        return Passage(image=image, ids=(self.begin, *asked, self.end))

    def text(self, ids: Sequence[int]) -> str:
        """The words of token ids."""
        decoded: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return " ".join(decoded.split())

    def _ids(self, text: str) -> list[int]:
        with panics_named():
            ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def learn_and_write(
    writer: Writer,
    language: Language,
    train: Sequence[Passage],
    valid: Sequence[Passage],
    prompts: Sequence[Passage],
    *,
    decoder: DecoderConfig,
    config: SearchConfig,
    beams: int,
    seed: int,
) -> tuple[list[str], Found[TextDecoder]]:
    """Train a decoder with one seed: a text for each prompt, and the search that chose it."""
    visual = writer.visual()
    label = f"{writer.name}, seed {seed}"
    device = writer.scorer.bundle.device
    found = fit(
        lambda: TextDecoder(decoder, language.size, visual.shape).to(device),
        visual,
        lambda model, batch: passage_losses(model, visual, batch),
        train,
        valid,
        config,
        seed=seed,
        label=f"{label}: training",
    )
    texts = write(
        found.best,
        visual,
        prompts,
        end=language.end,
        beams=beams,
        forbidden=language.forbidden,
        label=f"{label}: writing",
    )
    return [language.text(ids) for ids in texts], found

"""`medvlp import`: from a source on disk to a bundle that has been opened and asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medvlp.config import one_of_kinds, override, plain, validate
from medvlp.data.prompts import load_prompts
from medvlp.domain import Domain, get_domain
from medvlp.errors import BundleError, ConfigError
from medvlp.models.bounded import IMPOSSIBLE, Bounded
from medvlp.models.bundle import load, save_bundle
from medvlp.models.image2d import CORE_ENCODERS
from medvlp.models.imports.answer import Answer, Known, answer_of, compare
from medvlp.models.imports.keys import fitted
from medvlp.models.imports.kinds import kind_of
from medvlp.models.imports.recipe import Recipe
from medvlp.models.imports.source import Source
from medvlp.models.imports.words import no_words, tokenizer_for
from medvlp.models.text import CORE_TEXT_TOWERS
from medvlp.models.two_tower import TwoTower, TwoTowerConfig
from medvlp.plain_files import read_json

_LARGEST_ANSWER = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A bundle that was made."""

    folder: Path
    digest: str
    contract: dict[str, Any]
    answer: Answer
    cosines: dict[str, float]
    """With the original's embeddings, where they were given."""

    notes: tuple[str, ...]
    licence: str
    labels: str
    """Names to ask the model for, as an example."""

    def __str__(self) -> str:
        contract = ", ".join(f"{k} {v}" for k, v in self.contract.items() if k != "augment")
        checked = ", ".join(f"{k} {v:.6f}" for k, v in self.cosines.items())
        lines = [
            f"Bundle: {self.folder} ({self.digest[:12]})",
            f"Preprocessing contract: {contract}",
            f"Licence: {self.licence}",
            *(f"Note: {note}" for note in self.notes),
        ]
        if checked:
            lines.append(f"Cosines with the original's known answer: {checked}")
        if self.answer.cosine is not None:
            lines += [
                f"Cosine of the known image and sentence: {self.answer.cosine:.6f}",
                f"Next: medvlp zeroshot {self.folder} FILES --labels {self.labels}",
            ]
        lines.append(f"Next: medvlp evaluate PROTOCOL.yaml --bundle {self.folder} --out FOLDER")
        if not self.cosines:
            lines.append(
                "Next: compare with the original code once (--answer, docs/import.md); this bundle "
                "was not checked against it"
            )
        return "\n".join(lines)


def import_source(
    path: Path,
    kind: str,
    out: Path,
    *,
    tokenizer: Path | None = None,
    settings: Sequence[str] = (),
    prompts: Path | None = None,
    answer: Path | None = None,
) -> Imported:
    """Make a bundle of published weights on disk.

    Args:
        path: A file or a folder.
        kind: A word that `kind_of` knows.
        out: The bundle's folder.
        tokenizer: A folder with the tokenizer; by default the source's.
        settings: Overrides such as ``preprocess.size=224``, ``image.pool=mean``.
        prompts: A prompt file that shall travel along.
        answer: A JSON file with the original code's embeddings of the known image and sentence.

    Raises:
        ConfigError: The kind is not known, a file cannot be used, or not every tensor has its
            place; nothing is written then.
        InputError: There is no tokenizer, or the known answer is none.
        BundleError: Something stands at `out`.
    """
    if out.exists():
        raise BundleError(f"{out.name} exists already", remedy="name another --out")
    chosen = kind_of(kind)
    source = Source(path)
    recipe = chosen.read(source)
    parts = _parts(recipe, settings, get_domain(chosen.domain))
    words = _words(recipe, tokenizer or source.folder)
    model = _model(recipe, parts, words).eval()
    preprocess = parts["preprocess"].build()
    said = answer_of(model, preprocess, words, chosen.known)
    cosines = {} if answer is None else compare(said, read_json(answer, _LARGEST_ANSWER))
    digest = save_bundle(
        out,
        model=model,
        domain=chosen.domain,
        preprocess=parts["preprocess"],
        image=parts["image"],
        text=parts["text"],
        tokenizer=words,
        prompts=None if prompts is None else load_prompts(prompts),
        provenance={
            "imported": {
                "kind": kind,
                "files": source.files,
                "settings": list(settings),
                "known_answer": said.plain,
                "notes": list(recipe.notes),
            }
        },
    )
    _ask_again(out, said, chosen.known)
    return Imported(
        folder=out,
        digest=digest,
        contract=plain(parts["preprocess"]),
        answer=said,
        cosines=cosines,
        notes=recipe.notes,
        licence=chosen.licence,
        labels=chosen.known.labels,
    )


def _parts(recipe: Recipe, settings: Sequence[str], domain: Domain) -> dict[str, Any]:
    """The configurations by name, overridden and checked."""
    names = ("preprocess", "image", "text", "model")
    values = override({name: getattr(recipe, name) for name in names}, settings)
    if surplus := sorted(set(values) - set(names)):
        raise ConfigError(
            f"import: no setting {surplus[0]}", remedy=f"begin with one of: {', '.join(names)}"
        )
    contracts = [ref.load() for ref in domain.preprocess.values()]
    encoders = [*CORE_ENCODERS.values(), *(ref.load() for ref in domain.encoders.values())]
    return {
        "preprocess": validate(one_of_kinds(contracts), values["preprocess"], "preprocess"),
        "image": validate(one_of_kinds(encoders), values["image"], "image"),
        "text": validate(one_of_kinds(CORE_TEXT_TOWERS.values()), values["text"], "text"),
        "model": validate(TwoTowerConfig, values["model"], "model"),
    }


def _words(recipe: Recipe, folder: Path) -> Any:
    if recipe.text["kind"] == "none":
        return no_words()
    rows = recipe.text["architecture"].get("vocab_size")
    if not isinstance(rows, int):
        raise ConfigError("import: config.json states no vocab_size", remedy="copy it again")
    return tokenizer_for(folder, rows, texts=recipe.texts)


def _model(recipe: Recipe, parts: dict[str, Any], tokenizer: Any) -> TwoTower:
    try:
        with torch.random.fork_rng(devices=[]), Bounded(recipe.weights):
            image = parts["image"].build(parts["preprocess"].channels)
            text = parts["text"].build(len(tokenizer), tokenizer.pad_token_id)
            model = TwoTower(parts["model"], image, text)
    except IMPOSSIBLE as error:
        raise ConfigError(
            "import: no model of this kind has the shapes in the file",
            remedy="name the file of this very model, or another --as",
        ) from error
    state = fitted(recipe.weights, recipe.rules, model.state_dict(), recipe.own)
    model.load_state_dict(state)
    return model


def _ask_again(out: Path, said: Answer, known: Known) -> None:
    """Open the bundle as any user will, and see that it answers as the model in memory did."""
    bundle = load(out)
    again = answer_of(bundle.model, bundle.preprocess, bundle.tokenizer, known).embeddings
    for name, mine in said.embeddings.items():
        if abs(mine - again[name]).max() > 1e-5:
            raise ConfigError(
                "import: the bundle answers otherwise than the model that was written",
                remedy="report this with the kind of model",
            )

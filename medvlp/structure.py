"""The command `structure`: from the sentences of a manifest to rows of its entities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def structure(
    manifest: Annotated[Path, typer.Argument(help="Manifest folder; it is written anew.")],
    backend: Annotated[str, typer.Option("--backend", help="rules, radgraph or llm.")] = "rules",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Local folder of radgraph's or the llm's.")
    ] = None,
    language: Annotated[str, typer.Option("--language", help="Of the reports.")] = "en",
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Your own words file, or folder of files.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also write the domain's labels: CheXpert, CT-RATE.")
    ] = False,
) -> None:
    """Read reports into places, observations, presence, side and severity."""
    from medvlp.structured import Asked, structure_manifest

    asked = Asked(
        backend=backend, weights=weights, language=language, vocabulary=vocabulary, labels=labels
    )
    typer.echo(structure_manifest(manifest, asked))

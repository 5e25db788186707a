"""The command `import`: published weights that the user has on disk become a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlp.outputs import writable


def import_weights(
    source: Annotated[Path, typer.Argument(help="File or folder of the weights.")],
    kind: Annotated[
        str,
        typer.Option("--as", help="clip, siglip, chexzero, colipri, ... (docs/import.md)."),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Bundle folder to write.", callback=writable)
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="Folder of the tokenizer, where SOURCE holds none."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Correct the contract or a tower: preprocess.size=224; repeat."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Prompt file (YAML) that travels along.")
    ] = None,
    answer: Annotated[
        Path | None,
        typer.Option("--answer", help="The original's embeddings of the known image (JSON)."),
    ] = None,
) -> None:
    """Make a bundle of published weights on disk; nothing is downloaded, no pickle is run."""
    from medvlp.models.imports.run import import_source

    done = import_source(
        source, kind, folder, tokenizer=tokenizer, settings=settings or [], prompts=prompts,
        answer=answer,
    )  # fmt: skip
    typer.echo(str(done))

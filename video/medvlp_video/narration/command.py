"""The command `narrate`; it imports its room only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlp.outputs import writable


def narrate(
    transcripts: Annotated[
        list[str],
        typer.Argument(
            help="Folder of transcripts (JSON, VTT, SRT, CSV), or NAME=FOLDER for each recogniser."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="New folder for the texts.", callback=writable)
    ],
    titles: Annotated[
        Path | None, typer.Option("--titles", help="Table of video, title and abstract.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option("--videos", help="The recordings, to compare by --bundle.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Leave out steps unlike their frames by it.")
    ] = None,
    llm: Annotated[
        Path | None, typer.Option("--llm", help="Local language model that writes captions, too.")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option("--lexicon", help="Your own words (YAML) in place of English.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with the settings.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting such as step.shortest_s=5; repeat.")
    ] = None,
) -> None:
    """Turn transcripts of narrated operations into clips, steps and phases with texts."""
    from medvlp_video.narration.run import Asked, narrate_transcripts

    asked = Asked(
        transcripts=transcripts, out=out, titles=titles, videos=videos, bundle=bundle, llm=llm,
        lexicon=lexicon, config=config, settings=settings or [],
    )  # fmt: skip
    typer.echo(narrate_transcripts(asked))

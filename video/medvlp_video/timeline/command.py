"""The command `medvlp timeline`; what it does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medvlp.outputs import writable


def timeline(
    video: Annotated[
        str,
        typer.Argument(help="Video file or folder of frames; with --manifest, a sample's id."),
    ],
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle folder.")],
    prompts: Annotated[Path, typer.Option("--prompts", help="Phases as an exclusive prompt file.")],
    folder: Annotated[
        Path, typer.Option("--out", help="New folder for the timeline.", callback=writable)
    ],
    rate: Annotated[
        float, typer.Option("--fps", help="Frames looked at in a second.", min=0.001, max=240)
    ] = 1.0,
    window: Annotated[
        float | None,
        typer.Option("--window", help="Seconds of a clip; by default the bundle's frames."),
    ] = None,
    smooth: Annotated[str, typer.Option("--smooth", help="hmm or none.")] = "hmm",
    dwell: Annotated[
        float, typer.Option("--dwell", help="hmm: mean seconds between changes of phase.")
    ] = 60.0,
    least: Annotated[
        float, typer.Option("--min-duration", help="Shortest segment in seconds.", min=0)
    ] = 5.0,
    blank: Annotated[
        str | None,
        typer.Option(
            "--blank",
            help="Rule for frames inside the body, others are blanked: redness or module:function.",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="At the recording's pace; late frames are dropped.")
    ] = False,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="CSV with name, start_s, end_s.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Manifest that holds the sample.")
    ] = None,
    frame_rate: Annotated[
        float, typer.Option("--frame-rate", help="Frame numbers a second in a folder.", min=0.001)
    ] = 1.0,
    proxies: Annotated[
        Path | None,
        typer.Option("--proxies", help="Folder of proxies; the recording is read from its own."),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show frames on the page.")
    ] = True,
) -> None:
    """Which phase when, told online: ribbon, page, subtitles, table."""
    from medvlp_video.timeline.asked import Asked
    from medvlp_video.timeline.run import write_timeline

    asked = Asked(
        video=video, bundle=bundle, prompts=prompts, out=folder, rate=rate, window_s=window,
        smooth=smooth, dwell_s=dwell, least_s=least, blank=blank, live=live, truth=truth,
        manifest=manifest, frame_rate=frame_rate, proxies=proxies, pictures=pictures,
    )  # fmt: skip
    write_timeline(asked, Console())

"""The commands of the caches of decoded arrays and of proxies: `build`, `check` and `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(no_args_is_help=True, help="Fill, verify and measure what runs read.")

Config = Annotated[Path, typer.Argument(help="Experiment YAML, such as configs/cxr/base.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Configuration overrides such as data.cache=FOLDER.")
]


@commands.command()
def build(
    config: Config,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option("--workers", help="Reading processes.", min=0)] = 2,
) -> None:
    """Make the proxies and decode the arrays that a training run will read, before it starts."""
    from medvlp.train.cache_build import build_cache

    typer.echo(build_cache(config, overrides or [], workers))


@commands.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of arrays or proxies.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Also tell what this experiment does not ask for or misses."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override of the experiment; repeat.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete damaged entries; a run writes them anew.")
    ] = False,
) -> None:
    """Verify every entry; exit code 2 if one is damaged and stays."""
    from medvlp.data.cache_check import check_cache
    from medvlp.errors import InputError

    if not folder.is_dir():
        raise InputError("there is no such cache folder", remedy="name an existing folder")
    wanted = None
    if config is not None:
        from medvlp.train.cache_build import wanted_in

        wanted = wanted_in(folder, config, settings or [])
    found = check_cache(folder, wanted)
    typer.echo(str(found))
    if remove:
        for path in found.damaged:
            path.unlink(missing_ok=True)
    elif found.damaged:
        raise typer.Exit(2)


@commands.command()
def bench(
    config: Config,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", help="Samples to try.", min=1)] = 3,
) -> None:
    """Measure both formats on an experiment's own samples, on the disk of its cache."""
    from medvlp.data.cache_bench import bench_formats, recommend
    from medvlp.train.cache_build import open_filling

    filling = open_filling(config, overrides or [])
    filling.folder.mkdir(parents=True, exist_ok=True)
    chosen = list(filling.wanted.values())[:samples]
    arrays = [w.read(w.item.source_paths, w.item.span, w.item.flags) for w in chosen]
    speeds = bench_formats(arrays, filling.folder)
    typer.echo(f"{'format':8}{'size':>7}{'write':>10}{'first':>10}{'full':>10}{'crop':>10}  (ms)")
    for s in speeds:
        times = "".join(f"{t:10.2f}" for t in (s.write_ms, s.first_ms, s.full_ms, s.crop_ms))
        typer.echo(f"{s.form:8}{s.size:7.2f}{times}")
    form, why = recommend(speeds)
    typer.echo(f"Recommended: data.cache_format={form}, for {why}.")

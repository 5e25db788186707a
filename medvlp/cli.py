"""The command line: thin commands; each imports its room only when it runs."""

from __future__ import annotations

import json
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from medvlp import __version__
from medvlp.cache import commands as cache_commands
from medvlp.custody import forget, rekey, splits, verify
from medvlp.domain import domains
from medvlp.errors import InputError
from medvlp.guarded import run_guarded
from medvlp.importing import import_weights
from medvlp.outputs import writable, writable_file
from medvlp.structure import structure

app = typer.Typer(
    name="medvlp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
out = Console()

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Configuration overrides such as trainer.steps=200.")
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"medvlp {__version__}")
        raise typer.Exit


@app.callback()
def front(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train and judge medical vision-language models on your own archive."""


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder to write to.", callback=writable)
    ] = Path("demo-output"),
) -> None:
    """Phantom archives, training and a report in all three domains, in a few minutes."""
    from medvlp.demo import run_demo

    typer.echo(f"Report: {run_demo(folder)}")


@app.command()
def phantom(
    domain: Annotated[str, typer.Argument(help="cxr, volumetric or video.")],
    folder: Annotated[
        Path, typer.Option("--out", help="New folder for the archive.", callback=writable)
    ],
    n: Annotated[int, typer.Option("--n", help="Patients.", min=1)] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same archive.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Domain setting such as size=128; repeat.")
    ] = None,
) -> None:
    """Write a made-up archive whose ground truth is known."""
    from medvlp.phantom.write import write_phantom

    write_phantom(domain, folder, n=n, seed=seed, settings=settings or [])
    typer.echo(f"Archive: {folder}; medvlp index reads it with --config {folder / 'index.yaml'}")


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="Folder or table to index.")],
    kind: Annotated[str, typer.Option("--kind", help="dicom, nifti, video, table, nih-cxr14, ...")],
    manifest: Annotated[
        Path, typer.Option("--out", help="Manifest folder to write.", callback=writable)
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML with the options below.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option such as reports=reports.csv or columns.text=Befund."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Existing key file, to share pseudonyms.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing manifest.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the counts as JSON alone.")
    ] = False,
) -> None:
    """Read an archive into a manifest: validated, pseudonymous, split by patient."""
    from medvlp.archive.index import index_archive

    summary = index_archive(
        source, kind=kind, out=manifest, config=config, overrides=settings or [], key=key,
        replace=replace,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(summary.counts()))
    else:
        out.print(summary.table())


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="File, folder, or manifest.")],
    source: Annotated[
        str | None, typer.Option("--source", help="Only this source id of the manifest.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--out", help="Write a page with pictures (HTML).", callback=writable_file),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write verdicts and quality records as JSON.", callback=writable_file
        ),
    ] = None,
    views: Annotated[int, typer.Option("--views", help="Samples to show pictures of.", min=0)] = 12,
    names: Annotated[
        bool, typer.Option("--names", help="Name the files, which may name patients.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of index, such as options.missing=interpolate."),
    ] = None,
) -> None:
    """What indexing says of files: verdicts, geometry, flags, contact sheets."""
    from medvlp.archive.examine import examine
    from medvlp.report.inspection import summary_table, write_json, write_page

    found = examine(path, source=source, settings=settings or [], views=views if page else 0)
    out.print(summary_table(found, names=names))
    if page is not None:
        write_page(found, page, names=names)
        typer.echo(f"Page: {page}")
    if json_file is not None:
        write_json(found, json_file, names=names)


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="Experiment YAML, such as configs/cxr/smoke.yaml.")
    ],
    overrides: Overrides = None,
    run: Annotated[
        Path, typer.Option("--out", help="Run folder; an existing run resumes.", callback=writable)
    ] = Path("runs/latest"),
) -> None:
    """Train a model; the run folder ends with the bundle."""
    from medvlp.train.fit import train_run

    typer.echo(train_run(config, overrides or [], run))


@app.command()
def zeroshot(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    inputs: Annotated[
        list[Path], typer.Argument(help="DICOM files, series folders, NIfTI, PNG, MP4.")
    ],
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Prompt file (YAML).")] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Comma-separated labels.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the scores as CSV.", callback=writable_file)
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write them as JSON lines.", callback=writable_file),
    ] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            "--heatmaps", help="Folder for overlays (CT: also NIfTI, montage).", callback=writable
        ),
    ] = None,
) -> int:
    """Score inputs against prompts, without training."""
    from medvlp.evaluate.zeroshot import zeroshot_files

    return zeroshot_files(
        bundle, inputs, prompts=prompts, labels=labels, csv=csv, json_file=json_file,
        heatmaps=heatmaps, console=out,
    )  # fmt: skip


@app.command()
def embed(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    inputs: Annotated[list[Path], typer.Argument(help="A manifest, or files and folders.")],
    index_dir: Annotated[
        Path, typer.Option("--out", help="Folder for the index.", callback=writable)
    ],
) -> None:
    """Embed a manifest or files into an index that `search` reads."""
    from medvlp.evaluate.search import embed_inputs

    typer.echo(embed_inputs(bundle, inputs, index_dir))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    index_dir: Annotated[Path, typer.Option("--index", help="Folder written by embed.")],
    k: Annotated[int, typer.Option("--k", help="Hits to show.", min=1)] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the hits as JSON.", callback=writable_file)
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="The index's bundle, where it was moved.")
    ] = None,
    windows: Annotated[
        bool, typer.Option("--windows", help="Single windows of recordings, not whole moments.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page with pictures.", callback=writable_file),
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="There, name and link files, which may name patients.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="Where samples' files are, for the pictures.")
    ] = None,
) -> None:
    """Find studies, slices or moments in video by text."""
    from medvlp.evaluate.search import search_index
    from medvlp.report.hits import write_hits

    if page is None and (names or manifest is not None):
        raise InputError("--names and --manifest are for the page", remedy="give --html FILE")
    search_index(
        query, index_dir, k=k, json_file=json_file, bundle=bundle, console=out,
        windows_only=windows, manifest=manifest,
        look=None if page is None else partial(write_hits, page, query, names=names),
    )  # fmt: skip


@app.command()
def evaluate(
    protocol: Annotated[
        Path | None, typer.Argument(help="Protocol YAML, or a suite of protocols and bundles.")
    ] = None,
    overrides: Overrides = None,
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", help="Bundle folder; repeat.")
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option("--predictions", help="Others' predictions as NAME=FILE.csv; repeat."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="These are no probabilities: only their order counts.")
    ] = False,
    from_predictions: Annotated[
        Path | None, typer.Option("--from-predictions", help="Compute the metrics again from here.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare with the metrics that are there.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Predictions folder.", callback=writable)
    ] = None,
) -> int:
    """Predict, then compute metrics with intervals and the trivial rows."""
    from medvlp.evaluate.command import Asked, run_evaluate
    from medvlp.report.table.write import write_tables

    asked = Asked(
        protocol=protocol, bundles=bundle or [], tables=predictions or [], scores=scores,
        from_predictions=from_predictions, check=check, out=folder, overrides=overrides or [],
    )  # fmt: skip
    done = run_evaluate(asked)
    typer.echo(done.lines)
    if done.suite is not None:
        typer.echo(f"Table: {write_tables(done.suite)}")
    return done.code


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Predictions folder, or a folder of such.")],
) -> None:
    """Make one HTML page and report.json from predictions alone."""
    from medvlp.report.build import build_report

    typer.echo(f"Report: {build_report(folder)}")


@app.command()
def doctor() -> None:
    """Versions, devices, decoders, disk; what is missing and how to mend it."""
    from medvlp.doctor import examine

    if not examine(out):
        raise typer.Exit(1)


for keep in (structure, verify, rekey, forget, splits):
    app.command()(keep)
app.command("import")(import_weights)
app.add_typer(cache_commands, name="cache")


def _add_domain_commands() -> None:
    for domain in domains().values():
        for name, ref in domain.commands.items():
            app.command(name)(ref.load())


def _run() -> Any:
    _add_domain_commands()
    return app(standalone_mode=False)


def main() -> None:
    """Entry point of the `medvlp` command.

    A process that dies leaves no image of its memory, in which patients' names may stand.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(run_guarded(_run))


if __name__ == "__main__":
    main()

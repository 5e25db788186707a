"""The commands that guard patients: `verify`, `rekey`, `forget` and `splits`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medvlp.outputs import writable, writable_file


def verify(
    manifests: Annotated[list[Path], typer.Argument(help="Manifest folders.")],
) -> None:
    """Check schema, digests, references and splits; of several manifests also what they share."""
    from medvlp.data.verify import verify_manifest

    for manifest in manifests:
        typer.echo(verify_manifest(manifest))
    if len(manifests) > 1:
        from medvlp.archive.duplicates.across import compare_manifests

        found = compare_manifests(manifests)
        typer.echo(str(found))
        if found.across_splits:
            raise typer.Exit(2)


def rekey(
    manifest: Annotated[Path, typer.Argument(help="Manifest folder.")],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the renamed manifest.", callback=writable)
    ],
    key: Annotated[
        Path | None, typer.Option("--key", help="Key that rekey wrote for another manifest.")
    ] = None,
) -> None:
    """Rotate a manifest's key: new pseudonyms and dates, the same splits."""
    from medvlp.archive.privacy.rewrite import rekey as rotate

    typer.echo(rotate(manifest, folder, key))


def forget(
    manifest: Annotated[Path, typer.Argument(help="Manifest folder.")],
    places: Annotated[
        list[Path] | None,
        typer.Argument(help="Array caches, embed indexes, predictions and run folders."),
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option(
            "--patients", help="File with a patient number or pseudonym a line; else stdin."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only search for what was withdrawn before.")
    ] = False,
) -> None:
    """Take a patient who withdraws out of a manifest, and out of what was made from it."""
    from medvlp.forget import check_forgotten, read_people
    from medvlp.forget import forget as take_out

    if not check:
        typer.echo(take_out(manifest, read_people(people, sys.stdin), places or []))
    typer.echo(check_forgotten(manifest, places or []))


def splits(
    manifest: Annotated[Path, typer.Argument(help="Manifest folder.")],
    file: Annotated[Path, typer.Option("--out", help="CSV file to write.", callback=writable_file)],
    k: Annotated[int, typer.Option("--k", help="Patients that have to share a row.", min=2)] = 5,
    coarsen: Annotated[
        bool, typer.Option("--coarsen", help="Years, wide age bands, no site.")
    ] = False,
    suppress: Annotated[
        bool, typer.Option("--suppress", help="Blank what would single somebody out.")
    ] = False,
) -> None:
    """Write the splits for others, if nobody stands out in them."""
    from medvlp.archive.privacy.publish import publish

    typer.echo(publish(manifest, file, k=k, coarsen=coarsen, suppress=suppress))

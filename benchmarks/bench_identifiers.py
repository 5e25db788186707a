"""Identifiers: guessing record numbers, scrubbing generated and real reports.

    python benchmarks/bench_identifiers.py [--numbers 1000000] [--reports 4000] [--out FILE.md]

Real reports are read from the folder in MEDVLP_SHARED, where it is set; only counts are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from privacy.reports import KEEP, SENTENCES, a_pattern, a_report, left

from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.privacy.scrub import scrub
from medvlp.data.keys import new_key
from medvlp.progress import track

HEX = 24


def guesses(number: str) -> tuple[str, ...]:
    """What somebody without the key can compute of a record number."""
    data = number.encode()
    return (
        hashlib.sha256(data).hexdigest()[:HEX],
        hashlib.md5(data, usedforsecurity=False).hexdigest()[:HEX],
    )


def attack(numbers: int, patients: int = 1000) -> Iterator[str]:
    """Try every 7-digit record number on keyed and on unkeyed names."""
    draw = random.Random(0)
    chosen = {f"{draw.randrange(numbers):07}" for _ in range(patients)}
    keyed = {Pseudonyms(new_key()).patient(n)[1:] for n in chosen}
    unkeyed = {guesses(n)[0] for n in chosen}
    wrong = Pseudonyms(bytes(32))
    hits: Counter[str] = Counter()
    begin = time.perf_counter()
    for k in track(range(numbers), "Guessing", total=numbers):
        sha, md5 = guesses(number := f"{k:07}")
        hits["unkeyed"] += sha in unkeyed
        hits["keyed"] += sha in keyed or md5 in keyed or wrong.patient(number)[1:] in keyed
    seconds = time.perf_counter() - begin
    yield f"| record numbers tried | {numbers:,} ({3 * numbers / seconds:,.0f} guesses/s) |"
    yield f"| patients found, keyed pseudonyms | {hits['keyed']} of {len(chosen)} |"
    yield f"| patients found, unkeyed SHA-256 of the number | {hits['unkeyed']} of {len(chosen)} |"
    key = new_key()
    one, two = (Pseudonyms(key, project=p) for p in ("a", "b"))
    links = {one.patient(n) for n in chosen} & {two.patient(n) for n in chosen}
    yield f"| patients linked across two projects with one key | {len(links)} of {len(chosen)} |"


def generated(reports: int) -> Iterator[str]:
    """Recall on generated reports, and what is harmed."""
    draw = random.Random(1)
    told, kept = 0, 0
    for _ in track(range(reports), "Known identifiers", total=reports):
        text, values, who = a_report(draw)
        scrubbed = scrub(text, who.identifiers(), patterns=False).text
        told += len(values)
        kept += sum(bool(left(value, scrubbed)) for value in values)
    yield f"| known identifiers removed | {told - kept:,} of {told:,} in {reports:,} reports |"
    every, gone = Counter[str](), Counter[str]()
    for _ in track(range(reports), "Patterns", total=reports):
        category, text, value = a_pattern(draw)
        every[category] += 1
        gone[category] += not left(value, scrub(text).text)
    for category, count in sorted(every.items()):
        yield f"| pattern {category} removed | {gone[category]:,} of {count:,} |"
    harmed = sum(scrub(text).text != text for text in (*KEEP, *SENTENCES))
    yield f"| sentences to keep that were altered | {harmed} of {len(KEEP) + len(SENTENCES)} |"


def real(shared: Path) -> Iterator[str]:
    """How many sentences of de-identified real reports are altered: they ought to be few."""
    sets = {"Open-I": open_i(shared), "CT-CLIP": ct_clip(shared)}
    for name, texts in sets.items():
        sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text)]
        counts = [scrub(s).counts for s in track(sentences, name, total=len(sentences))]
        total: Counter[str] = sum(counts, Counter())
        told = ", ".join(f"{k} {n}" for k, n in sorted(total.items())) or "nothing"
        altered = sum(map(bool, counts))
        yield f"| {name}: sentences altered | {altered} of {len(counts):,} ({told}) |"


def open_i(shared: Path) -> Iterator[str]:
    """Texts of the Open-I reports."""
    for file in sorted((shared / "data" / "reports-iu").glob("*.tgz")):
        with tarfile.open(file) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".xml") else None
                if stream is not None:
                    root = ElementTree.fromstring(stream.read())
                    yield from (part.text for part in root.iter("AbstractText") if part.text)


def ct_clip(shared: Path) -> Iterator[str]:
    """Texts of the CT reports."""
    for file in sorted((shared / "data" / "reports-ct-ctclip").glob("*.csv")):
        yield from pl.read_csv(file, infer_schema_length=0)["report_text"].drop_nulls()


def main() -> None:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=10**6)
    parser.add_argument("--reports", type=int, default=4_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = ["# Identifiers", "", "| what | figure |", "|---|---|"]
    lines += [*generated(options.reports)]
    if shared := os.environ.get("MEDVLP_SHARED"):
        lines += [*real(Path(shared))]
    lines += [*attack(options.numbers)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

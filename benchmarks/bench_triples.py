"""The extractor of structured findings against phantoms' truth, annotated reports, and MeSH terms.

    python benchmarks/bench_triples.py [--shared FOLDER] [--parts phantom annotated mesh]
        [--reports N] [--out FILE.md] [--errors FILE]

The words were written with reports in view that are not among the 200 annotated ones. Sets that are
absent are left out. No report text is printed; `--errors` writes sentences to a private file.
"""

import argparse
import csv
import os
import random
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from triple_cases import LEVELS, MESH, Row, phantom_scores

from medvlp.archive.text.open_i_xml import parse_open_i
from medvlp.data.sentences import sentences
from medvlp.data.structure.extract import Extractor, Triple, load_extractor
from medvlp.progress import track

ANNOTATED = Path(__file__).resolve().parent / "open_i_triples"
DRAWS = 1000
SEED = 20261128


def of_phantoms(extractor: Extractor, count: int) -> Iterator[str]:
    yield "## Phantom reports"
    yield ""
    yield f"{count} reports (seed 11). Rows of a report: its findings and its denials by name."
    yield ""
    yield "| row | F1 |"
    yield "|---|---|"
    for level, value in phantom_scores(extractor, count).items():
        yield f"| {level} | {value:.4f} |"


# -- Open-I ------------------------------------------------------------------------------------


class OpenI:
    """The reports of Open-I: sentences of findings, then impression, and major MeSH terms."""

    def __init__(self, archive: Path) -> None:
        self.sentences: dict[str, list[str]] = {}
        self.majors: dict[str, tuple[str, ...]] = {}
        with tarfile.open(archive) as tar:
            for member in track([m for m in tar if m.isreg()], "Open-I"):
                handle = tar.extractfile(member)
                assert handle is not None
                report = parse_open_i(handle.read())
                told = {label.lower(): words for label, words in report.sections}
                texts = [told.get(name, "") for name in ("findings", "impression")]
                if any(texts):
                    self.sentences[report.uid] = [s for text in texts for s in sentences(text)]
                    self.majors[report.uid] = report.majors

    def annotated(self) -> list[str]:
        """The 200 reports that were annotated."""
        return random.Random(SEED).sample(sorted(self.sentences), 200)


def annotation(file: Path) -> dict[str, dict[int, set[Row]]]:
    """Report -> number of the sentence -> its rows."""
    rows: dict[str, dict[int, set[Row]]] = defaultdict(lambda: defaultdict(set))
    with file.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            rows[row["report"]][int(row["sentence"])].add(
                (
                    row["anatomy"], row["observation"], int(row["presence"]),
                    row["side"], row["severity"],
                )
            )  # fmt: skip
    return rows


def plain(triples: Iterable[Triple]) -> set[Row]:
    return {(t.anatomy, t.observation, t.presence, t.side, t.severity) for t in triples}


Counts = np.ndarray
"""(R,3): hits, rows found, rows of the truth, for each report."""


def counted(
    reports: Sequence[str],
    found: Mapping[str, Mapping[int, set[Row]]],
    truth: Mapping[str, Mapping[int, set[Row]]],
    width: int,
    whole: bool,
) -> Counts:
    counts = np.zeros((len(reports), 3))
    for i, report in enumerate(reports):
        ours = _keyed(found.get(report, {}), width, whole)
        theirs = _keyed(truth.get(report, {}), width, whole)
        counts[i] = len(ours & theirs), len(ours), len(theirs)
    return counts


def _keyed(rows: Mapping[int, set[Row]], width: int, whole: bool) -> set[tuple[object, ...]]:
    return {((0 if whole else n), *row[:width]) for n, own in rows.items() for row in own}


def scored(counts: Counts) -> str:
    """Precision, recall, and F1 with its interval over reports drawn with replacement."""
    rng = np.random.default_rng(0)
    n = len(counts)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    hits, ours, theirs = (weights @ counts).T
    f1 = 2 * hits / np.maximum(ours + theirs, 1e-12)
    low, high = np.quantile(f1[1:], [0.025, 0.975])
    precision, recall = hits[0] / max(ours[0], 1), hits[0] / max(theirs[0], 1)
    return f"{precision:.3f} | {recall:.3f} | {f1[0]:.3f} ({low:.3f} to {high:.3f})"


def of_annotated(extractor: Extractor, data: OpenI, errors: Path | None) -> Iterator[str]:
    reports = data.annotated()
    passes = {n: annotation(ANNOTATED / f"{n}.csv") for n in ("first", "second")}
    start = min(n for own in passes["first"].values() for n in own)
    found = {
        r: {n: plain(extractor.sentence(s)) for n, s in enumerate(data.sentences[r], start)}
        for r in reports
    }
    yield "## 200 annotated reports of Open-I"
    yield ""
    yield "Annotated by a language model in two passes (benchmarks/open_i_triples), not by people."
    for whole in (False, True):
        yield ""
        yield f"### Rows of a {'report' if whole else 'sentence'}"
        yield ""
        yield "| row | against | precision | recall | F1 |"
        yield "|---|---|---|---|---|"
        for level, width in LEVELS.items():
            for name, truth in passes.items():
                counts = counted(reports, found, truth, width, whole)
                yield f"| {level} | {name} pass | {scored(counts)} |"
            counts = counted(reports, passes["second"], passes["first"], width, whole)
            yield f"| {level} | the passes, second against first | {scored(counts)} |"
    yield ""
    yield from _unseen(data, reports, found, passes["first"], start)
    yield ""
    yield from _kinds_of_error(reports, found, passes["first"])
    if errors is not None:
        lines = _differences(data, reports, found, passes["first"], start)
        errors.write_text("\n".join(lines) + "\n")


def _unseen(
    data: OpenI,
    reports: Sequence[str],
    found: Mapping[str, Mapping[int, set[Row]]],
    truth: Mapping[str, Mapping[int, set[Row]]],
    start: int,
) -> Iterator[str]:
    """The same, apart for sentences that stand word by word in a report outside the 200."""
    held = set(reports)
    others = {s for r, own in data.sentences.items() if r not in held for s in own}
    yield "### Sentences that other reports hold, and those that none does"
    yield ""
    yield "| sentences | number | precision | recall | F1, whole row |"
    yield "|---|---|---|---|---|"
    for name, wanted in (("also in other reports", True), ("in these 200 alone", False)):
        numbers = {
            r: {n for n, s in enumerate(data.sentences[r], start) if (s in others) == wanted}
            for r in reports
        }
        ours, theirs = (
            {r: {n: own for n, own in rows.get(r, {}).items() if n in numbers[r]} for r in reports}
            for rows in (found, truth)
        )
        count = sum(map(len, numbers.values()))
        yield f"| {name} | {count} | {scored(counted(reports, ours, theirs, 5, False))} |"


def _kinds_of_error(
    reports: Sequence[str],
    found: Mapping[str, Mapping[int, set[Row]]],
    truth: Mapping[str, Mapping[int, set[Row]]],
) -> Iterator[str]:
    """What is wrong with the rows that do not agree with the first pass."""
    kinds: Counter[str] = Counter()
    for report in reports:
        for n in {*found.get(report, {}), *truth.get(report, {})}:
            ours = found.get(report, {}).get(n, set())
            theirs = truth.get(report, {}).get(n, set())
            kinds.update(_compared(ours - theirs, theirs - ours))
    yield "### Where it differs from the first pass"
    yield ""
    yield "| what | rows |"
    yield "|---|---|"
    yield from (f"| {kind} | {count} |" for kind, count in kinds.most_common())


def _compared(ours: set[Row], theirs: set[Row]) -> Iterator[str]:
    rest = set(theirs)
    for row in sorted(ours):
        near = next((r for r in sorted(rest) if r[1] == row[1]), None)
        if near is None:
            yield "only ours"
            continue
        rest.remove(near)
        parts = ("anatomy", "", "presence", "side", "severity")
        yield ", ".join(p for p, a, b in zip(parts, row, near, strict=True) if a != b and p)
    yield from ("only theirs" for _ in rest)


def _differences(
    data: OpenI,
    reports: Sequence[str],
    found: Mapping[str, Mapping[int, set[Row]]],
    truth: Mapping[str, Mapping[int, set[Row]]],
    start: int,
) -> Iterator[str]:
    for report in reports:
        for n, sentence in enumerate(data.sentences[report], start):
            ours, theirs = found[report][n], truth.get(report, {}).get(n, set())
            if ours != theirs:
                yield f"{report} {n} {sentence}"
                yield from (f"  + {row}" for row in sorted(ours - theirs))
                yield from (f"  - {row}" for row in sorted(theirs - ours))


# -- MeSH --------------------------------------------------------------------------------------


def heads(majors: Iterable[str]) -> set[str]:
    """The heads of a report's terms, with what stands behind them where it makes the term."""
    found = set()
    for major in majors:
        head, *rest = (part.strip() for part in major.split("/"))
        found.add(head)
        found.update(f"{head}, {part}" for part in rest)
    return found


def of_mesh(extractor: Extractor, data: OpenI) -> Iterator[str]:
    reports = sorted(r for r, terms in data.majors.items() if terms and "No Indexing" not in terms)
    told = [heads(data.majors[r]) for r in reports]
    started = time.perf_counter()
    said = [
        {t.observation for s in data.sentences[r] for t in extractor.sentence(s) if t.presence == 1}
        for r in track(reports, "Open-I")
    ]
    seconds = time.perf_counter() - started
    number = sum(len(data.sentences[r]) for r in reports)
    yield "## MeSH terms of Open-I"
    yield ""
    yield f"{len(reports)} reports with terms, {number} sentences in {seconds:.1f} s"
    yield f"({number / seconds:.0f} a second, repeated ones from memory). Weak labels: an indexer"
    yield "chose the most important of what a report says, so precision is a lower bound."
    yield ""
    yield "| observation | with a term | found | precision | recall | F1 | kappa |"
    yield "|---|---|---|---|---|---|---|"
    rng = np.random.default_rng(0)
    n = len(reports)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    total = []
    for term, (terms, names) in MESH.items():
        truth = np.array([not t.isdisjoint(terms) for t in told])
        found = np.array([not s.isdisjoint(names) for s in said])
        total.append((truth, found))
        yield f"| {term} | {_agreement(truth, found, weights)}"
    truth, found = (np.concatenate([pair[i] for pair in total]) for i in (0, 1))
    yield f"| **all pairs** | {_agreement(truth, found, np.tile(weights, len(total)))}"


def _agreement(truth: np.ndarray, found: np.ndarray, weights: np.ndarray) -> str:
    hit, ours, theirs = (weights @ v.astype(float) for v in (truth & found, found, truth))
    n = weights.sum(axis=1)
    f1 = 2 * hit / np.maximum(ours + theirs, 1e-12)
    seen = (n - ours - theirs + 2 * hit) / n
    chance = (ours * theirs + (n - ours) * (n - theirs)) / n**2
    kappa = (seen - chance) / np.maximum(1 - chance, 1e-12)
    precision, recall = hit[0] / max(ours[0], 1), hit[0] / max(theirs[0], 1)
    return (
        f"{theirs[0]:.0f} | {ours[0]:.0f} | {precision:.3f} | {recall:.3f} | "
        f"{interval(f1)} | {interval(kappa)} |"
    )


def interval(values: np.ndarray) -> str:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.3f} ({low:.3f} to {high:.3f})"


def speed(extractor: Extractor, data: OpenI) -> Iterator[str]:
    """Sentences a second, each read for the first time."""
    rest = sorted({s for r, own in data.sentences.items() for s in own})
    fresh = Extractor(extractor.vocabulary)
    started = time.perf_counter()
    for sentence in track(rest, "speed"):
        fresh.sentence(sentence)
    seconds = time.perf_counter() - started
    yield "## Speed"
    yield ""
    yield f"{len(rest)} different sentences, each read once: {len(rest) / seconds:.0f} a second."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=os.environ.get("MEDVLP_SHARED", beside))
    parts = ("phantom", "annotated", "mesh", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--reports", type=int, default=400, help="phantom reports")
    parser.add_argument("--out", type=Path, help="write the page there, too")
    parser.add_argument("--errors", type=Path, help="private file of what differs, with texts")
    given = parser.parse_args()
    extractor = load_extractor("cxr")
    archive = Path(given.shared) / "data/reports-iu/NLMCXR_reports.tgz"
    data = OpenI(archive) if archive.is_file() and set(given.parts) != {"phantom"} else None
    work: dict[str, Callable[[], Iterator[str]]] = {
        "phantom": lambda: of_phantoms(extractor, given.reports)
    }
    if data is not None:
        work["annotated"] = lambda: of_annotated(extractor, data, given.errors)
        work["mesh"] = lambda: of_mesh(extractor, data)
        work["speed"] = lambda: speed(extractor, data)
    page = []
    for part in given.parts:
        lines = work[part]() if part in work else iter([f"Open-I is not here: {part} is left out."])
        for line in (*lines, ""):
            print(line, flush=True)
            page.append(line)
    if given.out:
        given.out.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Report parsing on real reports: sections against the tags of Open-I, sentences, assertions.

    python benchmarks/bench_reports.py [--shared FOLDER] [--out FILE.md] [--draw FILE]

Flattens each of the 3,955 Open-I reports to plain text without tags, with the headings' wording,
case, layout and order drawn anew, and compares what the section parser finds with the tags.
`--draw` writes 200 random sentences in context to a private file, to be judged by eye: the
reports' licence (CC BY-NC-ND) forbids to pass them on. Skips what is not there.
"""

import argparse
import csv
import os
import random
import re
import tarfile
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medvlp.archive.text.open_i_xml import parse_open_i
from medvlp.data.assertions import assertion
from medvlp.data.sections import sections
from medvlp.data.sentences import sentences

WORDINGS = {
    "findings": ["findings", "finding", "observations", "report", "radiographic findings"],
    "impression": ["impression", "impressions", "conclusion", "opinion", "assessment", "summary"],
    "indication": ["indication", "indications", "history", "clinical history", "reason for exam",
                   "clinical information", "clinical indication", "reason for examination"],
    "comparison": ["comparison", "comparisons", "comparison studies", "prior studies"],
}  # fmt: skip
BY_EYE = "\n## By eye\n"
UPPER, TITLE, CAPITAL, LOWER = "upper", "title", "capital", "lower"
ANY = (UPPER, TITLE, CAPITAL, LOWER)

# Name -> cases, how a section is written, what stands between sections.
LAYOUTS = {
    "colon": (ANY, "{h}: {t}", "\n"),
    "colon, blank line between": (ANY, "{h}: {t}", "\n\n"),
    "colon glued to the text": (ANY, "{h}:{t}", "\n"),
    "colon set off, trailing blanks": (ANY, "  {h} :   {t}   ", "\n"),
    "colon, text on the next line": (ANY, "{h}:\n{t}", "\n\n"),
    "heading alone on its line": (ANY, "{h}\n{t}", "\n\n"),
    "alone, trailing blanks, Windows line ends": (ANY, "{h}  \r\n{t}  ", "\r\n"),
    "underlined": (ANY, "{h}\n{u}\n{t}", "\n\n"),
    "bold, colon inside": (ANY, "**{h}:** {t}", "\n\n"),
    "bold, colon outside": (ANY, "**{h}**: {t}", "\n"),
    "bold, no colon": ((UPPER, TITLE, CAPITAL), "**{h}** {t}", "\n"),
    "in brackets": ((UPPER, TITLE, CAPITAL), "[{h}] {t}", "\n"),
    "numbered": (ANY, "{n}. {h}: {t}", "\n"),
    "Markdown heading": (ANY, "## {h}\n{t}", "\n\n"),
    "dash": ((UPPER, TITLE, CAPITAL), "{h} - {t}", "\n"),
    "run-in, a line each": ((UPPER,), "{h} {t}", "\n"),
    "run-in after a full stop": ((UPPER,), "{h} {t}.", " "),
    "one line, colons": ((UPPER, TITLE, CAPITAL), "{h}: {t}", " "),
    "one line, after full stops": ((UPPER, TITLE, CAPITAL), "{h}: {t}.", "  "),
    "glued to the sentence before": ((UPPER, TITLE, CAPITAL), "{h}: {t}.", ""),
    "wrapped at 80 columns": (ANY, "{h}: {t}", "\n\n"),
    "wrapped, heading alone": ((UPPER, TITLE, CAPITAL), "{h}\n{t}", "\n\n"),
}


Told = list[tuple[str, str]]
Report = tuple[str, Told, tuple[str, ...]]
Judged = tuple[int, str, int, int, int]
"""Report, layout, right, told and found sections."""


def open_i(shared: Path) -> list[Report]:
    """``(id, sections, major MeSH terms)`` of every report."""
    found = []
    with tarfile.open(shared / "data/reports-iu/NLMCXR_reports.tgz") as tar:
        for member in tar:
            if member.isreg() and member.name.endswith(".xml"):
                file = tar.extractfile(member)
                assert file is not None
                report = parse_open_i(file.read())
                told = [(label.lower(), words) for label, words in report.sections]
                found.append((report.uid, told, report.majors))
    return sorted(found)


def cased(words: str, case: str) -> str:
    if case == CAPITAL:
        return words.capitalize()
    return {UPPER: words.upper(), TITLE: words.title(), LOWER: words.lower()}[case]


def flatten(told: Told, rng: random.Random, layout: str) -> str:
    """A report's text in one layout; texts that end with a stop get no second one."""
    cases, form, between = LAYOUTS[layout]
    case = rng.choice(cases)
    parts = []
    for number, (name, words) in enumerate(rng.sample(told, len(told)), start=1):
        heading = cased(rng.choice(WORDINGS[name]), case)
        text = words[:-1] if form.endswith(".") and words.endswith(".") else words
        part = form.format(h=heading, t=text, n=number, u="-" * len(heading))
        if layout.startswith("wrapped"):
            part = "\n".join(
                textwrap.fill(line, 80, break_on_hyphens=False) for line in part.split("\n")
            )
        parts.append(part)
    return between.join(parts)


def flat(text: str) -> str:
    """Equal but for blanks and for a last full stop, which some layouts add."""
    return " ".join(text.split()).rstrip(". ")


def judge(told: Told, text: str) -> tuple[int, int, list[str]]:
    """Right sections, found sections, and the names of those told that were missed."""
    found = defaultdict(list)
    for section in sections(text):
        found[section.name].append(section.text)
    whole = {name: flat(" ".join(texts)) for name, texts in found.items()}
    missed = [name for name, words in told if whole.get(name) != flat(words)]
    return len(told) - len(missed), len(whole), missed


def section_agreement(
    reports: list[Report], seed: int, repeats: int
) -> tuple[list[Judged], Counter[str]]:
    """Rows (layout, right, told, found) per report, `repeats` drawings of each."""
    rng = random.Random(seed)
    rows: list[Judged] = []
    names: Counter[str] = Counter()
    for number, (_, told, _) in enumerate(reports):
        told = [(name, words) for name, words in told if name in WORDINGS and flat(words)]
        for layout in rng.choices(list(LAYOUTS), k=repeats) if told else ():
            right, found, missed = judge(told, flatten(told, rng, layout))
            rows.append((number, layout, right, len(told), found))
            names.update(missed)
    return rows, names


def interval(rows: list[Judged], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of right / told, reports drawn with replacement."""
    counts = np.zeros((max(row[0] for row in rows) + 1, 2))
    for number, _, right, told, _ in rows:
        counts[number] += right, told
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(counts), size=(draws, len(counts)))
    sums = counts[picks].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)


def section_lines(reports: list[Report], repeats: int) -> Iterator[str]:
    start = time.perf_counter()
    rows, names = section_agreement(reports, 0, repeats)
    right, told = sum(row[2] for row in rows), sum(row[3] for row in rows)
    found = sum(row[4] for row in rows)
    low, high = interval(rows)
    seconds = time.perf_counter() - start
    yield f"Texts: {len(rows)} ({len(reports)} reports, {repeats} drawings each), {seconds:.0f} s."
    yield ""
    yield "| | right | of | share |"
    yield "|---|---|---|---|"
    share = f"{right / told:.4f} ({low:.4f} to {high:.4f})"
    yield f"| agreement (recall) | {right} | {told} | {share} |"
    yield f"| precision | {right} | {found} | {right / found:.4f} |"
    for layout in LAYOUTS:
        own = [row for row in rows if row[1] == layout]
        if own:
            good, all_ = sum(row[2] for row in own), sum(row[3] for row in own)
            yield f"| {layout} | {good} | {all_} | {good / all_:.4f} |"
    missed = ", ".join(f"{name} {count}" for name, count in names.most_common())
    yield ""
    yield f"Missed by section: {missed or 'none'}."


def draw_sentences(
    reports: list[Report], count: int, seed: int = 1
) -> Iterator[tuple[str, str, int, list[str], str]]:
    """Random sentences as (report id, section, number, the sentence, its section's sentences)."""
    rng = random.Random(seed)
    pool = [
        (uid, name, number, words)
        for uid, told, _ in reports
        for name, words in told
        for number in range(len(sentences(words)))
    ]
    for uid, name, number, words in rng.sample(pool, count):
        yield uid, name, number, sentences(words), words


Key = tuple[str, bool, bool]
"""Which way of telling, what it told, and what is so."""

FINDINGS = {
    "cardiomegaly": (
        "Cardiomegaly",
        r"cardiomegaly|(?:heart|cardiac silhouette)[^.]{0,20}enlarged",
    ),
    "effusion": ("Pleural Effusion", r"pleural effusions?|effusions?"),
    "pneumothorax": ("Pneumothorax", r"pneumothora(?:x|ces)"),
    "atelectasis": ("Pulmonary Atelectasis", r"atelecta\w+"),
    "edema": ("Pulmonary Edema", r"(?:pulmonary )?o?edema"),
    "emphysema": ("Emphysema|Pulmonary Emphysema", r"emphysema\w*"),
    "granuloma": ("Calcified Granuloma|Granuloma|Granulomatous Disease", r"granuloma\w*"),
    "scoliosis": ("Scoliosis", r"scolio\w+"),
    "hernia": ("Hernia, Hiatal", r"hiatal hernia|hernia"),
    "pneumonia": ("Pneumonia", r"pneumonia"),
    "nodule": ("Nodule", r"nodules?"),
    "fracture": ("Fractures, Bone", r"fractures?"),
}


def presence_lines(reports: list[Report]) -> Iterator[str]:
    """Findings said to be present against the MeSH terms, with and without assertions."""
    yield "| finding | MeSH | naive P | naive R | naive F1 | P | R | F1 |"
    yield "|---|---|---|---|---|---|---|---|"
    total: Counter[Key] = Counter()
    for finding, (terms, pattern) in FINDINGS.items():
        mention = re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)
        wanted = set(terms.split("|"))
        counts: Counter[Key] = Counter()
        for _, told, majors in reports:
            if not majors or not told:
                continue
            truth = bool({major.partition("/")[0] for major in majors} & wanted)
            said = [
                (sentence, match.span())
                for name, words in told
                if name in ("findings", "impression")
                for sentence in sentences(words)
                for match in mention.finditer(sentence)
            ]
            present = any(assertion(sentence, span) == "present" for sentence, span in said)
            for key, guess in (("naive", bool(said)), ("ours", present)):
                counts[key, guess, truth] += 1
        total.update(counts)
        yield _row(finding, counts)
    yield _row("all", total)


def _row(name: str, counts: Counter[Key]) -> str:
    cells = []
    for key in ("naive", "ours"):
        hit, false = counts[key, True, True], counts[key, True, False]
        missed = counts[key, False, True]
        precision, recall = hit / max(hit + false, 1), hit / max(hit + missed, 1)
        score = 2 * hit / max(2 * hit + false + missed, 1)
        cells += [f"{precision:.3f}", f"{recall:.3f}", f"{score:.3f}"]
    positive = counts["ours", True, True] + counts["ours", False, True]
    return f"| {name} | {positive} | {' | '.join(cells)} |"


def ct_lines(shared: Path) -> Iterator[str]:
    """CT reports: do sections and sentences come out, and how fast."""
    texts = []
    for name in ("train_nodates.csv", "val_nodates.csv"):
        with (shared / "data/reports-ct-ctclip" / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                texts.append(
                    "\n".join(v for k, v in row.items() if k and "text" in k.lower() and v)
                )
    texts = [text for text in texts if text]
    start = time.perf_counter()
    parsed = [sections(text) for text in texts]
    split = [s for parts in parsed for part in parts for s in sentences(part.text)]
    seconds = time.perf_counter() - start
    names = Counter(part.name for parts in parsed for part in parts)
    longest = max(map(len, split), default=0)
    yield f"{len(texts)} reports, {sum(map(len, texts))} characters in {seconds:.2f} s."
    yield f"Sections: {', '.join(f'{n} {c}' for n, c in names.most_common())}."
    yield f"Sentences: {len(split)}, the longest of {longest} characters."


def lines(shared: Path, repeats: int) -> Iterator[str]:
    yield "# Reports"
    yield ""
    yield "Command: `python benchmarks/bench_reports.py --out FILE`. No text is quoted:"
    yield "the reports' licence (CC BY-NC-ND 4.0) does not allow to pass parts of them on."
    yield ""
    if (shared / "data/reports-iu").is_dir():
        reports = open_i(shared)
        yield "## Sections of Open-I"
        yield ""
        yield "Each report is flattened to plain text: tags removed, sections in random order, each"
        yield "heading in one of four to eight wordings, and one of the layouts and cases below for"
        yield "the report. A section is right if all text found under its name equals the tagged"
        yield "text but for blanks and a last full stop. Interval: 95 %, reports drawn with"
        yield "replacement."
        yield ""
        yield from section_lines(reports, repeats)
        yield ""
        yield "## Assertions against Open-I's MeSH terms"
        yield ""
        yield "A finding counts as told if findings or impression affirm one of its words (P, R,"
        yield "F1), or hold one at all (naive). The truth are the terms that librarians gave the"
        yield "report, which leave out some findings and word others otherwise."
        yield ""
        yield from presence_lines(reports)
    else:
        yield "Open-I is not here (data/reports-iu): skipped."
    yield ""
    if (shared / "data/reports-ct-ctclip").is_dir():
        yield "## CT reports"
        yield ""
        yield from ct_lines(shared)
    else:
        yield "CT reports are not here (data/reports-ct-ctclip): skipped."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=os.environ.get("MEDVLP_SHARED", beside))
    parser.add_argument("--repeats", type=int, default=4, help="drawings of each report")
    parser.add_argument("--out", type=Path, help="write the page there, too")
    parser.add_argument("--draw", type=Path, help="write 200 sentences there to look at")
    given = parser.parse_args()
    if given.draw:
        with given.draw.open("w", encoding="utf-8") as file:
            for uid, name, number, split, words in draw_sentences(open_i(given.shared), 200):
                file.write(f"## {uid} {name} {number}\n{words}\n")
                file.writelines(
                    f"{'>>' if i == number else '  '} {s}\n" for i, s in enumerate(split)
                )
        return
    page = []
    for line in lines(given.shared, given.repeats):
        print(line, flush=True)
        page.append(line)
    if given.out:
        # What people judged is theirs: a new run leaves it as it stands.
        old = given.out.read_text(encoding="utf-8") if given.out.exists() else ""
        kept = old[old.index(BY_EYE) :] if BY_EYE in old else ""
        given.out.write_text("\n".join(page) + "\n" + kept, encoding="utf-8")


if __name__ == "__main__":
    main()

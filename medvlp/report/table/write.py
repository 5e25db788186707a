"""The head-to-head as CSV for programs, Markdown for pages and LaTeX for papers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvlp.errors import InputError
from medvlp.evaluate.published import Published
from medvlp.outputs import write_text
from medvlp.report.table.collect import Entry, Heading, HeadToHead, Line, head_to_head

FIELDS = (
    "domain", "model", "control", "protocol", "metric", "name", "value", "low", "high",
    "tie_group", "n", "source",
)  # fmt: skip
OWN = "evaluated here"
NOT_RERUN = "published, not re-run"


def write_tables(folder: Path) -> Path:
    """Write `table.csv`, `table.md` and `table.tex` into a suite's folder.

    Returns:
        The Markdown file.

    Raises:
        InputError: The folder holds no suite.
    """
    tables = head_to_head(folder)
    if not tables:
        raise InputError(f"{folder.name}: no head-to-head here", remedy="evaluate a suite first")
    write_text(folder / "table.csv", as_csv(tables))
    write_text(folder / "table.tex", "\n\n".join(as_latex(table) for table in tables))
    write_text(folder / "table.md", "\n\n".join(as_markdown(table) for table in tables))
    return folder / "table.md"


def as_csv(tables: Iterable[HeadToHead]) -> str:
    """One line a number, published ones (in the unit of their source) among them."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(FIELDS)
    for table in tables:
        for line in table.lines:
            lines.writerows(_csv_line(table, line))
        for part in table.published:
            lines.writerows(_csv_published(part))
    return text.getvalue()


def _csv_line(table: HeadToHead, line: Line) -> Iterator[list[Any]]:
    for heading, entry in zip(table.headings, line.entries, strict=True):
        source = OWN if entry.state == "done" else entry.state
        about = [heading.protocol, heading.title, heading.name]
        yield [table.domain, line.model, line.control, *about, *_numbers(entry), entry.group,
               entry.n, source]  # fmt: skip
    if line.rank is not None:
        about = ["all", "mean rank", "all"]
        yield [table.domain, line.model, line.control, *about, *_numbers(line.rank), "",
               line.rank.n, OWN]  # fmt: skip


def _csv_published(part: Published) -> Iterator[list[Any]]:
    for model, values in part.models.items():
        for column, value in zip(part.columns, values, strict=True):
            if value is not None:
                about = [column.protocol, f"{column.metric} (%)", column.title]
                yield [part.domain, model, False, *about, value, "", "", "", "",
                       f"{NOT_RERUN}: {part.source}"]  # fmt: skip


def _numbers(entry: Entry) -> list[float | str]:
    return ["" if v is None else v for v in (entry.value, entry.low, entry.high)]


def as_markdown(table: HeadToHead) -> str:
    """A grid with models down, the controls below a rule, and the published numbers under it."""
    head = ["Model", *(_heading(h) for h in table.headings), "Mean rank"]
    rows = [_markdown_line(line) for line in table.lines if not line.control]
    rows += [["**Controls**", *[""] * (len(head) - 1)]]
    rows += [_markdown_line(line) for line in table.lines if line.control]
    parts = [f"## {table.title}", _grid(head, rows), *(f"- {note}" for note in notes(table))]
    for part in table.published:
        published_head = ["Model", *(f"{c.title}: {c.metric}" for c in part.columns)]
        published_rows = [[m, *(_plain(v) for v in vs)] for m, vs in part.models.items()]
        parts += [f"### {part.source} ({NOT_RERUN}; in per cent)"]
        parts += [_grid(published_head, published_rows), *(f"- {c.text}" for c in part.caveats)]
    return "\n\n".join(_together(parts)) + "\n"


def _together(parts: Sequence[str]) -> list[str]:
    """Lines of one list without blank lines between them."""
    joined: list[str] = []
    for part in parts:
        if part.startswith("- ") and joined and joined[-1].startswith("- "):
            joined[-1] += f"\n{part}"
        else:
            joined.append(part)
    return joined


def notes(table: HeadToHead) -> list[str]:
    """What must be read with the table."""
    level = f"{100 * table.confidence:g} %"
    told = [
        f"In brackets: {level} intervals over patients drawn again; all models see the same draws.",
        "Bold: the best value of a column, which need not differ from the next: models that share "
        "a letter are not told apart after Holm's correction."
        if any(entry.group for line in table.lines for entry in line.entries)
        else "Bold: the best value of a column; overlapping intervals do not tell models apart.",
        "Mean rank: 1 is best; ranked again in every draw, over the columns a model has.",
        "Published numbers were taken from their sources and not run again; other splits, crops, "
        "prompts and averaging make them differ by more than models do."
        if table.published
        else "",
        f"A leak was found and let through in: {', '.join(table.leaking)}."
        if table.leaking
        else "",
    ]
    return [line for line in told if line]


def _heading(heading: Heading) -> str:
    arrow = "↓" if heading.low_is_better else "↑"
    name = "" if heading.name == "all" else f", {heading.name}"
    return f"{heading.protocol}{name}: {heading.title} {arrow}"


def _markdown_line(line: Line) -> list[str]:
    cells = [_cell(entry, "**", "**") for entry in line.entries]
    return [line.model, *cells, _cell(line.rank, "", "", 2) if line.rank else "–"]


def _cell(entry: Entry, left: str, right: str, places: int = 3) -> str:
    if entry.value is None:
        return "failed" if entry.state == "failed" else "–"
    value = f"{entry.value:.{places}f}"
    value = f"{left}{value}{right}" if entry.best else value
    around = "" if entry.low is None else f" [{entry.low:.{places}f}, {entry.high:.{places}f}]"
    return f"{value}{around}{f' {entry.group}' if entry.group else ''}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def as_latex(table: HeadToHead) -> str:
    """A ``booktabs`` table; the caption holds the notes."""
    columns = len(table.headings) + 1
    head = ["Model", *(_heading(h) for h in table.headings), "Mean rank"]
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'c' * columns}}}",
             r"\toprule", _latex_row([tex(cell) for cell in head]), r"\midrule"]  # fmt: skip
    lines += [_latex_line(line) for line in table.lines if not line.control]
    lines += [r"\midrule", *(_latex_line(line) for line in table.lines if line.control)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\caption{{{tex(table.title)}. {tex(' '.join(notes(table)))}}}", r"\end{table}"]
    return "\n".join([*lines, *(_latex_published(part) for part in table.published)]) + "\n"


def _latex_published(part: Published) -> str:
    head = ["Model", *(f"{c.title}: {c.metric}" for c in part.columns)]
    lines = [r"\begin{table}", r"\centering",
             rf"\begin{{tabular}}{{l{'c' * len(part.columns)}}}", r"\toprule",
             _latex_row([tex(cell) for cell in head]), r"\midrule"]  # fmt: skip
    lines += [_latex_row([tex(m), *(_plain(v) for v in vs)]) for m, vs in part.models.items()]
    said = " ".join(caveat.text for caveat in part.caveats)
    caption = tex(f"{part.source}: {NOT_RERUN}; in per cent. {said}".strip())
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines)


def _latex_line(line: Line) -> str:
    # Figures and brackets only: nothing in them needs escaping.
    cells = [_cell(entry, r"\textbf{", "}") for entry in line.entries]
    rank = _cell(line.rank, "", "", 2) if line.rank else "–"
    name = rf"\textit{{{tex(line.model)}}}" if line.control else tex(line.model)
    return _latex_row([name, *(cell.replace("–", "--") for cell in [*cells, rank])])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def tex(text: str) -> str:
    """Text with LaTeX's signs escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
             "↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$",
             "β": r"$\beta$", "–": "--"}  # fmt: skip
    escaped = re.sub(r"[&%$#_{}]", lambda m: "\\" + m.group(), text.replace("\\", "\0"))
    for sign, written in signs.items():
        escaped = escaped.replace("\0" if sign == "\\" else sign, written)
    return escaped

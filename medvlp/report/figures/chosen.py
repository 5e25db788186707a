"""Which figures a task gets, each with a title and what it shows in words."""

from __future__ import annotations

from collections.abc import Iterator

from medvlp.report import words
from medvlp.report.figures.confusion import confusion
from medvlp.report.figures.curves import net_benefit, precision, reliability, roc
from medvlp.report.figures.forest import forest
from medvlp.report.figures.style import colours
from medvlp.report.folder import ProtocolFolder

_DOTS = "Dot: estimate; line: interval over patients"


def chosen_figures(folder: ProtocolFolder, name: str) -> list[dict[str, str]]:
    """Title, words and SVG of each figure that can be drawn.

    Args:
        folder: The protocol's.
        name: Begins the ids of the figures.
    """
    drawn = _findings(folder, name) if folder.task in words.FINDINGS else _others(folder, name)
    return [{"title": t, "words": w, "svg": svg} for t, w, svg in drawn if svg is not None]


def _findings(folder: ProtocolFolder, name: str) -> Iterator[tuple[str, str, str | None]]:
    of = colours(folder)
    yield (
        "AUROC of each finding",
        f"{_DOTS}; dotted: a coin toss.",
        forest(folder.rows("auroc"), of, 0.5, f"{name}a"),
    )
    yield (
        "ROC curves",
        "The further to the upper left, the better; dotted: a coin toss. Findings present and "
        "absent at least once, at most twelve.",
        roc(folder, f"{name}b"),
    )
    yield (
        "Precision and sensitivity",
        "The further to the upper right, the better; dotted: the prevalence, which a blind guess "
        "reaches. Findings present and absent at least once, at most twelve.",
        precision(folder, f"{name}c"),
    )
    yield (
        "Reliability",
        "On the dotted line, a stated probability comes true as often as it says; the larger a "
        "dot, the more predictions.",
        reliability(folder, f"{name}d"),
    )
    yield (
        "Decision curves",
        "Net benefit of acting on the model from a stated probability: true calls, less false "
        "ones weighed by the odds. Useful where it lies above treating all and above zero "
        "(treating none).",
        net_benefit(folder, f"{name}e"),
    )


def _others(folder: ProtocolFolder, name: str) -> Iterator[tuple[str, str, str | None]]:
    if folder.task == "phases":
        rows = folder.rows("f1")
        yield "F1 of each phase", f"{_DOTS}.", forest(rows, colours(folder), None, f"{name}a")
        for model, svg in confusion(folder, f"{name}d"):
            yield (
                f"Confusion of phases: {model}",
                "Each row is a true phase, in per cent of its windows; the diagonal is right.",
                svg,
            )
        return
    metric = words.headline(folder.task, folder.metrics["rows"])
    rows = [row for row in folder.rows(metric) if row["value"] is None or 0 <= row["value"] <= 1]
    title = words.title(metric)
    yield title, f"{_DOTS}.", forest(rows, colours(folder), None, f"{name}a")

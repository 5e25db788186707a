"""`medvlp narrate`: from transcripts to a folder of tables, whole or not at all.

The folder holds ``texts.csv`` (for ``medvlp index --kind video --set options.texts=...``),
``units.csv``, ``left_out.csv``, ``refused.csv`` and ``narration.json``. The same transcripts,
settings and models give the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medvlp import __version__
from medvlp.archive.verdict import Verdict
from medvlp.config import override, plain, read_yaml, validate
from medvlp.digest import digest_file, digest_plain
from medvlp.errors import ConfigError, InputError
from medvlp.evaluate.files import refused
from medvlp.models.pretrained import shards
from medvlp.outputs import whole_folder
from medvlp.progress import track
from medvlp_video.narration.captions import Captioner
from medvlp_video.narration.lexicon import load_lexicon
from medvlp_video.narration.narrative import Narrative, Step, listen
from medvlp_video.narration.settings import NarrationConfig
from medvlp_video.narration.sight import Shown, Sight
from medvlp_video.narration.speech import Reason
from medvlp_video.narration.titles import read_titles
from medvlp_video.narration.transcripts import find_transcripts, read_transcript
from medvlp_video.narration.tree import LEFT_OUT, REFUSED, TEXTS, UNITS, Caption, Row, Tree

FORMAT = 1
_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for; see `medvlp_video.narration.command`."""

    transcripts: Sequence[str]
    out: Path
    titles: Path | None = None
    videos: Path | None = None
    bundle: Path | None = None
    llm: Path | None = None
    lexicon: Path | None = None
    config: Path | None = None
    settings: Sequence[str] = ()


def narrate_transcripts(asked: Asked) -> str:
    """Write the texts of narrated operations.

    Args:
        asked: What the user asks for.

    Returns:
        What was made and what was left out, in a line that names no file.

    Raises:
        ConfigError: A wrong setting, lexicon, or language model.
        InputError: `out` exists, an input is missing, or nothing is left.
        ArchiveError: The table of titles cannot be read.
        BundleError: The bundle cannot be opened.
    """
    if (asked.bundle is None) != (asked.videos is None):
        raise ConfigError(
            "--bundle and --videos go together", remedy="give both, or neither of them"
        )
    run = _Run(asked)
    with whole_folder(asked.out) as folder:
        # The texts are as they were said: names are taken out at indexing only.
        folder.chmod(0o700)
        run.hear()
        if asked.bundle is not None and asked.videos is not None:
            run.look(Sight(asked.bundle, asked.videos))
        trees = run.grow()
        tables: tuple[tuple[str, Mapping[str, pl.DataType], list[Row]], ...] = (
            ("texts", TEXTS, [row for tree in trees for row in tree.texts]),
            ("units", UNITS, [row for tree in trees for row in tree.units]),
            ("left_out", LEFT_OUT, run.left_out()),
            ("refused", REFUSED, run.refused),
        )
        rows = {name: table for name, _, table in tables}
        if not rows["texts"]:
            codes = [row["code"] for row in run.refused] + [r["reason"] for r in rows["left_out"]]
            raise InputError(
                f"nothing is left of the transcripts: {refused(codes) or 'there are none'}",
                remedy="docs/narration.md says what the words mean",
            )
        for name, schema, table in tables:
            pl.DataFrame(table, schema=schema).write_csv(folder / f"{name}.csv")
        counts = _counts(run, trees, rows)
        info = {"format": FORMAT, "medvlp": __version__, **run.made_by, "counts": counts}
        (folder / "narration.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    return _summary(asked.out.name, counts)


class _Run:
    """A run: what was asked for, and what it has found so far."""

    def __init__(self, asked: Asked) -> None:
        self.config = _settings(asked)
        self.lexicon = load_lexicon(asked.lexicon)
        self.made_by: dict[str, Any] = {
            "settings": plain(self.config),
            "lexicon": digest_plain(plain(self.lexicon)),
        }
        self._titles, self.refused = read_titles(asked.titles)
        self._recognisers = _recognisers(asked.transcripts)
        self._caption = self._captioner(asked.llm)
        self.heard: dict[tuple[str, str], Narrative] = {}
        """(recording, recogniser) -> what was heard."""
        self._beaten: defaultdict[tuple[str, str], dict[Step, float]] = defaultdict(dict)
        self.uncompared = 0
        """Steps that were kept, for there were too few to compare them with."""

    def hear(self) -> None:
        """Read the transcripts."""
        for name, root in self._recognisers.items():
            found, others = find_transcripts(root)
            for file, verdict in others:
                self._refuse(name, file, verdict)
            for one in track(found, "Reading transcripts"):
                try:
                    told = listen(read_transcript(one.path), self.lexicon, self.config)
                except Verdict as verdict:
                    self._refuse(name, one.name, verdict)
                else:
                    self.heard[one.video, name] = told

    def look(self, sight: Sight) -> None:
        """Leave out the steps whose frames do not look like what is said."""
        self.made_by["bundle"] = sight.digest
        steps = [
            (key, step)
            for key, told in sorted(self.heard.items())
            for phase in told.phases
            for step in phase.steps
        ]
        shown = []
        for key, step in steps:
            told = self.heard[key]
            text = told.sentences[told.central(step)].text
            shown.append(Shown(video=key[0], span=told.span(step), text=text))
        lost: defaultdict[tuple[str, str], dict[Step, tuple[Reason, float | None]]]
        lost = defaultdict(dict)
        codes: dict[tuple[str, str], None] = {}
        for (key, step), answer in zip(steps, sight.compare(shown), strict=True):
            if answer is None:
                self.uncompared += 1
            elif isinstance(answer, str):
                lost[key][step] = ("unseen", None)
                codes[key[0], answer] = None
            elif answer < self.config.quantile:
                lost[key][step] = ("unlike_frames", answer)
            else:
                self._beaten[key][step] = answer
        self.refused += [
            {"source": "videos", "file": video, "row": None, "code": code, "message": ""}
            for video, code in codes
        ]
        for key, why in lost.items():
            self.heard[key] = self.heard[key].without(why)

    def grow(self) -> list[Tree]:
        """The text tree of each recording, by name."""
        trees = []
        videos = sorted({video for video, _ in self.heard} | set(self._titles))
        for video in track(videos, "Writing texts"):
            tree = Tree(video, self._titles.get(video), self._caption)
            for name in self._recognisers:
                if told := self.heard.get((video, name)):
                    tree.add(name, told, self._beaten[video, name])
            trees.append(tree)
        return trees

    def left_out(self) -> list[Row]:
        """Rows of what was said and is no node, by recording and time."""
        return [
            {
                "video": video, "source": f"asr:{name}" if name else "asr",
                "start_s": _finite(one.start_s), "end_s": _finite(one.end_s),
                "reason": one.reason, "score": one.score, "text": one.text,
            }
            for (video, name), told in sorted(self.heard.items())
            for one in sorted(told.dropped, key=lambda d: (_finite(d.start_s) or 0.0, d.reason))
        ]  # fmt: skip

    def _refuse(self, name: str, file: str, verdict: Verdict) -> None:
        self.refused.append(
            {
                "source": f"asr:{name}" if name else "asr", "file": file, "row": None,
                "code": verdict.code, "message": verdict.message,
            }
        )  # fmt: skip

    def _captioner(self, folder: Path | None) -> Caption | None:
        if folder is None:
            return None
        captioner = Captioner(folder, self.lexicon, self.config)
        self.made_by["llm"] = {name: digest_file(folder / name) for name in shards(folder)}
        return captioner.caption


def _settings(asked: Asked) -> NarrationConfig:
    values = {} if asked.config is None else read_yaml(asked.config)
    if not isinstance(values, dict):
        raise ConfigError(
            "the settings hold no key: value pairs", remedy="write settings such as pause_s: 1.5"
        )
    where = asked.config.name if asked.config else "--set"
    checked: NarrationConfig = validate(NarrationConfig, override(values, asked.settings), where)
    return checked


def _recognisers(transcripts: Iterable[str]) -> dict[str, Path]:
    """Name -> folder; the name is empty where none is given."""
    found: dict[str, Path] = {}
    for words in transcripts:
        named = None if Path(words).exists() else _NAMED.fullmatch(words)
        name, folder = (named[1], named[2]) if named else ("", words)
        if name in found:
            raise ConfigError(
                "two folders of transcripts go by one name",
                remedy="write NAME=FOLDER for each, with names of their own",
            )
        found[name] = Path(folder)
    return found


def _finite(time_s: float) -> float | None:
    return round(time_s, 3) if math.isfinite(time_s) else None


def _counts(run: _Run, trees: Sequence[Tree], rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    def count(table: str, column: str) -> dict[str, int]:
        return dict(sorted(Counter(row[column] for row in rows[table]).items()))

    return {
        "videos": sum(bool(tree.texts) for tree in trees),
        "transcripts": len(run.heard),
        "levels": count("texts", "level"),
        "sources": count("texts", "source"),
        "left_out": count("left_out", "reason"),
        "refused": count("refused", "code"),
        "uncompared_steps": run.uncompared,
        "refused_captions": sum(tree.refused_captions for tree in trees),
    }


def _summary(name: str, counts: Mapping[str, Any]) -> str:
    levels = ", ".join(f"{n:,} of {level}" for level, n in counts["levels"].items())
    parts = [f"{name}: {counts['transcripts']:,} transcripts, texts: {levels}"]
    for words, what in (("left out", "left_out"), ("refused", "refused")):
        if counts[what]:
            listed = ", ".join(f"{code} {n:,}" for code, n in counts[what].items())
            parts.append(f"{words} {sum(counts[what].values()):,}: {listed}")
    if counts["uncompared_steps"]:
        parts.append(f"{counts['uncompared_steps']:,} steps kept with too few to compare with")
    if counts["refused_captions"]:
        parts.append(f"{counts['refused_captions']:,} captions of the model were of no use")
    return "; ".join(parts)

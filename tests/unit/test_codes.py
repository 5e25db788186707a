"""Every code and flag in the sources is explained, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from medvlp.archive.codes import codes, explain, page

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("medvlp", "volumetric/medvlp_volumetric", "video/medvlp_video")
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
}
WORD = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")
CALLS = {
    "Reject": (0, "reject"), "Ignore": (0, "ignore"), "reject": (2, "reject"),
    "reject_row": (2, "reject"), "ignore": (1, "ignore"),
}  # fmt: skip
NOT_FLAGS = {"flags"}


def words(node: ast.AST) -> set[str]:
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {c for c in constants if isinstance(c, str) and WORD.fullmatch(c)} - NOT_FLAGS


def name(node: ast.AST) -> str:
    return getattr(node, "id", "") or getattr(node, "attr", "")


def called(node: ast.Call) -> Iterator[tuple[str, str]]:
    """(kind, code) that a call hands in."""
    place, kind = CALLS.get(name(node.func), (99, ""))
    for argument in node.args[place : place + 1]:
        yield from ((kind, word) for word in words(argument))
    given = [k.value for k in node.keywords if k.arg == "flags"]
    owner = getattr(node.func, "value", node)
    given += node.args if name(node.func) in ("add", "append") and "flag" in name(owner) else []
    for argument in given:
        yield from (("flag", word) for word in words(argument))


def assigned(node: ast.Assign | ast.AugAssign | ast.AnnAssign) -> Iterator[tuple[str, str]]:
    """(flag, code) that an assignment keeps under a name with "flag" in it."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if "flag" in name(target) and node.value:
            yield from (("flag", word) for word in words(node.value))
        if isinstance(target, ast.Subscript) and "flag" in name(target.value):
            yield from (("flag", word) for word in words(target.slice))


def said(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(kind, code) of everything that a module hands in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from called(node)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            yield from assigned(node)


KNOWN = {(kind, code) for kind, table in codes().items() for code in table}


def test_every_code_and_flag_in_the_sources_is_explained():
    found = {pair for tree in TREES.values() for pair in said(tree)}
    assert len(found) > 100
    missing = sorted(pair for pair in found - KNOWN if not pair[1].startswith("part_"))
    assert missing == [], "explain them in medvlp/archive/codes.yaml"


def test_every_code_says_what_it_means_in_one_line():
    for table in codes().values():
        for code, meaning in table.items():
            assert meaning.text.endswith("."), code
            assert len(meaning.text) < 120, code


def test_rejects_say_what_to_do():
    assert [code for code, meaning in codes()["reject"].items() if not meaning.remedy] == []


def test_explain_knows_verdicts_and_flags_apart():
    assert explain("REJECT:no_pixels") != explain("IGNORE:no_pixels")
    assert explain("FLAG:tilt").text
    assert explain("REJECT:never_heard_of").text == ""


def test_the_page_is_current():
    written = (ROOT / "docs/verdicts.md").read_text(encoding="utf-8")
    assert written == page(), "python -m medvlp.archive.codes > docs/verdicts.md"

import ast
from pathlib import Path

import pytest

from medvlp.archive.codes import codes, explain, page

ROOT = Path(__file__).parents[2]
ROOMS = ("medvlp", "volumetric/medvlp_volumetric", "video/medvlp_video")


def raised(*names):
    """Literal first arguments of calls such as Reject("code")."""
    found = {}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names:
                    for part in ast.walk(node.args[0]) if node.args else ():
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            found[part.value] = file.name
    return found


@pytest.mark.parametrize(("kind", "name"), [("reject", "Reject"), ("ignore", "Ignore")])
def test_every_code_that_readers_raise_is_explained(kind, name):
    found = raised(name)
    assert len(found) > 5
    assert {code: file for code, file in found.items() if code not in codes()[kind]} == {}


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

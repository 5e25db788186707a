"""Text out of bytes: what is believed, what is repaired, what is refused."""

import pytest

from medvlp.archive.text.plaintext import LARGEST_TEXT, clean, decode, read_text
from medvlp.archive.verdict import Reject

GERMAN = "Herz vergrößert. Kein Erguß, die Lunge ist frei.\nGröße 3 cm – „unverändert“.\n"
FRENCH = "Pas d’épanchement pleural décelé à gauche. Cœur de taille élevée.\n"


@pytest.mark.parametrize("text", [GERMAN, FRENCH, "Clear.\n", "Нет плеврального выпота.\n"])
@pytest.mark.parametrize(
    ("encoding", "flags"),
    [
        ("utf-8", ()),
        ("utf-8-sig", ()),
        ("utf-16", ("not_utf8",)),
        ("utf-32", ("not_utf8",)),
    ],
)
def test_unicode_in_all_its_forms(text, encoding, flags):
    found = decode(text.encode(encoding))
    assert (found.text, found.flags) == (text, flags)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [GERMAN, FRENCH])
def test_western_text_without_a_mark(text, encoding):
    found = decode(text.encode(encoding))
    assert (found.text, found.flags) == (text, ("not_utf8",))


def test_latin_1_of_a_short_report():
    assert decode("Größe 3 cm.".encode("latin-1")).text == "Größe 3 cm."


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("Herz vergrößert. Kein Erguß.".encode("cp850"), "text_encoding"),
        ("Нет плеврального выпота слева.".encode("cp1251"), "text_encoding"),
        ("右肺に結節を認める。".encode("shift_jis"), "text_encoding"),
        ("双肺纹理清晰,未见实变。".encode("gb18030"), "text_encoding"),
        ("Größe ".encode() + "größer".encode("latin-1"), "text_encoding"),
        (b"\xff\xfeA", "text_encoding"),
        (b"No pneumo\0thorax.", "text_binary"),
        (b"\0" * 40, "text_binary"),
        (b"%PDF-1.7\nNo pneumothorax.", "text_binary"),
        (b"\x89PNG\r\n\x1a\n", "text_binary"),
        (b" " * 128 + b"DICM", "text_binary"),
        (bytes(range(1, 32)) * 3 + b"Clear.", "text_binary"),
        (bytes((i * 37 + 11) % 256 for i in range(999)), "text_binary"),
    ],
)
def test_what_cannot_be_read_is_refused(data, code):
    with pytest.raises(Reject) as verdict:
        decode(data)
    assert verdict.value.code == code


def test_text_read_once_too_often_as_latin_is_put_right():
    found = decode(GERMAN.encode().decode("cp1252").encode())
    assert (found.text, found.flags) == (GERMAN, ("mojibake",))
    # Words that merely hold such letters stay.
    assert decode("Größe, früher Übergröße".encode()).flags == ()


def test_what_is_hidden_goes():
    hidden = "No \u202eevidence\u202c of pneumo\u200bthorax\ufeff.\x07 Se\u00adcond"
    found = clean(hidden)
    assert found.text == "No evidence of pneumothorax. Second"
    assert found.flags == ("controls_stripped", "hidden_stripped")
    persian = "می\u200cشود"
    assert clean(persian).text == persian


def test_line_ends_become_one_kind():
    assert clean("a\r\nb\rc\u2028d\x0ce").text == "a\nb\nc\nd\ne"


def test_lost_characters_and_long_lines_are_flagged():
    assert clean("gr\ufffd\ufffde").flags == ("lost_characters",)
    assert clean("word " * 5000).flags == ("long_line",)
    assert clean("word\n" * 5000).flags == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_report"),
        (b"\xef\xbb\xbf \r\n\t ", "empty_report"),
        ("\u200b\u200b".encode(), "empty_report"),
        (b"word " * (LARGEST_TEXT // 5 + 1), "text_too_large"),
        (rb"{\rtf1\ansi Clear.}", "text_markup"),
        (b"<!DOCTYPE html><html><body>Clear.</body></html>", "text_markup"),
        (b"Clear. " + b"QUJD" * 600, "text_binary"),
    ],
)
def test_report_files_that_are_no_reports(tmp_path, data, code):
    (tmp_path / "r.txt").write_bytes(data)
    with pytest.raises(Reject) as verdict:
        read_text(tmp_path / "r.txt")
    assert verdict.value.code == code


def test_a_file_that_is_gone_is_unreadable(tmp_path):
    with pytest.raises(Reject, match="unreadable"):
        read_text(tmp_path / "none.txt")

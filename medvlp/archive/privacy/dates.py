"""How one calendar date, or any date, may be written in a report."""

from __future__ import annotations

import datetime as dt

MONTHS: tuple[tuple[str, ...], ...] = (
    ("january", "jan", "januar", "janner", "jaenner", "janvier", "janv", "enero", "ene",
     "gennaio", "gen"),
    ("february", "feb", "februar", "feber", "fevrier", "fevr", "febrero", "febbraio"),
    ("march", "mar", "marz", "maerz", "mrz", "mars", "marzo"),
    ("april", "apr", "avril", "avr", "abril", "abr", "aprile"),
    ("may", "mai", "mayo", "maggio", "mag"),
    ("june", "jun", "juni", "juin", "junio", "giugno", "giu"),
    ("july", "jul", "juli", "juillet", "juil", "julio", "luglio", "lug"),
    ("august", "aug", "aout", "agosto", "ago"),
    ("september", "sept", "sep", "septembre", "septiembre", "settembre", "set"),
    ("october", "oct", "oktober", "okt", "octobre", "octubre", "ottobre", "ott"),
    ("november", "nov", "novembre", "noviembre"),
    ("december", "dec", "dezember", "dez", "decembre", "diciembre", "dic", "dicembre"),
)  # fmt: skip
"""Names of the months in English, German, French, Spanish and Italian, without diacritics."""

_ANY_MONTH = "|".join(sorted({name for names in MONTHS for name in names}, key=len, reverse=True))
_TIME = (
    r"(?:(?:,|\s|t|at|um|a las|alle|ore|kl|-){0,4}(?:\d{1,2}[:h]\d\d(?::\d\d)?"
    r"(?:\s?[ap]\.?m\b\.?|\s?uhr)?|\d{1,2}\.\d\d\s?uhr))?"
)
_GAP = r"[\s.,/-]{1,3}(?:de[l]?\s|of\s)?"


def spellings(date: dt.date) -> str:
    """A regular expression, for text in small letters without diacritics, of one date."""
    day, month = f"0?{date.day}", f"0?{date.month}"
    year = f"(?:{date.year}|'?{date.year % 100:02})"
    names = f"(?:{'|'.join(sorted(MONTHS[date.month - 1], key=len, reverse=True))})"
    sep = r"\s?[./\-\s]\s?"
    ordinal = r"(?:st|nd|rd|th|er|\.|°|º)?"
    forms = (
        f"{date:%Y%m%d}",
        f"{date:%d%m%Y}",
        f"{date.year}{sep}{month}{sep}{day}",
        f"{day}{sep}{month}{sep}{year}",
        f"{month}{sep}{day}{sep}{year}",
        f"{day}{ordinal}{_GAP}?{names}(?:{_GAP}{year})?",
        f"{names}{_GAP}{day}{ordinal}(?:{_GAP}{year})?",
        f"{date.year}{_GAP}{names}{_GAP}{day}",
    )
    return rf"(?<![0-9a-z])(?:{'|'.join(forms)})(?![0-9a-su-z]|t(?!\d)){_TIME}"


def any_date() -> str:
    """A regular expression, for text in small letters without diacritics, of any full date.

    A year alone is none, and neither is a month alone; day and month are, where a word such as
    ``from`` or ``vom`` says that a date follows.
    """
    day, month = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
    long_year, year = r"(?:1[89]|20)\d\d", r"(?:(?:1[89]|20)\d\d|'?\d\d)"
    name = rf"(?:{_ANY_MONTH})(?![a-z])"
    ordinal = r"(?:st|nd|rd|th|er|\.|°|º)?"
    forms = (
        rf"{long_year}(?P<g1>[.\-/]){month}(?P=g1){day}",
        rf"{long_year}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])",
        rf"{day}\s?(?P<g2>[./\-])\s?{month}\s?(?P=g2)\s?{long_year}",
        rf"{month}\s?(?P<g3>[./\-])\s?{day}\s?(?P=g3)\s?{long_year}",
        rf"{day}(?P<g4>[./\-]){month}(?P=g4)\d\d(?!\d|[.,]\d|\s?(?:cm|mm|x)\b)",
        rf"{month}(?P<g5>[/\-]){day}(?P=g5)\d\d(?!\d|[.,]\d|\s?(?:cm|mm|x)\b)",
        rf"{day}{ordinal}[\s.,/-]{{0,3}}(?:de\s|of\s)?{name}[\s.,/-]{{1,3}}(?:del?\s)?{year}(?!\s?(?:mm|cm))",
        rf"{name}[\s.]{{1,2}}{day}(?:st|nd|rd|th)?,?\s{long_year}",
        rf"{name}[\s.,/-]{{1,3}}(?:of\s|del?\s)?{long_year}",
        rf"{day}{ordinal}\s(?:de\s)?{name}",
        rf"(?<=[a-z]\s){name}\.?\s{day}(?:st|nd|rd|th)?(?!\s?(?:mm|cm|x)\b)",
        rf"(?<=\bdated\s){month}/{day}",
        rf"(?<=\bfrom\s){month}/{day}",
        rf"(?<=\bvom\s){day}\.{month}\.",
        rf"(?<=\bam\s){day}\.{month}\.",
    )
    return rf"(?<![0-9a-z.,/-])(?:{'|'.join(forms)})(?![0-9a-su-z]|t(?!\d)|[/-]\d){_TIME}"

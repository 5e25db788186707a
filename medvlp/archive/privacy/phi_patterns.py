"""What identifies a person by its form alone: dates, numbers with a cue, addresses, titles.

The patterns keep off measurements, vertebrae, series and image numbers, stages and doses. Names
without a title or a cue they cannot know: those are found where the header names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medvlp.archive.privacy.dates import any_date
from medvlp.archive.privacy.fold import Folded, fold
from medvlp.archive.privacy.identifiers import Span

_NAME = r"(?:[^\W\d_a-z][^\W\d_]*(?:['’-][^\W\d_]+){0,3})"
_BEFORE = r"(?:[^\W\d_a-z]\.[ -]?)*(?:(?:von|van|de|der|den|del|della|di|da|la|le|el|bin)[ ])*"
_FULL = rf"(?:{_BEFORE}{_NAME})"
_MORE = (
    rf"(?:,?[ ](?!(?i:and|und|et|y|e|at|on|who|findings|impression)\b){_FULL}(?![\w]*\s?:)){{0,3}}"
)
_NAMES = rf"{_FULL}(?:[ ]{_FULL}(?![\w]*\s?:)){{0,2}}"
_SIGNED = rf"{_FULL}{_MORE}(?:,?[ ](?:M\.?D\.?|MD|PhD|DO|FRCR))*"

_TITLED = re.compile(
    r"(?<!\w)(?:Dr|DR|Drs|Prof|PROF|Doctor|Doktor|Dott|Dott\.ssa|Dra|Herrn?|Frau|Mr|Mrs|MRS|Ms|"
    r"Miss|Mme|Mlle|Madame|Monsieur|Señora?|Sra?|Sig|Sig\.ra|Signora?)(?:\.[ ]?|(?<!DR)[ ])"
    r"(?:(?:Dr|Prof|med|rer|nat|dent|habil|Priv|PD|Doz|h\.c|univ)\.?[ -]*)*"
    rf"(?P<span>{_NAMES})"
)
_SIGNED_BY = re.compile(
    r"(?i:(?:(?:electronically\s)?signed(?:\soff)?\sby|dictated\sby|transcribed\sby|reported\sby|"
    r"read\sby|interpreted\sby|verified\sby|approved\sby|reviewed\sby|requested\sby|"
    r"befundet\s(?:von|durch)|unterschrieben\svon|vidiert\svon|freigegeben\svon|gez\.|"
    r"signé\spar|validé\spar|dicté\spar|firmado\spor|informado\spor|validado\spor|firmato\sda|"
    r"refertato\sda|validato\sda)\s*:?\s*(?:by\s)?|"
    r"\b(?:attending|radiologist|resident|fellow|technologist|(?:referring|ordering|attending)\s"
    r"(?:physician|provider)|physician|signed|signature|(?:pt\.?|patient)\s?name|name|surname|"
    r"befunder|radiologe|überweiser|zuweiser|nachname|vorname|médecin|radiologue|nom|prénom|"
    r"médico|radiólogo|nombre|apellidos?|medico|radiologo|nome|cognome|firma)\s*:\s*)"
    rf"(?:(?i:dr|prof|dra|dott)\.?[ ]*)*(?P<span>{_SIGNED})"
)
_PATIENT = re.compile(
    rf"(?i:\b(?:patient(?:in)?|pt|paciente|paziente)\s*:\s*)(?P<span>{_FULL}(?:,[ ]?|[ ]){_FULL})"
)
_STREET_WORD = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Ct|Way|Place|Square|"
    r"Terrace|Highway|Hwy)"
)
_CITY = r"[^\W\d_a-z][^\W\d_]+(?:[ -][^\W\d_a-z][^\W\d_]+){0,2}"
_STATE = r"[A-Z]{2}\s\d{5}(?:-\d{4})?"
_TOWN = rf"(?:,?\s+(?:(?:[A-Z]{{1,2}}-)?\d{{4,5}}\s{_CITY}|{_CITY},?\s{_STATE}))"
_ADDRESS = re.compile(
    rf"(?P<span>(?<![\w.])\d{{1,5}}\s(?:[NSEW]\.?\s)?(?:[^\W\d_a-z][\w'-]+\s){{1,3}}{_STREET_WORD}"
    rf"(?:\.|(?!\w))(?:,?\s(?:Apt|Suite|Unit|#)\.?\s?\w+)?{_TOWN}?"
    r"|(?<![\w-])[^\W\d_a-z][\w-]{0,40}(?:straße|strasse|str\.|gasse|platz|allee|damm|ufer)\s\d{1,4}"
    rf"\s?[a-z]?(?!\w){_TOWN}?"
    r"|(?<!\w)[^\W\d_a-z]\w*(?:[ -][^\W\d_a-z]\w*){0,3}[ -](?:Straße|Strasse|Str\.|Weg|Platz|Allee)"
    rf"\s\d{{1,4}}\s?[a-z]?(?!\w){_TOWN}?"
    r"|(?<![\w.])\d{1,4},?\s(?:rue|avenue|boulevard|place|chemin|allée|impasse|quai)\s"
    rf"(?:(?:de|du|des|la|le|l'|d')\s?)*{_CITY}{_TOWN}?"
    r"|(?<!\w)(?:Calle|Avenida|Avda\.|C/|Plaza|Paseo|Via|Viale|Piazza|Corso|Largo)\s"
    rf"(?:(?:de|del|la|los|las|di|della|dei)\s)*{_CITY},?\s(?:n\.?º?\s?)?\d{{1,4}}(?!\s?(?:mm|cm)){_TOWN}?"
    rf"|(?<!\w)(?:D|A|CH|F|I|E)-\d{{4,5}}\s{_CITY}"
    rf"|(?<!\w){_CITY},\s[A-Z]{{2}}\s\d{{5}}(?:-\d{{4}})?(?!\d))"
)
_ADDRESSED = re.compile(
    r"(?P<span>(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"
    r"|(?:https?://|www\.)[^\s<>()]+[^\s<>().,;:])"
)
_DIGITS = re.compile(r"\d+")
_REACH = 80
_DIGITS_MAY = r"[0-9][0-9 ./()-]*[0-9]"
_FOLDED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("date", re.compile(rf"(?P<span>{any_date()})")),
    (
        "contact",
        re.compile(
            r"\b(?:tel|telefon|telephone|telefono|phone|fax|mobil|mobile|cell|pager|beeper|ext|"
            r"extension|durchwahl|handy|portable)\b[.:#\s]*(?:no\.?|nr\.?|number)?[.:#\s]*"
            rf"(?P<span>\+?\(?{_DIGITS_MAY})"
        ),
    ),
    (
        "contact",
        re.compile(
            r"(?P<span>(?<![\w.+])(?:\+\d{1,3}[ ./-]?(?:\(0\))?[ ./-]?(?:\d[ ./-]?){6,12}\d"
            r"|\(\d{3}\)[ ]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"
            r"|0\d{2,4}[ ]?/[ ]?\d{3,}(?:[ -]?\d+)*|0\d(?:[ .]\d\d){4})(?![\w]))"
        ),
    ),
    (
        "number",
        re.compile(
            r"(?P<span>(?<![\w.])(?:[a-z]{2}\d{2}(?:\s?[a-z0-9]{4}){3,7}(?:\s?[a-z0-9]{1,3})?"
            r"|\d{3}-\d{2}-\d{4}|756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}"
            r"|[12]\s?\d{2}\s?(?:0[1-9]|1[0-2])\s?\d[\dab]\s?\d{3}\s?\d{3}(?:\s?\d{2})?"
            r"|[a-z]{6}\d{2}[a-z]\d{2}[a-z]\d{3}[a-z]|\d{8}-?[a-z]|[a-z]\d{9}"
            r"|\d{3}\s\d{3}\s\d{4}|\d+(?:\.\d+){5,}|\d{7,})(?![\w]))"
        ),
    ),
    (
        "number",
        re.compile(
            r"(?:\b(?:mrn|mr\s?#|medical\srecord|record|chart|hospital|patient|pat\.?|case|"
            r"encounter|visit|order|requisition|accession|acc|exam|study|fall|auftrags?|zugangs?|"
            r"untersuchungs?|versicherten|dossier|ipp|nhc|historia(?:\sclinica)?|cartella"
            r"(?:\sclinica)?|numero\sdi\saccesso|nss|ssn|svnr|ahv|nino|nhs)"
            r"[\s-]*(?:id|no|nr|number|num|numero|nummer|#|n°|n|nº)?|"
            r"\b(?:patienten|fall|auftrags|zugangs|untersuchungs|versicherten|akten)-?"
            r"(?:id|nr|nummer)|\b(?:id|pid|pat-?id))\b[.°ºo]*\s*(?:[:#=]|is|\s)\s*#?\s*"
            r"(?P<span>(?=(?:[a-z./-]*\d){4})[a-z0-9][a-z0-9./-]{2,}[a-z0-9])"
            r"(?!\s?(?:mm|cm|ml|hu|mg|kv)\b|\w)"
        ),
    ),
    (
        "age",
        re.compile(
            r"(?<![\d.,])(?P<span>9\d|1[0-2]\d)(?=[\s-]{0,2}(?:years?(?:\sold|-old)?\b|yrs?\b|y\.?/?o\b|"
            r"jahr|jahrig|jaehrig|ans\b|anos\b|anni\b))"
        ),
    ),
    (
        "age",
        re.compile(
            r"\b(?:age|aged|alter|age\sde|edad|eta)\b[:\s]{1,3}(?P<span>9\d|1[0-2]\d)(?![\d.,]\d|\d|\s?(?:mm|cm|days))"
        ),
    ),
)
_CASED = (("name", _TITLED), ("name", _SIGNED_BY), ("name", _PATIENT), ("place", _ADDRESS))


def find_patterns(text: str) -> Iterator[Span]:
    """The spans of `text` that identify somebody by their form."""
    for category, pattern in _CASED:
        for match in pattern.finditer(text):
            yield (*match.span("span"), category)
    folded: Folded = fold(text)
    for start, end in _around_digits(folded.text):
        for category, pattern in _FOLDED:
            for match in pattern.finditer(folded.text, start, end):
                yield (*folded.span(*match.span("span")), category)
    for match in _ADDRESSED.finditer(folded.text):
        yield (*folded.span(*match.span("span")), "contact")


def _around_digits(text: str) -> Iterator[tuple[int, int]]:
    """The parts of a text in which there are digits: most of a report has none."""
    start = end = 0
    for match in _DIGITS.finditer(text):
        if match.start() - _REACH > end:
            if end:
                yield start, end
            start = max(0, match.start() - _REACH)
        end = min(len(text), match.end() + _REACH)
    if end:
        yield start, end

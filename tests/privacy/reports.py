"""Reports that name known people, and pieces of text that must stay as they are."""

from __future__ import annotations

import datetime as dt
import random
import re
import unicodedata
from dataclasses import dataclass

MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
    "diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre "
    "dicembre",
}
FAMILIES = {
    "de": "Müller Weiß Schröder Groß-Gerau Öztürk Köhler Lüdenscheidt von_Bülow Jäger Straßer "
    "Schmidt Zielke Hübner Kraußneck",
    "fr": "Lefèvre Dubois D'Artagnan Benoît de_La_Tour Gérard Côté Noël Brébeuf Lemaître",
    "es": "Muñoz García_Márquez Núñez Ibáñez de_la_Cruz Peña Rodríguez Zúñiga Echeverría",
    "it": "Esposito D'Angelo Ferrari Lo_Bianco Niccolò Della_Valle Conti Marchetti",
    "zh": "Wu Xu Ng Zhang Ouyang Xie Zhao Tsai Huang",
}
GIVEN = {
    "de": "Jürgen Käthe Björn Änne Hans-Günther Lieselotte Wolfgang",
    "fr": "Zoé Jérôme François Héloïse Jean-Luc Aurélie",
    "es": "José Begoña Íñigo Concepción Ramón Asunción",
    "it": "Giosuè Chiara Pier-Luigi Fortunata Nicolò",
    "zh": "Wei Xiaoming Li-Hua Jun Guofeng Meiling",
}
HOSPITALS = (
    "St. Elisabeth-Krankenhaus Musterstadt", "Hôpital Saint-Exemple", "Northfield General Hospital",
    "Ospedale San Esempio", "Hospital Virgen del Ejemplo",
)  # fmt: skip
SENTENCES = (
    "The heart size is normal.", "No focal consolidation, pleural effusion or pneumothorax.",
    "Kein Nachweis eines Pleuraergusses.", "Stable 3.5 cm mass in the right upper lobe.",
    "Nodule of 1.2 x 0.8 cm in segment 6.", "Pas d'épanchement pleural.",
    "Degenerative changes at L4/5 and T12.", "Sin signos de neumonía.",
    "Ombra cardiaca nei limiti della norma.",
)  # fmt: skip

KEEP = (
    "A 3.5 cm mass and a 1.2 x 0.8 cm nodule.", "Nodules of 4, 5 and 12 mm (series 4, image 123).",
    "Se 3/Im 45, level L4/5, T12-L1, C5-C6, S1.", "Stage T2N1M0, pT3 pN2a cM0, BI-RADS 4a.",
    "CTDIvol 12.5 mGy, DLP 423.7 mGy*cm, 120 kV, 35 mAs.", "HU 35-45, -950 HU threshold, 1:10000.",
    "SUVmax 12.3, FEV1 84%, ejection fraction 55-60%.", "100 ml Iopromid 300 at 3.5 ml/s.",
    "Lung-RADS 2, LI-RADS LR-5, Fleischner 2017, Bosniak IIF.", "Cobb angle of 12 degrees, 3/5.",
    "Aorta 4.1 cm, previously 3.9 cm; ratio 1.05; 12/15 slices.", "5-10 mm, 10-20 mm, 0.5-1.0 cm.",
    "Fracture of ribs 4-7; 2nd and 3rd MCP joints.", "Findings at 10 o'clock, 3 cm from nipple.",
    "In 2019 a lobectomy was done; 45-year-old woman, 89 years old.", "1.5 T and 3 T MR imaging.",
    "MR angiography and DR chest; Dr. reviewed. CT of 64 slices.", "Slice thickness 0.625 mm.",
    "T1w, T2w, FLAIR, b=1000 s/mm2, TE 12.5, TR 3500.", "Grade II/III, ASA 3, ECOG 1, NYHA II-III.",
    "Via the right common femoral artery a 5 F sheath was placed.",
    "May be artefact. March fracture.",
    "Im Segment 8 ein Herd von 12 mm.", "Herz normal gross, Kopf unauffällig, Stern 4.",
    "Das Herz ist nicht verbreitert, weiss imponierend.",
    "SpO2 98%, RR 120/80, HF 72/min, 37.5 °C.",
    "Tube tip 4.2 cm above the carina; NG tube, PICC, ETT.", "Volume 1,234.5 ml, 12 345 voxels.",
    "Nodule 6 x 5 x 4 mm (image 3-112).", "Segments 2/3, 4a/b, 5-8 of the liver.",
)  # fmt: skip
"""What pattern scrubbing must leave alone."""


@dataclass(frozen=True)
class Person:
    """A made-up patient as a header names one."""

    family: str
    given: tuple[str, ...]
    born: dt.date
    seen: dt.date
    number: str
    accession: str
    physician: str
    hospital: str

    def identifiers(self) -> tuple[str, ...]:
        """As the archive reader hands them to the scrubber."""
        return (
            f"{self.family}^{'^'.join(self.given)}", f"{self.physician}^A", self.born.isoformat(),
            self.seen.strftime("%Y%m%d"), self.number, self.accession, self.hospital,
        )  # fmt: skip


def a_person(draw: random.Random) -> Person:
    """Draw a person of one of five languages."""
    language = draw.choice(sorted(FAMILIES))
    born = dt.date(1930, 1, 1) + dt.timedelta(days=draw.randrange(32000))
    given = draw.sample(GIVEN[language].split(), draw.choice((1, 1, 2)))
    other = draw.choice(sorted(FAMILIES))
    return Person(
        family=draw.choice(FAMILIES[language].split()).replace("_", " "),
        given=tuple(given),
        born=born,
        seen=dt.date(2000, 1, 1) + dt.timedelta(days=draw.randrange(9000)),
        number=draw.choice((f"{draw.randrange(10**7):07}", f"MP-{draw.randrange(10**6):06}")),
        accession=f"{draw.choice('ABX')}{draw.randrange(10**8):08}",
        physician=draw.choice(FAMILIES[other].split()).replace("_", " "),
        hospital=draw.choice(HOSPITALS),
    )


def plain(text: str) -> str:
    """As written where the keyboard has no such letters."""
    table = {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"}
    for letter, pair in table.items():
        text = text.replace(letter, pair)
    return bare(text)


def bare(text: str) -> str:
    """Without diacritics."""
    split = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(c for c in split if not unicodedata.combining(c))


def decomposed(text: str) -> str:
    """With combining marks."""
    return unicodedata.normalize("NFD", text)


def a_name(draw: random.Random, family: str, given: tuple[str, ...]) -> str:
    """One of the ways to write a name."""
    first, initial = given[0], given[0][0]
    form = draw.choice(
        (
            f"{first} {family}", f"{family}, {first}", f"{family} {first}", f"{initial}. {family}",
            f"{family}, {initial}.", family, f"{' '.join(given)} {family}", f"{initial} {family}",
            f"{family} {initial}.", f"{family}^{first}", f"{family}'s",
        )
    )  # fmt: skip
    spell = draw.choice((str, str, plain, bare, decomposed))
    return spell(draw.choice((str, str, str.upper, str.title))(form))


def a_date(draw: random.Random, date: dt.date) -> str:
    """One of the ways to write a date."""
    d, m, y = date.day, date.month, date.year
    language = draw.choice(sorted(MONTHS))
    month = MONTHS[language].split()[m - 1]
    english = MONTHS["en"].split()[m - 1]
    forms = (
        f"{d}.{m}.{y}", f"{d:02}.{m:02}.{y}", f"{d:02}.{m:02}.{y % 100:02}", f"{m}/{d}/{y}",
        f"{m:02}/{d:02}/{y % 100:02}", f"{y}-{m:02}-{d:02}", f"{y}{m:02}{d:02}", f"{d}/{m}/{y}",
        f"{d} {month} {y}", f"{d}. {month} {y}", f"{d} de {month} de {y}", f"{english} {d}, {y}",
        f"{english[:3]} {d}, {y}", f"{d:02}-{english[:3].upper()}-{y}", f"{month} {d}, {y}",
        f"{y}/{m:02}/{d:02}", f"{d}. {month}", f"{english} {d}th, {y}", f"{y}-{m:02}-{d:02} 10:30",
    )  # fmt: skip
    return draw.choice(forms)


def a_number(draw: random.Random, number: str) -> str:
    """A number with or without the separators it came with."""
    joined = number.replace("-", "")
    return draw.choice(
        (number, joined, number.lower(), f"{joined[:4]}-{joined[4:]}", f"{joined[:3]} {joined[3:]}")
    )


def a_report(draw: random.Random) -> tuple[str, list[str], Person]:
    """A report, what of it identifies, and whom."""
    who = a_person(draw)
    physician = who.physician
    said = (
        ("Patient {} was examined.", a_name(draw, who.family, who.given)),
        ("{} has been seen before.", a_name(draw, who.family, who.given)),
        ("Date of birth {}.", a_date(draw, who.born)),
        ("Compared with the study of {}.", a_date(draw, who.seen)),
        ("Number {} in the archive.", a_number(draw, who.number)),
        ("Accession {}.", a_number(draw, who.accession)),
        ("Discussed with {} on the ward.", a_name(draw, physician, ("A",))),
        ("Referred by {}.", draw.choice((str, str.upper, bare))(who.hospital)),
    )  # fmt: skip
    chosen = draw.sample(said, 5)
    parts: list[str] = []
    for frame, value in chosen:
        parts += [frame.format(value), draw.choice(SENTENCES)]
    return " ".join(parts), [value for _, value in chosen], who


def a_pattern(draw: random.Random) -> tuple[str, str, str]:
    """A category, a text, and what in it must go though no header names it."""
    digits = lambda n: "".join(draw.choice("123456789") for _ in range(n))  # noqa: E731
    date = dt.date(1940, 1, 1) + dt.timedelta(days=draw.randrange(30000))
    name = f"{draw.choice('ABCDEFGH')}{draw.choice(('olter', 'inkel', 'arasso', 'uvernay'))}"
    first = draw.choice(("Erna", "Paul", "Iris", "Hugo"))
    person = draw.choice((name, f"{first} {name}", f"{first[0]}. {name}"))
    age = str(draw.randint(91, 119))
    values = {
        "date": (
            ("Prior study {}.", a_date(draw, date)),
            ("Vgl. mit {} unverändert.", a_date(draw, date)),
        ),
        "contact": (
            ("Tel. {} for questions.", f"0{digits(3)}/{digits(6)}"),
            ("Called at {}.", f"({digits(3)}) {digits(3)}-{digits(4)}"),
            ("Called at {}.", f"{digits(3)}-{digits(3)}-{digits(4)}"),
            ("Reach us on {}.", f"+49 {digits(2)} {digits(7)}"),
            ("Fax: {}.", digits(6)),
            ("Mail {}.", f"{first}.{name}@example.org".lower()),
            ("See {}.", f"https://pacs.example.org/{digits(5)}"),
        ),
        "number": (
            ("MRN: {}.", digits(draw.randint(5, 9))),
            ("Accession {} done.", f"{draw.choice('ABX')}{digits(7)}"),
            ("Patienten-ID {} bekannt.", digits(6)),
            ("Fallnummer: {}.", f"{digits(4)}-{digits(3)}"),
            ("SSN {}.", f"{digits(3)}-{digits(2)}-{digits(4)}"),
            ("AHV {}.", f"756.{digits(4)}.{digits(4)}.{digits(2)}"),
            ("IBAN {}.", f"DE{digits(2)} {' '.join(digits(4) for _ in range(4))} {digits(2)}"),
            ("Study {}.", f"1.2.840.{digits(6)}.{digits(3)}.{digits(2)}.{digits(4)}"),
            ("Dossier n° {}.", digits(8)),
        ),
        "name": (
            ("Dr. {} was informed.", person), ("Befund an Frau {} übermittelt.", person),
            ("Discussed with Prof. Dr. {}.", person), ("Mme {} est revenue.", name),
            ("Electronically signed by: {}", f"{first} {name}, MD"),
            ("Befundet von {}.", person), ("Firmado por {}.", f"{first} {name}"),
            ("Radiologist: {}", f"{name}, {first}"), ("Il Sig. {} torna.", name),
        ),
        "age": (("A {} year old man.", age), ("Aged {}.", age)),
        "place": (
            ("Lives at {}.", f"{digits(3)} {name} Street, {name}ville, IL {digits(5)}"),
            ("Wohnhaft {}.", f"{name}straße {digits(2)}, {digits(5)} {name}stadt"),
            ("Demeure {}.", f"{digits(2)} rue de {name}, {digits(5)} {name}"),
            ("Vive en {}.", f"Calle {name} {digits(2)}, {digits(5)} {name}"),
            ("Abita in {}.", f"Via {name} {digits(2)}, {digits(5)} {name}"),
        ),
    }  # fmt: skip
    category = draw.choice(sorted(values))
    frame, value = draw.choice(values[category])
    text = f"{draw.choice(SENTENCES)} {frame.format(value)} {draw.choice(SENTENCES)}"
    return category, text, value


def left(value: str, scrubbed: str) -> list[str]:
    """The words and numbers of `value` that still stand in the text."""
    value, scrubbed = (unicodedata.normalize("NFC", text) for text in (value, scrubbed))
    words = [w for w in re.findall(r"\w+", value) if len(w) > 1 and w.lower() not in _NO_NAME]
    return [w for w in words if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", scrubbed, re.I)]


_NO_NAME = ("de", "la", "della", "von", "der", "lo", "md", "th", "saint", "san", "del", "an", "in")

"""Files without preamble and magic: taken, with a flag, where the options say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from catalogue.case import Case
from catalogue.cases_dicom_volumes import hounsfield, volume
from catalogue.dicom import one
from catalogue.raw import EXPLICIT, dataset, meta, xray
from medvlp.archive.dicom.files import read_image
from medvlp.archive.series.read import read_series


def legacy(case: Case) -> Case:
    """The case in an archive that takes such files."""
    return replace(case, archive="dicom:legacy", overrides=("options.legacy=true",))


def image(case: Case) -> Case:
    """A legacy radiograph, read as a sample with its flag is."""
    return replace(legacy(case), read=lambda paths: read_image(paths[0], legacy=True))


def series(name: str) -> Case:
    """A legacy CT series: the sound one without its first 132 bytes."""
    sound = volume(6, name, "FLAG:no_preamble")

    def write(folder: Path) -> list[Path]:
        paths = list(sound.write(folder))
        for path in paths:
            path.write_bytes(path.read_bytes()[132:])
        return paths

    return replace(
        legacy(sound),
        write=write,
        read=lambda paths: read_series(paths, legacy=True).hu_DHW,
        oracle=hounsfield,
    )


CASES = (
    image(one(6, "legacy-data-set", "FLAG:no_preamble", lambda n: dataset(xray(n)))),
    image(one(6, "legacy-with-meta", "FLAG:no_preamble",
              lambda n: meta(EXPLICIT) + dataset(xray(n)))),
    image(one(6, "legacy-implicit", "FLAG:no_preamble",
              lambda n: dataset(xray(n), implicit=True))),
    legacy(one(6, "legacy-text", "REJECT:not_dicom", lambda _: b"Dear colleague, \n" * 40)),
    legacy(one(6, "legacy-zeros", "REJECT:not_dicom", lambda _: bytes(5000))),
    series("legacy-series"),
)  # fmt: skip

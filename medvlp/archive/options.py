"""The options of `medvlp index`, and how a table's columns are named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from medvlp.config import STRICT, plain
from medvlp.data.splits import Fractions

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Columns:
    """What the user's columns are called; a column left out is looked for under its own name."""

    path: str | None = None
    patient: str | None = None
    study: str | None = None
    study_uid: str | None = None
    accession: str | None = None
    series: str | None = None
    text: str | None = None
    status: str | None = None
    """Of a report: preliminary, final, amended, addendum, entered-in-error or HL7's letters."""

    version: str | None = None
    """Number of a report's version; the highest counts."""

    issued: str | None = None
    """When a report's version was issued; the latest counts."""

    date: str | None = None
    modality: str | None = None
    view: str | None = None
    laterality: str | None = None
    sex: str | None = None
    age: str | None = None
    site: str | None = None
    scanner: str | None = None
    split: str | None = None
    labels: tuple[str, ...] = ()
    """Wide label columns, one each, with 1, 0, -1 (uncertain) or blank."""

    label_list: str | None = None
    """One column with the names of the labels that are present."""

    label_separator: str = "|"
    """What stands between the names in `label_list`."""

    names: tuple[str, ...] = ()
    """Columns of what must not stay in the row's report: names of the patient and of physicians,
    further numbers, addresses. Those that are called so, such as PatientName or Nachname, are known
    without being named here."""

    def named(self) -> dict[str, str]:
        """The single columns that the user named: field -> column."""
        skip = ("labels", "label_separator", "names")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitConfig:
    """How patients are divided."""

    policy: Literal["source", "hash"] = "source"
    """Source: the source's own split where it has one. Hash: by the patient's pseudonym alone,
    which manifests that share a key then share."""

    fractions: Fractions = Field(default_factory=Fractions)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IndexConfig:
    """Everything that `--config` and `--set` may say."""

    domain: str | None = None
    """Domain of the samples, where the kind does not say it."""

    reports: Path | None = None
    """Reports: a folder or a file of plain text, CSV, Parquet, Excel, FHIR DiagnosticReport (JSON),
    DICOM Structured Report or Open-I XML; see `medvlp.archive.text.reports`."""

    labels: Path | None = None
    """Labels as CSV or Parquet, one a row; `medvlp.archive.tables.annotations` has the columns."""

    regions: Path | None = None
    """Boxes, intervals and masks as CSV or Parquet."""

    entities: Path | None = None
    """What is said of which anatomy, as CSV or Parquet."""

    columns: Columns = Field(default_factory=Columns)
    split: SplitConfig = Field(default_factory=SplitConfig)

    duplicates: Literal["report", "group", "exact"] = "report"
    """Report copies of images; or also put patients whom a copied image links into one split; or
    report equal pixels alone, without the search for near copies."""

    headings: Path | None = None
    """YAML file with section headings in place of the English ones."""

    scrub: Literal["both", "header", "patterns"] = "both"
    """What is taken out of texts: what their own header names, what identifies by its form."""

    burned_in: Literal["hold", "allow"] = "hold"
    """Whether pictures of a class on which names may be burned in are held; see `burned_in.py`."""

    project: str = ""
    """Manifests of different projects cannot be linked, though they share a key."""

    issuer: str = ""
    """Who gives out the patient numbers, where sites that share a key number independently."""

    site: str | None = None
    """Site to write for samples that name none."""

    label_source: str = "table"
    """What to write as the source of a table's labels."""

    workers: int = Field(default=4, ge=1, le=1024)
    """Files read at a time."""

    engine: EngineName = "local"
    """What reads them: processes on this machine, or Ray on a cluster (see docs/cluster.md)."""

    follow_links: bool = False
    """Whether symbolic links that lead out of the source are followed; a folder of links into an
    image store needs it. Links to something inside the source are never followed twice."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the kind itself, such as options.synthetic_text=false for nih-cxr14."""


def public_options(config: IndexConfig) -> dict[str, Any]:
    """The options without paths and without free words, which may name a hospital's patient."""
    values: dict[str, Any] = plain(config)
    for name in ("reports", "labels", "regions", "entities", "headings"):
        values[name] = values[name] is not None
    values["options"] = {
        name: value
        for name, value in config.options.items()
        if isinstance(value, bool | int | float)
    }
    del values["workers"], values["engine"]
    return values


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableOptions:
    """Settings of the kind ``table``: ``--set options.accept_not_hu=true``."""

    accept_not_hu: bool = False
    """Of CT alone: take in volumes whose values cannot be Hounsfield units, with the flag
    ``not_hu``; masks stay out."""

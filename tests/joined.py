"""What becomes of reports that images claim: shared by the tests of tables, texts and FHIR."""

from pathlib import Path

from medvlp.archive.intake import Intake
from medvlp.archive.options import IndexConfig
from medvlp.archive.privacy.pseudonyms import Pseudonyms
from medvlp.archive.text.report_files import read_report_file
from medvlp.archive.text.reports import ReportIndex, load_reports


def intake_for(root, **config):
    return Intake(root, IndexConfig(**config, workers=1), Pseudonyms(bytes(32)), "cxr")


class Joined:
    """What becomes of claims, one dummy image each, on an option's reports or on documents."""

    def __init__(self, root, claims, reports, **config):
        for i in range(len(claims)):
            (root / f"image{i:02d}.dcm").write_bytes(b"image %d" % i)
        named = isinstance(reports, str | Path)
        intake = intake_for(root, reports=str(reports) if named else None, **config)
        index = load_reports(intake) if named else ReportIndex(intake)
        for number, document in enumerate([] if named else reports, start=1):
            index.add(document, root / "r", number)
        images = sorted(p for p in intake.files() if p.name.startswith("image"))
        samples = []
        for path, claim in zip(images, claims, strict=True):
            samples.append(intake.accept([path], kind="dicom", patient=claim.get("patient", "p")))
            index.attach(samples[-1], **claim)
        tables, _, self.info, _ = intake.finish()
        texts = {r["sample"]: r["text"] for r in tables["texts"] if r["level"] == "report"}
        self.texts = [texts.get(sample) for sample in samples]
        flags = {r["sample"]: r["flags"] for r in tables["samples"]}
        self.flags = [flags[sample] for sample in samples]
        self.codes = sorted(row["code"] for row in tables["rejects"])
        self.stages = {row["stage"] for row in tables["rejects"]}


def told(path):
    """The documents in a file, read in this process."""
    return read_report_file((path,)).documents


def keys(*accessions):
    return [{"accession": accession} for accession in accessions]

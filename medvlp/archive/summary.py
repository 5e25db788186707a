"""What an indexing came to, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from medvlp.data.tables import (
    DUPLICATE_KINDS,
    NO_PATIENT_ID,
    PATIENT_IS_IMAGE,
    PATIENT_IS_VIDEO,
    SPLITS,
)

_COPIES = "duplicates_"

_NAMELESS = frozenset({PATIENT_IS_IMAGE, PATIENT_IS_VIDEO, NO_PATIENT_ID})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of files, and of the samples made from them."""

    found: int
    accepted: int
    quarantined: int
    ignored: int
    samples: int
    textless: int
    nameless: int
    """Samples that count as patients of their own, for nothing names the patient."""
    by_split: Mapping[tuple[str, str], int]
    """Samples of each (domain, split)."""

    by_code: Mapping[tuple[str, str], int]
    """Rejects of each (stage, code)."""

    read: int = 0
    """Files that this run read."""

    known: int = 0
    """Files whose reading was known from an earlier run, or came from another process."""

    vanished: int = 0
    """Files of the run before that are not there any more."""

    copies: Mapping[str, int]
    """Pairs of copies, as `duplicates.write_copies` counts them."""

    notes: Mapping[str, int] = field(default_factory=dict)
    """The other counts that are about no file, such as ``rows_without_image``."""

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        samples: Iterable[Mapping[str, Any]],
        rejects: Iterable[Mapping[str, Any]],
        notes: Mapping[str, int],
    ) -> Summary:
        """The summary of a ledger's counts and a manifest's rows."""
        textless = nameless = 0
        by_split: Counter[tuple[str, str]] = Counter()
        for row in samples:
            by_split[row["domain"], row["split"]] += 1
            textless += "no_text" in row["flags"]
            nameless += not _NAMELESS.isdisjoint(row["flags"])
        return cls(
            **counts,
            samples=by_split.total(),
            textless=textless,
            nameless=nameless,
            by_split=by_split,
            copies={k: n for k, n in notes.items() if k.startswith(_COPIES)},
            notes={k: n for k, n in notes.items() if not k.startswith(_COPIES)},
            by_code=Counter((row["stage"], row["code"]) for row in rejects),
        )

    def counts(self) -> dict[str, int]:
        """Files: found = accepted + quarantined + ignored."""
        return {
            "found": self.found,
            "accepted": self.accepted,
            "quarantined": self.quarantined,
            "ignored": self.ignored,
        }

    def table(self) -> Table:
        """The summary for the terminal."""
        table = Table(title="Indexed", show_header=False)
        for name, count in self.counts().items():
            table.add_row(f"files {name}", f"{count:,}")
        table.add_section()
        for name in ("read", "known", "vanished"):
            table.add_row(f"files {name}", f"{getattr(self, name):,}")
        table.add_section()
        table.add_row("samples", f"{self.samples:,}")
        table.add_row("samples without text", f"{self.textless:,}")
        if self.nameless:
            advice = (
                "each counts as a patient of its own, and [bold]two of one person may fall into "
                "training and test[/bold]; see their flags in docs/verdicts.md"
            )
            table.add_row("samples without patient", f"{self.nameless:,}; {advice}")
        for domain in sorted({domain for domain, _ in self.by_split}):
            split = (f"{s} {self.by_split.get((domain, s), 0):,}" for s in SPLITS)
            table.add_row(f"  {domain}", ", ".join(split))
        self._add_copies(table)
        table.add_section()
        for (stage, code), count in sorted(self.by_code.items()):
            table.add_row(f"{stage}: {code}", f"{count:,}")
        table.add_section()
        for name, count in sorted(self.notes.items()):
            table.add_row(f"note: {name.replace('_', ' ')}", f"{count:,}")
        return table

    def _add_copies(self, table: Table) -> None:
        if not self.copies:
            return
        table.add_section()
        for kind in DUPLICATE_KINDS:
            table.add_row(f"copies: {kind}", f"{self.copies.get(f'duplicates_{kind}', 0):,} pairs")
        across = self.copies.get("duplicates_across_splits", 0)
        if across:
            advice = (
                "[bold]the test is not independent[/bold]: look at the table duplicates; give "
                "--set split.policy=hash --set duplicates=group, or leave out samples flagged "
                "duplicate_across_splits"
            )
            table.add_row("[bold]copies across splits[/bold]", f"{across:,} pairs; {advice}")

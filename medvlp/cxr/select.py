"""The 5×200 selection for retrieval: studies with exactly one of five findings.

After GLoRIA (Huang et al., ICCV 2021), with the five findings of CheXpert's competition, which
BenchX takes for MIMIC-CXR, too; the 1,000 studies of either were never published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlp.data.splits import uniform
from medvlp.digest import digest_plain
from medvlp.errors import ArchiveError

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
EACH = 200


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which studies were chosen."""

    study: Mapping[str, str]
    """Study -> its one finding, in the order of the findings and of the draw."""

    digest: str
    """SHA-256 of the studies and their findings: equal where the same were chosen."""


def select_exclusive(
    labels: Mapping[str, Mapping[str, float | None]],
    *,
    seed: int = 0,
    each: int = EACH,
    findings: Sequence[str] = FIVE,
) -> Selection:
    """Choose `each` studies a finding in which it is the only one present.

    A study counts for a finding that is 1 while none of the others is 1 or -1: of an uncertain
    finding nobody can say that it is not there too. Findings beyond the five play no part. Within
    a finding, studies are ranked by a hash of seed, finding and study, so the choice depends
    neither on the order of the table nor on studies that are not chosen.

    Args:
        labels: Study -> finding -> 1, 0, -1 (uncertain) or None.
        seed: Another seed is another choice.
        each: Studies of each finding.
        findings: The findings.

    Raises:
        ArchiveError: A finding has fewer studies than `each`.
    """
    candidates: dict[str, list[str]] = {finding: [] for finding in findings}
    for study, told in labels.items():
        said = [finding for finding in findings if told.get(finding) in (1, -1)]
        if len(said) == 1 and told[said[0]] == 1:
            candidates[said[0]].append(study)
    short = {finding: len(found) for finding, found in candidates.items() if len(found) < each}
    if short:
        counts = ", ".join(f"{finding} {count}" for finding, count in short.items())
        raise ArchiveError(
            f"{each} studies a finding are asked for, and there are fewer with that finding alone "
            f"({counts})",
            remedy="choose from a larger part of the set, or ask for fewer",
        )
    chosen = {
        study: finding
        for finding, found in candidates.items()
        for study in sorted(found, key=lambda s: (uniform(s, f"select|{seed}|{finding}"), s))[:each]
    }
    return Selection(study=chosen, digest=digest_plain(sorted(chosen.items())))

"""What becomes of a file: accepted with flags, quarantined with a code, or ignored with a code."""

from __future__ import annotations


class Verdict(Exception):
    """Why a file is not accepted: the one exception that readers raise for bad input.

    Args:
        code: A reason code such as ``truncated_pixels``; `medvlp.archive.codes` explains each.
        message: Tag numbers, counts and codes only, never a value from the file or its path.
    """

    word = "REFUSE"

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.word}:{self.code}"


class Reject(Verdict):
    """A file that is quarantined: it ought to be ours, and cannot be trusted."""

    word = "REJECT"


class Ignore(Verdict):
    """A file that is none of ours: no image, another modality, a sidecar."""

    word = "IGNORE"

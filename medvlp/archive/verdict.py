"""What becomes of a file: accepted, quarantined with a code, or ignored with a code."""

from __future__ import annotations


class Reject(Exception):
    """A file that is quarantined; readers raise this and nothing else for bad input.

    Args:
        code: A short reason code such as ``truncated_pixels``; the manifest's `rejects` shows it.
        message: Tag numbers, counts and codes only, never a value from the file or its path.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Ignore(Exception):
    """A file that is none of ours (no image, another modality, a sidecar), with the reason code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

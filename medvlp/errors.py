"""Errors that a user can act on: one line that says what, where, the rule, and the remedy."""

from __future__ import annotations


class MedvlpError(Exception):
    """A refusal that the user can mend; the command line prints it as one line.

    Args:
        message: What is wrong, where (an opaque id, a key, a column; never a hospital's file
            path, a name or a value from a header), and the rule that it breaks.
        remedy: What to do about it, as an imperative sentence without a full stop.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; remedy: {self.remedy}"


class ConfigError(MedvlpError):
    """A configuration that cannot be used; names file, key, value and reason."""


class ArchiveError(MedvlpError):
    """A source that cannot be indexed at all (a single bad file is a reject, not an error)."""


class DiskError(ArchiveError):
    """A database of a run that its disk does not take or give back."""

    exit_code = 3


class ManifestError(MedvlpError):
    """A manifest that is missing, damaged, of another schema, or that leaks patients."""


class BundleError(MedvlpError):
    """A bundle that is damaged or does not fit what it is asked to do."""


class InputError(MedvlpError):
    """An input file, prompt file or option that cannot be used."""


class RunError(MedvlpError):
    """A run folder in a state in which the command cannot go on."""


class LeakError(MedvlpError):
    """What is evaluated is known already: from training, from validation, or from the prompts."""

    exit_code = 4

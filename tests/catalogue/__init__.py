"""Bad inputs and good ones, each with the verdict that it must get.

Every module here called ``cases_*.py`` holds ``CASES``, a tuple of `catalogue.case.Case`; the test
`tests/integration/test_catalogue.py` indexes them all and compares. A new case is one entry.
"""

from importlib import import_module
from pkgutil import iter_modules

from catalogue.case import Case


def all_cases() -> list[Case]:
    """Every module's cases, in the order of the modules' names."""
    names = sorted(m.name for m in iter_modules(__path__) if m.name.startswith("cases_"))
    return [case for name in names for case in import_module(f"catalogue.{name}").CASES]

"""How many random cases a numeric test draws."""

import pytest

FEW, THOUSAND = 200, 1000

many_cases = pytest.mark.parametrize("count", [FEW, pytest.param(THOUSAND, marks=pytest.mark.soak)])
"""A few hundred in every run of the suite, a thousand in `make soak`."""

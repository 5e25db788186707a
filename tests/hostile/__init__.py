"""Files that try to run code, to reach beyond their folder, or to exhaust the machine."""

from __future__ import annotations

from hostile import cases_data, cases_weights, cases_yaml
from hostile.case import Hostile


def all_cases() -> tuple[Hostile, ...]:
    """Every hostile file."""
    return (*cases_yaml.CASES, *cases_weights.CASES, *cases_data.CASES)

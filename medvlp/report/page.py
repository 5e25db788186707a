"""From a template to one self-contained page."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from medvlp import __version__


def render(template: str, room: str = "medvlp.report", **values: Any) -> str:
    """The page that a template of `room` makes of `values`; it may include this room's.

    Args:
        template: The file's name.
        room: The package with the folder ``templates``.
        values: What the template wants.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(place) for place in (room, "medvlp.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["clock"] = clock
    return environment.get_template(template).render(version=__version__, **values)


def number(value: float | None) -> str:
    """A number as tables show it: three decimals, none where it is large, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def clock(time_s: float) -> str:
    """``m:ss`` or ``h:mm:ss``.

    >>> clock(65.2), clock(3661)
    ('1:05', '1:01:01')
    """
    whole = int(time_s + 1e-6)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""The report as one HTML page that asks for nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

DASH, MINUS = '\N{EN DASH}', '\N{MINUS SIGN}'
TEMPLATE = 'report.html.j2'
COLOURS = 10
"""Number of colours of runs in the template; they repeat."""


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return DASH if value is None or math.isnan(value) else f'{100 * value:.{digits}f}'


def signed(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percent, with its sign."""
    return '' if value is None or math.isnan(value) else f'{100 * value:+.{digits}f}'.replace('-', MINUS)


def number(value: float | None, digits: int = 1) -> str:
    """A number; a dash where there is none."""
    return DASH if value is None or math.isnan(value) else f'{value:.{digits}f}'


def render_report(context: Mapping[str, Any]) -> str:
    """Fill the template; everything is escaped."""
    environment = Environment(
        loader=PackageLoader('robust_pvos_ros.evaluation'), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(percent=percent, signed=signed, number=number, colour=lambda run: run % COLOURS)
    return environment.get_template(TEMPLATE).render(context)

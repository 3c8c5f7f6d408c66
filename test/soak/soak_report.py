"""The file that says what a soak saw: ``SOAK_REPORT`` names it, and without that name nothing is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def note(section: str, entries: dict[str, Any]) -> None:
    """Add entries to a section of the report; those of the same names are replaced."""
    name = os.environ.get('SOAK_REPORT')
    if not name:
        return
    path = Path(name)
    report = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    report.setdefault(section, {}).update(entries)
    path.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


def hold(fault: str, expected: dict[str, Any], seen: dict[str, Any]) -> None:
    """Note a fault's outcome, and fail unless what was seen is what was expected.

    Args:
        fault: in a few words.
        expected: what must be seen, by name; a pair of numbers is a range, ends included.
        seen: values by name; those that nothing is expected of are noted and no more.
    """
    note('faults', {fault: {'expected': expected, 'seen': seen}})
    for name, wanted in expected.items():
        if isinstance(wanted, tuple):
            assert wanted[0] <= seen[name] <= wanted[1], f'{fault}: {name} is {seen[name]}, expected {wanted}'
        else:
            assert seen[name] == wanted, f'{fault}: {name} is {seen[name]}, expected {wanted}'

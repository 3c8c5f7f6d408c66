"""Tables of benchmarks as CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.provenance import describe_run


def write_table(rows: Sequence[dict[str, str]], path: Path) -> str:
    """Write ``path`` with the suffixes .csv and .md, its folder where it is missing, and return the latter.

    Args:
        rows: column -> cell; a missing cell is empty.

    Returns:
        Markdown, with the command, commit and date of this run below the table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.with_suffix('.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, names, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    lines = ['| ' + ' | '.join(names) + ' |', '|' + ' --- |' * len(names)]
    lines += ['| ' + ' | '.join(row.get(name, '') for name in names) + ' |' for row in rows]
    about = describe_run()
    text = '\n'.join(lines) + f'\n\n`{about["command"]}`, commit {about["commit"]}, {about["date"]}\n'
    path.with_suffix('.md').write_text(text, encoding='utf-8')
    return text

"""The reference tables of ``docs/interface.md``, made from the code.

``python -m robust_pvos_ros.reference --write docs/interface.md`` brings them up to date.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from robust_pvos_ros.image_codec import ENCODINGS
from robust_pvos_ros.interface import SERVICES, TOPICS, markdown_table
from robust_pvos_ros.parameters import camera_specs, node_specs

MARKED = re.compile(r'(<!-- interface tables: begin[^\n]*-->\n).*?(\n<!-- interface tables: end -->)', re.DOTALL)


def parameter_table() -> str:
    """Markdown table of all parameters; those of a camera are shown for the camera ``NAME``."""
    rows = []
    for spec in [*node_specs(), *camera_specs('NAME')]:
        default = f'`{spec.default}`' if spec.default != '' else '(empty)'
        if isinstance(spec.default, bool):
            default = f'`{str(spec.default).lower()}`'
        if isinstance(spec.default, list):
            default = f'`[{", ".join(spec.default)}]`'
        when = 'at start' if spec.read_only else 'any time' if spec.live else 'before configure'
        description = spec.description.replace('``', '`')
        rows.append((f'`{spec.name}`', default, spec.allowed, when, description))
    return markdown_table(('parameter', 'default', 'must be', 'can be set', 'what'), rows)


def input_formats() -> str:
    """What images may be, and with which quality of service topics are read and written."""
    named = ', '.join(f'`{encoding}`' for encoding in ENCODINGS)
    return (
        f'Images come as {named}, or as JPEG or PNG under `NAME.transport: compressed`. They are read best effort '
        'under `overload_policy: latest`, so that any publisher fits, and reliably under `every`. All outputs are '
        'reliable and volatile.'
    )


def reference() -> str:
    """The tables of parameters, topics and services."""
    tables = {
        'Parameters': parameter_table(),
        'Topics': markdown_table(
            ('topic', 'direction', 'type', 'what'), [(f'`{t.name}`', t.direction, t.type, t.what) for t in TOPICS]
        )
        + f'\n\n{input_formats()}',
        'Services': markdown_table(
            ('service', 'type', 'what'), [(f'`{service.name}`', service.type, service.what) for service in SERVICES]
        ),
    }
    return '\n\n'.join(f'### {name}\n\n{table}' for name, table in tables.items())


def with_reference(text: str) -> str:
    """A document with the current tables between its marks.  Raises ``ValueError`` if the marks are missing."""
    if not MARKED.search(text):
        raise ValueError('the document lacks the lines <!-- interface tables: begin --> and the same with end')
    return MARKED.sub(lambda found: found[1] + reference() + '\n' + found[2], text)


def main() -> None:
    """Print the reference tables, or put them into a document."""
    parser = argparse.ArgumentParser(description='Reference tables of the segmentation node.')
    parser.add_argument('--markdown', action='store_true', help='print the tables as Markdown')
    parser.add_argument('--write', type=Path, metavar='DOCUMENT', help='put the tables between the marks of a document')
    args = parser.parse_args()
    if args.write:
        args.write.write_text(with_reference(args.write.read_text(encoding='utf-8')), encoding='utf-8')
    elif args.markdown:
        print(reference())
    else:
        parser.error('give --markdown or --write DOCUMENT')


if __name__ == '__main__':
    main()

"""Rewrite ``requirements/constraints.txt`` from the environment this script runs in.

Every package that the requirement files pull in gets pinned at its installed version.  ``pip freeze`` cannot do this:
it also lists the Python distributions inside the ROS wheels, which no index has.  Run it after changing a requirement:
``.venv/bin/python tools/write_constraints.py``.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parent.parent / 'requirements'
OLDEST_PYTHON = '3.10.0'
# Pinned by bootstrap.txt; never installed; pinned by torch itself and dependent on its build.
LEFT_OUT = ('pip', 'setuptools', 'wheel', 'torchvision', 'triton')
HEADER = """\
# Written by tools/write_constraints.py; do not edit.  What the other files pull in, at the tested versions.
"""


def read_requirements() -> list[Requirement]:
    """The requirements of all files, with those whose marker does not hold here left out."""
    found = []
    for path in sorted(REQUIREMENTS.glob('*.txt')):
        if path.name == 'constraints.txt':
            continue
        for line in path.read_text().splitlines():
            text = line.partition('#')[0].strip()
            if text:
                found.append(Requirement(text))
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


def close_over_dependencies(roots: list[Requirement]) -> dict[str, metadata.Distribution]:
    """Canonical name -> installed distribution, for ``roots`` and all they need."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, '') for root in roots]
    while waiting:
        root, wanted_by = waiting.pop()
        key = canonicalize_name(root.name)
        if key in LEFT_OUT or key.startswith('nvidia-'):
            continue
        try:
            found.setdefault(key, metadata.distribution(root.name))
        except metadata.PackageNotFoundError as error:
            raise SystemExit(f'{root.name} (needed by {wanted_by or "a requirement file"}) is not installed') from error
        for extra in {'', *root.extras} - {extra for name, extra in seen if name == key}:
            seen.add((key, extra))
            for requirement in map(Requirement, found[key].requires or ()):
                if requirement.marker is None or requirement.marker.evaluate({'extra': extra}):
                    waiting.append((requirement, key))
    return found


def constrain(name: str, distribution: metadata.Distribution) -> str:
    """One line of the file; a version that the oldest Python cannot run is left to pip there."""
    line = f'{name}=={distribution.version}'
    supported = SpecifierSet(str(distribution.metadata.json.get('requires_python', '')))
    return line if supported.contains(OLDEST_PYTHON) else f"{line}; python_version >= '3.11'"


def main() -> None:
    """Write the file."""
    distributions = close_over_dependencies(read_requirements())
    named = {canonicalize_name(requirement.name) for requirement in read_requirements()}
    lines = [constrain(name, found) for name, found in sorted(distributions.items()) if name not in named]
    (REQUIREMENTS / 'constraints.txt').write_text(HEADER + '\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()

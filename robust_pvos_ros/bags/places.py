"""Outputs appear under their name when they are complete, and not before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robust_pvos_ros.bags.definitions import BagError

PARTIAL = '.partial'


def partial_of(path: Path) -> Path:
    """Where an output is built: beside its place, so that moving it there is one step of the file system."""
    return path.parent / (path.name + PARTIAL)


def check_free(path: Path, workplace: Path | None = None) -> None:
    """Refuse a place that is taken.

    Args:
        path: of an output.
        workplace: where it is built; None takes :func:`partial_of` it.

    Raises:
        BagError: if one of them exists.
    """
    workplace = workplace or partial_of(path)
    if not path.name:
        raise BagError(f'{path} is no name for an output')
    if os.path.lexists(path):
        raise BagError(f'{path} exists already: remove it or choose another name')
    if os.path.lexists(workplace):
        raise BagError(
            f'{workplace} is in the way: it is unfinished, left by a process that was killed or still works on '
            'it; remove it or choose another name'
        )


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Build a file or a folder: gives a path inside an empty folder, which moves to ``path`` at the end.

    Whatever interrupts the block, Ctrl-C too, removes what was built.

    Raises:
        BagError: if the place is taken, or the block left nothing to move.
    """
    check_free(path)
    partial = partial_of(path)
    try:
        partial.mkdir(parents=True)
        inner = partial / path.name
        yield inner
        if not inner.exists():
            raise BagError(f'{path} was not made: there is nothing to write')
        inner.rename(path)
    except OSError as error:
        raise BagError(f'{path} cannot be written: {error}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

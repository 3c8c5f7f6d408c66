"""Where a measurement comes from: date, commit, weights, command, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
RUN_LOG = Path('docs', 'davis_runs.csv')
"""Log of all runs on the real clips, relative to the repository."""

ORIGIN = ('machine', 'versions', 'commit')
"""What of :func:`describe_run` stands in every line of a table of times."""


def describe_run() -> dict[str, str]:
    """Date (UTC), commit, command line, machine and library versions of this process."""
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'commit': commit(),
        'command': shlex.join(['python', '-m', *_module_and_arguments()]),
        'machine': machine(),
        'versions': f'Python {platform.python_version()}, torch {torch.__version__}, '
        f'OpenCV {cv2.__version__}, NumPy {np.__version__}',
    }


def commit() -> str:
    """Short hash of the repository's commit, with ``-dirty`` after it where tracked files other than the log of runs
    differ; ``unknown`` where there is none."""
    try:
        head = _git('rev-parse', '--short', 'HEAD')
        changed = _git('status', '--porcelain', '--untracked-files=no', '--', '.', f':!{RUN_LOG}')
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return f'{head}-dirty' if changed else head


def machine() -> str:
    """Processor, cores and GPU in words."""
    parts = [f'{_processor()}, {os.cpu_count()} cores']
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ', '.join(parts)


def file_hash(path: Path) -> str:
    """First 12 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    command = ['git', '-C', str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _module_and_arguments() -> list[str]:
    main = sys.modules['__main__']
    spec = getattr(main, '__spec__', None)
    return [spec.name if spec is not None else Path(sys.argv[0]).name, *sys.argv[1:]]

"""J&F of several methods on corrupted clips, side by side on the same frames.

    python -m benchmarks.robustness --methods base moga=moga.safetensors lora=lora.safetensors --out docs/robustness

A method is a name, ``NAME=ADAPTER.safetensors`` on top of ``--checkpoint``, or ``NAME=weights:FILE`` with weights of
its own.  Rows are added to ``scores.csv`` clip by clip; started again with the same folder, a run goes on where it was.
At the end ``table.md`` and ``plot.png`` are written from all rows, with the paired difference of each method to the
first and its 95 % interval: a bootstrap over the clips, each with its mean over corruptions, severities and seeds.
``--workers N`` shares methods and corruptions among N processes, where there are cores for them.

Choices belong on rendered clips (``--held-out N``, ``--street N`` of another renderer, or both); real clips only
report, and runs on the default ones are logged.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.davis import DEFAULT_DATA
from benchmarks.held_out import annotated_frames
from benchmarks.provenance import REPOSITORY, RUN_LOG, describe_run, file_hash
from benchmarks.street_clips import street_frames, street_names
from robust_pvos_ros.corruption.corruption import KINDS, ClipCorruption, CorruptionError, parse_corruptions
from robust_pvos_ros.evaluation.davis import AnnotatedFrame, find_sequences
from robust_pvos_ros.evaluation.encoding import shared_encoders
from robust_pvos_ros.evaluation.protocol import TrackerSegmenter, evaluate_sequence
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, ModelError, PvosError, TrackerConfig
from training.validate import VALIDATION_SEED

COLUMNS = ('corruption', 'severity', 'seed', 'clip', 'method', 'J', 'F', 'J&F')
CLEAN = 'clean'
FindClips = Callable[[], Mapping[str, Iterable[AnnotatedFrame]]]
"""Name -> frames of every clip."""


@dataclass(frozen=True)
class Case:
    """One way to corrupt the clips; ``corruption`` may be ``clean``."""

    corruption: str
    severity: float
    seed: int

    def frames(self, name: str, clip: Iterable[AnnotatedFrame]) -> Iterator[AnnotatedFrame]:
        """The frames of a clip, corrupted."""
        text = '' if self.corruption == CLEAN else f'{self.corruption}:{self.severity}'
        corrupt = ClipCorruption(parse_corruptions(text), self.seed, name)
        for frame in clip:
            yield replace(frame, rgb=corrupt.rgb(frame.rgb, frame.index))


@dataclass(frozen=True)
class Score:
    """Mean over the objects of a clip, percent."""

    case: Case
    clip: str
    method: str
    region: float
    contour: float
    mean: float


def read_scores(path: Path) -> list[Score]:
    """The rows of ``scores.csv``; none where the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    return [
        Score(
            Case(row['corruption'], float(row['severity']), int(row['seed'])), row['clip'], row['method'],
            float(row['J']), float(row['F']), float(row['J&F']),
        )
        for row in rows
    ]  # fmt: skip


def append_scores(path: Path, scores: Sequence[Score]) -> None:
    """Add rows; the file is created with its header where it does not exist."""
    fresh = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        for s in scores:
            numbers = [f'{value:.4f}' for value in (s.region, s.contour, s.mean)]
            writer.writerow([s.case.corruption, s.case.severity, s.case.seed, s.clip, s.method, *numbers])


def load_methods(texts: Sequence[str], model: str, checkpoint: str, threads: int) -> dict[str, Sam2Model]:
    """Name -> model, see the module's docstring.

    Raises:
        ModelError: if a file does not fit, or a name is given twice.
    """
    names = [text.partition('=')[0] for text in texts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f'method {twice!r} is given twice: every method needs a name of its own')
    return {name: _load_method(text, model, checkpoint, threads) for name, text in zip(names, texts, strict=True)}


def _load_method(text: str, model: str, checkpoint: str, threads: int) -> Sam2Model:
    _, _, file = text.partition('=')
    own = file.startswith('weights:')
    weights, adapter = (file.removeprefix('weights:'), '') if own else (checkpoint, file)
    return load_model(ModelConfig(model, weights, adapter=adapter, threads=threads))


def interval(differences: np.ndarray, rounds: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of paired differences (N,)."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(rounds, len(differences)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def corrupted_scores(scores: Sequence[Score], method: str) -> dict[tuple[Case, str], float]:
    """J&F of a method by case and clip, clean ones left out."""
    return {(s.case, s.clip): s.mean for s in scores if s.method == method and s.case.corruption != CLEAN}


def paired_differences(own: Mapping[tuple[Case, str], float], base: Mapping[tuple[Case, str], float]) -> np.ndarray:
    """Mean difference of each clip over the cases that both methods were scored on, (N,)."""
    by_clip: dict[str, list[float]] = {}
    for (case, clip), value in own.items():
        if (case, clip) in base:
            by_clip.setdefault(clip, []).append(value - base[case, clip])
    return np.array([np.mean(values) for values in by_clip.values()])


def table(scores: Sequence[Score]) -> str:
    """Markdown: a line per method, J&F by corruption, their mean, and the paired difference to the first method."""
    methods = list(dict.fromkeys(score.method for score in scores))
    kinds = [kind for kind in (CLEAN, *KINDS) if any(score.case.corruption == kind for score in scores)]
    lines = ['| method | ' + ' | '.join(kinds) + ' | mean corrupted | difference, 95 % |']
    lines.append('|' + ' --- |' * (len(kinds) + 3))
    base = corrupted_scores(scores, methods[0])
    for method in methods:
        cells = []
        for kind in kinds:
            values = [s.mean for s in scores if s.method == method and s.case.corruption == kind]
            cells.append(f'{np.mean(values):.1f}' if values else '')
        own = corrupted_scores(scores, method)
        cells.append(f'{np.mean(list(own.values())):.1f}' if own else '')
        pairs = paired_differences(own, base)
        difference = ''
        if method != methods[0] and len(pairs):
            low, high = interval(pairs)
            difference = f'{pairs.mean():+.2f} ({low:+.2f} to {high:+.2f})'
        lines.append(f'| {method} | ' + ' | '.join([*cells, difference]) + ' |')
    return '\n'.join(lines) + '\n'


def plot(scores: Sequence[Score], path: Path) -> None:
    """Bars of J&F by corruption and method."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(score.method for score in scores))
    kinds = [kind for kind in (CLEAN, *KINDS) if any(score.case.corruption == kind for score in scores)]
    figure, axes = plt.subplots(figsize=(10, 4), layout='constrained')
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        values = [
            np.mean([s.mean for s in scores if s.method == method and s.case.corruption == kind] or [np.nan])
            for kind in kinds
        ]
        axes.bar(np.arange(len(kinds)) + number * width, values, width, label=method)
    axes.set_xticks(np.arange(len(kinds)) + 0.4 - width / 2, [kind.replace('_', '\n') for kind in kinds])
    axes.set_ylabel('J&F')
    figure.legend(loc='outside right upper')
    axes.grid(axis='y', alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def settings_of(options: argparse.Namespace) -> dict[str, object]:
    """What all rows of a folder must share."""
    rendered = f'{options.held_out} rendered, {options.frames} frames' if options.held_out else ''
    street = f'{options.street} of the street' if options.street else ''
    clips = ', '.join(filter(None, (rendered, street))) or options.data.name
    checkpoint = Path(options.checkpoint) if options.checkpoint else shipped_weights()
    return {
        'clips': clips,
        'model': options.model,
        'weights': file_hash(checkpoint),
        'prompt': options.prompt,
        'scored_frames': options.scored_frames,
    }


def check_settings(options: argparse.Namespace) -> None:
    """Compare with the settings of the rows that a folder holds, or write them down.

    Raises:
        ModelError: if they differ, or a method's file is not the one its rows were made with.
    """
    path = options.out / 'settings.json'
    known = json.loads(path.read_text()) if path.exists() else {}
    files = dict(known.get('methods', {}))
    for text in options.methods:
        name, _, file = text.partition('=')
        digest = file_hash(Path(file.removeprefix('weights:'))) if file else ''
        if files.setdefault(name, digest) != digest:
            raise ModelError(f'{options.out} holds scores of another file under the name {name!r}: choose another name')
    settings = settings_of(options)
    held = {key: value for key, value in known.items() if key != 'methods'}
    if known and held != settings:
        raise ModelError(f'{options.out} holds scores of other settings: choose another folder; {held}, not {settings}')
    path.write_text(json.dumps({**settings, 'methods': files}, indent=1) + '\n')


def log_run(options: argparse.Namespace, scores: Sequence[Score]) -> None:
    """Add a line for each method to the log of runs on the real clips; ``scores`` are those of this run."""
    about, weights = describe_run(), settings_of(options)['weights']
    with (REPOSITORY / RUN_LOG).open('a', newline='', encoding='utf-8') as file:
        for text in options.methods:
            name, _, own = text.partition('=')
            rows = [s for s in scores if s.method == name]
            if not rows:
                continue
            means = [np.mean([getattr(s, part) for s in rows]) for part in ('region', 'contour', 'mean')]
            by = f'{name}={Path(own).name}' if own else name
            note = f'robustness: {len(rows)} clips, clean and corrupted, {by}'
            cells = [f'{value:.2f}' for value in means]
            csv.writer(file).writerow([about['date'], about['commit'], weights, options.prompt, *cells, '', note])


def clips_of(options: argparse.Namespace) -> dict[str, Iterable[AnnotatedFrame]]:
    """Name -> frames of every clip; rendered ones are rendered once."""
    if options.held_out or options.street:
        seeds = [VALIDATION_SEED + 2000 + number for number in range(options.held_out)]
        rendered = {f'rendered_{seed}': list(annotated_frames(seed, options.frames, 256)) for seed in seeds}
        street = {name: list(street_frames(name)) for name in street_names(options.street)}
        return {**rendered, **street}
    return {sequence.name: sequence for sequence in find_sequences(options.data, options.sequences)}


def score_case(
    options: argparse.Namespace,
    case: Case,
    name: str,
    clip: Iterable[AnnotatedFrame],
    models: Mapping[str, Sam2Model],
) -> list[Score]:
    """One clip, corrupted in one way, with several methods on the same frames; none of a clip without objects."""
    config = TrackerConfig(max_objects=255)
    encoders = shared_encoders(models)
    segmenters = {
        method: TrackerSegmenter(VideoTracker(model, config), options.prompt, encode=encoders[method])
        for method, model in models.items()
    }
    found = evaluate_sequence(name, case.frames(name, clip), segmenters, options.scored_frames)
    means = {method: found[method].mean for method in models if found[method].objects}
    return [Score(case, name, m, 100 * v.region, 100 * v.contour, 100 * v.mean) for m, v in means.items()]


class _Worker:
    """A process of ``--workers``: it finds the clips once and loads each method once."""

    find_clips: FindClips
    clips: Mapping[str, Iterable[AnnotatedFrame]] | None = None
    models: ClassVar[dict[str, dict[str, Sam2Model]]] = {}

    @classmethod
    def begin(cls, find_clips: FindClips, threads: int) -> None:
        """Initialise the process."""
        torch.set_num_threads(threads)
        cls.find_clips = find_clips

    @classmethod
    def score(cls, options: argparse.Namespace, case: Case, names: Sequence[str], text: str) -> list[Score]:
        """One method on several clips, corrupted in one way."""
        if cls.clips is None:
            cls.clips = cls.find_clips()
        if text not in cls.models:
            cls.models[text] = load_methods([text], options.model, options.checkpoint, options.threads)
        found = [score_case(options, case, name, cls.clips[name], cls.models[text]) for name in names]
        return [score for scores in found for score in scores]


Task = tuple[Case, list[str], list[str]]
"""A case, names of clips, and methods, as on the command line."""


def missing_tasks(
    options: argparse.Namespace, names: Iterable[str], done: set[tuple[Case, str, str]]
) -> list[Task]:
    """What is to be scored: with workers, a method and a case of all clips at a time; else all methods on a clip."""
    cases = [Case(CLEAN, 0.0, 0)]
    cases += [Case(k, s, seed) for seed in options.seeds for k in options.corruptions for s in options.severities]
    if options.workers > 1:
        pairs = [(case, text) for case in cases for text in options.methods]
        tasks = [(c, [n for n in names if (c, n, t.partition('=')[0]) not in done], [t]) for c, t in pairs]
    else:
        singles = [(case, name) for case in cases for name in names]
        tasks = [(c, [n], [t for t in options.methods if (c, n, t.partition('=')[0]) not in done]) for c, n in singles]
    return [task for task in tasks if task[1] and task[2]]


def found_scores(
    options: argparse.Namespace, tasks: Sequence[Task], find_clips: FindClips, models: Mapping[str, Sam2Model]
) -> Iterator[list[Score]]:
    """The scores of all tasks, one after the other; ``models`` are those of this process, by name."""
    if options.workers > 1:
        context = get_context('spawn')  # a fork of a process with CUDA or torch's threads cannot use them
        with ProcessPoolExecutor(options.workers, context, _Worker.begin, (find_clips, options.threads)) as pool:
            futures = [pool.submit(_Worker.score, options, case, names, text) for case, names, [text] in tasks]
            yield from (future.result() for future in futures)
        return
    clips = find_clips()
    for case, [name], texts in tasks:
        own = [text.partition('=')[0] for text in texts]
        yield score_case(options, case, name, clips[name], {method: models[method] for method in own})


def run(options: argparse.Namespace, find_clips: FindClips) -> list[Score]:
    """Score on the clips what is missing in ``scores.csv``; returns all rows."""
    find_clips = lru_cache(maxsize=1)(find_clips) if options.workers <= 1 else find_clips
    names = list(find_clips())
    models = load_methods(options.methods, options.model, options.checkpoint, options.threads)
    check_settings(options)
    file = options.out / 'scores.csv'
    scores = read_scores(file)
    tasks = missing_tasks(options, names, {(score.case, score.clip, score.method) for score in scores})
    begun, found = len(scores), found_scores(options, tasks, find_clips, models)
    try:
        for fresh in tqdm(found, total=len(tasks), unit='task', disable=None):
            append_scores(file, fresh)
            scores += fresh
    finally:
        if not (options.held_out or options.street) and options.data.resolve() == DEFAULT_DATA.resolve():
            log_run(options, scores[begun:])
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=DEFAULT_DATA, help='folder in DAVIS layout')
    parser.add_argument('--sequences', nargs='+', default=[], metavar='NAME')
    parser.add_argument('--held-out', type=int, default=0, metavar='N', help='N rendered clips instead')
    parser.add_argument('--street', type=int, default=0, metavar='N', help='N clips of the rendered street instead')
    parser.add_argument('--frames', type=int, default=24, help='of a rendered clip')
    add_options(parser)
    options = parser.parse_args(argv)
    return score(options, partial(clips_of, options))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that do not depend on where clips come from."""
    parser.add_argument('--methods', nargs='+', default=['base'], metavar='NAME[=FILE]')
    parser.add_argument('--model', default='compact')
    parser.add_argument('--checkpoint', default='', help='weights under the adapters (default: the shipped ones)')
    parser.add_argument('--corruptions', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--severities', nargs='+', type=float, default=[3.0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--prompt', choices=('mask', 'point', 'box'), default='mask')
    parser.add_argument('--scored-frames', choices=('interior', 'after_first'), default='interior')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--workers', type=int, default=1, help='processes')
    parser.add_argument('--out', type=Path, required=True)


def score(options: argparse.Namespace, find_clips: FindClips) -> int:
    """Score, write and print the table; the exit code, 2 on bad input."""
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    try:
        scores = run(options, find_clips)
    except (PvosError, CorruptionError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    about = describe_run()
    text = f'{table(scores)}\n`{about["command"]}`, commit {about["commit"]}, {about["date"]}\n'
    (options.out / 'table.md').write_text(text, encoding='utf-8')
    plot(scores, options.out / 'plot.png')
    print(table(scores))
    return 0


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a run that is stopped is logged as well
    sys.exit(main())

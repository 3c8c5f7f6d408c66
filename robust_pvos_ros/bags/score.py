"""Several runs side by side: scores, pictures of the worst moments, and one report of all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.pictures import ClipPictures, draw_pictures
from robust_pvos_ros.bags.places import fresh
from robust_pvos_ros.bags.reader import BagReader, find_bags
from robust_pvos_ros.bags.report import report_context, shown_objects
from robust_pvos_ros.bags.runs import Run, events_of
from robust_pvos_ros.bags.scoring import ScoredClip, score_source, sources_of
from robust_pvos_ros.evaluation.metrics import ScoredFrames
from robust_pvos_ros.evaluation.report import render_report

COLUMNS = (
    'method', 'corruption', 'sequence', 'camera', 'object', 'label', 'scored_frames', 'J_mean', 'J_recall', 'J_decay',
    'F_mean', 'F_recall', 'F_decay', 'J&F', 'frames_to_loss', 'seconds_to_loss', 'occlusions', 'recovered',
    'mean_frames_to_recovery', 'swapped_frames', 'id_switches', 'ms_per_frame', 'fps',
)  # fmt: skip


@dataclass(frozen=True)
class ScoreOptions:
    """How runs are scored.

    Attributes:
        truth: bag, or folder of bags of the same sequences, with the true masks; None takes them from the runs.
        truth_topic: empty for ``/CAMERA/truth``.
        convention: frames that count.
        title: of the report.
        pictures: whether the report has thumbnails and videos.
    """

    truth: Path | None = None
    truth_topic: str = ''
    convention: ScoredFrames = 'interior'
    title: str = 'Runs compared'
    pictures: bool = True


def score_runs(texts: Sequence[str], out: Path, options: ScoreOptions) -> str:
    """Score runs and write ``scores.json``, ``scores.csv`` and ``report.html``.

    Args:
        texts: ``BAG``, ``FOLDER_OF_BAGS`` or ``NAME=...`` of either.
        out: folder to be made.
        options: see :class:`ScoreOptions`.

    Returns:
        A table for people; its last line is ``J&F NN.N`` of the first run.

    Raises:
        BagError: if a bag cannot be read or scored; nothing lies at ``out`` then.
    """
    with fresh(out) as folder:
        folder.mkdir()
        runs = _score_all(texts, options)
        _check_names(runs)
        (folder / 'scores.json').write_text(json.dumps(as_json(runs, options), indent=1) + '\n', encoding='utf-8')
        _write_csv(folder / 'scores.csv', runs)
        pictures = _pictures(runs, options) if options.pictures else {}
        page = render_report(report_context(runs, options.title, options.convention, pictures))
        (folder / 'report.html').write_text(page, encoding='utf-8')
    return as_text(runs)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition('=')
    return (name, Path(path)) if equals and not Path(text).exists() else ('', Path(text))


def _score_all(texts: Sequence[str], options: ScoreOptions) -> list[Run]:
    runs: dict[tuple[str, str], Run] = {}
    for text in texts:
        name, path = _named(text)
        for bag in find_bags(path):
            with _opened(bag, options) as (reader, truth):
                for source in sources_of(reader, truth, options.truth_topic):
                    clip = score_source(source, options.convention, name)
                    key = clip.method, clip.corruption
                    runs.setdefault(key, Run(*key)).clips.append(clip)
    return list(runs.values())


@contextmanager
def _opened(bag: Path, options: ScoreOptions) -> Iterator[tuple[BagReader, BagReader | None]]:
    """A run's bag and the bag with its truth, if that is another one."""
    with ExitStack() as stack:
        reader = stack.enter_context(BagReader(bag))
        truth = None
        if options.truth is not None:
            truth = stack.enter_context(BagReader(_truth_of(reader, options.truth)))
        yield reader, truth


def _truth_of(reader: BagReader, place: Path) -> Path:
    found = find_bags(place)
    if len(found) == 1:
        return found[0]
    wanted = {reader.name, reader.about.get('sequence', reader.name)}
    for path in found:
        if path.stem in wanted or path.name in wanted:
            return path
    raise BagError(f'{place} has no bag {" or ".join(sorted(wanted))} with the truth of {reader.path}')


def _check_names(runs: Sequence[Run]) -> None:
    for run in runs:
        clips = [(clip.sequence, clip.camera) for clip in run.clips]
        if len(set(clips)) < len(clips):
            twice = next(f'{sequence} ({camera})' for sequence, camera in clips if clips.count((sequence, camera)) > 1)
            raise BagError(f'two runs are called {run.name!r} and hold {twice}: give them names, as in base=BAG')


# -------------------------------------------------------------------------------------------------------------- tables


def as_json(runs: Sequence[Run], options: ScoreOptions) -> dict[str, Any]:
    """Everything, with the scores of every frame."""
    return {
        'scored_frames': options.convention,
        'runs': [
            {
                'method': run.method,
                'corruption': run.corruption,
                'mean': asdict(run.mean),
                'clips': [_clip_json(clip) for clip in run.clips],
            }
            for run in runs
        ],
    }


def _clip_json(clip: ScoredClip) -> dict[str, Any]:
    return {
        'sequence': clip.sequence,
        'camera': clip.camera,
        'bag': clip.path.name,
        'settings': clip.about,
        'score': asdict(clip.score),
        'id_switches': clip.switches,
        'timing': None if clip.timing is None else asdict(clip.timing),
        'untracked': list(clip.untracked),
        'frames_without_result': clip.without_result,
        'ids': {str(key): value for key, value in clip.ids.items()},
        'objects': {
            str(object_id): {
                'label': clip.labels.get(object_id, ''),
                **asdict(events_of(track, clip.seconds_per_frame)),
                **asdict(track),
            }
            for object_id, track in clip.tracks.items()
        },
    }


def _write_csv(path: Path, runs: Sequence[Run]) -> None:
    """A line for each object."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for run in runs:
            for clip in run.clips:
                for score in clip.score.objects:
                    happened = events_of(clip.tracks[score.object_id], clip.seconds_per_frame)
                    numbers = [*asdict(score.region).values(), *asdict(score.contour).values(), score.mean]
                    speed = [clip.timing.mean, clip.timing.fps] if clip.timing else [None, None]
                    writer.writerow([
                        run.method, run.corruption, clip.sequence, clip.camera, score.object_id,
                        clip.labels.get(score.object_id, ''), score.frames, *(f'{value:.6f}' for value in numbers),
                        *('' if value is None else value for value in asdict(happened).values()),
                        clip.score.swapped, clip.switches,
                        *('' if value is None else f'{value:.3f}' for value in speed),
                    ])  # fmt: skip


def as_text(runs: Sequence[Run]) -> str:
    """A line for each run, and J&F of the first."""
    width = max(len(run.name) for run in runs)
    head = ('clips', 7), ('objects', 9), ('J', 7), ('F', 7), ('J&F', 7), ('lost', 7), ('swaps', 7), ('ms/frame', 10)
    lines = [f'{"run":<{width}}' + ''.join(f'{word:>{wide}}' for word, wide in head)]
    for run in runs:
        mean, events = run.mean, run.events()
        lost = sum(entry.frames_to_loss is not None for entry in events)
        swapped = sum(clip.score.swapped for clip in run.clips)
        lines.append(
            f'{run.name:<{width}}{len(run.clips):>7}{len(events):>9}{100 * mean.region:>7.1f}{100 * mean.contour:>7.1f}'
            f'{100 * mean.mean:>7.1f}{lost:>7}{swapped:>7}{run.speed("mean"):>10.1f}'
        )
    return '\n'.join([*lines, f'J&F {100 * runs[0].mean.mean:.1f}'])


# ------------------------------------------------------------------------------------------------------------ pictures


def _pictures(runs: Sequence[Run], options: ScoreOptions) -> dict[tuple[int, str, str], ClipPictures]:
    """(run, sequence, camera) -> pictures of its shown objects."""
    wanted: dict[tuple[int, str, str], dict[int, list[int]]] = {}
    for shown in shown_objects(runs):
        for number, clip in shown.held:
            frames = wanted.setdefault((number, clip.sequence, clip.camera), {})
            for frame in shown.moments:
                frames.setdefault(frame, []).append(shown.object_id)
    found = {}
    for number, run in enumerate(runs):
        for clip in run.clips:
            key = number, clip.sequence, clip.camera
            if key not in wanted:
                continue
            with _opened(clip.path, options) as (reader, truth):
                sources = sources_of(reader, truth, options.truth_topic)
                source = next(entry for entry in sources if entry.labels.camera == clip.camera)
                found[key] = draw_pictures(source, clip, wanted[key])
    return found

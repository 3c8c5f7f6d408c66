"""J&F of the tracker on clips in DAVIS layout, with optical flow beside it.

Each object is given once, on its first frame, as a mask, one click or a box; the last line printed is ``J&F NN.N``.
Every run on the real clips adds a line to ``docs/davis_runs.csv``: it stays visible how often they were looked at.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.float16 import encode_in_float16
from benchmarks.provenance import REPOSITORY, RUN_LOG, describe_run, file_hash
from robust_pvos_ros.evaluation.davis import AnnotatedFrame, AnnotatedSequence, find_sequences
from robust_pvos_ros.evaluation.flow import FlowTracker
from robust_pvos_ros.evaluation.metrics import MeanScore, ObjectScore, ScoredFrames, mean_score
from robust_pvos_ros.evaluation.protocol import (
    PromptKind,
    Segmenter,
    SequenceScore,
    TrackerSegmenter,
    evaluate_sequence,
)
from robust_pvos_ros.evaluation.sheet import SheetRow, draw_tile, write_sheet
from robust_pvos_ros.tracking.checkpoints import MODEL_NAMES, adapter_file, shipped_weights
from robust_pvos_ros.tracking.model import Sam2Model, load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import MEMORY_POLICIES, ModelConfig, PvosError, TrackerConfig

DEFAULT_DATA = REPOSITORY.parent / 'shared' / 'data' / 'davis2016'
LOG_COLUMNS = ('date', 'commit', 'weights', 'prompt', 'J', 'F', 'J&F', 'flow J&F', 'note')
TILES_PER_CLIP = 6
CLIPS_ON_SHEET = 3
"""As many of the best and as many of the worst."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.davis', description=__doc__)
    parser.add_argument('--data', type=Path, help=f'folder in DAVIS layout (default: {DEFAULT_DATA})')
    parser.add_argument('--sequences', nargs='+', default=[], metavar='NAME', help='only these clips')
    parser.add_argument('--prompt', choices=get_args(PromptKind), default='mask', help='how an object is given')
    parser.add_argument('--model', choices=MODEL_NAMES, default='compact')
    parser.add_argument('--checkpoint', default='', help='weights file (default: the shipped compact model)')
    parser.add_argument('--image-size', type=int, default=0, help='pixels; 0 takes that of the weights (compact only)')
    parser.add_argument('--adapter', default='none', help='a file, shipped, or none (stock SAM 2)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32 or bfloat16')
    parser.add_argument(
        '--encoder', choices=('torch', 'float16'), default='torch', help='float16: rounded as in a TensorRT engine'
    )
    parser.add_argument('--memory-policy', choices=MEMORY_POLICIES, default=TrackerConfig().memory_policy)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch and of OpenCV (default: 1)')
    parser.add_argument('--scored-frames', choices=get_args(ScoredFrames), default='interior')
    methods = parser.add_mutually_exclusive_group()
    methods.add_argument('--no-flow', action='store_true', help='leave the optical-flow baseline out')
    methods.add_argument('--flow-only', action='store_true', help='run the optical-flow baseline alone')
    parser.add_argument('--out', type=Path, help='folder for results (default: runs/davis/TIME)')
    parser.add_argument('--log', type=Path, help=f'CSV to add a line to (default: {RUN_LOG} for the default data)')
    parser.add_argument('--note', default='', help='free text for the log')
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error(f'--threads must be at least 1, got {options.threads}')
    return options


@dataclass
class Results:
    """Scores of all clips so far, method by method, and picture strips of the extreme ones.

    Invariant: ``strips`` holds the ``CLIPS_ON_SHEET`` best and worst clips scored so far, ascending by J&F.
    """

    methods: tuple[str, ...]
    clips: dict[str, list[SequenceScore]] = field(default_factory=dict)
    strips: list[tuple[float, SheetRow]] = field(default_factory=list)

    def add(self, scores: Mapping[str, SequenceScore], tiles: Sequence[np.ndarray]) -> None:
        """Take in one clip."""
        for method, score in scores.items():
            self.clips.setdefault(method, []).append(score)
        shown = scores[self.methods[0]]
        text = '   '.join(f'{method}: J&F {100 * score.mean.mean:.1f}' for method, score in scores.items())
        self.strips.append((shown.mean.mean, SheetRow(f'{shown.name}   {text}', tuple(tiles))))
        self.strips.sort(key=lambda strip: strip[0])
        if len(self.strips) > 2 * CLIPS_ON_SHEET:
            del self.strips[CLIPS_ON_SHEET]

    def objects(self, method: str) -> list[ObjectScore]:
        """Every object of every clip."""
        return [score for clip in self.clips[method] for score in clip.objects]

    def mean(self, method: str) -> MeanScore:
        """Mean over all objects of all clips, as in the DAVIS-2017 toolkit."""
        return mean_score(self.objects(method))

    def ms_per_frame(self, method: str) -> float:
        """Mean time of a step over all frames but the first of each clip."""
        clips = self.clips[method]
        return float(np.average([c.ms_per_frame for c in clips], weights=[max(1, c.frames - 1) for c in clips]))


class TileCollector:
    """Draws evenly spaced frames of one clip as they pass."""

    def __init__(self, frame_count: int, method: str, progress: tqdm) -> None:
        self.tiles: list[np.ndarray] = []
        self._shown = set(np.linspace(0, frame_count - 1, TILES_PER_CLIP).round().astype(int).tolist())
        self._method = method
        self._progress = progress

    def __call__(self, frame: AnnotatedFrame, labels: Mapping[str, np.ndarray]) -> None:
        """Called after every frame with the labels of every method."""
        self._progress.update()
        if frame.index in self._shown:
            self.tiles.append(draw_tile(frame.rgb, frame.labels, labels[self._method]))


def run(sequences: Sequence[AnnotatedSequence], options: argparse.Namespace, model: Sam2Model | None) -> Results:
    """Score every clip, printing its line of the table when it is done."""
    methods = tuple(name for name, wanted in (('tracker', model), ('flow', not options.no_flow)) if wanted)
    results = Results(methods)
    print(header(methods))
    total = sum(len(sequence) for sequence in sequences)
    with tqdm(total=total, unit='frame', disable=None, leave=False) as progress:
        for sequence in sequences:
            progress.set_description(sequence.name)
            segmenters = make_segmenters(methods, options, model)
            collector = TileCollector(len(sequence), methods[0], progress)
            scores = evaluate_sequence(sequence.name, sequence, segmenters, options.scored_frames, collector)
            results.add(scores, collector.tiles)
            tqdm.write(line(sequence.name, [(scores[m].mean, scores[m].ms_per_frame) for m in methods], len(sequence)))
    swapped = {method: sum(clip.swapped for clip in clips) for method, clips in results.clips.items()}
    print('frames with two IDs swapped: ' + ', '.join(f'{method} {count}' for method, count in swapped.items()))
    print(line('mean over objects', [(results.mean(m), results.ms_per_frame(m)) for m in methods], total))
    return results


def make_segmenters(
    methods: Sequence[str], options: argparse.Namespace, model: Sam2Model | None
) -> dict[str, Segmenter]:
    """Fresh methods for one clip."""
    segmenters: dict[str, Segmenter] = {}
    if model is not None:
        config = TrackerConfig(max_objects=255, memory_policy=options.memory_policy)
        segmenters['tracker'] = TrackerSegmenter(VideoTracker(model, config), options.prompt)
    if 'flow' in methods:
        segmenters['flow'] = FlowTracker()
    return segmenters


def header(methods: Sequence[str]) -> str:
    """Head of the table."""
    return f'{"clip":<20}{"frames":>7}' + ''.join(
        f'  |{m + " J":>10}{"F":>7}{"J&F":>7}{"ms/frame":>10}' for m in methods
    )


def line(name: str, cells: Sequence[tuple[MeanScore, float]], frames: int) -> str:
    """One line of the table: J, F, J&F in percent and ms per frame of each method."""
    return f'{name:<20}{frames:>7}' + ''.join(
        f'  |{100 * score.region:>10.1f}{100 * score.contour:>7.1f}{100 * score.mean:>7.1f}{ms:>10.1f}'
        for score, ms in cells
    )


def write_results(out: Path, results: Results, about: Mapping[str, object]) -> None:
    """``results.csv`` (a line per object and method), ``results.json`` (everything) and ``sheet.png``."""
    with (out / 'results.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        measures = [f'{name} {value}' for name in ('J', 'F') for value in ('mean', 'recall', 'decay')]
        writer.writerow(['method', 'clip', 'object', 'scored frames', *measures, 'J&F', 'ms/frame'])
        for method, clips in results.clips.items():
            for clip in clips:
                for score in clip.objects:
                    numbers = [*asdict(score.region).values(), *asdict(score.contour).values(), score.mean]
                    formatted = [f'{number:.6f}' for number in numbers]
                    row = [method, clip.name, score.object_id, score.frames, *formatted, f'{clip.ms_per_frame:.3f}']
                    writer.writerow(row)
    summary = {
        method: {**asdict(results.mean(method)), 'ms_per_frame': results.ms_per_frame(method)}
        for method in results.clips
    }
    clips_by_method = {method: [asdict(clip) for clip in clips] for method, clips in results.clips.items()}
    text = json.dumps({'run': about, 'mean': summary, 'clips': clips_by_method}, indent=1)
    (out / 'results.json').write_text(text + '\n', encoding='utf-8')
    write_sheet(out / 'sheet.png', [row for _, row in results.strips])


def append_log(path: Path, results: Results, about: Mapping[str, object], note: str) -> None:
    """Add one line to the log of runs; the file is created with its header where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_fresh = not path.exists()
    means = {method: results.mean(method) for method in results.clips}
    tracker, flow = means.get('tracker'), means.get('flow')
    scores = [tracker.region, tracker.contour, tracker.mean] if tracker else [None] * 3
    cells = ['' if score is None else f'{100 * score:.2f}' for score in [*scores, flow.mean if flow else None]]
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        if is_fresh:
            writer.writerow(LOG_COLUMNS)
        writer.writerow([about['date'], about['commit'], about['weights'], about['prompt'], *cells, note])


def describe(options: argparse.Namespace, data: Path) -> dict[str, object]:
    """What was run on what, for the results and the log."""
    files = [] if options.flow_only else [Path(options.checkpoint) if options.checkpoint else shipped_weights()]
    adapter = adapter_file(ModelConfig(options.model, options.checkpoint, adapter=options.adapter))
    if files and adapter is not None:
        files.append(adapter)
    return {
        **describe_run(),
        'weights': '+'.join(file_hash(path) for path in files),
        'model': '' if options.flow_only else options.model,
        'data': data.name,
        **{name: getattr(options, name) for name in ('prompt', 'scored_frames', 'memory_policy', 'threads', 'device')},
        'precision': options.precision,
        'encoder': options.encoder,
        'image_size': options.image_size,
    }


def note_for(options: argparse.Namespace, data: Path, clips: int, available: int) -> str:
    """What sets a run apart from the default one, in words."""
    parts = [data.name if clips == available else f'{data.name}: {clips} of {available} clips']
    if options.flow_only:
        parts.append('flow only')
    elif options.model != 'compact':
        parts.append(options.model)
    if options.image_size:
        parts.append(f'{options.image_size} px')
    if options.encoder != 'torch':
        parts.append(f'encoder {options.encoder}')
    if options.memory_policy != TrackerConfig().memory_policy:
        parts.append(f'memory {options.memory_policy}')
    if options.scored_frames != 'interior':
        parts.append(f'frames {options.scored_frames}')
    return '; '.join([*parts, *([options.note] if options.note else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 on success and where the default data is not there, 2 on bad input."""
    options = parse_arguments(argv)
    data = options.data or DEFAULT_DATA
    if options.data is None and not data.is_dir():
        print(f'skipped: {data} does not exist; give a folder in DAVIS layout with --data')
        return 0
    cv2.setNumThreads(options.threads)
    out = options.out or Path('runs', 'davis', datetime.now(timezone.utc).strftime('%Y%m%d-%H%M%S-%f'))
    try:
        sequences = find_sequences(data, options.sequences)
        config = ModelConfig(
            options.model, options.checkpoint, options.image_size, options.adapter, options.device, options.precision,
            options.threads,
        )
        model = None if options.flow_only else load_model(config)
        if model is not None and options.encoder == 'float16':
            encode_in_float16(model, config)
        about = describe(options, data)
        out.mkdir(parents=True, exist_ok=True)
        results = run(sequences, options, model)
        write_results(out, results, about)
    except (PvosError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    log = options.log or (REPOSITORY / RUN_LOG if data.resolve() == DEFAULT_DATA.resolve() else None)
    if log is not None:
        append_log(log, results, about, note_for(options, data, len(sequences), len(find_sequences(data))))
    print(f'results in {out}')
    print(f'J&F {100 * results.mean(results.methods[0]).mean:.1f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

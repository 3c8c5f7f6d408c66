"""Runs of bags from beginning to end: models, settings, progress, and going on where a killed run was."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch
from tqdm import tqdm

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.frames import CameraTopic, Joined, find_cameras, has_labels, join
from robust_pvos_ros.bags.places import check_free, partial_of
from robust_pvos_ros.bags.prompts import IdSource, PromptSource, TruthPrompts, prompts_from_file, recorded_prompts
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.bags.recovery import copy_messages, remove
from robust_pvos_ros.bags.runner import CameraRun, Runner, output_topic
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.corruption.corruption import ClipCorruption, parse_corruptions
from robust_pvos_ros.evaluation.protocol import PromptKind
from robust_pvos_ros.tracking.checkpoints import adapter_file, shipped_weights
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig, PvosError, TrackerConfig

ABOUT = 'pvos_run'
"""Key of a run's settings, as JSON, in the metadata of its bag."""
STATE = 'state.pt'


@dataclass(frozen=True)
class RunOptions:
    """How a bag is run.

    Attributes:
        model, tracker: see their types.
        cameras: ``TOPIC`` or ``NAME=TOPIC``; none for all.
        prompt_file: YAML or JSON; None takes ``prompt_topic``, or the truth.
        prompts_from_truth: kind of the prompt that each true object gets; empty where prompts come from elsewhere.
        prompt_topic: of recorded prompts.
        corrupt: such as ``fog:3``; empty for none.
        seed: of the corruption.
        keep_images: write the pictures into the output, as JPEG.
        reset_on_jump: forget the objects where image time jumps back.
        save_every: frames after which the run can go on if it is killed.
        limit: frames after which to stop; 0 for all.
    """

    model: ModelConfig = field(default_factory=lambda: ModelConfig(threads=1))
    tracker: TrackerConfig = field(default_factory=lambda: TrackerConfig(max_objects=255, history_frames=0))
    cameras: tuple[str, ...] = ()
    prompt_file: Path | None = None
    prompts_from_truth: PromptKind | Literal[''] = ''
    prompt_topic: str = output_topic(interface.PROMPTS)
    corrupt: str = ''
    seed: int = 0
    keep_images: bool = True
    reset_on_jump: bool = True
    save_every: int = 200
    limit: int = 0


def file_hash(path: Path) -> str:
    """First 12 digits of a file's SHA-256.  Raises ``BagError`` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise BagError(f'{path} cannot be read: {error}') from error
    return digest.hexdigest()[:12]


def describe(reader: BagReader, options: RunOptions) -> dict[str, Any]:
    """The settings that a run's masks depend on, and the names it goes by in reports."""
    weights = Path(options.model.checkpoint) if options.model.checkpoint else shipped_weights()
    adapter = adapter_file(options.model)
    prompts = options.prompts_from_truth or (options.prompt_file and file_hash(options.prompt_file)) or 'recorded'
    return {
        'sequence': reader.about.get('sequence', reader.name),
        'source': [reader.name, reader.message_count, reader.duration],
        'cameras': list(options.cameras),
        'prompts': prompts,
        'prompts_from_truth': bool(options.prompts_from_truth),
        'weights': file_hash(weights),
        'adapter': adapter.stem if adapter else '',
        'adapter_hash': file_hash(adapter) if adapter else '',
        'corruption': options.corrupt,
        'seed': options.seed,
        'model': {k: v for k, v in asdict(options.model).items() if k not in ('checkpoint', 'adapter')},
        'tracker': asdict(options.tracker),
        'keep_images': options.keep_images,
        'limit': options.limit,
        'torch': torch.__version__,
    }


def run_bag(source: Path, out: Path, model: Sam2Model, options: RunOptions, quiet: bool = False) -> int:
    """Run the tracker over a bag; a run of the same settings that was killed goes on where it was.

    Args:
        source: bag with camera images.
        out: bag to be made.
        model: shared by all cameras.
        options: see :class:`RunOptions`.
        quiet: show no progress bar.

    Returns:
        Number of frames of the finished bag.

    Raises:
        BagError: if the bag cannot be read or run; nothing lies at ``out`` then, nor beside it.
        CorruptionError: if ``options.corrupt`` is malformed.
    """
    parse_corruptions(options.corrupt)
    with BagReader(source) as reader:
        cameras = find_cameras(reader, options.cameras)
        about = describe(reader, options)
        prompts = _prompt_source(reader, cameras, options)
        with _workplace(out, about) as (work, state):
            writer = BagWriter(work / out.name, about={'sequence': about['sequence'], ABOUT: json.dumps(about)})
            try:
                runner = _runner(cameras, prompts, writer, model, options, about['sequence'])
                _drive(reader, runner, options, work, state, about, quiet)
                writer.close()
            except BaseException:
                writer.leave()
                raise
            (work / out.name).rename(out)
            return runner.frames


def _prompt_source(reader: BagReader, cameras: list[CameraTopic], options: RunOptions) -> PromptSource:
    if options.prompts_from_truth:
        if not any(has_labels(reader, camera.truth) for camera in cameras):
            wanted = ', '.join(camera.truth for camera in cameras)
            raise BagError(f'bag {reader.path} has no truth to make prompts from: there are no images on {wanted}')
        return TruthPrompts(options.prompts_from_truth)
    if options.prompt_file is not None:
        return prompts_from_file(options.prompt_file).checked(cameras)
    if options.prompt_topic not in reader.topics:
        raise BagError(
            f'bag {reader.path} has no prompts on {options.prompt_topic}: name their topic with --prompt-topic, or '
            'give --prompts FILE or --prompts-from-truth'
        )
    decisions = options.prompt_topic.rpartition('/')[0] + interface.DECISIONS.name.removeprefix('~')
    return recorded_prompts(reader, options.prompt_topic, decisions).checked(cameras)


def _runner(
    cameras: list[CameraTopic], prompts: PromptSource, writer: BagWriter, model: Sam2Model, options: RunOptions,
    sequence: str,
) -> Runner:  # fmt: skip
    shared = IdSource(prompts.wanted_ids())
    runs = {}
    for camera in cameras:
        # True IDs are of one camera; all others are unique among the cameras, as in the node.
        ids = IdSource() if isinstance(prompts, TruthPrompts) else shared
        specs = parse_corruptions(options.corrupt)
        clip = sequence if len(cameras) == 1 else f'{sequence}/{camera.name}'
        corruption = ClipCorruption(specs, options.seed, clip) if specs else None
        runs[camera.topic] = CameraRun(camera, VideoTracker(model, options.tracker, ids), ids, corruption)
    return Runner(runs, prompts, writer, options.keep_images, options.reset_on_jump, tqdm.write)


def _drive(
    reader: BagReader, runner: Runner, options: RunOptions, work: Path, state: Mapping[str, Any] | None,
    about: Mapping[str, Any], quiet: bool,
) -> None:  # fmt: skip
    runner.add_topics()
    total = sum(reader.topics[topic].messages for topic in runner.cameras)
    total = min(total, options.limit) if options.limit else total
    done = 0 if state is None else _resume(runner, work, state)
    if done:
        tqdm.write(f'{reader.name}: going on at frame {done} of {total}')
        _save(runner, work, about)
        remove(work / 'salvage')
    with tqdm(total=total, initial=done, unit='frame', disable=True if quiet else None, desc=reader.name) as progress:
        for number, frame in enumerate(_frames(reader, runner), 1):
            if options.limit and number > options.limit:
                break
            if number <= done:
                continue
            runner.step(frame)
            progress.update()
            if number % options.save_every == 0:
                _save(runner, work, about)
    if not options.limit:
        runner.prompts.finish()
    if not runner.frames:
        raise BagError(f'bag {reader.path} has no frames')


def _frames(reader: BagReader, runner: Runner) -> Iterator[Joined]:
    sides = {
        topic: [run.camera.truth] if has_labels(reader, run.camera.truth) else []
        for topic, run in runner.cameras.items()
    }
    topics = {*sides, *(side for found in sides.values() for side in found)}
    return join(reader.messages(topics), sides)


# ------------------------------------------------------------------------------------------------------------ going on


@contextmanager
def _workplace(out: Path, about: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """The folder in which a run's output grows, and the state that an earlier run left there.

    What is wrong with the input removes it; being interrupted or killed leaves it, so that the same command goes on.
    """
    work = partial_of(out)
    if not (work / 'lock').exists():
        check_free(out)
    if out.exists():
        raise BagError(f'{out} exists already: remove it or choose another name')
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BagError(f'{out} cannot be made: {error}') from error
    with (work / 'lock').open('w') as lock:
        _lock(lock, work)
        state = _earlier_state(work, out, about)
        try:
            yield work, state
        except PvosError:
            remove(work)
            raise
    remove(work)


def _lock(lock: IO[str], work: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BagError(f'another process is at work in {work}') from error


def _earlier_state(work: Path, out: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """State of a run with the same settings; the bag it was writing is moved to ``salvage``."""
    unfinished, salvage = partial_of(work / out.name), work / 'salvage'
    remove(work / out.name)
    if not (work / STATE).is_file():
        remove(unfinished)
        return None
    state: dict[str, Any] = torch.load(work / STATE, weights_only=True, map_location='cpu')
    different = [key for key, value in json.loads(state['about']).items() if about.get(key) != value]
    if different:
        raise BagError(
            f'{work} holds an unfinished run with other settings ({", ".join(different)}): finish it with those, '
            'remove it, or choose another name'
        )
    if list(salvage.rglob('*.mcap')):
        remove(unfinished)
    else:
        remove(salvage)
        unfinished.rename(salvage)
    return state


def _resume(runner: Runner, work: Path, state: Mapping[str, Any]) -> int:
    file = next((work / 'salvage').rglob('*.mcap'))
    copy_messages(file, runner.writer, state['written'])
    for topic, packed in state['cameras'].items():
        runner.cameras[topic].restore(packed)
    runner.prompts.restore(state['prompts'])
    runner.frames = state['frames']
    return runner.frames


def _save(runner: Runner, work: Path, about: Mapping[str, Any]) -> None:
    """Make all that was written safe, and then the state that belongs to it."""
    runner.writer.flush()
    state = {
        'about': json.dumps(about),
        'written': runner.writer.written,
        'frames': runner.frames,
        'prompts': runner.prompts.state(),
        'cameras': {topic: run.state() for topic, run in runner.cameras.items()},
    }
    fresh = work / f'{STATE}.new'
    torch.save(state, fresh)
    fresh.replace(work / STATE)

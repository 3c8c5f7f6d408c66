"""``pvos_bag``: drives and datasets as bags, from the camera to the report."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import NamedTuple, get_args

from robust_pvos_ros import interface
from robust_pvos_ros.evaluation.metrics import ScoredFrames
from robust_pvos_ros.tracking.checkpoints import MODEL_NAMES
from robust_pvos_ros.tracking.types import ModelConfig, PvosError, TrackerConfig

WRONG_INPUT = 2
INTERRUPTED = 130


class Command(NamedTuple):
    """A subcommand: ``add`` declares its options, ``run`` does it and returns the exit code."""

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# ---------------------------------------------------------------------------------------------------------------- info


def add_info(parser: argparse.ArgumentParser) -> None:
    """Options of ``info``."""
    parser.add_argument('bag', type=Path)


def run_info(options: argparse.Namespace) -> int:
    """What is in a bag."""
    from robust_pvos_ros.bags.reader import BagReader, find_bags

    for path in find_bags(options.bag):
        with BagReader(path) as reader:
            print(f'{path}: {reader.message_count} messages, {reader.duration / 1e9:.3f} s')
            for key, value in reader.about.items():
                print(f'  {key}: {value}')
            width = max(map(len, reader.topics), default=0)
            for topic, (message_type, count) in reader.topics.items():
                print(f'  {topic:<{width}}  {count:>7}  {message_type}')
    return 0


# -------------------------------------------------------------------------------------------------------- record, play


def add_record(parser: argparse.ArgumentParser) -> None:
    """Options of ``record``."""
    parser.add_argument('out', type=Path, help='bag to be made')
    parser.add_argument('--node', default=interface.NODE, help='whose topics are recorded (default: %(default)s)')
    parser.add_argument('--topic', action='append', default=[], metavar='PATTERN', help='more topics: "/tf*"')
    parser.add_argument('--without', action='append', default=[], metavar='PATTERN', help='topics to leave out')
    parser.add_argument('--pictures', action='store_true', help='overlay and single masks, too')
    parser.add_argument('--duration', type=float, default=0.0, metavar='SECONDS', help='default: until Ctrl-C')


def run_record(options: argparse.Namespace) -> int:
    """Live topics into a bag."""
    from robust_pvos_ros.bags.definitions import BagError

    if options.duration < 0:
        raise BagError('--duration must not be negative')
    recorder = _live('recorder')
    selection = recorder.Selection(options.node, tuple(options.topic), tuple(options.without), options.pictures)
    made = recorder.record(options.out, selection, options.duration)
    print(f'{options.out}: {made.status()}')
    return 0


def add_play(parser: argparse.ArgumentParser) -> None:
    """Options of ``play``."""
    parser.add_argument('bag', type=Path)
    parser.add_argument('--rate', type=float, default=1.0, help='times faster than recorded (default: 1)')
    parser.add_argument(
        '--node', default=interface.NODE, help='segmentation node that is prompted (default: %(default)s)'
    )
    parser.add_argument(
        '--camera', action='append', default=[], metavar='[NAME=]TOPIC', help="image topic, and the node's camera"
    )
    parser.add_argument('--topic', action='append', default=[], metavar='TOPIC', help='only these besides the cameras')
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument('--prompts', type=Path, metavar='FILE', help='YAML or JSON (default: those in the bag)')
    prompts.add_argument('--no-prompts', action='store_true', help='do not repeat the prompts and decisions in the bag')
    parser.add_argument('--corrupt', default='', metavar='KIND[:SEVERITY]', help='such as fog:3, or fog:2+iso_noise')
    parser.add_argument('--seed', type=int, default=0, help='of the corruption')
    parser.add_argument('--loop', type=int, default=1, metavar='TIMES', help='0: for ever')
    parser.add_argument('--stamps', choices=('recorded', 'monotonic', 'now'), default='monotonic')
    parser.add_argument('--no-clock', action='store_true', help='do not publish /clock')
    parser.add_argument(
        '--lossless', nargs='?', type=int, const=4, default=0, metavar='WINDOW',
        help='lose no frame: wait for the node, whose overload_policy must be every; at most so many frames on the way '
        '(default: 4)',
    )  # fmt: skip
    parser.add_argument('--as-fast-as-possible', action='store_true', help='with --lossless: at the speed of the node')
    parser.add_argument('--patience', type=float, default=30.0, metavar='SECONDS', help='how long to wait for the node')


def run_play(options: argparse.Namespace) -> int:
    """A bag to the running system."""
    from robust_pvos_ros.bags.definitions import BagError

    if options.rate <= 0 or options.loop < 0 or options.lossless < 0 or options.patience <= 0:
        raise BagError('--rate and --patience must be positive, --loop and --lossless not negative')
    if options.as_fast_as_possible and not options.lossless:
        raise BagError('--as-fast-as-possible needs --lossless: otherwise the node would drop most of the frames')
    player = _live('player')
    played = player.play(
        options.bag,
        player.PlayOptions(
            rate=0.0 if options.as_fast_as_possible else options.rate,
            node=options.node,
            cameras=tuple(options.camera),
            topics=tuple(options.topic),
            prompts=not options.no_prompts,
            prompt_file=options.prompts,
            corrupt=options.corrupt,
            seed=options.seed,
            loops=options.loop,
            stamps=options.stamps,
            clock=not options.no_clock,
            window=options.lossless,
            patience=options.patience,
        ),
    )
    print(f'{options.bag}: {played.published} messages')
    return 0


def _live(module: str) -> ModuleType:
    """A module that needs ROS.  Raises ``BagError`` where that is not sourced."""
    from robust_pvos_ros.bags.definitions import BagError

    try:
        return importlib.import_module(f'robust_pvos_ros.live.{module}')
    except ImportError as error:
        raise BagError(f'this command needs ROS 2: source it, and the workspace of this package ({error})') from error


# -------------------------------------------------------------------------------------------------------------- import


def add_import(parser: argparse.ArgumentParser) -> None:
    """Options of ``import``."""
    parser.add_argument('source', type=Path, help='folder in DAVIS layout, or a video file')
    parser.add_argument('out', type=Path, help='a folder in DAVIS layout: folder of bags to be made; a video: bag')
    parser.add_argument('--sequences', nargs='+', default=[], metavar='NAME', help='only these clips')
    parser.add_argument('--rate', type=float, default=0.0, help="Hz (default: a video's own, 30 for pictures)")
    parser.add_argument('--camera', default='camera', help='its name (default: %(default)s)')
    parser.add_argument('--compressed', action='store_true', help='store JPEG and PNG files instead of raw images')
    parser.add_argument('--no-truth', action='store_true', help='leave the true masks out')


def run_import(options: argparse.Namespace) -> int:
    """A dataset or a video becomes bags."""
    from robust_pvos_ros.bags.importer import ImportOptions, import_dataset, import_video

    chosen = ImportOptions(options.rate, options.camera, options.compressed, not options.no_truth)
    if options.source.is_file():
        frames = import_video(options.source, options.out, chosen)
        print(f'{options.out}: {frames} frames')
        return 0
    for bag in import_dataset(options.source, options.out, options.sequences, chosen):
        print(bag)
    return 0


# ----------------------------------------------------------------------------------------------------------------- run


def add_run(parser: argparse.ArgumentParser) -> None:
    """Options of ``run``."""
    parser.add_argument('bag', type=Path, help='a bag, or a folder of bags')
    parser.add_argument('out', type=Path, help='bag to be made; for a folder of bags, a folder that they are put in')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--prompts', type=Path, metavar='FILE', help='YAML or JSON (default: those in the bag)')
    source.add_argument(
        '--prompts-from-truth', nargs='?', const='mask', choices=('mask', 'point', 'box'), default='', metavar='KIND',
        help='prompt every object once, on its first frame, with its true mask, a point or a box (default: mask)',
    )  # fmt: skip
    source.add_argument('--prompt-topic', help='topic of the prompts in the bag (default: /robust_pvos/prompts)')
    parser.add_argument(
        '--camera', action='append', default=[], metavar='[NAME=]TOPIC', help='image topic; may be repeated'
    )
    parser.add_argument('--model', choices=MODEL_NAMES, default='compact')
    parser.add_argument('--checkpoint', default='', help='weights file (default: the shipped compact model)')
    parser.add_argument('--adapter', default='none', help='a file, shipped, or none (stock SAM 2)')
    parser.add_argument('--image-size', type=int, default=0, help='pixels; 0 takes that of the weights (compact only)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', default='auto', help='auto, float32 or bfloat16')
    parser.add_argument('--threads', type=int, default=1, help='of torch and OpenCV (default: 1; 0: all cores but one)')
    parser.add_argument('--memory-policy', choices=('stock', 'selective'), default=TrackerConfig().memory_policy)
    parser.add_argument('--max-objects', type=int, default=255)
    parser.add_argument('--corrupt', default='', metavar='KIND[:SEVERITY]', help='such as fog:3, or fog:2+iso_noise')
    parser.add_argument('--seed', type=int, default=0, help='of the corruption')
    parser.add_argument('--no-images', action='store_true', help='leave the pictures out of the output')
    parser.add_argument('--time-jump', choices=('remove_objects', 'keep'), default='remove_objects')
    parser.add_argument('--save-every', type=int, default=200, metavar='FRAMES', help='a killed run goes on from there')
    parser.add_argument('--limit', type=int, default=0, metavar='FRAMES', help='stop after so many')


def run_run(options: argparse.Namespace) -> int:
    """The tracker over a bag."""
    import cv2

    from robust_pvos_ros.bags.definitions import BagError
    from robust_pvos_ros.bags.reader import find_bags, is_bag
    from robust_pvos_ros.bags.replay import RunOptions, run_bag
    from robust_pvos_ros.tracking.model import load_model

    if options.threads < 0 or options.save_every < 1 or options.max_objects < 1 or options.limit < 0:
        raise BagError('--threads and --limit must not be negative, --save-every and --max-objects at least 1')
    bags = find_bags(options.bag)
    single = is_bag(options.bag)
    places = [options.out if single else options.out / bag.name for bag in bags]
    if options.threads:
        cv2.setNumThreads(options.threads)
    chosen = RunOptions(
        model=ModelConfig(
            options.model, options.checkpoint, options.image_size, options.adapter, options.device, options.precision,
            options.threads,
        ),
        tracker=TrackerConfig(
            max_objects=options.max_objects, memory_policy=options.memory_policy, history_frames=0
        ),
        cameras=tuple(options.camera),
        prompt_file=options.prompts,
        prompts_from_truth=options.prompts_from_truth,
        corrupt=options.corrupt,
        seed=options.seed,
        keep_images=not options.no_images,
        reset_on_jump=options.time_jump == 'remove_objects',
        save_every=options.save_every,
        limit=options.limit,
        **({'prompt_topic': options.prompt_topic} if options.prompt_topic else {}),
    )  # fmt: skip
    model = load_model(chosen.model)
    for bag, place in zip(bags, places):
        if not single and place.exists():
            print(f'{place}: there already')
            continue
        frames = run_bag(bag, place, model, chosen)
        print(f'{place}: {frames} frames')
    return 0


# -------------------------------------------------------------------------------------------------------------- export


def add_export(parser: argparse.ArgumentParser) -> None:
    """Options of ``export``."""
    parser.add_argument('bag', type=Path, help='a bag with label images')
    parser.add_argument('--masks', type=Path, metavar='FOLDER', help='PNGs with a palette, in DAVIS layout')
    parser.add_argument('--video', type=Path, metavar='FILE', help='pictures with the masks drawn in: .mp4 or .webm')
    parser.add_argument('--topic', default='', help='of the label images (default: all)')
    parser.add_argument('--camera', default='', help='for the video, where there are several')


def run_export(options: argparse.Namespace) -> int:
    """Masks of a bag as files."""
    from robust_pvos_ros.bags.definitions import BagError
    from robust_pvos_ros.bags.exporter import export_masks, export_video

    if options.masks is None and options.video is None:
        raise BagError('name what to make: --masks FOLDER, --video FILE or both')
    if options.masks is not None:
        print(f'{options.masks}: {export_masks(options.bag, options.masks, options.topic)} masks')
    if options.video is not None:
        print(f'{options.video}: {export_video(options.bag, options.video, options.camera)} frames')
    return 0


# ------------------------------------------------------------------------------------------------------------- recover


def add_recover(parser: argparse.ArgumentParser) -> None:
    """Options of ``recover``."""
    parser.add_argument('bag', type=Path, help='an .mcap file without its end, or the folder it lies in')
    parser.add_argument('out', type=Path, help='bag to be made')


def run_recover(options: argparse.Namespace) -> int:
    """Rewrite what is left of a bag."""
    from robust_pvos_ros.bags.recovery import recover

    found = recover(options.bag, options.out)
    lost = [f'{found.losses.chunks} damaged chunks skipped'] if found.losses.chunks else []
    lost += [f'{found.losses.messages} damaged messages skipped'] if found.losses.messages else []
    lost += ['the end was missing'] if found.losses.cut else []
    note = f' ({"; ".join(lost)})' if lost else ''
    print(f'{options.out}: {found.messages} messages, {found.duration / 1e9:.3f} s{note}')
    return 0


# --------------------------------------------------------------------------------------------------------------- score


def add_score(parser: argparse.ArgumentParser) -> None:
    """Options of ``score``."""
    parser.add_argument('runs', nargs='+', metavar='[NAME=]BAG', help='runs: bags, or folders of bags')
    parser.add_argument('--out', type=Path, required=True, help='folder to be made: report.html, scores.json and .csv')
    parser.add_argument('--truth', type=Path, help='bag, or folder of bags of the same names, with the true masks')
    parser.add_argument('--truth-topic', default='', help='default: /CAMERA/truth')
    parser.add_argument('--scored-frames', choices=get_args(ScoredFrames), default='interior')
    parser.add_argument('--title', default='Robust PVOS: runs compared')
    parser.add_argument('--no-pictures', action='store_true', help='no thumbnails and no videos: fast and small')


def run_score(options: argparse.Namespace) -> int:
    """Scores and report of runs."""
    from robust_pvos_ros.bags.score import ScoreOptions, score_runs

    chosen = ScoreOptions(
        truth=options.truth,
        truth_topic=options.truth_topic,
        convention=options.scored_frames,
        title=options.title,
        pictures=not options.no_pictures,
    )
    print(score_runs(options.runs, options.out, chosen))
    print(f'report: {options.out / "report.html"}')
    return 0


# ---------------------------------------------------------------------------------------------------------------- main

COMMANDS = (
    Command('info', 'what is in a bag', add_info, run_info),
    Command('record', 'record the topics of a segmentation node', add_record, run_record),
    Command('play', 'play a bag to the running system', add_play, run_play),
    Command('import', 'make bags from a dataset in DAVIS layout or from a video', add_import, run_import),
    Command('run', 'run the tracker over a bag: every frame once, in order, at its own pace', add_run, run_run),
    Command('export', 'masks of a bag as PNGs or as a video', add_export, run_export),
    Command('recover', 'rewrite a bag whose end is missing', add_recover, run_recover),
    Command('score', 'score runs against the truth, side by side', add_score, run_score),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog='pvos_bag', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for command in COMMANDS:
        added = commands.add_parser(command.name, help=command.summary, description=f'{command.summary}.')
        command.add(added)
        added.set_defaults(run=command.run)
    return parser


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on bad input with one sentence on stderr, 130 when interrupted."""
    from robust_pvos_ros.corruption.corruption import CorruptionError

    options = build_parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _on_terminate)
    try:
        code: int = options.run(options)
    except (PvosError, CorruptionError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def command() -> None:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == '__main__':
    command()

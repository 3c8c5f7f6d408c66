"""The whole demo in one command: camera, segmentation node, client and recorder, then video, sheet and figures.

    python -m robust_pvos_ros.demo.run [--out FOLDER] [--video FILE_OR_FOLDER [--prompt point:x,y ...]]

Everything runs in processes of its own over DDS, as it would beside a vehicle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from robust_pvos_ros.bags.places import partial_of
from robust_pvos_ros.demo.pictures import contact_sheet, draw_frame, save_sheet
from robust_pvos_ros.demo.plan import SHEET_TIMES, truth_ids
from robust_pvos_ros.demo.processes import Children, interrupt_on_signals
from robust_pvos_ros.demo.prompting import parse_prompt
from robust_pvos_ros.demo.report import Bookkeeper, ReportError, Summary, as_text, count_inputs, read_frames
from robust_pvos_ros.tracking.types import PromptError, PvosError
from robust_pvos_ros.video_file import VideoFile

START_TIME = 180.0  # seconds for the model to load and the processes to meet
VIDEO_LENGTH = 25.0
COLUMNS, TILE_WIDTH = 4, 400
PROFILE = 'fastdds_large.xml'


class _Progress:
    """The progress bar, driven by what the children print."""

    def __init__(self) -> None:
        self._bar = tqdm(desc='  camera', unit=' frames', dynamic_ncols=True, leave=False, disable=None)

    def camera(self, line: str) -> None:
        """``frame INDEX TOTAL``, or a sentence."""
        words = line.split()
        if len(words) == 3 and words[0] == 'frame':
            self._bar.total = int(words[2]) if words[2].isdigit() else None
            self._bar.update(int(words[1]) - self._bar.n)
        else:
            self.say(f'camera: {line}')

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bar.write(f'  {line}', file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def environment() -> dict[str, str]:
    """Variables of the children: a ROS domain of their own on this machine, and room for raw images."""
    values = dict(os.environ)
    values['ROS_DOMAIN_ID'] = os.environ.get('PVOS_DEMO_DOMAIN_ID', str(1 + os.getpid() % 100))
    values['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    values.setdefault('RCUTILS_COLORIZED_OUTPUT', '0')
    if not values.get('FASTRTPS_DEFAULT_PROFILES_FILE'):
        values['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(_profile())
    return values


def _profile() -> Path:
    """The Fast DDS profile of the source tree, or of the installation."""
    package = Path(__file__).resolve().parents[1]
    prefixes = [Path(prefix) for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
    candidates = [package.parent / 'config' / PROFILE]
    candidates += [prefix / 'share' / package.name / 'config' / PROFILE for prefix in [*prefixes, Path(sys.prefix)]]
    for path in candidates:
        if path.is_file():
            return path
    raise PvosError(f'{PROFILE} was not found beside the package: most raw images would be lost without it')


def stream(options: argparse.Namespace, out: Path) -> None:
    """Run the processes until the camera's pictures end.

    Raises:
        PvosError: if one of them failed.
    """
    logs = out / 'logs'
    logs.mkdir(exist_ok=True)
    progress = _Progress()
    parameters = [word for text in options.param for word in ('-p', text)]
    camera_options = ['--seed', str(options.seed)]
    client_options = [word for text in options.prompt for word in ('--prompt', text)]
    subscribers = 2
    if options.video is not None:
        camera_options += ['--video', str(options.video)]
        automatic = not options.prompt
        client_options += ['--auto'] if automatic else []
        subscribers += automatic
        camera_options += ['--hold-after', '5' if automatic else '1', '--hold-for', str(max(1, len(options.prompt)))]
    duration = options.duration or (VIDEO_LENGTH if options.video is not None else math.inf)
    camera_options += ['--duration', str(duration), '--subscribers', str(subscribers)]
    camera_options += [] if options.rate is None else ['--rate', str(options.rate)]
    module = 'robust_pvos_ros'
    try:
        with Children(environment(), logs) as children:
            node = children.start('node', ['-m', f'{module}.segmentation_node', '--ros-args', *parameters])
            recorder = children.start('recorder', ['-m', f'{module}.demo.recorder', str(out / 'bag')], progress.say)
            children.start('client', ['-m', f'{module}.demo.client', *client_options], progress.say)
            camera = children.start('camera', ['-m', f'{module}.demo.camera', *camera_options], progress.camera)
            limit = START_TIME + (3 * duration if math.isfinite(duration) else 600)
            children.wait_for(camera, (node, recorder), limit)
            time.sleep(1.0)  # the last frames' masks are on their way
    finally:
        progress.close()


def evaluate(out: Path, is_street: bool) -> Summary:
    """Write the video, the contact sheet and the summary of ``out/bag``.

    Raises:
        ReportError: if nothing was processed or a file cannot be written.
    """
    bag = out / 'bag'
    stamps, prompts = count_inputs(bag)
    bookkeeper = Bookkeeper(truth_ids() if is_street else {})
    times: list[int] = []
    for frame in read_frames(bag):
        bookkeeper.add(frame)
        times.append(frame.stamp)
    summary = bookkeeper.summary(stamps, prompts)
    video = VideoFile(out / 'overlay.mp4', max(1.0, summary.output_hz))
    wanted = _choose_tiles(np.array(times), min(stamps), is_street)
    tiles = []
    for frame in read_frames(bag):
        picture = draw_frame(frame)
        video.add(picture)
        if frame.stamp in wanted:
            tiles.append((f't = {(frame.stamp - min(stamps)) / 1e9:.1f} s', picture))
    video.close()
    save_sheet(out / 'contact_sheet.png', contact_sheet(tiles, COLUMNS, TILE_WIDTH))
    (out / 'summary.txt').write_text(as_text(summary) + '\n')
    (out / 'summary.json').write_text(json.dumps(summary.as_dict(), indent=2) + '\n')
    return summary


def _choose_tiles(times: np.ndarray, first: int, is_street: bool) -> set[int]:
    """Stamps, among ``times`` in nanoseconds, of the frames for the contact sheet; the video began at ``first``."""
    moments = np.linspace(times[0], times[-1], len(SHEET_TIMES))
    if is_street and times[-1] - first > 0.95e9 * SHEET_TIMES[-1]:
        moments = first + np.array(SHEET_TIMES) * 1e9
    return {int(times[np.abs(times - moment).argmin()]) for moment in moments}


def _prepare(out: Path) -> None:
    """Make the folder and take away the bag of an earlier run."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        bag = out / 'bag'
        if bag.exists():
            if not list(bag.glob('*.mcap')):
                raise ReportError(f'{bag} exists and is no bag: move it away or choose another --out')
            shutil.rmtree(bag)
        shutil.rmtree(partial_of(bag), ignore_errors=True)
    except OSError as error:
        raise ReportError(f'{out} cannot be used for the results: {error}') from error


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Runs the demo and writes a video, a contact sheet and a summary.')
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='folder of the results')
    parser.add_argument('--video', type=Path, help='video file or folder of pictures; default: the rendered street')
    parser.add_argument('--prompt', action='append', default=[], metavar='TEXT',
                        help='for --video: point:x,y or box:x0,y0,x1,y1 in pixels, with @label at the end; repeatable; '
                             'default: a box on what moves or stands out near the middle')
    parser.add_argument('--rate', type=float, help='camera frames per second (default: 15, or that of the video)')
    parser.add_argument('--duration', type=float, help='seconds (default: the whole scene, or 25 of a video)')
    parser.add_argument('--seed', type=int, default=0, help='of the street scene')
    parser.add_argument('--param', action='append', default=[], metavar='NAME:=VALUE',
                        help='parameter of the segmentation node; repeatable')
    options = parser.parse_args(arguments)
    if options.video is not None and not options.video.exists():
        parser.error(f'{options.video} does not exist: give a video file or a folder of pictures')
    if options.prompt and options.video is None:
        parser.error('--prompt goes with --video: the street scene has its own prompts')
    for name in ('rate', 'duration'):
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            parser.error(f'--{name} must be positive, got {getattr(options, name):g}')
    try:
        for text in options.prompt:
            parse_prompt(text)
    except PromptError as error:
        parser.error(str(error))
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the demo; exit code 0 if every result was written."""
    options = _parse(arguments)
    out: Path = options.out
    begin = time.monotonic()
    interrupt_on_signals()
    try:
        _prepare(out)
        print('starting segmentation node, recorder, client and camera ...', flush=True)
        stream(options, out)
        print('reading the bag back ...', flush=True)
        summary = evaluate(out, options.video is None)
    except KeyboardInterrupt:
        print('\nstopped; all processes of the demo have ended', file=sys.stderr)
        sys.exit(130)
    except PvosError as error:
        sys.exit(f'demo failed: {error}')
    print(f'\n{as_text(summary)}\n')
    for name, what in (('overlay.mp4', 'video with masks'), ('contact_sheet.png', 'contact sheet'),
                       ('summary.json', 'these figures'), ('bag', 'recording'), ('logs', 'logs')):
        print(f'{what + ":":<18}{out / name}')
    print(f'the demo took {time.monotonic() - begin:.0f} s')


if __name__ == '__main__':
    main()

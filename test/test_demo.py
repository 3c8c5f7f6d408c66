"""Prompts, sources and processes of the demo one by one, and once all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from robust_pvos_ros.demo import processes
from robust_pvos_ros.demo.plan import PLAN, truth_ids
from robust_pvos_ros.demo.processes import ChildError, Children
from robust_pvos_ros.demo.prompting import correction, innermost_point, parse_prompt, prompt_from_truth, salient_box
from robust_pvos_ros.demo.sources import SourceError, open_source
from robust_pvos_ros.tracking.checkpoints import shipped_weights
from robust_pvos_ros.tracking.types import PromptError
from robust_pvos_ros.video_file import VideoFile

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 60, 80


# ------------------------------------------------------------------------------------------------------------- prompts


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_prompts_from_truth_lie_on_the_object() -> None:
    mask = square(10, 20, 40, 50)
    mask[30:40, 20:30] = False  # a hole where the centroid is
    box = prompt_from_truth(mask, 'thing', 'box')
    assert box is not None and box.box is not None and box.box.tolist() == [10, 20, 40, 50]
    for how, count in (('point', 1), ('points', 3)):
        prompt = prompt_from_truth(mask, 'thing', how)
        assert prompt is not None and prompt.points.shape == (count, 2)
        assert all(mask[int(y), int(x)] for x, y in prompt.points)
    whole = prompt_from_truth(mask, 'thing', 'mask')
    assert whole is not None and whole.mask is not None and (whole.mask == mask).all()
    assert prompt_from_truth(square(0, 0, 9, 9), 'thing', 'box') is None  # too little to point at


def test_correction_clicks_into_the_largest_error() -> None:
    truth = square(10, 10, 50, 40)
    missed = correction(truth, square(10, 10, 25, 40), 7)
    assert missed is not None and missed.object_id == 7 and missed.point_labels.tolist() == [1]
    assert 25 <= missed.points[0, 0] < 50
    extra = correction(truth, square(10, 10, 79, 50), 7)
    assert extra is not None and extra.point_labels.tolist() == [0]
    x, y = extra.points[0].astype(int)
    assert not truth[y, x]
    perfect = correction(truth, truth, 7)
    assert perfect is not None and perfect.point_labels.tolist() == [1]
    assert correction(np.zeros_like(truth), truth, 7) is None


def test_innermost_point_stays_off_the_border_of_the_image() -> None:
    x, y = innermost_point(square(0, 0, 40, HEIGHT))
    assert 15 <= x <= 24 and 15 <= y <= 44


def test_prompts_of_the_command_line() -> None:
    points = parse_prompt('point:3,4;5.5,6@left wheel')
    assert points.points.tolist() == [[3, 4], [5.5, 6]] and points.label == 'left wheel'
    box = parse_prompt('box:1,2,30,40')
    assert box.box is not None and box.box.tolist() == [1, 2, 30, 40] and box.label == ''
    for text in ('', 'point', 'point:1', 'point:1,2,3', 'box:1,2,3', 'box:1,2,3,4;5,6,7,8', 'circle:1,2', 'point:a,b'):
        with pytest.raises(PromptError, match='write point:x,y or box:x0,y0,x1,y1'):
            parse_prompt(text)


def box_overlap(first: np.ndarray, second: tuple[int, int, int, int]) -> float:
    """IoU of two boxes (x0, y0, x1, y1)."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    inside = float(np.prod(np.maximum(high - low, 0)))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (first, second)]
    return inside / (sum(areas) - inside)


def test_what_moves_is_salient_although_the_camera_moves_too() -> None:
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (60, 80, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    thing = cv2.resize(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    pictures = []
    for step in range(5):
        picture = np.roll(ground, 2 * step, axis=1)
        x = 300 - 5 * step
        picture[200:296, x:x + 128] = thing
        pictures.append(picture)
    box, why = salient_box(pictures)
    assert why == 'it moves and stands out'
    assert box_overlap(box, (280, 200, 408, 296)) > 0.5, box


def test_where_nothing_moves_what_stands_out_is_salient() -> None:
    picture = np.full((240, 320, 3), (90, 120, 90), np.uint8)
    picture += np.random.default_rng(0).integers(0, 12, picture.shape).astype(np.uint8)
    picture[90:150, 130:200] = (200, 40, 40)
    box, why = salient_box([picture])
    assert why == 'it stands out'
    assert box_overlap(box, (130, 90, 200, 150)) > 0.7, box
    flat, _ = salient_box([np.zeros((240, 320, 3), np.uint8)])
    assert 0 <= flat[0] < flat[2] <= 320 and 0 <= flat[1] < flat[3] <= 240


def test_plan_names_objects_of_the_scene_and_keeps_order() -> None:
    assert all(action.label in truth_ids() for action in PLAN)
    assert [action.time for action in PLAN] == sorted(action.time for action in PLAN)
    added = {action.label for action in PLAN if action.verb == 'add'}
    assert len(added) >= 4
    assert {action.how for action in PLAN if action.verb == 'add'} == {'box', 'mask', 'points'}
    assert all(action.label in added for action in PLAN if action.verb != 'add')


# ------------------------------------------------------------------------------------------------------------- sources


def write_pictures(folder: Path, count: int) -> None:
    for index in range(count):
        cv2.imwrite(str(folder / f'{index:03d}.png'), np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8))


def test_folder_gives_every_picture_once(tmp_path: Path) -> None:
    write_pictures(tmp_path, 6)
    source = open_source(tmp_path, rate=5.0)
    assert source.duration == pytest.approx(1.0)
    values = []
    for index in range(20):
        picture = source.at(index / 5.0)
        if picture is None:
            break
        values.append(int(picture.rgb[0, 0, 0]))
    assert values == [0, 10, 20, 30, 40, 50]


def test_video_keeps_its_speed_when_frames_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / 'video.mp4'
    video = VideoFile(path, 20.0)
    for index in range(40):
        video.add(np.full((HEIGHT, WIDTH, 3), 5 * index, np.uint8))
    video.close()
    source = open_source(path)
    assert source.rate == pytest.approx(20.0) and source.duration == pytest.approx(39 / 20)
    for moment in (0.0, 0.5, 0.55, 1.5):
        picture = source.at(moment)
        assert picture is not None and picture.truth is None
        assert abs(float(picture.rgb.mean()) - 100 * moment) < 4
    assert source.at(2.5) is None


@pytest.mark.parametrize('name, message', [
    ('missing.mp4', 'does not exist'), ('empty', 'has no pictures'), ('text.mp4', 'cannot be read as a video'),
])
def test_unreadable_sources_say_why(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / name)


# ----------------------------------------------------------------------------------------------------------- processes


def test_a_child_that_dies_ends_the_others_and_shows_its_log(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(ChildError, match=r'(?s)the bad ended with code 3.*out of cheese'), \
            Children(dict(os.environ), tmp_path) as children:
        patient = children.start('patient', ['-c', 'print("ready"); import time; time.sleep(60)'], lines.append)
        while not lines:
            time.sleep(0.01)
        bad = children.start('bad', ['-c', 'import sys; print("out of cheese", file=sys.stderr); sys.exit(3)'])
        children.wait_for(patient, (bad,), 30)
    assert lines == ['ready']
    assert patient.code is not None and bad.code == 3


def test_a_child_that_does_not_listen_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, 'GRACE', 0.3)
    deaf = 'import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint("deaf")\ntime.sleep(60)'
    lines: list[str] = []
    with Children(dict(os.environ), tmp_path) as children:
        child = children.start('deaf', ['-c', deaf], lines.append)
        while not lines:
            time.sleep(0.01)
    assert child.code == -signal.SIGKILL


def test_a_child_may_end_well_before_the_awaited_one(tmp_path: Path) -> None:
    with Children(dict(os.environ), tmp_path) as children:
        children.start('early', ['-c', ''])
        awaited = children.start('awaited', ['-c', 'import time; time.sleep(0.5)'])
        children.wait_for(awaited, (), 30)
        assert awaited.code == 0


# ---------------------------------------------------------------------------------------------------------------- demo


def run_demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', 'robust_pvos_ros.demo.run', *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )


def output_of(process: subprocess.Popen[str], timeout: float = 240) -> str:
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize('arguments, message', [
    (('--video', 'no_such_file.mp4'), 'no_such_file.mp4 does not exist'),
    (('--prompt', 'point:1,2'), '--prompt goes with --video'),
    (('--video', '.', '--prompt', 'spot:1'), "'spot:1' is not understood"),
    (('--rate', '-5'), '--rate must be positive'),
])
def test_wrong_arguments_are_explained(arguments: tuple[str, ...], message: str) -> None:
    process = run_demo(*arguments)
    output = output_of(process)
    assert process.returncode == 2
    assert message in output


needs_weights = pytest.mark.skipif(not shipped_weights().is_file(), reason=f'{shipped_weights().name} is not there')


@pytest.fixture(scope='module')
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and summary of a demo of ten seconds."""
    folder = tmp_path_factory.mktemp('demo')
    process = run_demo('--out', str(folder), '--duration', '10', '--rate', '10')
    output = output_of(process)
    assert process.returncode == 0, output
    return folder, json.loads((folder / 'summary.json').read_text())


@pytest.mark.slow
@needs_weights
def test_demo_end_to_end(short_demo: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = short_demo
    for name in ('overlay.mp4', 'contact_sheet.png', 'summary.json', 'bag/metadata.yaml', 'logs/node.log'):
        assert (folder / name).stat().st_size > 0, name
    assert summary['ids_stable'] and summary['processed'] >= 10
    assert [entry['object_id'] for entry in summary['objects']] == [1, 2, 3]
    assert [entry['label'] for entry in summary['objects']] == ['red car', 'yellow jacket', 'blue coat']
    assert summary['prompts'] == 4  # three objects and a correction


@pytest.mark.slow
@needs_weights
def test_masks_of_the_demo_fit_the_truth(short_demo: tuple[Path, dict[str, Any]]) -> None:
    by_label = {entry['label']: entry['mean_iou'] for entry in short_demo[1]['objects']}
    assert np.mean(list(by_label.values())) > 0.3
    assert by_label['red car'] > 0.5


@pytest.mark.slow
@needs_weights
def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    psutil = pytest.importorskip('psutil')
    process = run_demo('--out', str(tmp_path))
    log = tmp_path / 'logs' / 'camera.log'
    end = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) > 3):  # a camera that is late leaves frames out
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 4
    process.send_signal(signal.SIGINT)
    output = output_of(process, 60)
    assert process.returncode == 130, output
    assert 'all processes of the demo have ended' in output
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert (tmp_path / 'bag' / 'metadata.yaml').is_file()  # the recording up to here is complete


@pytest.mark.slow
def test_a_node_that_cannot_start_fails_the_demo(tmp_path: Path) -> None:
    process = run_demo('--out', str(tmp_path), '--param', 'no argument')
    output = output_of(process, 120)
    assert process.returncode == 1
    assert 'demo failed: the node ended with code' in output

"""Bags and the running node: recording, playing, and what is left after a kill."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_files import LABELS, messages, picture, stamp_at, write_bag
from node_harness import Harness, image, mask_prompt, scene, wait_until
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock

from robust_pvos_ros.bags.definitions import IMAGE, BagError, interface_typestore, message_types, serialise
from robust_pvos_ros.bags.frames import stamp_of
from robust_pvos_ros.bags.prompts import recorded_prompts
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.bags.recovery import recover
from robust_pvos_ros.bags.replay import RunOptions, run_bag
from robust_pvos_ros.bags.writer import header_stamp, with_stamp
from robust_pvos_ros.image_codec import labels_of
from robust_pvos_ros.live.pace import Acknowledgements, Pace
from robust_pvos_ros.live.player import has_header
from robust_pvos_ros.live.recorder import Backlog, Received, Selection
from robust_pvos_ros.message_core import Decision, decision_from_message, make_decision, make_header
from robust_pvos_ros.tracking.model import Sam2Model

pytest_plugins = ('bag_fixtures',)

PROMPTS, DECISIONS = '/robust_pvos/prompts', '/robust_pvos/decisions'


def pvos_bag(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, '-m', 'robust_pvos_ros.bags.cli', *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def record(bag: Path) -> subprocess.Popen[str]:
    """A recorder that has found the node's topics."""
    process = pvos_bag('record', bag, '--node', '/robust_pvos')
    partial = bag.with_name(bag.name + '.partial')
    wait_until(partial.exists, 'the bag to be opened', 60)
    return process


def masks(bag: Path) -> dict[int, np.ndarray]:
    """Label image of each stamp, the last one, with IDs counted from 1."""
    found = {stamp_of(message): labels_of(message) for message in messages(bag, LABELS)}
    ids = np.unique(np.concatenate([labels.ravel() for labels in found.values()]))
    return {stamp: np.searchsorted(ids, labels) for stamp, labels in found.items()}


@pytest.fixture
def drive(tmp_path: Path) -> tuple[Path, Path]:
    """A bag with pictures, and prompts for it."""
    prompts = tmp_path / 'prompts.json'
    entries = [
        {'frame': 0, 'object_id': 1, 'box': [4, 4, 30, 30]},
        {'frame': 2, 'object_id': 2, 'points': [[40, 20]]},
        {'frame': 5, 'object_id': 1, 'points': [[12, 12], [40, 20]], 'point_labels': [1, 0]},
    ]
    prompts.write_text(json.dumps({'prompts': entries}))
    return write_bag(tmp_path / 'drive', frames=9), prompts


@pytest.mark.parametrize('slowness', [0.0, 0.5])
def test_the_live_node_makes_the_masks_of_run(
    drive: tuple[Path, Path], model: Sam2Model, options: RunOptions, tmp_path: Path, slowness: float
) -> None:
    bag, prompts = drive
    replayed = dataclasses.replace(options, prompts_from_truth='', prompt_file=prompts)
    run_bag(bag, tmp_path / 'run', model, replayed, quiet=True)
    expected = masks(tmp_path / 'run')
    assert len(expected) == 9 and all(labels.any() for labels in expected.values())
    harness = Harness(
        threads=1, precision='float32', encoder='torch', checkpoint=options.model.checkpoint, overload_policy='every',
        queue_depth=4,
    )  # fmt: skip
    try:
        harness.wait_active()
        tracker = harness.node.cameras['camera'].tracker
        step = tracker.step

        def slowly(*arguments: Any) -> Any:
            time.sleep(slowness)
            return step(*arguments)

        tracker.step = slowly  # type: ignore[method-assign]
        recorder = record(tmp_path / 'live')
        wait_until(lambda: harness.node.count_subscribers(LABELS), 'the recorder to listen', 60)
        wait_until(lambda: harness.publisher.get_subscription_count() > 1, 'it to see the camera', 60)
        code, text = finish(pvos_bag('play', bag, '--prompts', prompts, '--lossless', 3, '--as-fast-as-possible'))
        assert code == 0, text
        time.sleep(0.5)
        recorder.send_signal(signal.SIGINT)
        code, text = finish(recorder)
        assert code == 0, text
        assert harness.counts()['dropped'] == 0 and harness.counts()['received'] == 9
    finally:
        harness.close()
    live = masks(tmp_path / 'live')
    assert live.keys() == expected.keys()
    for stamp, labels in expected.items():
        np.testing.assert_array_equal(live[stamp], labels)
    # What was recorded can be run again, with the prompts in it, and gives the same masks once more.
    again = dataclasses.replace(options, prompts_from_truth='')
    run_bag(tmp_path / 'live', tmp_path / 'again', model, again, quiet=True)
    for stamp, labels in masks(tmp_path / 'again').items():
        np.testing.assert_array_equal(labels, expected[stamp])


# ------------------------------------------------------------------------------------------------------------ recording


@pytest.fixture(scope='module')
def harness(options: RunOptions) -> Iterator[Harness]:
    harness = Harness(threads=1, checkpoint=options.model.checkpoint, encoder='torch')
    harness.wait_active()
    yield harness
    harness.close()


class Stream:
    """Publishes pictures at a steady rate, from a thread of its own."""

    def __init__(self, harness: Harness, rate: float = 30.0) -> None:
        self.stamps: list[int] = []
        self._harness, self._period = harness, 1 / rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._stopping.wait(self._period):
            stamp = time.time_ns()
            self._harness.publish(image(scene(), stamp))
            self.stamps.append(stamp)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def test_a_drive_is_recorded_with_all_that_a_replay_needs(
    harness: Harness, model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    recorder = record(tmp_path / 'drive')
    wait_until(lambda: harness.node.count_subscribers(DECISIONS), 'the recorder to listen', 60)
    wait_until(lambda: harness.publisher.get_subscription_count() > 1, 'the recorder to see the camera', 60)
    harness.frame()
    first = harness.call('add_object', prompt=mask_prompt(label='one')).object_id
    second = harness.call('add_object', prompt=mask_prompt(label='two')).object_id
    harness.frame()
    assert not harness.call('remove_object', object_id=999).success
    assert harness.call('remove_object', object_id=first).success
    assert harness.call('set_label', object_id=second, label='renamed').success
    harness.frame()
    assert harness.call('reset').success
    harness.frame()
    time.sleep(0.5)
    recorder.send_signal(signal.SIGINT)
    code, text = finish(recorder)
    assert code == 0 and 'messages' in text, text
    with BagReader(tmp_path / 'drive') as reader:
        assert reader.topics['/camera/image_raw'].messages == 4
        assert not [topic for topic in reader.topics if topic.endswith(('/mask', '/overlay'))]
        raw = next(reader.raw(['/camera/image_raw']))
        sent = image(scene(), header_stamp(raw.data))
        assert deserialize_message(raw.data, type(sent)) == sent  # the bytes between fields are anything
        planned = recorded_prompts(reader, PROMPTS, DECISIONS)
        assert planned.wanted_ids() == [first, second]
    decided = [
        (m.service, m.camera, m.object_id, m.label, m.success) for m in messages(tmp_path / 'drive', DECISIONS)
    ]
    assert decided == [
        ('add_object', 'camera', first, 'one', True),
        ('add_object', 'camera', second, 'two', True),
        ('remove_object', '', 999, '', False),
        ('remove_object', 'camera', first, '', True),
        ('set_label', 'camera', second, 'renamed', True),
        ('reset', 'camera', 0, '', True),
    ]
    recorded = dataclasses.replace(options, prompts_from_truth='')
    run_bag(tmp_path / 'drive', tmp_path / 'run', model, recorded, quiet=True)
    objects = messages(tmp_path / 'run', '/robust_pvos/camera/objects')
    assert [[o.id for o in message.objects] for message in objects] == [[first, second], [second], [], []]
    assert objects[1].objects[0].label == 'renamed'


def kill_and_recover(harness: Harness, folder: Path, seconds: float) -> tuple[float, int]:
    """Record for a while, kill -9, recover; seconds lost at the end, and the number of pictures."""
    recorder = record(folder / 'bag')
    partial = folder / 'bag.partial'
    wait_until(lambda: any(f.stat().st_size > 200_000 for f in partial.rglob('*.mcap')), 'the first chunk', 60)
    time.sleep(seconds)
    killed = time.time_ns()
    recorder.kill()
    recorder.communicate()
    recover(partial, folder / 'recovered')
    stamps = [stamp_of(message) for message in messages(folder / 'recovered', '/camera/image_raw')]
    return (killed - max(stamps)) / 1e9, len(stamps)


def check_kills(harness: Harness, tmp_path: Path, times: int, at_once: int) -> None:
    chance = random.Random(times)
    results: list[tuple[float, int]] = []
    with Stream(harness) as stream:
        for first in range(0, times, at_once):
            folders = [tmp_path / f'kill_{number}' for number in range(first, min(first + at_once, times))]
            threads = []
            for folder in folders:
                folder.mkdir()
                wait = chance.uniform(0, 3)
                task = lambda folder=folder, wait=wait: results.append(kill_and_recover(harness, folder, wait))  # noqa: E731
                threads.append(threading.Thread(target=task))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(results) == times and len(stream.stamps) > 10
    assert all(count > 1 for _, count in results), results
    assert max(lost for lost, _ in results) < 1.0, results


def test_a_killed_recorder_loses_less_than_a_second(harness: Harness, tmp_path: Path) -> None:
    check_kills(harness, tmp_path, 2, 2)


@pytest.mark.slow
def test_thirty_killed_recorders_lose_less_than_a_second(harness: Harness, tmp_path: Path) -> None:
    check_kills(harness, tmp_path, 30, 3)


def test_a_recording_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    bag = tmp_path / 'bag'
    code, text = finish(pvos_bag('record', bag, '--node', '/nobody', '--without', '/diagnostics', '--duration', 1.5))
    assert code == 2 and 'nothing was recorded' in text and '/nobody' in text
    assert not list(tmp_path.iterdir())


def test_the_selection_leaves_out_what_repeats_the_labels() -> None:
    images = ['/front/image']
    plain = Selection('/a/node')
    chosen = ('/front/image', '/a/node/front/label_image', '/a/node/prompts', '/diagnostics')
    assert all(plain.wants(topic, images) for topic in chosen)
    repeated = ('/a/node/front/overlay', '/a/node/front/object_12/mask', '/a/node/front/past_label_image')
    assert not any(plain.wants(topic, images) for topic in (*repeated, '/tf', '/other/front/label_image'))
    assert all(Selection('/a/node', pictures=True).wants(topic, images) for topic in repeated)
    assert Selection('/a/node', topics=('/tf*',)).wants('/tf_static', images)
    assert not Selection('/a/node', without=('/front/*',)).wants('/front/image', images)


def test_what_does_not_fit_into_the_backlog_is_counted() -> None:
    backlog = Backlog(limit=10)
    for _ in range(3):
        backlog.put(Received('/a', 'x', 0, bytes(5)))
    assert backlog.lost == {'/a': 1}
    assert len(backlog.take(0)) == 2
    backlog.put(Received('/a', 'x', 0, bytes(50)))  # larger than the limit, but alone
    assert len(backlog.take(0)) == 1 and backlog.take(0.01) == []


# -------------------------------------------------------------------------------------------------------------- playing


def test_play_without_a_node_says_what_is_missing(drive: tuple[Path, Path]) -> None:
    code, text = finish(pvos_bag('play', drive[0], '--node', '/nobody', '--lossless', '--patience', 1))
    assert code == 2
    assert '/nobody' in text and '/camera/image_raw' in text


def test_looping_keeps_stamps_in_order_and_moves_the_clock(harness: Harness, drive: tuple[Path, Path]) -> None:
    seen: list[int] = []
    ticks: list[int] = []
    listener = harness.client.create_subscription(
        type(image(scene(), 0)), '/looped/image_raw', lambda m: seen.append(stamp_of(m)), 100
    )
    clock = harness.client.create_subscription(
        Clock, '/clock', lambda m: ticks.append(m.clock.sec * 10**9 + m.clock.nanosec), 1000
    )
    bag = write_bag(drive[0].parent / 'looped', topics=(('/looped/image_raw', IMAGE),), frames=6)
    try:
        process = pvos_bag('play', bag, '--loop', 2, '--rate', 2, '--no-prompts')
        code, text = finish(process)
        assert code == 0, text
        wait_until(lambda: len(seen) >= 10, 'the frames')
        # the clock ticks more often than frames come, so a listener that is late is later with it
        wait_until(lambda: ticks and ticks[-1] > stamp_at(6), 'the clock')
    finally:
        harness.client.destroy_subscription(listener)
        harness.client.destroy_subscription(clock)
    assert seen == sorted(set(seen)) and seen[-1] > stamp_at(6)
    assert ticks == sorted(ticks) and ticks[-1] > stamp_at(6) and len(ticks) > 20


def test_a_drive_that_begins_again_starts_its_objects_again(harness: Harness, drive: tuple[Path, Path]) -> None:
    harness.call('reset')
    code, text = finish(pvos_bag('play', drive[0], '--prompts', drive[1], '--loop', 2, '--rate', 3))
    assert code == 0, text
    [camera] = harness.call('list_objects').cameras
    assert len(camera.objects) == 2, text


@pytest.mark.parametrize(
    ('arguments', 'problem'),
    [
        (['--rate', '-1'], '--rate'),
        (['--as-fast-as-possible'], '--lossless'),
        (['--corrupt', 'frogs:3'], 'frogs'),
        (['--camera', '/nowhere'], '/nowhere'),
        (['--topic', '/nowhere'], '/nowhere'),
    ],
)
def test_wrong_options_are_refused(drive: tuple[Path, Path], arguments: list[str], problem: str) -> None:
    code, text = finish(pvos_bag('play', drive[0], *arguments))
    assert code == 2 and problem in text and 'Traceback' not in text


def test_a_message_gets_another_stamp_and_nothing_else() -> None:
    data = picture(3)
    moved = with_stamp(data, 12_000_000_034)
    assert header_stamp(moved) == 12_000_000_034 and with_stamp(moved, header_stamp(data)) == data
    with pytest.raises(BagError, match='at least 12 bytes'):
        with_stamp(b'\0\1\0\0', 5)
    assert has_header(IMAGE) and not has_header('std_msgs/msg/String') and not has_header('foo/msg/Bar')


def test_the_pace_follows_the_rate_and_can_be_held() -> None:
    pace = Pace(2.0)
    assert pace.delay(10**9) == pytest.approx(0, abs=0.05)
    assert pace.delay(3 * 10**9) == pytest.approx(1.0, abs=0.05)
    pace.hold(1.0)
    assert pace.delay(3 * 10**9) == pytest.approx(2.0, abs=0.05)
    assert Pace(0).delay(10**12) == 0


def test_an_answer_stands_for_the_frames_before_it() -> None:
    answers = Acknowledgements()
    for stamp in (1, 2, 3):
        answers.sent(stamp)
    assert not answers.wait(3, 0)
    answers.answered(7)
    assert not answers.wait(3, 0)
    answers.answered(2)
    assert answers.wait(2, 0) and not answers.wait(1, 0)
    answers.answered(3)
    assert answers.wait(1, 0)


def test_a_decision_survives_the_bag() -> None:
    types, kind = message_types(), 'robust_pvos_interfaces/msg/Decision'
    decision = Decision('set_label', 'front', 7, 'käse', False, 'there is no object 7')
    data = serialise(make_decision(types, decision, make_header(types, 5, 'optical')), kind)
    message = interface_typestore().deserialize_cdr(data, kind)
    assert decision_from_message(message) == decision and stamp_of(message) == 5

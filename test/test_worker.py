"""The thread that owns the trackers."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from robust_pvos_ros.worker import (
    COMMANDS_A_ROUND,
    Admission,
    FrameQueue,
    TooManyWaitingError,
    Worker,
    WorkerStoppedError,
)


@pytest.fixture
def done():
    return []


@pytest.fixture
def worker():
    """One whose ``step`` prepares frames; by default they stay as they are."""
    errors: list[Exception] = []
    worker = Worker(errors.append, lambda frames: worker.step(frames))
    worker.step, worker.errors = lambda frames: frames, errors
    yield worker
    assert worker.stop(10)


def hold(worker: Worker) -> threading.Event:
    """Keep the worker busy until the returned event is set."""
    busy, release = threading.Event(), threading.Event()

    def wait() -> None:
        busy.set()
        release.wait(10)

    worker.submit(wait)
    assert busy.wait(10)
    return release


def drain(worker: Worker, queue: FrameQueue) -> None:
    while len(queue):
        worker.call(lambda: None)
    worker.call(lambda: None)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_oldest_frame_gives_way_and_the_caller_is_told(worker, done):
    queue = FrameQueue(2, done.append)
    worker.attach(queue)
    release = hold(worker)
    assert [worker.offer(queue, frame) for frame in range(5)] == [True, True, False, False, False]
    release.set()
    drain(worker, queue)
    assert done == [3, 4]


def test_commands_go_before_the_next_frame_and_frames_are_not_starved(worker, done):
    busy, release = threading.Event(), threading.Event()

    def handle(frame: int) -> None:
        done.append(frame)
        busy.set()
        assert release.wait(10)

    def command(depth: int) -> None:
        done.append(f'command {depth}')
        if depth < 3:
            worker.submit(lambda: command(depth + 1))

    queue = FrameQueue(10, handle)
    worker.attach(queue)
    for frame in range(4):
        worker.offer(queue, frame)
    assert busy.wait(10)
    worker.submit(lambda: command(1))
    release.set()
    drain(worker, queue)
    assert done == [0, 'command 1', 1, 'command 2', 2, 'command 3', 3]


def test_many_commands_let_a_frame_pass_after_each_round(worker, done):
    queue = FrameQueue(10, done.append)
    worker.attach(queue)
    release = hold(worker)
    for frame in range(3):
        worker.offer(queue, f'frame {frame}')
    for _ in range(2 * COMMANDS_A_ROUND + 1):
        worker.submit(lambda: done.append('command'))
    release.set()
    drain(worker, queue)
    first, second = done.index('frame 0'), done.index('frame 1')
    assert first == 0, 'the round of the command that held the worker'
    assert done[1:second] == ['command'] * COMMANDS_A_ROUND
    assert done[second + 1 :] == [*['command'] * COMMANDS_A_ROUND, 'frame 2', 'command']


def test_so_many_may_wait_and_no_more():
    admission = Admission(2, 'requests')
    admission.enter()
    admission.enter()
    for _ in range(2):
        with pytest.raises(TooManyWaitingError, match='2 requests wait already: send fewer'):
            admission.enter()
    admission.leave()
    admission.enter()


def test_cameras_take_turns(worker, done):
    left, right = (FrameQueue(5, done.append) for _ in range(2))
    worker.attach(left)
    worker.attach(right)
    release = hold(worker)
    for frame in range(3):
        worker.offer(left, f'left {frame}')
    worker.offer(right, 'right 0')
    release.set()
    drain(worker, left)
    assert done == ['left 0', 'right 0', 'left 1', 'left 2']


def test_one_frame_of_each_camera_is_taken_together(worker, done):
    left, right, idle = (FrameQueue(5, done.append) for _ in range(3))
    for queue in (left, right, idle):
        worker.attach(queue)
    rounds = []
    worker.together = True
    worker.step = lambda frames: rounds.append([item for _, item in frames]) or frames
    release = hold(worker)
    for frame in range(3):
        worker.offer(left, f'left {frame}')
    worker.offer(right, 'right 0')
    release.set()
    drain(worker, left)
    assert rounds == [['left 0', 'right 0'], ['left 1'], ['left 2']]
    assert done == ['left 0', 'right 0', 'left 1', 'left 2']


def test_a_round_that_cannot_be_prepared_is_reported_and_the_next_one_runs(worker, done):
    left, right = (FrameQueue(5, done.append) for _ in range(2))
    worker.attach(left)
    worker.attach(right)
    worker.together = True
    worker.step = lambda frames: frames if len(frames) == 1 else 1 / 0
    release = hold(worker)
    for frame in range(2):
        worker.offer(left, frame)
    worker.offer(right, 0)
    release.set()
    drain(worker, left)
    assert done == [1]
    assert [type(error) for error in worker.errors] == [ZeroDivisionError]


# ------------------------------------------------------------------------------------------------------ preparing ahead


def test_the_next_frame_is_prepared_while_one_is_handled(worker):
    prepared, handling, go_on = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def step(frames):
        seen.append(('prepare', frames[0][1], threading.current_thread().name))
        if frames[0][1] == 1:
            prepared.set()
        return [(queue, item * 10) for queue, item in frames]

    def handle(item):
        seen.append(('handle', item, threading.current_thread().name))
        handling.set()
        assert go_on.wait(10)

    queue = FrameQueue(5, handle)
    worker.step, worker.ahead = step, True
    worker.attach(queue)
    worker.offer(queue, 0)
    assert handling.wait(10)
    worker.offer(queue, 1)
    worker.offer(queue, 2)
    assert prepared.wait(10), 'frame 1 is prepared while frame 0 is handled'
    assert [entry for entry in seen if entry[0] == 'handle'] == [('handle', 0, 'tracker')]
    assert len(queue) == 1, 'one frame ahead and no more'
    go_on.set()
    wait_for(lambda: ('handle', 20, 'tracker') in seen)
    assert [entry[:2] for entry in seen if entry[0] == 'handle'] == [('handle', n) for n in (0, 10, 20)]
    assert {entry[2] for entry in seen if entry[0] == 'prepare'} == {'encoder'}


def test_commands_run_before_a_frame_that_was_prepared_ahead(worker, done):
    prepared, handling, go_on = (threading.Event() for _ in range(3))

    def step(frames):
        if frames[0][1] == 1:
            prepared.set()
        return frames

    def handle(item):
        done.append(item)
        handling.set()
        assert go_on.wait(10)

    queue = FrameQueue(5, handle)
    worker.step, worker.ahead = step, True
    worker.attach(queue)
    worker.offer(queue, 0)
    assert handling.wait(10)
    worker.offer(queue, 1)
    assert prepared.wait(10)
    worker.submit(lambda: done.append('command'))
    go_on.set()
    wait_for(lambda: len(done) == 3)
    assert done == [0, 'command', 1]


def test_detaching_waits_for_what_is_prepared_and_forgets_it(worker, done):
    queue, other = (FrameQueue(5, done.append) for _ in range(2))
    preparing, go_on = threading.Event(), threading.Event()

    def step(frames):
        preparing.set()
        assert go_on.wait(10)
        return frames

    worker.step, worker.ahead = step, True
    worker.attach(queue)
    worker.attach(other)
    release = hold(worker)
    for frame in range(3):
        worker.offer(queue, frame)
    assert preparing.wait(10)
    forgotten = []
    thread = threading.Thread(target=lambda: forgotten.append(worker.detach(queue)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive(), 'the frame is still in work'
    go_on.set()
    thread.join(10)
    assert forgotten == [3]
    worker.offer(other, 'other')
    release.set()
    wait_for(lambda: done)
    assert done == ['other']


def test_without_preparing_ahead_everything_happens_on_one_thread(worker, done):
    names = []
    worker.step = lambda frames: names.append(threading.current_thread().name) or frames
    queue = FrameQueue(5, done.append)
    worker.ahead = True
    worker.ahead = False
    worker.attach(queue)
    worker.offer(queue, 1)
    drain(worker, queue)
    assert done == [1] and names == ['tracker']


def test_a_frame_is_prepared_just_in_time(worker):
    """While the handling of frames takes much longer than preparing them, the next one is begun late."""
    begun, ended = {}, {}

    def step(frames):
        begun[frames[0][1]] = time.monotonic()
        return frames

    def handle(frame):
        time.sleep(0.1)
        ended[frame] = time.monotonic()

    queue = FrameQueue(1, handle)
    worker.step, worker.ahead = step, True
    worker.attach(queue)
    for frame in range(60):
        worker.offer(queue, frame)
        time.sleep(0.01)
    frames = sorted(ended)[1:]
    waits = [ended[before] - begun[after] for before, after in itertools.pairwise(frames)]
    assert len(waits) >= 2 and sorted(waits)[len(waits) // 2] < 0.05


def test_a_frame_that_waits_for_its_moment_is_prepared_once_nothing_is_handled(worker):
    """After a frame that took long, one that is done at once: what was to be begun late begins then."""
    usual = 2.0  # seconds; the next frame waits as long, should nobody wake the thread that prepares
    prepared, waits, go_on = {}, threading.Event(), threading.Event()

    def step(frames):
        prepared[frames[0][1]] = time.monotonic()
        return frames

    def handle(frame):
        if frame == 0:
            time.sleep(usual)
        elif frame == 1:
            waits.set()
            assert go_on.wait(10)

    queue = FrameQueue(5, handle)
    worker.step, worker.ahead = step, True
    worker.attach(queue)
    worker.offer(queue, 0)
    wait_for(lambda: 0 in prepared)
    worker.offer(queue, 1)
    assert waits.wait(10)
    worker.offer(queue, 2)
    time.sleep(0.1)
    assert 2 not in prepared, 'there is time until frame 1 would usually be done'
    done = time.monotonic()
    go_on.set()
    wait_for(lambda: 2 in prepared)
    assert prepared[2] - done < usual / 4


def test_a_command_makes_no_frame_wait(worker):
    """It is no handling of a frame, so there is nothing that preparing should be timed by."""
    queue = FrameQueue(5, lambda _: time.sleep(0.5))
    worker.ahead = True
    worker.attach(queue)
    worker.offer(queue, 0)
    drain(worker, queue)
    wait_for(lambda: worker._handling_takes.seconds)
    told, real = [], worker._condition.notify_all

    def notify_all():
        told.append(worker._begun)
        real()

    worker._condition.notify_all = notify_all
    worker.call(lambda: None)
    worker.call(lambda: None)
    assert told and not any(told)


def test_a_busy_camera_does_not_starve_the_others(worker, done):
    queues = [FrameQueue(100, done.append) for _ in range(3)]
    for queue in queues:
        worker.attach(queue)
    release = hold(worker)
    for frame in range(60):
        worker.offer(queues[0], ('busy', frame))
    for frame in range(5):
        worker.offer(queues[1], ('calm', frame))
        worker.offer(queues[2], ('slow', frame))
    release.set()
    drain(worker, queues[0])
    assert [name for name, _ in done[:15]] == ['busy', 'calm', 'slow'] * 5


def test_a_detached_queue_is_empty_and_takes_nothing(worker, done):
    queue = FrameQueue(5, done.append)
    worker.attach(queue)
    release = hold(worker)
    worker.offer(queue, 1)
    assert worker.detach(queue) == 1
    assert not worker.offer(queue, 2)
    release.set()
    worker.call(lambda: None)
    assert done == []


def test_results_and_exceptions_reach_the_caller_also_from_the_worker_itself(worker):
    assert worker.call(lambda: 7) == 7
    assert worker.call(lambda: worker.call(lambda: 8)) == 8
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0)


def test_a_failing_frame_is_reported_and_the_next_one_runs(worker, done):
    def handle(frame: int) -> None:
        done.append(1 // frame)

    queue = FrameQueue(5, handle)
    worker.attach(queue)
    worker.offer(queue, 0)
    worker.offer(queue, 1)
    drain(worker, queue)
    assert done == [1]
    assert [type(error) for error in worker.errors] == [ZeroDivisionError]


def test_stopping_refuses_what_waits(worker):
    release = hold(worker)
    waiting = worker.submit(lambda: 1)
    assert not worker.stop(0.01)
    with pytest.raises(WorkerStoppedError):
        waiting.result(1)
    with pytest.raises(WorkerStoppedError):
        worker.call(lambda: 2)
    release.set()

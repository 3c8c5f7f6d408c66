"""The thread that owns the trackers: commands first, then the next waiting frame.  No ROS.

A frame has two steps: it is prepared (pixels and feature maps, which depend on nothing else), then handled by its
queue.  Preparing can run ahead on a thread of its own, so that one frame is encoded while another is tracked.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from robust_pvos_ros.tracking.types import PvosError

Item = TypeVar('Item')
Result = TypeVar('Result')
SLACK = 0.002
"""Seconds that a frame should be prepared before its turn: little, since it grows older meanwhile."""
COMMANDS_A_ROUND = 8
"""Commands that run between two frames: a flood of requests must not keep the frames from being processed."""


class WorkerStoppedError(PvosError):
    """The worker has been told to stop and takes no more commands."""


class TooManyWaitingError(PvosError):
    """What is asked would have to wait behind too much else."""


class Admission:
    """Lets a bounded number of things wait for the worker, so that a flood of them does not fill the memory.

    Every method may be called from any thread.

    Args:
        most: that may wait at the same time.
        what: they are, in the plural, for the refusal.
    """

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self._what = what
        self._waiting = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Begin to wait.  Raises ``TooManyWaitingError`` if so many wait already."""
        with self._lock:
            if self._waiting >= self.most:
                raise TooManyWaitingError(f'{self.most} {self._what} wait already: send fewer')
            self._waiting += 1

    def leave(self) -> None:
        """Have waited."""
        with self._lock:
            self._waiting -= 1


class FrameQueue(Generic[Item]):
    """Frames of one camera on their way to the worker; the oldest gives way when it is full.

    Args:
        capacity: most frames that wait.
        handle: called on the worker's thread with each frame.
    """

    def __init__(self, capacity: int, handle: Callable[[Item], None]) -> None:
        self.handle = handle
        self._capacity = capacity
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Append a frame; False if the oldest had to be dropped for it."""
        self._items.append(item)
        if len(self._items) <= self._capacity:
            return True
        self._items.popleft()
        return False

    def pop(self) -> Item:
        """Take the oldest frame."""
        return self._items.popleft()

    def clear(self) -> int:
        """Forget the waiting frames; returns how many there were."""
        count = len(self._items)
        self._items.clear()
        return count


Waiting = list[tuple[FrameQueue, Any]]
"""Queues, each with one of its frames."""


class Worker:
    """Runs commands and frames one at a time on a thread of its own.

    Between two frames the commands that are waiting run, so a command waits for one frame at most; after
    ``COMMANDS_A_ROUND`` of them a frame comes first.

    Args:
        on_error: called with an exception that a step of a frame raised.
        prepare: turns frames into what their queues handle; those it leaves out are done.

    Attributes:
        together: take one waiting frame of each queue at once; a command then waits for one such round at most.
    """

    def __init__(
        self, on_error: Callable[[Exception], None], prepare: Callable[[Waiting], Waiting] = lambda frames: frames
    ) -> None:
        self._on_error = on_error
        self._prepare = prepare
        self._condition = threading.Condition()
        self._commands: deque[tuple[Callable[[], Any], Future]] = deque()
        self._queues: list[FrameQueue] = []
        self._stopping = False
        self.together = False
        self._ahead = False
        self._preparing: Sequence[FrameQueue] = ()
        self._ready: Waiting = []
        self._begun = 0.0
        self._preparing_takes, self._handling_takes = _Duration(), _Duration()
        self._thread = threading.Thread(target=self._run, name='tracker', daemon=True)
        self._second: threading.Thread | None = None
        self._thread.start()

    @property
    def ahead(self) -> bool:
        """Whether frames are prepared on a thread of their own, the next while one is handled."""
        return self._ahead

    @ahead.setter
    def ahead(self, wanted: bool) -> None:
        with self._condition:
            self._ahead = wanted
            if wanted and self._second is None:
                self._second = threading.Thread(target=self._run_ahead, name='encoder', daemon=True)
                self._second.start()
            self._condition.notify_all()

    def attach(self, queue: FrameQueue) -> None:
        """Begin to take frames from a queue."""
        with self._condition:
            self._queues.append(queue)

    def detach(self, queue: FrameQueue) -> int:
        """Stop taking frames from a queue and forget those that wait; returns how many there were."""
        with self._condition:
            self._queues.remove(queue)
            self._condition.wait_for(lambda: queue not in self._preparing)
            forgotten = [frame for frame in self._ready if frame[0] is queue]
            self._ready = [frame for frame in self._ready if frame[0] is not queue]
            return queue.clear() + len(forgotten)

    def offer(self, queue: FrameQueue[Item], item: Item) -> bool:
        """Put a frame into a queue; False if a frame is dropped: the oldest for it, or itself if it is not attached."""
        with self._condition:
            if queue not in self._queues:
                return False
            kept = queue.put(item)
            self._condition.notify_all()
        return kept

    def submit(self, command: Callable[[], Result]) -> Future[Result]:
        """Run a command before the next frame; the future carries its result or exception."""
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                future.set_exception(WorkerStoppedError('the node is shutting down'))
            else:
                self._commands.append((command, future))
                self._condition.notify_all()
        return future

    def call(self, command: Callable[[], Result]) -> Result:
        """Run a command and wait for its result; directly where the caller is the worker itself."""
        if threading.current_thread() is self._thread:
            return command()
        return self.submit(command).result()

    def stop(self, timeout: float) -> bool:
        """Finish what is running and end the threads.

        Commands that wait fail with :class:`WorkerStoppedError`.

        Returns:
            False if one was still busy after ``timeout`` seconds.
        """
        with self._condition:
            self._stopping = True
            refused = list(self._commands)
            self._commands.clear()
            self._condition.notify_all()
        for _, future in refused:
            future.set_exception(WorkerStoppedError('the node is shutting down'))
        deadline = time.monotonic() + timeout
        threads = [thread for thread in (self._thread, self._second) if thread is not None]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._commands or self._has_frames())
                if self._stopping:
                    return
                count = min(len(self._commands), COMMANDS_A_ROUND)
                commands = [self._commands.popleft() for _ in range(count)]
            for command, future in commands:
                self._execute(command, future)
            self._next_frames()

    def _has_frames(self) -> bool:
        return bool(self._ready) or (not self._ahead and any(self._queues))

    def _execute(self, command: Callable[[], Any], future: Future) -> None:
        try:
            result = command()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _next_frames(self) -> None:
        with self._condition:
            if self._stopping:
                return
            frames, self._ready = self._ready, []
            waiting = [] if frames or self._ahead else self._take()
            if frames:
                self._begun = time.monotonic()
                self._condition.notify_all()
        if waiting:
            frames = self._prepared(waiting)
        for queue, item in frames:
            try:
                queue.handle(item)
            except Exception as error:
                self._on_error(error)
        with self._condition:
            if self._begun:
                self._handling_takes.note(time.monotonic() - self._begun)
                self._begun = 0.0
                self._condition.notify_all()  # what waits for the right moment to prepare need not any longer

    def _take(self) -> Waiting:
        """The frames whose turn it is; their cameras go to the end of the line."""
        waiting = [queue for queue in self._queues if queue]
        chosen = waiting if self.together else waiting[:1]
        self._queues = [queue for queue in self._queues if queue not in chosen] + chosen
        return [(queue, queue.pop()) for queue in chosen]

    def _prepared(self, frames: Waiting) -> Waiting:
        try:
            return self._prepare(frames)
        except Exception as error:
            self._on_error(error)
            return []

    def _run_ahead(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._stopping or (self._ahead and not self._ready and any(self._queues))
                )
                if self._stopping:
                    return
                early = self._earliness()
                if early > 0:  # a newer frame may still come
                    self._condition.wait(early)
                    continue
                chosen = self._take()
                self._preparing = [queue for queue, _ in chosen]
            self._prepare_ahead(chosen)
            del chosen  # while it waits for the next frame, the thread must keep no queue and so no model alive

    def _prepare_ahead(self, frames: Waiting) -> None:
        start = time.monotonic()
        ready = self._prepared(frames)
        self._preparing_takes.note(time.monotonic() - start)
        with self._condition:
            self._ready, self._preparing = ready, ()
            self._condition.notify_all()

    def _earliness(self) -> float:
        """Seconds until the next frame must be begun to be ready when the one that is handled is done."""
        if not self._begun:
            return 0.0
        needed = self._preparing_takes.seconds + SLACK
        return self._begun + self._handling_takes.seconds - needed - time.monotonic()


class _Duration:
    """How long something takes of late."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        """Take another measurement into account."""
        self.seconds += 0.2 * (seconds - self.seconds) if self.seconds else seconds

"""The one thread that owns the trackers: commands first, then the next waiting frame.  No ROS."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from robust_pvos_ros.tracking.types import PvosError

Item = TypeVar('Item')
Result = TypeVar('Result')


class WorkerStoppedError(PvosError):
    """The worker has been told to stop and takes no more commands."""


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


class Worker:
    """Runs commands and frames one at a time on a thread of its own.

    Between two frames every command that is waiting runs, so a command waits for one frame at most, and commands in any
    number let a frame pass after each round.

    Args:
        on_error: called on the worker's thread with an exception that a frame's handler raised.

    Attributes:
        together: where it is set, one waiting frame of each queue is taken at once and, if that makes several, given
            to this function instead of the queues' own handlers; a command then waits for one such round at most.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._condition = threading.Condition()
        self._commands: deque[tuple[Callable[[], Any], Future]] = deque()
        self._queues: list[FrameQueue] = []
        self._stopping = False
        self.together: Callable[[list[tuple[FrameQueue, Any]]], None] | None = None
        self._thread = threading.Thread(target=self._run, name='tracker', daemon=True)
        self._thread.start()

    def attach(self, queue: FrameQueue) -> None:
        """Begin to take frames from a queue."""
        with self._condition:
            self._queues.append(queue)

    def detach(self, queue: FrameQueue) -> int:
        """Stop taking frames from a queue and forget those that wait; returns how many there were."""
        with self._condition:
            self._queues.remove(queue)
            return queue.clear()

    def offer(self, queue: FrameQueue[Item], item: Item) -> bool:
        """Put a frame into a queue; False if a frame is dropped: the oldest for it, or itself if it is not attached."""
        with self._condition:
            if queue not in self._queues:
                return False
            kept = queue.put(item)
            self._condition.notify()
        return kept

    def submit(self, command: Callable[[], Result]) -> Future[Result]:
        """Run a command before the next frame; the future carries its result or exception."""
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                future.set_exception(WorkerStoppedError('the node is shutting down'))
            else:
                self._commands.append((command, future))
                self._condition.notify()
        return future

    def call(self, command: Callable[[], Result]) -> Result:
        """Run a command and wait for its result; directly where the caller is the worker itself."""
        if threading.current_thread() is self._thread:
            return command()
        return self.submit(command).result()

    def stop(self, timeout: float) -> bool:
        """Finish what is running and end the thread.

        Commands that wait fail with :class:`WorkerStoppedError`.

        Returns:
            False if the thread was still busy after ``timeout`` seconds.
        """
        with self._condition:
            self._stopping = True
            refused = list(self._commands)
            self._commands.clear()
            self._condition.notify()
        for _, future in refused:
            future.set_exception(WorkerStoppedError('the node is shutting down'))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._commands or any(self._queues))
                if self._stopping:
                    return
                commands = list(self._commands)
                self._commands.clear()
            for command, future in commands:
                self._execute(command, future)
            self._next_frame()

    def _execute(self, command: Callable[[], Any], future: Future) -> None:
        try:
            result = command()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _next_frame(self) -> None:
        with self._condition:
            waiting = [queue for queue in self._queues if queue]
            if not waiting or self._stopping:
                return
            together = self.together
            chosen = waiting if together is not None else waiting[:1]
            # The cameras that are served go to the end of the line.
            self._queues = [queue for queue in self._queues if queue not in chosen] + chosen
            frames = [(queue, queue.pop()) for queue in chosen]
        try:
            if together is not None and len(frames) > 1:
                together(frames)
            else:
                queue, item = frames[0]
                queue.handle(item)
        except Exception as error:
            self._on_error(error)

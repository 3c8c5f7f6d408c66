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

    def clear(self) -> None:
        """Forget the waiting frames; they do not count as dropped."""
        self._items.clear()


class Worker:
    """Runs commands and frames one at a time on a thread of its own.

    Between two frames every command that is waiting runs, so a command waits for one frame at most, and commands in any
    number let a frame pass after each round.

    Args:
        on_error: called on the worker's thread with an exception that a frame's handler raised.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._condition = threading.Condition()
        self._commands: deque[tuple[Callable[[], Any], Future]] = deque()
        self._queues: list[FrameQueue] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='tracker', daemon=True)
        self._thread.start()

    def attach(self, queue: FrameQueue) -> None:
        """Begin to take frames from a queue."""
        with self._condition:
            self._queues.append(queue)

    def detach(self, queue: FrameQueue) -> None:
        """Stop taking frames from a queue and forget those that wait."""
        with self._condition:
            self._queues.remove(queue)
            queue.clear()

    def offer(self, queue: FrameQueue[Item], item: Item) -> bool:
        """Put a frame into an attached queue; False if the oldest had to be dropped for it."""
        with self._condition:
            if queue not in self._queues:
                return True
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
            queue = next((queue for queue in self._queues if queue), None)
            if queue is None or self._stopping:
                return
            # The camera that was served goes to the end of the line.
            self._queues.remove(queue)
            self._queues.append(queue)
            item = queue.pop()
        try:
            queue.handle(item)
        except Exception as error:
            self._on_error(error)

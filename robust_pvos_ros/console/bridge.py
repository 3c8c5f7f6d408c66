"""Between the executor's thread, which ROS runs on, and the event loop's, which the server runs on.  No ROS.

Nothing piles up on the way: of frames and states that the loop has not taken yet, only the newest waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from robust_pvos_ros.console.encoding import Frame
from robust_pvos_ros.console.protocol import PromptRequest
from robust_pvos_ros.tracking.types import PvosError


class RequestError(PvosError):
    """A request that the segmentation node did not answer, or that could not be sent."""


class Segmentation(Protocol):
    """What the server asks of the segmentation node; every answer is fields of a page's ``reply``.

    Raises:
        RequestError: from each of them, if there is no answer.
    """

    async def prompt(self, request: PromptRequest) -> dict[str, Any]:
        """Add or refine an object."""

    async def remove(self, object_id: int) -> dict[str, Any]:
        """Stop tracking an object."""

    async def rename(self, object_id: int, label: str) -> dict[str, Any]:
        """Change an object's label."""

    async def reset(self, camera: str) -> dict[str, Any]:
        """Forget the objects of a camera; of all where the name is empty."""

    def watch(self, cameras: frozenset[str]) -> None:
        """Tell which cameras some page looks at; the others need not be read."""


class Bridge:
    """Carries frames and states into an event loop.

    Args:
        loop: of the server.
        on_frame: called on the loop with the newest frame of a camera, and the newest masks of a past one.
        on_state: called on the loop with the newest state.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[Frame], None],
        on_state: Callable[[dict[str, Any]], None],
    ) -> None:
        self._loop = loop
        self._on_frame = on_frame
        self._on_state = on_state
        self._lock = threading.Lock()
        self._frames: dict[tuple[str, bool], Frame] = {}
        self._state: dict[str, Any] | None = None
        self._scheduled = False

    def frame(self, frame: Frame) -> None:
        """Hand a frame over; from any thread."""
        with self._lock:
            self._frames[frame.camera, frame.past] = frame
        self._schedule()

    def state(self, state: dict[str, Any]) -> None:
        """Hand a state over; from any thread."""
        with self._lock:
            self._state = state
        self._schedule()

    def _schedule(self) -> None:
        with self._lock:
            if self._scheduled or self._loop.is_closed():
                return
            self._scheduled = True
        self.call(self._deliver)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call on the loop; nothing happens once it is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _deliver(self) -> None:
        with self._lock:
            frames, self._frames = self._frames, {}
            state, self._state = self._state, None
            self._scheduled = False
        for frame in frames.values():
            self._on_frame(frame)
        if state is not None:
            self._on_state(state)


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name='server')
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float) -> Any:
        """Result of a coroutine on the loop.  Raises ``TimeoutError`` after ``timeout`` seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and join its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

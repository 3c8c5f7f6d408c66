"""The executable ``web_console``: signals first, ROS afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from robust_pvos_ros.stop_signal import StopSignal

if TYPE_CHECKING:
    from robust_pvos_ros.console.node import ConsoleNode


def main(args: list[str] | None = None) -> None:
    """Run the console until SIGINT or SIGTERM."""
    stop = StopSignal()
    import cv2

    from robust_pvos_ros.console.node import ConsoleError, ConsoleNode
    from robust_pvos_ros.node_process import run

    cv2.setNumThreads(1)  # the other cores are the network's

    def create() -> ConsoleNode:
        try:
            return ConsoleNode()
        except ConsoleError as error:
            raise RuntimeError(str(error)) from error

    sys.exit(run(create, stop, args))


if __name__ == '__main__':
    main()

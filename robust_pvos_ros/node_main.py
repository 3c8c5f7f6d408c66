"""The executable ``segmentation_node``: signals first, ROS afterwards.

Importing ROS takes a good part of a second, in which a signal would otherwise end the program with a traceback.
"""

from __future__ import annotations

import sys

from robust_pvos_ros.stop_signal import StopSignal


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM."""
    stop = StopSignal()
    from robust_pvos_ros.node_process import run
    from robust_pvos_ros.segmentation_node import SegmentationNode

    sys.exit(run(SegmentationNode, stop, args))


if __name__ == '__main__':
    main()

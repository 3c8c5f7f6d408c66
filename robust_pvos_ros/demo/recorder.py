"""Records the demo's topics into a bag.

    python -m robust_pvos_ros.demo.recorder OUT/bag
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rclpy.utilities import remove_ros_args

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import BagError
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.demo import names
from robust_pvos_ros.live.recorder import Recorder, Selection
from robust_pvos_ros.node_process import run
from robust_pvos_ros.stop_signal import StopSignal

TOPICS = {
    names.IMAGE: 'sensor_msgs/msg/Image',
    names.TRUTH: 'sensor_msgs/msg/Image',
    names.LABELS: 'sensor_msgs/msg/Image',
    names.OBJECTS: 'robust_pvos_interfaces/msg/TrackedObjects',
    names.PROMPTS: 'robust_pvos_interfaces/msg/Prompt',
    names.DECISIONS: 'robust_pvos_interfaces/msg/Decision',
    interface.DIAGNOSTICS.name: 'diagnostic_msgs/msg/DiagnosticArray',
}


def main(arguments: list[str] | None = None) -> None:
    """Record until SIGINT.

    Args:
        arguments: program name, options and ROS arguments; None takes the process's.
    """
    arguments = sys.argv if arguments is None else arguments
    parser = argparse.ArgumentParser(description="Records the demo's topics into a bag.")
    parser.add_argument('bag', type=Path, help='folder to be made for the bag')
    options = parser.parse_args(remove_ros_args(arguments)[1:])
    stop = StopSignal()
    try:
        writer = BagWriter(options.bag)
    except BagError as error:
        sys.exit(str(error))
    recorders: list[Recorder] = []

    def create() -> Recorder:
        recorders.append(Recorder(writer, Selection(without=('*',)), stop.set, TOPICS, 'demo_recorder'))
        print(f'recording {len(TOPICS)} topics to {writer.path}', flush=True)
        return recorders[0]

    code = run(create, stop, arguments)
    if not recorders:
        sys.exit(code)
    print(recorders[0].status(), flush=True)
    sys.exit(recorders[0].problem or code)


if __name__ == '__main__':
    main()

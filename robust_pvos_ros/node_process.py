"""A process around one node that ends cleanly whenever SIGINT or SIGTERM comes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from robust_pvos_ros.stop_signal import StopSignal


class StoppableNode(Node):
    """A node with threads of its own."""

    def stop(self) -> bool:
        """End the node's threads before the node is destroyed; False if one is still busy."""
        raise NotImplementedError


class _Spinner:
    """An executor on a thread of its own."""

    def __init__(self, node: StoppableNode, ended: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._ended = ended
        self._stopping = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name='executor')
        self._thread.start()

    def _spin(self) -> None:
        try:
            while not self._stopping:
                self._executor.spin_once()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._ended()

    def stop(self) -> None:
        """Join the thread, and only then shut the executor down: rclpy aborts the other way round."""
        self._stopping = True
        self._executor.create_task(lambda: None)
        self._thread.join()
        self._executor.shutdown()


def run(create_node: Callable[[], StoppableNode], stop: StopSignal, args: list[str] | None = None) -> int:
    """Spin a node until SIGINT or SIGTERM.

    Args:
        create_node: called once ROS is initialised.
        stop: what ends it.
        args: command line; None takes the process's.

    Returns:
        The exit code: 0 after a signal, 2 if the command line is wrong.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = create_node()
    except (RuntimeError, ValueError, TypeError) as error:
        print(f'the node cannot start: {" ".join(str(error).split())}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    spinner = _Spinner(node, stop.set)
    stop.wait()
    stopped = node.stop()
    spinner.stop()
    node.destroy_node()
    rclpy.try_shutdown()
    if spinner.error is not None:
        raise spinner.error
    if not stopped:
        # A thread inside the network cannot be interrupted, and Python would abort while it is still there.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0

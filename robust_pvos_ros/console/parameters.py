"""ROS parameters of the console, declared from ``ConsoleConfig``: one default each, described, bounded."""

from __future__ import annotations

from rclpy.exceptions import ParameterException
from rclpy.node import Node

from robust_pvos_ros.console.config import ConsoleConfig, ConsoleError
from robust_pvos_ros.parameters import ParameterSpec, descriptions

LIMITS = {
    'port': (0, 65535),
    'picture_quality': (10, 100),
    'picture_side': (64, 4096),
    'max_pages': (1, 64),
}


def console_specs() -> tuple[ParameterSpec, ...]:
    """Every parameter of the console; all are given at start."""
    texts = descriptions(ConsoleConfig)
    defaults = vars(ConsoleConfig())
    return tuple(
        ParameterSpec(name, default, texts[name], LIMITS.get(name), live=True, read_only=True)
        for name, default in defaults.items()
    )


def read_config(node: Node) -> ConsoleConfig:
    """Declare the parameters and read them.

    Raises:
        ConsoleError: naming the first parameter that is wrong, and what it must be.
    """
    values = {}
    for spec in console_specs():
        descriptor = spec.descriptor()
        descriptor.dynamic_typing = True
        try:
            value = node.declare_parameter(spec.name, spec.default, descriptor).value
        except ParameterException as error:
            raise ConsoleError(f'parameter {spec.name} must be {spec.allowed}: {error}') from error
        problem = spec.problem(value)
        if problem:
            raise ConsoleError(problem)
        values[spec.name] = value
    return ConsoleConfig(**values)

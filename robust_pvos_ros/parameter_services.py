"""The parameter services of a node, which answer whatever they are asked.

rclpy's own callbacks let exceptions escape, of a value whose type is none for example, and that ends the executor.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from robust_pvos_ros.throttle import Throttle
from robust_pvos_ros.tracking.types import shown

QUESTIONS = (DescribeParameters, GetParameters, GetParameterTypes, ListParameters)
TYPES = ', '.join(f'{kind.value} ({kind.name.lower()})' for kind in Parameter.Type)


def guard_parameter_services(node: Node, throttle: Throttle) -> None:
    """Put answers that cannot raise in the place of rclpy's.

    Args:
        node: whose parameter services exist already.
        throttle: for what is logged of requests that fail unexpectedly.
    """
    guard = _Guard(node, throttle)
    for service in node.services:
        if service.srv_type is SetParameters:
            service.callback = guard.set
        elif service.srv_type is SetParametersAtomically:
            service.callback = guard.set_atomically
        elif service.srv_type in QUESTIONS:
            service.callback = partial(guard.answer, service.callback)


class _Guard:
    def __init__(self, node: Node, throttle: Throttle) -> None:
        self._node, self._throttle = node, throttle

    def set(self, request: SetParameters.Request, response: SetParameters.Response) -> SetParameters.Response:
        response.results = [self._set([message]) for message in request.parameters]
        return response

    def set_atomically(
        self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        response.result = self._set(request.parameters)
        return response

    def answer(self, callback: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        """The reply of a callback that only reads; an empty one, as for an unknown parameter, where it fails."""
        try:
            return callback(request, response)
        except Exception:
            self._log()
            return type(response)()

    def _set(self, messages: Sequence[ParameterMsg]) -> SetParametersResult:
        problem = next(filter(None, map(self._problem, messages)), '')
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        try:
            return self._node.set_parameters_atomically([Parameter.from_parameter_msg(m) for m in messages])
        except Exception as error:
            self._log()
            reason = f'the request failed unexpectedly: {type(error).__name__}: {error}'
            return SetParametersResult(successful=False, reason=reason)

    def _problem(self, message: ParameterMsg) -> str:
        """One sentence if rclpy would raise at a parameter, or take one that is not declared."""
        if not self._node.has_parameter(message.name):
            return f'there is no parameter {shown(message.name)}: ros2 param list shows those of this node'
        try:
            Parameter.from_parameter_msg(message)
        except (TypeError, ValueError):
            return f'parameter {message.name} must have a value of type {TYPES}, got type {message.value.type}'
        return ''

    def _log(self) -> None:
        if said := self._throttle.line('parameters', traceback.format_exc()):
            self._node.get_logger().error(said)

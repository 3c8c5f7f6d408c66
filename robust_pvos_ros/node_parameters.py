"""The declared parameters of a node: set, refused with a sentence, and read all at once.

A wrong value at start does not end the node: it is remembered, fails ``configure`` with a sentence that names the
parameter and its range, and is forgotten when the parameter is set correctly.  The parameters of a camera are declared
as long as the parameter ``cameras`` names it.
"""

from __future__ import annotations

import dataclasses
import difflib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from robust_pvos_ros.parameters import (
    CameraConfig,
    Configuration,
    NodeConfig,
    ParameterError,
    ParameterSpec,
    camera_specs,
    node_specs,
)
from robust_pvos_ros.tracking.types import ModelConfig, TrackerConfig


class NodeParameters:
    """The declared parameters of a node.

    Args:
        node: created with ``automatically_declare_parameters_from_overrides=True``; its overrides are taken over.
        configured: says whether the node has read its parameters, so that only the live ones may still change.
        changed: called with the names and values of live parameters that were accepted while configured.

    Attributes:
        lock: held while parameters are set, and to be held while they are read and the node becomes configured: what is
            set before is read then, and what is set afterwards is refused or told to ``changed``.
    """

    def __init__(
        self, node: Node, configured: Callable[[], bool], changed: Callable[[dict[str, Any]], None]
    ) -> None:
        self.lock = threading.RLock()
        self._node = node
        self._configured = configured
        self._changed = changed
        self._specs: dict[str, ParameterSpec] = {}
        self._problems: dict[str, str] = {}
        names = [name for name in node.list_parameters([], 0).names if not _is_of_ros(name)]
        self._overrides = {name: node.get_parameter(name).value for name in names}
        for name in names:
            node.undeclare_parameter(name)
        self._declare(node_specs())
        self._match_cameras()
        for name in self._overrides.keys() - self._specs.keys():
            near = difflib.get_close_matches(name, self._specs, 1)
            hint = f'; did you mean {near[0]}?' if near else ''
            node.get_logger().warning(f'parameter {name} is unknown and ignored{hint}')
        node.add_on_set_parameters_callback(self._on_set)

    def _declare(self, specs: Iterable[ParameterSpec]) -> None:
        for spec in specs:
            value = spec.coerced(self._overrides.get(spec.name, spec.default))
            problem = spec.problem(value)
            self._specs[spec.name] = spec
            declared = spec.default if problem else value
            self._node.declare_parameter(spec.name, declared, spec.descriptor(), ignore_override=True)
            if problem:  # after it was declared, which counts as setting it correctly
                self._problems[spec.name] = problem

    def _match_cameras(self) -> list[str]:
        """Declare the parameters of the cameras that are listed, and no others."""
        cameras = list(self._node.get_parameter('cameras').value)
        wanted = {spec.name: spec for camera in cameras for spec in camera_specs(camera)}
        for name in [name for name in self._specs if '.' in name and name not in wanted]:
            self._node.undeclare_parameter(name)
            del self._specs[name]
            self._problems.pop(name, None)
        self._declare(spec for name, spec in wanted.items() if name not in self._specs)
        return cameras

    def read(self) -> Configuration:
        """All parameters.

        Raises:
            ParameterError: naming every parameter that was given a wrong value.
        """
        cameras = self._match_cameras()
        if self._problems:
            raise ParameterError('; '.join(self._problems.values()))
        return Configuration(
            self._fill(ModelConfig),
            self._fill(TrackerConfig),
            self._fill(NodeConfig),
            {camera: self._fill(CameraConfig, f'{camera}.') for camera in cameras},
        )

    def _fill(self, config: type, prefix: str = '') -> Any:
        values = {f.name: self._node.get_parameter(prefix + f.name).value for f in dataclasses.fields(config)}
        return config(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    def coerced(self, parameters: Sequence[Parameter]) -> list[Parameter]:
        """A request with every value in its parameter's type, see :meth:`ParameterSpec.coerced`."""
        return [self._coerced(parameter) for parameter in parameters]

    def _coerced(self, parameter: Parameter) -> Parameter:
        spec = self._specs.get(parameter.name)
        value = parameter.value if spec is None else spec.coerced(parameter.value)
        return parameter if value is parameter.value else Parameter(parameter.name, value=value)

    def set_atomically(
        self, parameters: Sequence[Parameter], commit: Callable[[list[Parameter]], SetParametersResult]
    ) -> SetParametersResult:
        """Set all parameters of a request or none; what is refused is answered with the parameter's name and range.

        Args:
            parameters: of the request.
            commit: ``Node.set_parameters_atomically``.
        """
        with self.lock:
            asked = self.coerced(parameters)
            problem = self.problem(asked)
            if problem:
                return SetParametersResult(successful=False, reason=problem)
            result = commit(asked)
            if result.successful:
                self._match_cameras()
            return result

    def problem(self, parameters: Sequence[Parameter]) -> str | None:
        """One sentence if a request to set these parameters must be refused as a whole."""
        for parameter in parameters:
            spec = self._specs.get(parameter.name)
            if spec is None:
                continue
            if spec.read_only:
                return f'parameter {spec.name} can be given at start only'
            if self._configured() and not spec.live:
                return (
                    f'parameter {spec.name} can change only while the node is unconfigured: deactivate and clean up, '
                    f'set it, then configure and activate'
                )
            problem = spec.problem(parameter.value)
            if problem:
                return problem
        return None

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        problem = self.problem(parameters)
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        values = {parameter.name: parameter.value for parameter in parameters if parameter.name in self._specs}
        for name in values:
            self._problems.pop(name, None)
        if values and self._configured():
            self._changed(values)
        return SetParametersResult(successful=True)


def _is_of_ros(name: str) -> bool:
    return name in ('use_sim_time', 'start_type_description_service') or name.startswith('qos_overrides.')

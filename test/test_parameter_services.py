"""The parameter services answer every request, and none of them ends the node."""

from __future__ import annotations

from typing import Any

import pytest
import rclpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parameter_requests import messages, names
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterValue, SetParametersResult
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.context import Context
from rclpy.node import Node

from robust_pvos_ros.node_parameters import NodeParameters
from robust_pvos_ros.parameter_services import guard_parameter_services
from robust_pvos_ros.throttle import Throttle

FUZZ = settings(
    max_examples=200, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


class Configurable(Node):
    """A node with the parameters of the segmentation node."""

    def __init__(self, context: Context) -> None:
        super().__init__('configurable', context=context, automatically_declare_parameters_from_overrides=True)
        guard_parameter_services(self, Throttle())
        self.parameters = NodeParameters(self, lambda: False, lambda values: None)

    def set_parameters_atomically(self, parameter_list):
        return self.parameters.set_atomically(parameter_list, super().set_parameters_atomically)

    def ask(self, kind: Any, **fields):
        """The reply to a request, as the executor would get it."""
        [service] = [service for service in self.services if service.srv_type is kind]
        return service.callback(kind.Request(**fields), kind.Response())


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context)
    node = Configurable(context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def parameter(name: str, **value) -> ParameterMsg:
    return ParameterMsg(name=name, value=ParameterValue(**value))


def test_a_type_that_is_none_is_refused_with_the_types_that_are(node) -> None:
    wrong = parameter('max_objects', type=200, integer_value=3)
    right = parameter('lost_after', type=2, integer_value=7)
    refused, done = node.ask(SetParameters, parameters=[wrong, right]).results
    assert not refused.successful and done.successful
    assert 'max_objects must have a value of type 0 (not_set), 1 (bool), 2 (integer)' in refused.reason
    assert 'got type 200' in refused.reason
    other = parameter('lost_after', type=2, integer_value=9)
    result = node.ask(SetParametersAtomically, parameters=[other, wrong]).result
    assert not result.successful and 'got type 200' in result.reason
    assert node.get_parameter('lost_after').value == 7, 'all or none'


@pytest.mark.parametrize('name', ['', 'max_object', 'x' * 5000, 'rear.transport'])
def test_a_name_that_is_none_is_refused(node, name) -> None:
    given = [parameter(name, type=2, integer_value=3)]
    [result] = node.ask(SetParameters, parameters=given).results
    for refused in (result, node.ask(SetParametersAtomically, parameters=given).result):
        assert not refused.successful and 'there is no parameter' in refused.reason and len(refused.reason) < 200
    assert not node.has_parameter(name)


@pytest.mark.parametrize('value', [
    {'type': 0}, {'type': 7}, {'type': 8}, {'type': 5}, {'type': 9}, {'type': 7, 'integer_array_value': [1, 2]},
])  # fmt: skip
def test_a_list_of_another_kind_is_no_list_of_names(node, value) -> None:
    [result] = node.ask(SetParameters, parameters=[parameter('cameras', **value)]).results
    assert not result.successful and 'parameter cameras must be a list' in result.reason


def test_what_fails_unexpectedly_is_answered_too(node, monkeypatch) -> None:
    def broken(*_):
        raise RuntimeError('out of order')

    for name in ('set_parameters_atomically', 'get_parameter', 'describe_parameter', 'list_parameters'):
        monkeypatch.setattr(node, name, broken)
    [result] = node.ask(SetParameters, parameters=[parameter('lost_after', type=2, integer_value=7)]).results
    assert not result.successful and 'failed unexpectedly: RuntimeError: out of order' in result.reason
    assert list(node.ask(GetParameters, names=['lost_after']).values) == []
    assert list(node.ask(DescribeParameters, names=['lost_after']).descriptors) == []
    assert list(node.ask(ListParameters).result.names) == []


def test_any_request_is_answered_and_leaves_a_configuration_that_can_be_read(node) -> None:
    @FUZZ
    @given(st.lists(messages, max_size=4))
    def fuzz(given) -> None:
        results = node.ask(SetParameters, parameters=given).results
        assert len(results) == len(given)
        for result in [*results, node.ask(SetParametersAtomically, parameters=given).result]:
            assert isinstance(result, SetParametersResult)
            assert result.successful or result.reason
            assert len(result.reason) < 5000 and 'unexpectedly' not in result.reason, result.reason
        node.parameters.read()

    fuzz()


def test_any_question_is_answered(node) -> None:
    questions = {GetParameters: 'values', DescribeParameters: 'descriptors', GetParameterTypes: 'types'}

    @FUZZ
    @given(st.lists(names, max_size=4), st.integers(0, 2**64 - 1))
    def fuzz(asked, depth) -> None:
        known = all(node.has_parameter(name) for name in asked)
        for kind, field in questions.items():
            found = getattr(node.ask(kind, names=asked), field)
            assert len(found) == (len(asked) if known else 0)
        assert node.ask(ListParameters, prefixes=asked, depth=depth) is not None

    fuzz()

"""Requests to parameter services as nobody in their right mind would send them, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter, ParameterValue

from robust_pvos_ros.parameters import camera_specs, node_specs

texts = st.text(st.characters(codec='utf-8', exclude_characters='\x00'), max_size=300)
numbers = st.integers(-(2**63), 2**63 - 1)
doubles = st.floats(allow_nan=True, allow_infinity=True, width=64)
names = st.sampled_from([spec.name for spec in [*node_specs(), *camera_specs('camera')]] + ['use_sim_time', '']) | texts
values = st.builds(
    ParameterValue,
    type=st.integers(0, 11) | st.integers(0, 255),
    bool_value=st.booleans(),
    integer_value=st.integers(-2, 100) | numbers,
    double_value=st.floats(0, 2) | doubles,
    string_value=st.sampled_from(['auto', 'keep', 'latest', '']) | texts,
    byte_array_value=st.lists(st.integers(0, 255).map(lambda value: bytes([value])), max_size=3),
    bool_array_value=st.lists(st.booleans(), max_size=3),
    integer_array_value=st.lists(numbers, max_size=3),
    double_array_value=st.lists(doubles, max_size=3),
    string_array_value=st.lists(st.sampled_from(['camera', 'rear']) | texts, max_size=10),
)
messages = st.builds(Parameter, name=names, value=values)

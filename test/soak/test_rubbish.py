"""Rubbish in every input of a node: it is counted or answered with a sentence, and changes nothing.

``SOAK_REPORT`` names a file for what was expected and seen.
"""

from __future__ import annotations

import array

import pytest
from geometry_msgs.msg import Point
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_harness import mask_prompt, stamp
from parameter_requests import messages as parameters
from parameter_requests import names as parameter_names
from parameter_requests import texts
from robust_pvos_interfaces.msg import Prompt
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from soak_counters import change, settled
from soak_report import hold
from std_msgs.msg import Header

from robust_pvos_ros.image_codec import ENCODINGS
from robust_pvos_ros.parameters import LIVE

EXAMPLES = 1000
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.usefixtures('empty_table')]

raw_images = st.builds(
    lambda encoding, height, width, step, big, data: Image(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=array.array('B', data)
    ),
    st.sampled_from([*ENCODINGS, 'jpeg']) | texts,
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 200) | st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.binary(max_size=2000),
)


def test_a_thousand_malformed_images_are_counted_one_by_one(harness):
    camera = harness.node.cameras['camera']
    before, count = settled(harness, 'camera'), 0

    @FUZZ
    @given(raw_images)
    def fuzz(message: Image) -> None:
        nonlocal count
        camera.on_image(message)
        count += 1

    fuzz()
    seen = change(before, settled(harness, 'camera'))
    assert not seen['failed'], camera.last_problem
    wanted = {'received': count, 'failed': 0, 'malformed': (0.8 * count, count), 'sent': (EXAMPLES, 2 * EXAMPLES)}
    hold('malformed images', wanted, {**seen, 'sent': count})


def test_a_thousand_malformed_compressed_images_are_counted_one_by_one(harness):
    camera = harness.node.cameras['rear']
    beginnings = st.sampled_from([b'', b'\xff\xd8\xff\xe0', b'\x89PNG\r\n\x1a\n'])
    before, count = settled(harness, 'rear'), 0

    @FUZZ
    @given(texts, beginnings, st.binary(max_size=500))
    def fuzz(kind: str, beginning: bytes, data: bytes) -> None:
        nonlocal count
        camera.on_image(CompressedImage(format=kind, data=array.array('B', beginning + data)))
        count += 1

    fuzz()
    seen = change(before, settled(harness, 'rear'))
    assert not seen['failed'], camera.last_problem
    wanted = {'received': count, 'failed': 0, 'malformed or dropped': count, 'sent': (EXAMPLES, 2 * EXAMPLES)}
    seen['malformed or dropped'] = seen['malformed'] + seen['dropped']
    hold('malformed compressed images', wanted, {**seen, 'sent': count})


floats = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.integers(-5, 200).map(float)
numbers = st.integers(0, 200) | st.integers(0, 2**32 - 1)
masks = st.just(Image()) | raw_images
prompts = st.builds(
    Prompt,
    header=st.builds(
        Header, stamp=st.builds(stamp, st.just(0) | st.integers(0, 2**31 * 10**9 - 1)), frame_id=texts
    ),
    camera=st.sampled_from(['camera', 'camera', 'rear', '']) | texts,
    object_id=st.integers(0, 3) | st.integers(0, 2**32 - 1),
    label=texts,
    points=st.lists(st.builds(Point, x=floats, y=floats, z=floats), max_size=70),
    point_labels=st.lists(st.integers(0, 2), max_size=70).map(lambda v: array.array('B', v)),
    has_box=st.booleans(),
    box=st.builds(RegionOfInterest, x_offset=numbers, y_offset=numbers, width=numbers, height=numbers),
    mask=masks,
)


def test_a_thousand_malformed_requests_are_answered_with_a_sentence_and_change_nothing(harness):
    known = harness.call('add_object', prompt=mask_prompt(camera='camera', label='kept')).object_id
    before = set(harness.table())
    answers = []

    @FUZZ
    @given(st.sampled_from(['add_object', 'refine_object', 'set_label', 'remove_object']), prompts)
    def fuzz(service: str, prompt: Prompt) -> None:
        if service in ('add_object', 'refine_object'):
            reply = harness.call(service, prompt=prompt)
        elif service == 'set_label':
            reply = harness.call(service, object_id=prompt.object_id, label=prompt.label)
        else:
            reply = harness.call(service, object_id=prompt.object_id + (prompt.object_id == known))
        answers.append(reply)
        assert reply.message and len(reply.message) < 1000
        assert 'unexpected' not in reply.message, reply.message
        if reply.success and service == 'add_object':
            assert harness.call('remove_object', object_id=reply.object_id).success

    fuzz()
    wanted = {
        'answered': (EXAMPLES, 2 * EXAMPLES), 'refused': (0.8 * len(answers), len(answers)), 'objects': sorted(before),
    }  # fmt: skip
    refused = sum(not reply.success for reply in answers)
    hold('malformed requests', wanted, {
        'answered': len(answers), 'refused': refused, 'objects': sorted(harness.table()),
    })  # fmt: skip


def test_a_thousand_malformed_settings_of_parameters_are_answered_and_the_node_lives_on(harness):
    kept = {name: harness.node.get_parameter(name).value for name in LIVE}
    answers, odd = [], []

    @FUZZ
    @given(st.lists(parameters, min_size=1, max_size=3), st.lists(parameter_names, max_size=3))
    def fuzz(given, names) -> None:
        results = [*harness.call('set_parameters', parameters=given).results]
        assert len(results) == len(given)
        results.append(harness.call('set_parameters_atomically', parameters=given).result)
        answers.extend(results)
        odd.extend(result.reason for result in results if 'unexpectedly' in result.reason)
        assert all(result.successful or result.reason for result in results)
        for service in ('get_parameters', 'describe_parameters', 'get_parameter_types'):
            harness.call(service, names=names)

    try:
        fuzz()
    finally:
        assert harness.set(use_sim_time=False, **kept) == (True, '')
    refused = sum(not result.successful for result in answers)
    wanted = {'answered': (2 * EXAMPLES, 10 * EXAMPLES), 'failed unexpectedly': [], 'alive': True}
    alive = harness.call('list_objects').success
    hold('malformed settings of parameters', wanted, {
        'answered': len(answers), 'refused': refused, 'failed unexpectedly': odd, 'alive': alive,
    })  # fmt: skip


def test_a_thousand_malformed_prompts_by_topic_do_no_harm(harness):
    intake, count = harness.node._intake, 0

    @FUZZ
    @given(prompts)
    def fuzz(prompt: Prompt) -> None:
        nonlocal count
        prompt.object_id = 0
        intake.on_prompt(prompt)
        harness.node.worker.call(lambda: None)
        count += 1

    fuzz()
    wanted = {'sent': (EXAMPLES, 2 * EXAMPLES), 'alive': True}
    hold('malformed prompts by topic', wanted, {'sent': count, 'alive': harness.call('list_objects').success})

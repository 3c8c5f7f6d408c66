"""What the node does with bad requests, bad images and bad parameters: it says so and lives on."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from node_harness import (
    HEIGHT,
    WIDTH,
    Harness,
    box_prompt,
    image,
    mask_image,
    mask_prompt,
    point_prompt,
    scene,
    square_mask,
    stamp,
    wait_until,
)
from rcl_interfaces.msg import Parameter, ParameterValue
from rclpy.qos import QoSProfile, ReliabilityPolicy
from robust_pvos_interfaces.msg import Decision, Prompt
from robust_pvos_interfaces.srv import ListObjects
from sensor_msgs.msg import Image


@pytest.fixture(scope='module')
def harness():
    harness = Harness(threads=1, max_objects=3)
    harness.wait_active()
    yield harness
    harness.close()


# ----------------------------------------------------------------------------------------------------------- requests


def test_a_prompt_before_the_first_frame_is_refused(harness):
    assert harness.node.cameras['camera'].newest_stamp is None
    reply = harness.call('add_object', prompt=box_prompt())
    assert not reply.success
    assert 'has not processed a frame yet' in reply.message and '/camera/image_raw' in reply.message
    assert harness.call('list_objects').success


def with_stamp(prompt: Prompt, nanoseconds: int) -> Prompt:
    prompt.header.stamp = stamp(nanoseconds)
    return prompt


def bad_mask(**fields) -> Prompt:
    mask = mask_image(square_mask())
    for name, value in fields.items():
        setattr(mask, name, value)
    return Prompt(mask=mask)


NEWEST = 10**9 + 33_333_333
BAD_PROMPTS = {
    'no such camera': (box_prompt(camera='rear'), "no camera 'rear'", 'camera'),
    'point right of the image': (point_prompt((WIDTH, 5)), 'point (160, 5) is outside', f'[0, {WIDTH})'),
    'point above the image': (point_prompt((5, -0.5)), 'point (5, -0.5) is outside', f'[0, {HEIGHT})'),
    'NaN': (point_prompt((math.nan, 5)), 'point (nan, 5.0) is not finite', 'pixels'),
    'infinity': (point_prompt((5, math.inf)), 'not finite', 'pixels'),
    'only background': (point_prompt((5, 5), labels=(0,)), 'at least one foreground point', 'box'),
    'unknown point label': (point_prompt((5, 5), labels=(7,)), 'point labels must be 1', '0'),
    'labels and points differ': (point_prompt((5, 5), labels=(1, 1)), 'one label for each point', '1 points and 2'),
    'nothing': (Prompt(), 'the prompt is empty', 'point'),
    'box beyond the image': (box_prompt((10, 10, WIDTH + 1, 20)), 'box (10, 10)-(161, 20)', '160x120'),
    'box of no size': (box_prompt((10, 10, 10, 20)), 'positive size', '160x120'),
    'empty mask': (mask_prompt(np.zeros((HEIGHT, WIDTH), bool)), 'the mask is empty', 'pixel must be set'),
    'mask of another size': (mask_prompt(np.ones((60, 80), bool)), 'mask is 80x60 pixels', '160x120'),
    'mask encoding': (bad_mask(encoding='32FC1'), "got '32FC1'", 'mono8'),
    'mask without rows': (bad_mask(height=0), 'mask is 160x0 pixels', 'bytes'),
    'mask step': (bad_mask(step=10), 'step 10', 'step >= 160'),
    'mask and box': (
        Prompt(mask=mask_image(square_mask()), has_box=True, box=box_prompt().box), 'a mask stands alone', 'either',
    ),
    'label too long': (box_prompt(label='x' * 129), 'at most 128 characters', '129'),
    'stamp in the past': (with_stamp(box_prompt(), 5), 'stamp 0.000000005 is older', '1.033333333'),
    'stamp in the future': (with_stamp(box_prompt(), 10**18), 'is newer', '1.033333333'),
}


@pytest.mark.parametrize('case', BAD_PROMPTS)
def test_a_bad_prompt_is_refused_and_changes_nothing(harness, case):
    prompt, wrong, right = BAD_PROMPTS[case]
    if harness.node.cameras['camera'].newest_stamp is None:
        harness.frame(nanoseconds=NEWEST)
        assert harness.call('add_object', prompt=mask_prompt()).success
    before = harness.call('list_objects').cameras
    echoed = len(harness.prompts)
    for service in ('add_object', 'refine_object'):
        prompt.object_id = 0 if service == 'add_object' else before[0].objects[0].id
        if case == 'only background' and service == 'refine_object':
            continue
        reply = harness.call(service, prompt=prompt)
        assert not reply.success
        assert wrong in reply.message
        assert right in reply.message
        assert (reply.object_id, reply.area_px) == (0, 0)
    assert harness.call('list_objects').cameras == before
    assert len(harness.prompts) == echoed


def test_ids_that_do_not_fit_the_service_are_refused(harness):
    harness.frame()
    reply = harness.call('add_object', prompt=box_prompt(object_id=5))
    assert not reply.success and 'object_id must be 0, got 5' in reply.message
    reply = harness.call('refine_object', prompt=box_prompt())
    assert not reply.success and 'must be its ID, got 0' in reply.message


def test_unknown_ids_are_refused_with_the_known_ones(harness):
    harness.call('reset')
    harness.frame()
    known = harness.call('add_object', prompt=mask_prompt()).object_id
    for service, fields in (
        ('refine_object', {'prompt': box_prompt(object_id=999)}),
        ('remove_object', {'object_id': 999}),
        ('remove_object', {'object_id': 0}),
        ('set_label', {'object_id': 999, 'label': 'x'}),
    ):
        reply = harness.call(service, **fields)
        assert not reply.success
        assert 'there is no object' in reply.message and str(known) in reply.message
    assert list(harness.table()) == [known]


def test_a_label_too_long_and_unknown_cameras_are_refused(harness):
    harness.call('reset')
    harness.frame()
    object_id = harness.call('add_object', prompt=mask_prompt(label='short')).object_id
    reply = harness.call('set_label', object_id=object_id, label='x' * 129)
    assert not reply.success and 'at most 128 characters' in reply.message
    for service in ('list_objects', 'reset'):
        reply = harness.call(service, camera='rear')
        assert not reply.success and "no camera 'rear'" in reply.message
    assert harness.table()[object_id].label == 'short'


def test_a_full_table_refuses_and_max_objects_can_be_raised(harness):
    harness.call('reset')
    harness.frame()
    for _ in range(3):
        assert harness.call('add_object', prompt=mask_prompt()).success
    reply = harness.call('add_object', prompt=mask_prompt())
    assert not reply.success and 'full' in reply.message and 'max_objects' in reply.message
    assert harness.set(max_objects=4) == (True, '')
    assert harness.call('add_object', prompt=mask_prompt()).success
    harness.call('reset')


def test_requests_beyond_a_bound_are_refused_while_others_wait(harness, monkeypatch):
    monkeypatch.setattr(harness.node._served.admission, 'most', 5)
    busy, release = threading.Event(), threading.Event()
    harness.node.worker.submit(lambda: busy.set() or release.wait(30))
    assert busy.wait(30)
    try:
        futures = [harness._clients['list_objects'].call_async(ListObjects.Request()) for _ in range(8)]
        wait_until(lambda: sum(future.done() for future in futures) == 3, 'the refusals')
        for future in futures:
            if future.done():
                assert not future.result().success
                assert '5 requests wait already: send fewer' in future.result().message
    finally:
        release.set()
    wait_until(lambda: all(future.done() for future in futures), 'all replies')
    assert sum(future.result().success for future in futures) == 5
    assert harness.call('list_objects').success, 'those that were answered make room'


# ------------------------------------------------------------------------------------------------------------- images


def malformed(**fields):
    message = image(scene(), 0)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


MALFORMED = {
    'step too small': (malformed(step=WIDTH * 3 - 1), 'step is 479 bytes'),
    'step misfit': (malformed(step=WIDTH * 3 + 4), 'bytes take'),
    'data too short': (malformed(height=HEIGHT + 1), 'bytes take'),
    'data too long': (malformed(height=HEIGHT - 1), 'bytes take'),
    'unknown encoding': (malformed(encoding='hologram'), "'hologram' is not supported"),
    'no encoding': (malformed(encoding=''), "'' is not supported"),
    'zero size': (malformed(height=0, width=0, step=0), '0x0 pixels'),
}


@pytest.mark.parametrize('case', MALFORMED)
def test_a_malformed_image_is_reported_and_dropped(harness, case):
    message, problem = MALFORMED[case]
    before = harness.counts()
    message.header.stamp = stamp(harness.tick())
    harness.publish(message)
    wait_until(lambda: harness.counts()['malformed'] > before['malformed'], 'the image to be counted')
    assert problem in harness.node.cameras['camera'].last_problem
    at = harness.frame()
    assert len(harness.objects_at(at)) == 1


def test_a_changed_resolution_is_followed(harness):
    harness.call('reset')
    harness.frame()
    object_id = harness.call('add_object', prompt=mask_prompt()).object_id
    at = harness.frame(scene(240, 320))
    (tracked,) = harness.objects_at(at)[0].objects
    assert tracked.id == object_id
    reply = harness.call('add_object', prompt=mask_prompt())
    assert not reply.success and '320x240' in reply.message
    assert harness.call('add_object', prompt=point_prompt((300, 200))).success
    harness.frame()
    harness.call('reset')


def test_an_unexpected_failure_costs_one_frame_and_is_reported(harness, monkeypatch):
    harness.frame()
    camera = harness.node.cameras['camera']
    failed = harness.counts()['failed']

    def broken(*args):
        raise RuntimeError('the device is on fire')

    with monkeypatch.context() as patch:
        patch.setattr(camera.tracker, 'step', broken)
        patch.setattr(camera.tracker, 'apply', broken)
        harness.diagnostics.clear()  # before the failure: the next report, which may come at any moment, tells of it
        harness.publish_next()
        wait_until(lambda: harness.counts()['failed'] == failed + 1, 'the failure to be counted')
        reply = harness.call('add_object', prompt=mask_prompt())
        assert not reply.success and 'on fire' in reply.message
    text = wait_until(lambda: [s for d in harness.diagnostics for s in d.status if 'on fire' in s.message], 'report')
    assert text[0].level == b'\x02'
    harness.frame()


# --------------------------------------------------------------------------------------------------------- parameters


def test_parameters_that_cannot_change_at_run_time_are_refused(harness):
    for values, reason in (
        ({'model': 'compact'}, 'only while the node is unconfigured'),
        ({'lost_after': 5, 'camera__image_topic': '/other'}, 'only while the node is unconfigured'),
        ({'lost_after': 0}, 'lost_after must be an integer from 1 to'),
        ({'lost_after': 'soon'}, "lost_after must be an integer from 1 to 100000, got 'soon'"),
        ({'time_jump_policy': 'panic'}, 'one of remove_objects, keep'),
        ({'autostart': False}, 'at start only'),
    ):
        done, why = harness.set(**values)
        assert not done
        assert reason in why
    assert harness.node.get_parameter('lost_after').value == 90
    assert harness.set(lost_after=2) == (True, '')
    wait_until(lambda: harness.node.cameras['camera'].tracker.config.lost_after == 2, 'the tracker to take it over')


def test_a_parameter_of_no_type_is_refused_and_the_node_lives_on(harness):
    given = [Parameter(name='max_objects', value=ParameterValue(type=200))]
    [result] = harness.call('set_parameters', parameters=given).results
    for refused in (result, harness.call('set_parameters_atomically', parameters=given).result):
        assert not refused.successful and 'max_objects must have a value of type' in refused.reason
    harness.frame()


def test_a_wrong_parameter_fails_configure_and_a_corrected_one_succeeds(tmp_path):
    missing = str(tmp_path / 'none.safetensors')
    other = Harness(namespace='/other', threads=1, max_objects='many', model='', checkpoint=missing)
    try:
        wait_until(lambda: 'cannot configure' in other.node.problem, 'configure to fail')
        assert "max_objects must be an integer from 1 to 64, got 'many'" in other.node.problem
        assert 'model must be one of compact' in other.node.problem
        wait_until(lambda: other.state() == 'unconfigured', 'the node to be unconfigured again')
        reply = other.call('add_object', prompt=box_prompt())
        assert not reply.success and 'max_objects' in reply.message
        wait_until(lambda: any('max_objects' in line.data for line in other.status), 'the status to tell')

        assert other.set(max_objects=5, model='compact') == (True, '')
        assert not other.transition(Transition.TRANSITION_CONFIGURE)
        assert 'none.safetensors does not exist' in other.node.problem
        assert other.state() == 'unconfigured'

        assert other.set(checkpoint='') == (True, '')
        assert other.transition(Transition.TRANSITION_CONFIGURE)
        assert other.transition(Transition.TRANSITION_ACTIVATE)
        other.frame()
        assert other.node.cameras['camera'].tracker.config.max_objects == 5
    finally:
        other.close()


def test_a_camera_that_does_not_fit_the_overload_policy_is_named():
    other = Harness(namespace='/other', threads=1, overload_policy='every', camera__image_topic='weak/image')
    try:
        other.wait_active()
        wait_until(lambda: 'nobody publishes on /other/weak/image' in other.said(), 'the missing camera to be told')
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        other.client.create_publisher(Image, 'weak/image', best_effort)
        wait_until(lambda: any('needs a reliable publisher' in told for told in other.said()), 'the misfit to be told')
    finally:
        other.close()


def test_requests_are_answered_while_a_model_loads(monkeypatch):
    released = threading.Event()
    harness = Harness(autostart=False, threads=1)
    load = harness.node._load

    def slowly():
        harness.node.progress = 'loading'
        assert released.wait(30)
        load()

    monkeypatch.setattr(harness.node, '_load', slowly)
    decisions = harness.listen(Decision, 'decisions')
    configuring = threading.Thread(target=harness.transition, kwargs={'label': 'configure'})
    configuring.start()
    try:
        wait_until(lambda: harness.node.state == 'configuring', 'the node to configure')
        reply = harness.call('add_object', prompt=box_prompt())
        assert not released.is_set() and not reply.success
        assert 'still configuring (loading)' in reply.message
        wait_until(lambda: decisions, 'the refusal')
        assert (decisions[0].service, decisions[0].success) == ('add_object', False)
    finally:
        released.set()
        configuring.join()
        harness.close()

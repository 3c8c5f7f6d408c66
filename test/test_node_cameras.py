"""Several cameras in one node, raw and compressed, of different sizes."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch
from node_harness import BOX, Harness, box_prompt, image, scene, stamp, wait_until
from PIL import Image as Picture
from robust_pvos_interfaces.msg import TrackedObjects
from sensor_msgs.msg import CompressedImage, Image

from robust_pvos_ros.messages import nanoseconds
from robust_pvos_ros.tracking import model as tracking_model
from robust_pvos_ros.tracking.model import Sam2Model

SMALL = 160  # pixels that the network sees: several cameras on one core


def compressed(rgb: np.ndarray, nanoseconds: int, kind: str = 'JPEG') -> CompressedImage:
    stream = io.BytesIO()
    Picture.fromarray(rgb).save(stream, kind, quality=95)
    message = CompressedImage(format=kind.lower())
    message.header.stamp = stamp(nanoseconds)
    message.header.frame_id = 'rear_optical'
    message.data.frombytes(stream.getvalue())
    return message


class Rig(Harness):
    """A node with a raw camera ``front`` and a compressed one ``rear``."""

    def __init__(self, **parameters) -> None:
        super().__init__(
            threads=1, image_size=SMALL, cameras=['front', 'rear'], rear__transport='compressed',
            rear__image_topic='back/image', **parameters,
        )  # fmt: skip
        self.seen = {name: self.listen(TrackedObjects, f'{name}/objects', depth=100) for name in ('front', 'rear')}
        self.front = self.talk(Image, 'front/image_raw')
        self.rear = self.talk(CompressedImage, 'back/image/compressed')

    def at(self, camera: str, nanoseconds: int) -> list[TrackedObjects]:
        return [message for message in list(self.seen[camera]) if message.header.stamp == stamp(nanoseconds)]

    def both(self, shift: int = 0) -> int:
        """An image for each camera, and the results; returns their stamp."""
        at = self.tick()
        self.front(image(scene(shift=shift), at))
        self.rear(compressed(scene(180, 240, shift), at))
        for camera in ('front', 'rear'):
            wait_until(lambda camera=camera: self.at(camera, at), f'objects of {camera}')
        return at


@pytest.fixture(scope='module', params=['batch', 'one by one', 'ahead'])
def rig(request):
    batch, ahead = (str(request.param == way).lower() for way in ('batch', 'ahead'))
    rig = Rig(batch_cameras=batch, encode_ahead=ahead, max_objects=3)
    try:
        rig.wait_active()
        yield rig
    finally:
        rig.close()


def test_each_camera_has_its_own_objects_under_ids_of_the_node(rig):
    rig.call('reset')
    rig.both()
    ids = {}
    for camera in ('front', 'rear'):
        reply = rig.call('add_object', prompt=box_prompt(camera=camera, label=camera))
        assert reply.success, reply.message
        ids[camera] = reply.object_id
    assert ids['rear'] == ids['front'] + 1
    for shift in range(2, 10, 2):
        at = rig.both(shift)
    for camera in ('front', 'rear'):
        [message] = rig.at(camera, at)
        assert message.camera == camera
        [tracked] = message.objects
        assert (tracked.id, tracked.label, tracked.state) == (ids[camera], camera, tracked.TRACKING)
        assert abs(tracked.centroid.x - (79.5 + 8)) < 6
    assert rig.at('rear', at)[0].header.frame_id == 'rear_optical'
    assert set(rig.table()) == set(ids.values())
    assert rig.call('reset', camera='front').removed == 1
    assert set(rig.table()) == {ids['rear']}


def test_frames_that_wait_together_are_encoded_together_where_asked_for(rig, monkeypatch):
    if rig.node.worker.ahead:
        pytest.skip('a frame does not wait for others then')
    rig.call('reset')
    rig.both()
    sizes = []
    encode = rig.node.model.encode_batch

    def counted(pictures):
        sizes.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(rig.node.model, 'encode_batch', counted)
    for _ in range(20):
        both_wait(rig)
    asked = rig.node.get_parameter('batch_cameras').value == 'true'
    assert sizes == ([2] * 20 if asked else [])


def both_wait(rig):
    """An image of each camera that waits while the worker is busy, and then its results."""
    busy, release = threading.Event(), threading.Event()
    rig.node.worker.submit(lambda: busy.set() or release.wait(30))
    assert busy.wait(30)
    at = rig.tick()
    rig.front(image(scene(), at))
    rig.rear(compressed(scene(), at))
    wait_until(lambda: all(len(rig.node.cameras[name].queue) for name in ('front', 'rear')), 'both to wait')
    release.set()
    for camera in ('front', 'rear'):
        wait_until(lambda camera=camera: rig.at(camera, at), f'objects of {camera}')


def test_a_frame_that_cannot_be_encoded_in_a_batch_is_encoded_alone(rig, monkeypatch):
    if rig.node.get_parameter('batch_cameras').value == 'false':
        pytest.skip('nothing is encoded in batches')

    def broken(pictures):
        raise RuntimeError('no batches today')

    monkeypatch.setattr(rig.node.model, 'encode_batch', broken)
    both_wait(rig)


def test_the_table_is_full_for_all_cameras_together(rig):
    rig.call('reset')
    rig.both()
    for camera in ('front', 'rear', 'front'):
        assert rig.call('add_object', prompt=box_prompt(camera=camera)).success
    for camera in ('front', 'rear'):
        reply = rig.call('add_object', prompt=box_prompt(camera=camera))
        assert not reply.success and 'holds 3 of at most 3' in reply.message
    rig.call('reset')


def test_requests_find_their_camera_or_are_told_of_it(rig):
    rig.call('reset')
    rig.both()
    reply = rig.call('add_object', prompt=box_prompt())
    assert not reply.success and 'several cameras: name one of front, rear' in reply.message
    reply = rig.call('add_object', prompt=box_prompt(camera='x' * 5000))
    assert not reply.success and 'front, rear' in reply.message and len(reply.message) < 200
    object_id = rig.call('add_object', prompt=box_prompt(camera='rear')).object_id
    assert rig.call('refine_object', prompt=box_prompt(object_id=object_id)).success
    assert not rig.call('refine_object', prompt=box_prompt(object_id=object_id, camera='front')).success
    assert rig.call('set_label', object_id=object_id, label='x').success
    reply = rig.call('remove_object', object_id=object_id + 7)
    assert not reply.success and f'tracked IDs: {object_id}' in reply.message
    assert rig.call('remove_object', object_id=object_id).success


@pytest.mark.parametrize('data', [b'', b'rubbish', b'\xff\xd8\xff and no more', b'\x89PNG\r\n\x1a\n and no more'])
def test_a_malformed_compressed_image_is_counted_and_dropped(rig, data):
    before = rig.counts('rear')
    message = CompressedImage(format='jpeg')
    message.data.frombytes(data)
    rig.rear(message)
    wait_until(lambda: rig.counts('rear')['malformed'] > before['malformed'], 'the image to be counted')
    assert 'compressed image' in rig.node.cameras['rear'].last_problem
    rig.both()


def test_a_png_is_taken_too(rig):
    at = rig.tick()
    rig.rear(compressed(scene(60, 80), at, 'PNG'))
    wait_until(lambda: rig.at('rear', at), 'objects of rear')


def test_every_image_of_every_camera_is_accounted_for(rig):
    at = [rig.tick() for _ in range(30)]
    for stamp_of_frame in at:
        rig.front(image(scene(), stamp_of_frame))
    fates = ('processed', 'dropped', 'malformed', 'failed')
    wait_until(lambda: rig.at('front', at[-1]), 'the last image')
    wait_until(
        lambda: rig.counts('front')['received'] == sum(rig.counts('front')[fate] for fate in fates), 'all to be counted'
    )
    assert rig.counts('front')['failed'] == 0


def test_a_camera_that_floods_takes_no_frame_from_a_slow_one(rig):
    before = rig.counts('rear'), rig.counts('front')
    ended = threading.Event()

    def flood() -> None:
        while not ended.wait(0.002):
            rig.front(image(scene(), rig.tick()))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for number in range(8):
            at = 10**12 + number * 10**9  # a clock of its own
            rig.rear(compressed(scene(180, 240), at))
            wait_until(lambda at=at: rig.at('rear', at), 'objects of rear')
    finally:
        ended.set()
        thread.join()
    rear, front = rig.counts('rear'), rig.counts('front')
    assert rear['processed'] - before[0]['processed'] == 8 and rear['dropped'] == before[0]['dropped']
    assert front['dropped'] > before[1]['dropped'], 'the fast one brings more than there is time for'
    assert front['processed'] - before[1]['processed'] >= 7, 'nor is it starved'
    rig._clock = 2 * 10**12


def test_reports_name_each_camera(rig):
    rig.both()
    rig.diagnostics.clear()
    report = wait_until(lambda: rig.diagnostics, 'diagnostics')[0]
    assert [status.name for status in report.status][1:] == ['robust_pvos: front', 'robust_pvos: rear']
    rig.status.clear()
    line = wait_until(lambda: rig.status, 'status')[0].data
    assert 'front: ' in line and 'rear: ' in line


def levels(rig, camera: str) -> set[bytes]:
    return {s.level for d in list(rig.diagnostics) for s in d.status if s.name.endswith(camera)}


def test_silence_is_told_and_forgotten(rig):
    assert rig.set(silence_timeout=1.5) == (True, '')
    try:
        rig.both()
        rig.diagnostics.clear()
        for wanted in (b'\x01', b'\x02'):  # WARN, then ERROR
            wait_until(lambda wanted=wanted: wanted in levels(rig, 'front'), f'level {wanted!r}', 10)
        assert any('no images arrive on /front/image_raw though' in told for told in rig.said())
        rig.diagnostics.clear()
        wait_until(lambda: rig.both() and b'\x00' in levels(rig, 'front'), 'images to be noticed', 20)
    finally:
        assert rig.set(silence_timeout=2) == (True, '')


def test_a_jump_forward_is_counted_and_costs_no_object(rig):
    rig.call('reset')
    rig.both()
    kept = rig.call('add_object', prompt=box_prompt(camera='front')).object_id
    jumps = rig.counts('front')['forward_jumps']
    rig._clock += 60 * 10**9
    rig.both()
    assert rig.counts('front')['forward_jumps'] == jumps + 1
    assert set(rig.table()) == {kept}


def reported(rig) -> list[dict[str, str]]:
    """What the diagnostics of this node alone have told so far."""
    statuses = [status for report in list(rig.diagnostics) for status in report.status]
    values = [{pair.key: pair.value for pair in status.values} for status in statuses]
    return [entry for entry in values if entry.get('node') == rig.node.get_fully_qualified_name()]


def test_beyond_the_budget_objects_take_turns_and_the_age_of_their_masks_is_told():
    rig = Rig(namespace='budget', object_budget=1)
    try:
        rig.wait_active()
        rig.both()
        wanted = [rig.call('add_object', prompt=box_prompt(box, camera='front')) for box in (BOX, (5, 5, 25, 25))]
        assert all(reply.success for reply in wanted)
        ids = {reply.object_id for reply in wanted}
        served = []
        for _ in range(4):
            at = rig.both()
            ages = {o.id: at - nanoseconds(o.mask_stamp) for o in rig.at('front', at)[-1].objects}
            assert ages.keys() == ids and max(ages.values()) <= 33_333_333
            served += [object_id for object_id, age in ages.items() if age == 0]
        assert sorted(served) == sorted([*ids, *ids]) and served[0] != served[1]
        rig.diagnostics.clear()
        entries = wait_until(lambda: reported(rig), 'diagnostics')
        oldest = {status['camera']: float(status['oldest_mask_ms']) for status in entries if 'camera' in status}
        assert oldest == {'front': pytest.approx(33.3, abs=0.1), 'rear': 0.0}
    finally:
        rig.close()


def test_names_are_remapped_once():
    rules = ('front/image_raw:=first', 'first:=second', 'back/image:=third')
    rig = Rig(namespace='/mapped', remappings=rules)
    try:
        rig.wait_active()
        front, rear = (rig.node.cameras[name] for name in ('front', 'rear'))
        assert (front.topic, rear.topic) == ('/mapped/first', '/mapped/third/compressed')
        for topic in (front.topic, rear.topic):
            wait_until(lambda topic=topic: rig.client.count_subscribers(topic) == 1, f'the subscription of {topic}')
        assert rig.client.count_subscribers('/mapped/second') == 0
        assert front.silence() == 'nobody publishes on /mapped/first'
        publisher = rig.client.create_publisher(Image, '/mapped/first', 1)
        wait_until(lambda: 'though somebody publishes there' in front.silence(), 'the publisher to be found')
        rig.client.destroy_publisher(publisher)
    finally:
        rig.close()


def test_want_of_gpu_memory_costs_no_frame_and_is_told():
    rig = Rig(namespace='/starving', history_frames=5)
    try:
        rig.wait_active()
        rig.both()
        tracker = rig.node.cameras['front'].tracker
        step, failures = tracker.step, []

        def starving(*args):
            if len(failures) < 1:
                failures.append(1)
                raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')
            return step(*args)

        tracker.step = starving
        rig.both()
        assert rig.counts('front')['failed'] == 0
        assert rig.node.cameras['rear'].tracker.config.history_frames == 0
        told = 'active: out of GPU memory, so past frames are no longer kept for prompts'
        reports = wait_until(
            lambda: [s for d in list(rig.diagnostics) for s in d.status if s.message == told], 'the report', 10
        )
        assert reports[0].level == b'\x01'
    finally:
        rig.close()


def test_a_batch_that_does_not_fit_ends_batches_and_nothing_else():
    rig = Rig(namespace='/cramped', batch_cameras='true', encode_ahead='false', history_frames=5)
    try:
        rig.wait_active()
        rig.both()
        model = rig.node.model
        encode, precision = model.encode_batch, model.precision

        def starving(pictures):
            if len(pictures) > 1:
                raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')
            return encode(pictures)

        model.encode_batch = starving
        assert rig.node.worker.together
        both_wait(rig)
        assert not rig.node.worker.together
        assert rig.counts('front')['failed'] == rig.counts('rear')['failed'] == 0
        assert rig.node.cameras['front'].tracker.config.history_frames == 5 and model.precision == precision
        told = 'active: out of GPU memory, so frames of several cameras are encoded one by one'
        wait_until(lambda: told in rig.said(), 'the report', 10)
    finally:
        rig.close()


def test_want_of_gpu_memory_while_configuring_is_relieved(monkeypatch):
    encode, calls = Sam2Model.encode, []

    def starving(self, rgb):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')
        return encode(self, rgb)

    monkeypatch.setattr(Sam2Model, 'encode', starving)
    rig = Rig(namespace='/starved', precision='float32', encoder='torch')
    try:
        rig.wait_active()
        assert rig.node.relief.given_up == ['the network goes on in bfloat16']
        rig.both()
    finally:
        rig.close()


def test_a_model_that_does_not_fit_fails_configure_with_advice(monkeypatch):
    def starving(*_):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')

    monkeypatch.setattr(tracking_model, 'build_sam', starving)
    rig = Rig(namespace='/full')
    try:
        advice = 'while model compact was loaded: use a smaller model'
        wait_until(lambda: advice in rig.node.problem, 'configure to fail', 60)
        assert 'Traceback' not in rig.node.problem
        wait_until(lambda: rig.state() == 'unconfigured', 'the node to be unconfigured again')
    finally:
        rig.close()

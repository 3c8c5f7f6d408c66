"""Bags, and the report that the demo makes of one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys.store import Typestore

from robust_pvos_ros.bags.definitions import BagError, interface_typestore
from robust_pvos_ros.bags.writer import BagWriter, header_stamp
from robust_pvos_ros.demo import names
from robust_pvos_ros.demo.pictures import contact_sheet, draw_frame, save_sheet
from robust_pvos_ros.demo.report import Bookkeeper, ReportError, as_text, count_inputs, read_frames
from robust_pvos_ros.demo.run import evaluate

HEIGHT, WIDTH = 60, 80
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
IMAGE_TYPE, OBJECTS_TYPE = 'sensor_msgs/msg/Image', 'robust_pvos_interfaces/msg/TrackedObjects'
PROMPT_TYPE = 'robust_pvos_interfaces/msg/Prompt'


@pytest.fixture(scope='module')
def store() -> Typestore:
    return interface_typestore()


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# ---------------------------------------------------------------------------------------------------------------- bags


def header(store: Typestore, stamp: int) -> Any:
    time_type, header_type = store.types['builtin_interfaces/msg/Time'], store.types['std_msgs/msg/Header']
    return header_type(stamp=time_type(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id='camera')


def image(store: Typestore, pixels: np.ndarray, encoding: str, stamp: int) -> bytes:
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    message = store.types[IMAGE_TYPE](
        header=header(store, stamp), height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=0,
        step=pixels.strides[0], data=data,
    )
    return bytes(store.serialize_cdr(message, IMAGE_TYPE))


def objects(store: Typestore, entries: list[tuple[int, str, np.ndarray]], stamp: int) -> bytes:
    listed = []
    for object_id, label, mask in entries:
        ys, xs = np.nonzero(mask)
        seen = len(xs) > 0
        region = store.types['sensor_msgs/msg/RegionOfInterest'](
            x_offset=int(xs.min()) if seen else 0, y_offset=int(ys.min()) if seen else 0,
            height=int(np.ptp(ys)) + 1 if seen else 0, width=int(np.ptp(xs)) + 1 if seen else 0, do_rectify=False,
        )
        listed.append(store.types['robust_pvos_interfaces/msg/TrackedObject'](
            id=object_id, label=label, state=0 if seen else 1, object_score=0.9, predicted_iou=0.8, box=region,
            centroid=store.types['geometry_msgs/msg/Point'](x=0.0, y=0.0, z=0.0), area_px=len(xs),
            frames_since_seen=0 if seen else 3, mask_stamp=header(store, stamp).stamp,
        ))
    message = store.types[OBJECTS_TYPE](header=header(store, stamp), camera='camera', objects=listed)
    return bytes(store.serialize_cdr(message, OBJECTS_TYPE))


def test_bag_keeps_every_byte_and_stamp(tmp_path: Path, store: Typestore) -> None:
    sent = []
    with BagWriter(tmp_path / 'bag', store) as writer:
        writer.add_topic('/silent', IMAGE_TYPE)
        for index in range(5):
            stamp = START + index * SECOND // 7
            picture = image(store, np.full((HEIGHT, WIDTH, 3), index, np.uint8), 'rgb8', stamp)
            table = objects(store, [(1, 'car', square(0, 0, 5, 5))], stamp)
            for topic, kind, data in ((names.IMAGE, IMAGE_TYPE, picture), (names.OBJECTS, OBJECTS_TYPE, table)):
                writer.write(topic, kind, stamp + 12_345, data)
                sent.append((topic, stamp + 12_345, data))
    with AnyReader([tmp_path / 'bag']) as reader:
        received = [(connection.topic, when, bytes(data)) for connection, when, data in reader.messages()]
        assert {connection.topic for connection in reader.connections} == {'/silent', names.IMAGE, names.OBJECTS}
        connection = next(entry for entry in reader.connections if entry.topic == names.OBJECTS)
        read: Any = reader.deserialize(sent[1][2], connection.msgtype)
    assert sorted(received, key=lambda entry: entry[1]) == sent
    assert read.objects[0].label == 'car'
    assert (tmp_path / 'bag' / 'metadata.yaml').is_file()


def test_bag_definitions_are_those_of_the_running_messages(store: Typestore) -> None:
    """What rclpy sends can be taken apart with the definitions in the bag."""
    serialization = pytest.importorskip('rclpy.serialization')
    from robust_pvos_interfaces.msg import Prompt

    sent = Prompt(camera='camera', object_id=7, label='blue coat', has_box=True, point_labels=[1, 0])
    sent.header.stamp.sec, sent.header.stamp.nanosec = 12, 34
    data = serialization.serialize_message(sent)
    read: Any = store.deserialize_cdr(data, PROMPT_TYPE)
    assert (read.camera, read.object_id, read.label, read.has_box) == ('camera', 7, 'blue coat', True)
    assert read.point_labels.tolist() == [1, 0]
    assert header_stamp(data) == 12 * SECOND + 34


def test_header_stamp_in_both_byte_orders() -> None:
    assert header_stamp(b'\x00\x01\x00\x00' + struct.pack('<iI', 5, 6)) == 5 * SECOND + 6
    assert header_stamp(b'\x00\x00\x00\x00' + struct.pack('>iI', 5, 6)) == 5 * SECOND + 6
    with pytest.raises(BagError, match='at least 12 bytes, got 4'):
        header_stamp(b'\x00\x01\x00\x00')


def test_bag_refuses_what_it_cannot_write(tmp_path: Path, store: Typestore) -> None:
    with BagWriter(tmp_path / 'bag', store) as writer:
        writer.add_topic('/a', IMAGE_TYPE)
        with pytest.raises(BagError, match='topic /a has messages of type sensor_msgs/msg/Image, got one of type std'):
            writer.add_topic('/a', 'std_msgs/msg/Header')
        with pytest.raises(BagError, match='no_msgs/msg/No is unknown'):
            writer.write('/b', 'no_msgs/msg/No', 0, b'')
    with pytest.raises(BagError, match='exists already'):
        BagWriter(tmp_path / 'bag', store)
    with AnyReader([tmp_path / 'bag']) as reader:
        assert [connection.topic for connection in reader.connections] == ['/a']


# -------------------------------------------------------------------------------------------------------------- report

FRAMES = 20
TRUTH = {'car': 1, 'coat': 2}
CAR, COAT = square(10, 10, 50, 40), square(55, 30, 75, 50)
LEFT_HALF = square(10, 10, 30, 40)
UNPROCESSED, HIDDEN, ASTRAY = (7, 13), range(10, 13), 16


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory, store: Typestore) -> Path:
    """Twenty images at 10 Hz, two of them never processed: object 1 has half of the car; the coat is hidden for three
    frames, and on one frame the mask of object 2 lies on the car."""
    path = tmp_path_factory.mktemp('demo') / 'bag'
    with BagWriter(path, store) as writer:
        for index in range(FRAMES):
            stamp = START + index * SECOND // 10
            truth, labels = np.zeros((2, HEIGHT, WIDTH), np.uint16)
            truth[CAR] = 1
            if index not in HIDDEN:
                truth[COAT] = 2
            writer.write(names.IMAGE, IMAGE_TYPE, stamp,
                         image(store, np.full((HEIGHT, WIDTH, 3), 90, np.uint8), 'rgb8', stamp))
            writer.write(names.TRUTH, IMAGE_TYPE, stamp + 1, image(store, truth, '16UC1', stamp))
            if index in UNPROCESSED:
                continue
            car, coat = LEFT_HALF, np.zeros_like(COAT)
            if index not in HIDDEN:
                coat = CAR & ~LEFT_HALF if index == ASTRAY else COAT
            labels[car] = 1
            labels[coat] = 2
            arrival = stamp + (50 + index) * 1_000_000
            if index == 3:  # a frame that a prompt has published twice: the second time counts, its latency not
                writer.write(names.LABELS, IMAGE_TYPE, arrival - 2, image(store, np.zeros_like(labels), '16UC1', stamp))
                writer.write(names.OBJECTS, OBJECTS_TYPE, arrival - 1, objects(store, [], stamp))
                arrival += 30_000_000
            table = [(1, 'car', car), (2, 'coat', coat)] if index < FRAMES - 1 else [(1, 'car', car)]
            writer.write(names.LABELS, IMAGE_TYPE, arrival, image(store, labels, '16UC1', stamp))
            writer.write(names.OBJECTS, OBJECTS_TYPE, arrival + 1, objects(store, table, stamp))
    return path


def test_report_counts_what_is_in_the_bag(bag: Path) -> None:
    keeper = Bookkeeper(TRUTH)
    frames = list(read_frames(bag))
    for frame in frames:
        keeper.add(frame)
    summary = keeper.summary(*count_inputs(bag))
    assert (summary.images, summary.processed, summary.dropped) == (FRAMES, FRAMES - 2, 2)
    assert summary.duration_s == pytest.approx(1.9) and summary.camera_hz == pytest.approx(10.0)
    expected = [50 + index for index in range(FRAMES) if index not in UNPROCESSED]
    assert summary.latency_p50_ms == pytest.approx(np.percentile(expected, 50), abs=0.01)
    assert summary.latency_p99_ms == pytest.approx(np.percentile(expected, 99), abs=0.01)
    assert summary.ids_stable
    car, coat = summary.objects
    assert (car.object_id, car.label, car.removed, car.frames) == (1, 'car', False, FRAMES - 2)
    assert car.mean_iou == pytest.approx(0.5) and car.astray_frames == 0 and car.hidden_frames == 0
    assert (coat.object_id, coat.removed, coat.frames) == (2, True, FRAMES - 3)
    assert (coat.hidden_frames, coat.hidden_and_empty, coat.astray_frames) == (3, 3, 1)
    assert coat.seen_frames == coat.frames - 3
    assert coat.mean_iou == pytest.approx((coat.visible_frames - 1) / coat.visible_frames)
    text = as_text(summary)
    assert '20 in, 18 processed, 2 dropped' in text and 'removed' in text and '0.500' in text
    assert frames[3].latency_ms == pytest.approx(53, abs=0.01)
    assert (frames[3].labels == 1).sum() == LEFT_HALF.sum()


def test_report_tells_when_an_id_changes_its_name(bag: Path) -> None:
    from dataclasses import replace

    keeper = Bookkeeper({})
    for index, frame in enumerate(read_frames(bag)):
        renamed = tuple(replace(entry, label='bus' if index == 5 else entry.label) for entry in frame.objects)
        keeper.add(replace(frame, objects=renamed))
    summary = keeper.summary(*count_inputs(bag))
    assert not summary.ids_stable
    assert all(report.mean_iou is None for report in summary.objects)  # nothing is scored without truth


def test_results_are_written_and_play(bag: Path) -> None:
    evaluate(bag.parent, is_street=False)
    video = cv2.VideoCapture(str(bag.parent / 'overlay.mp4'))
    read, picture = video.read()
    assert read and picture.shape == (HEIGHT, WIDTH, 3)
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES - 2
    sheet = cv2.imread(str(bag.parent / 'contact_sheet.png'))
    assert sheet is not None and sheet.shape[1] > 1600
    summary = json.loads((bag.parent / 'summary.json').read_text())
    assert summary['processed'] == FRAMES - 2 and len(summary['objects']) == 2
    assert (bag.parent / 'summary.txt').read_text().startswith('1.9 s of video')


def test_overlay_shows_each_mask_in_its_place(bag: Path) -> None:
    frame = next(read_frames(bag))
    picture = draw_frame(frame).astype(int)
    plain = np.abs(picture - 90).max(2) < 3
    assert not plain[20:35, 15:25].any()  # on the car
    assert plain[52:, :50].all()  # on nothing


def test_contact_sheet_places_tiles_in_reading_order(tmp_path: Path) -> None:
    tiles = [(str(index), np.full((30, 40, 3), 20 * index + 10, np.uint8)) for index in range(5)]
    sheet = contact_sheet(tiles, columns=3, tile_width=80)
    top, bottom = sheet[20], sheet[20 + 60 + 26]
    assert [int(top[x].mean()) for x in (40, 124, 208)] == [10, 30, 50]
    assert [int(bottom[x].mean()) for x in (40, 124)] == [70, 90]
    save_sheet(tmp_path / 'sheet.png', sheet)
    read = cv2.imread(str(tmp_path / 'sheet.png'))
    assert read is not None and np.abs(read.astype(int) - sheet).max() <= 3


def test_bags_without_results_are_reported(tmp_path: Path, store: Typestore) -> None:
    with BagWriter(tmp_path / 'bag', store) as writer:
        writer.write(names.IMAGE, IMAGE_TYPE, START, image(store, np.zeros((4, 4, 3), np.uint8), 'rgb8', START))
    with pytest.raises(ReportError, match='no frame was processed'):
        evaluate(tmp_path, is_street=True)
    with pytest.raises(ReportError, match='does not exist'):
        evaluate(tmp_path / 'nowhere', is_street=True)

"""Bags of every kind are read, damaged ones are refused with one sentence."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from bag_files import open_writer, picture, stamp_at, storage_file, write_bag
from dataset_folders import LENGTH, draw
from PIL import Image
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from robust_pvos_ros.bags.definitions import COMPRESSED_IMAGE, IMAGE, BagError, modern_name
from robust_pvos_ros.bags.frames import camera_name, find_cameras, join
from robust_pvos_ros.bags.reader import BagReader, Entry, find_bags, picture_of
from robust_pvos_ros.image_codec import compressed_to_rgb, labels_of
from robust_pvos_ros.tracking.types import FrameError


def pictures(path: Path, topic: str = '/camera/image_raw') -> list[np.ndarray]:
    with BagReader(path) as reader:
        return [picture_of(entry.message, entry.type) for entry in reader.messages([topic])]


@pytest.mark.parametrize('compression', CompressionMode)
@pytest.mark.parametrize('storage', StoragePlugin)
def test_every_storage_and_compression(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    if (storage, compression) == (StoragePlugin.SQLITE3, CompressionMode.STORAGE):
        pytest.skip('sqlite3 has no compression of its own')
    bag = write_bag(tmp_path / 'bag', storage=storage, compression=compression)
    found = pictures(bag)
    assert len(found) == LENGTH
    assert all(np.array_equal(rgb, draw(index)[0]) for index, rgb in enumerate(found))


@pytest.mark.parametrize('storage', StoragePlugin)
@pytest.mark.parametrize('compression', [CompressionMode.NONE, CompressionMode.MESSAGE])
def test_storage_files_without_their_metadata(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    """Nothing but the data itself says that a message is compressed."""
    bag = write_bag(tmp_path / 'bag', storage=storage, compression=compression)
    expected = pictures(bag)
    (bag / 'metadata.yaml').unlink()
    for path in (bag, storage_file(bag)):
        assert all(np.array_equal(a, b) for a, b in zip(pictures(path), expected, strict=True))


def test_old_type_names(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', storage=StoragePlugin.SQLITE3, old_names=True)
    with BagReader(bag) as reader:
        assert reader.topics['/camera/image_raw'] == (IMAGE, LENGTH)
        assert reader.duration == stamp_at(LENGTH - 1) - stamp_at(0)
    assert len(pictures(bag)) == LENGTH
    assert modern_name('std_msgs/String') == 'std_msgs/msg/String'
    assert modern_name('std_msgs/msg/String') == 'std_msgs/msg/String'


def test_a_split_bag_without_metadata_is_one_bag(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag')
    shutil.copy(storage_file(bag), bag / 'zz_1.mcap')
    (bag / 'metadata.yaml').unlink()
    with BagReader(bag) as reader:
        assert reader.message_count == 2 * LENGTH
        times = [entry.time for entry in reader.raw()]
    assert times == sorted(times) and len(times) == 2 * LENGTH


@pytest.mark.shared
def test_real_bags_of_others_are_read(shared_data: Path) -> None:
    with BagReader(shared_data / 'bags' / 'rosbag2js_sample.db3') as reader:
        assert [(c.name, c.topic) for c in find_cameras(reader)] == [('image', '/image')]
        shown = [picture_of(e.message, e.type) for e in reader.messages(['/image', '/image/compressed'])]
    assert [rgb.shape for rgb in shown] == [(480, 640, 3)] * 2
    assert shown[0][0, 0].tolist() == [220, 190, 150]  # a warm wall: red is red
    with BagReader(shared_data / 'bags' / 'soccer_goal_12.mcap') as reader:
        assert [(c.name, c.topic) for c in find_cameras(reader)] == [('camera', '/camera/image_raw')]
    goals = pictures(shared_data / 'bags' / 'soccer_goal_12.mcap')
    assert [rgb.shape for rgb in goals] == [(480, 640, 3)] * 2
    red, green, blue = goals[0][-40:].reshape(-1, 3).mean(0)
    assert green > red and green > blue  # the lawn


# ------------------------------------------------------------------------------------------------------------- damages


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def clear(path: Path) -> None:
    path.write_bytes(b'')


def replace(path: Path) -> None:
    path.write_bytes(b'GIF89a and so on' * 400)


def scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 10 : len(data) // 2] = bytes(7 * i % 251 for i in range(len(data) // 2 - len(data) // 10))
    path.write_bytes(data)


@pytest.mark.parametrize('with_metadata', [True, False])
@pytest.mark.parametrize('storage', StoragePlugin)
@pytest.mark.parametrize(
    'damage, problem',
    [(cut, 'cannot be read'), (clear, 'empty|missing|cannot be read'), (replace, 'no ROS 2 bag'),
     (scramble, 'cannot be read')],
)  # fmt: skip
def test_damaged_bags_are_refused_with_one_sentence(
    tmp_path: Path, storage: StoragePlugin, damage, problem: str, with_metadata: bool
) -> None:
    compression = CompressionMode.STORAGE if storage == StoragePlugin.MCAP else CompressionMode.NONE
    bag = write_bag(tmp_path / 'bag', storage=storage, compression=compression)
    damage(storage_file(bag))
    if not with_metadata:
        (bag / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match=problem) as caught:
        pictures(bag)
    assert str(bag) in str(caught.value) and '\n' not in str(caught.value)


def test_a_bag_without_its_end_names_the_cure(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag')
    cut(storage_file(bag))
    with pytest.raises(BagError, match=r'the end is missing .* "pvos_bag recover"'):
        BagReader(bag)


def test_places_without_a_bag_are_named(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='does not exist'):
        BagReader(tmp_path / 'nothing')
    with pytest.raises(BagError, match='is no bag'):
        BagReader(tmp_path)
    (tmp_path / 'notes.txt').write_text('x')
    with pytest.raises(BagError, match='is no bag'):
        BagReader(tmp_path / 'notes.txt')
    write_bag(tmp_path / 'bags' / 'b')
    write_bag(tmp_path / 'bags' / 'a')
    assert [path.name for path in find_bags(tmp_path / 'bags')] == ['a', 'b']
    with pytest.raises(BagError, match='folder of bags'):
        BagReader(tmp_path / 'bags')


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag')
    for text in ('', 'a: [', 'rosbag2_bagfile_information: {version: 99}', 'rosbag2_bagfile_information: 3'):
        (bag / 'metadata.yaml').write_text(text)
        with pytest.raises(BagError, match='cannot be read'):
            BagReader(bag)


# -------------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    'topic, name',
    [('/camera/image_raw', 'camera'), ('/front/left/image_rect', 'front_left'), ('/image', 'image'),
     ('/cam/image_raw/compressed', 'cam'), ('/a/b', 'a_b')],
)  # fmt: skip
def test_cameras_get_the_names_of_their_topics(topic: str, name: str) -> None:
    assert camera_name(topic) == name


def test_all_cameras_are_found_and_nothing_else(tmp_path: Path) -> None:
    topics = [
        ('/left/image_raw', IMAGE), ('/left/image_raw/compressed', COMPRESSED_IMAGE), ('/left/truth', IMAGE),
        ('/right/image_raw/compressed', COMPRESSED_IMAGE), ('/robust_pvos/left/overlay', IMAGE),
    ]  # fmt: skip
    with BagReader(write_bag(tmp_path / 'bag', topics, frames=2)) as reader:
        assert [(c.name, c.topic) for c in find_cameras(reader)] == [
            ('left', '/left/image_raw'), ('right', '/right/image_raw/compressed'),
        ]
        assert find_cameras(reader, ['rear=/left/image_raw/compressed'])[0].name == 'rear'
        with pytest.raises(BagError, match=r'no topic /up; it has /left/image_raw'):
            find_cameras(reader, ['/up'])
        with pytest.raises(BagError, match='names of their own'):
            find_cameras(reader, ['/left/image_raw', '/left/image_raw/compressed'])


def test_a_bag_without_images_says_what_it_has(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', [('/camera/truth', IMAGE)])
    listed = r'no camera images; it has /camera/truth \(sensor_msgs/msg/Image\)'
    with BagReader(bag) as reader, pytest.raises(BagError, match=listed):
        find_cameras(reader)
    with open_writer(tmp_path / 'empty'):
        pass
    with BagReader(tmp_path / 'empty') as reader:
        assert (reader.message_count, reader.duration) == (0, 0)
        with pytest.raises(BagError, match='no topics at all'):
            find_cameras(reader)


class _Message:
    """Has a header."""

    def __init__(self, stamp: int) -> None:
        self.header = self
        self.stamp = self
        self.sec, self.nanosec = divmod(stamp, 1_000_000_000)


@pytest.mark.parametrize('delay', [-3, 0, 1, 7, 40])
def test_counterparts_are_found_before_and_after(delay: int) -> None:
    entries = [Entry('/a', '', 10 * i, _Message(i)) for i in range(100)]
    entries += [Entry('/b', '', 10 * (i + delay) + 5, _Message(i)) for i in range(100) if i != 50]
    found = list(join(sorted(entries, key=lambda entry: entry.time), {'/a': ['/b']}))
    assert [frame.stamp for frame in found] == list(range(100))
    assert [frame.stamp for frame in found if '/b' not in frame.sides] == [50]
    assert all(frame.sides['/b'].message.sec * 10**9 + frame.sides['/b'].message.nanosec == frame.stamp
               for frame in found if frame.sides)


def test_waiting_for_counterparts_is_bounded() -> None:
    def endless():
        for i in range(1000):
            yield Entry('/a', '', i, _Message(i))
            taken.append(i)

    taken: list[int] = []
    next(join(endless(), {'/a': ['/b']}))
    assert len(taken) < 70


# -------------------------------------------------------------------------------------------------------------- images


class _Compressed:
    def __init__(self, data: bytes, image_format: str = 'jpeg') -> None:
        self.data, self.format = np.frombuffer(data, np.uint8), image_format


def encoded(rgb: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind)
    return buffer.getvalue()


def test_compressed_images() -> None:
    rgb, _ = draw(3)
    assert np.array_equal(compressed_to_rgb(_Compressed(encoded(rgb, 'PNG'), 'png')), rgb)
    assert np.abs(compressed_to_rgb(_Compressed(encoded(rgb, 'JPEG'))).astype(int) - rgb).mean() < 4
    assert compressed_to_rgb(_Compressed(encoded(rgb[..., 0], 'PNG'))).shape == rgb.shape


@pytest.mark.parametrize(
    'data, problem',
    [(b'', 'neither JPEG nor PNG'), (b'nonsense' * 9, 'neither JPEG nor PNG'),
     (encoded(draw(0)[0], 'JPEG')[:500], 'cannot be decoded'), (encoded(draw(0)[0], 'PNG')[:99], 'cannot be decoded'),
     (encoded(draw(0)[0], 'BMP'), 'neither'), (encoded(np.zeros((4, 4), np.uint16), 'PNG'), '16 bits')],
)  # fmt: skip
def test_malformed_compressed_images_are_named(data: bytes, problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        compressed_to_rgb(_Compressed(data))


def test_label_images_in_every_form() -> None:
    from robust_pvos_ros.bags.definitions import message_types
    from robust_pvos_ros.message_core import make_header, make_image

    ids = np.array([[0, 300, 2], [7, 0, 65535]], np.uint16)
    message = make_image(message_types(), ids, '16UC1', make_header(message_types(), 0, ''))
    assert np.array_equal(labels_of(message), ids)
    message.data, message.is_bigendian = ids.astype('>u2').view(np.uint8).ravel(), 1
    assert np.array_equal(labels_of(message), ids)
    padded = np.pad(ids.astype('<u2').view(np.uint8), ((0, 0), (0, 3)), constant_values=9)
    message.data, message.is_bigendian, message.step = padded.ravel(), 0, padded.shape[1]
    assert np.array_equal(labels_of(message), ids)
    message.data = padded.ravel()[:-1]
    with pytest.raises(FrameError, match='needs step >= 6'):
        labels_of(message)
    message.encoding = 'rgb8'
    with pytest.raises(FrameError, match='must be one of 16UC1'):
        labels_of(message)


def test_pictures_of_drawn_bags_are_what_was_drawn(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', [('/camera/image_raw/compressed', COMPRESSED_IMAGE)], frames=2)
    (first, _) = pictures(bag, '/camera/image_raw/compressed')
    assert np.abs(first.astype(int) - draw(0)[0]).mean() < 4
    assert picture(0) != picture(1)

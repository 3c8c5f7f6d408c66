"""Exported masks and videos, what is left of killed writers, and outputs that appear when they are complete."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from bag_files import (
    contents,
    messages,
    picture,
    stamp_at,
    storage_file,
    write_bag,
    write_run,
)
from dataset_folders import LENGTH, draw
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionMode

from robust_pvos_ros.bags import cli
from robust_pvos_ros.bags.definitions import IMAGE, BagError
from robust_pvos_ros.bags.exporter import davis_palette, export_masks, export_video
from robust_pvos_ros.bags.places import fresh
from robust_pvos_ros.bags.recovery import recover
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.evaluation.davis import find_sequences, read_annotation
from robust_pvos_ros.video_file import VideoError, VideoFile, VideoReader

ROOT = Path(__file__).resolve().parent.parent


def test_exported_masks_are_what_the_toolkits_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / 'run')
    assert export_masks(run, tmp_path / 'masks', quiet=True) == LENGTH
    files = sorted((tmp_path / 'masks' / 'drive').iterdir())
    assert [path.name for path in files] == [f'{index:05d}.png' for index in range(LENGTH)]
    for index, path in enumerate(files):
        assert np.array_equal(read_annotation(path), draw(index)[1])
    with Image.open(files[0]) as picture_file:
        assert picture_file.mode == 'P'
        # The colours that DAVIS gives to background and the first four objects.
        assert picture_file.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert len(davis_palette()) == 768 and davis_palette()[-3:] == [224, 224, 192]
    (tmp_path / 'set' / 'JPEGImages' / 'drive').mkdir(parents=True)
    for index in range(LENGTH):
        Image.fromarray(draw(index)[0]).save(tmp_path / 'set' / 'JPEGImages' / 'drive' / f'{index:05d}.jpg')
    (tmp_path / 'masks').rename(tmp_path / 'set' / 'Annotations')
    assert len(find_sequences(tmp_path / 'set')) == 1


def test_overlay_videos(tmp_path: Path) -> None:
    run = write_run(tmp_path / 'run')
    assert export_video(run, tmp_path / 'video.mp4', quiet=True) == LENGTH
    video = VideoReader(tmp_path / 'video.mp4')
    frames = list(video)
    assert len(frames) == LENGTH and video.rate == pytest.approx(10.0, rel=0.1)
    assert np.abs(frames[6].astype(int) - draw(6)[0]).mean() > 2  # something is drawn in


def test_what_cannot_be_exported_is_named_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / 'run', lambda index, ids: np.where(ids == 1, 300, 0).astype(np.uint16))
    write_bag(tmp_path / 'images')
    for arguments, problem in (
        ([str(run)], 'name what to make'),
        ([str(run), '--masks', str(tmp_path / 'out')], 'object 300 does not fit'),
        ([str(tmp_path / 'images'), '--masks', str(tmp_path / 'out')], 'no label images'),
        ([str(run), '--video', str(tmp_path / 'out.gif')], 'a video must end in'),
        ([str(run), '--video', str(tmp_path / 'out.mp4'), '--camera', 'rear'], 'name one camera'),
        ([str(run), '--masks', str(tmp_path / 'out'), '--topic', '/no'], 'no topic /no'),
    ):
        assert cli.main(['export', *arguments]) == 2
        assert problem in capsys.readouterr().err
        assert contents(tmp_path) == ['images', 'run']


def test_videos_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match='no file'):
        VideoReader(tmp_path / 'none.mp4')
    with pytest.raises(VideoError, match=r'must end in \.mp4, \.webm, \.avi'):
        VideoFile(tmp_path / 'x.mov', 10)


# ------------------------------------------------------------------------------------------------------------- recover


@pytest.mark.parametrize('kept', [0.3, 0.6, 0.95])
@pytest.mark.parametrize('compression', [CompressionMode.NONE, CompressionMode.STORAGE])
def test_a_bag_without_its_end_is_rewritten(tmp_path: Path, compression: CompressionMode, kept: float) -> None:
    bag = write_bag(tmp_path / 'bag', frames=600, compression=compression)
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    (bag / 'metadata.yaml').unlink()
    found = recover(bag, tmp_path / 'clean')
    images = messages(tmp_path / 'clean', '/camera/image_raw')
    assert found.losses.cut and found.messages == len(images)
    # A chunk of one megabyte holds 90 of these pictures when it is not compressed.
    if compression == CompressionMode.NONE:
        assert kept * 600 - 100 < len(images) <= kept * 600 + 1
    for index, image in enumerate(images[:LENGTH]):
        assert np.array_equal(np.asarray(image.data).reshape(48, 80, 3), draw(index)[0])


def test_messages_come_out_uncompressed(tmp_path: Path) -> None:
    """Nothing in a storage file says that its messages are compressed: other readers would not know."""
    bag = write_bag(tmp_path / 'bag', compression=CompressionMode.MESSAGE)
    assert recover(storage_file(bag), tmp_path / 'clean').messages == LENGTH
    with AnyReader([tmp_path / 'clean']) as reader:
        stored = [bytes(data) for _, _, data in reader.messages()]
    assert stored == [picture(index) for index in range(LENGTH)]


def test_a_damaged_chunk_costs_only_itself(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', frames=600, compression=CompressionMode.STORAGE)
    file = storage_file(bag)
    whole = recover(bag, tmp_path / 'whole')
    assert (whole.messages, whole.losses.chunks, whole.losses.cut) == (600, 0, False)
    data = bytearray(file.read_bytes())
    middle = data.index(b'\x28\xb5\x2f\xfd', len(data) // 2)
    data[middle : middle + 4] = b'XXXX'
    file.write_bytes(data)
    found = recover(file, tmp_path / 'clean')
    assert found.losses.chunks == 1 and 300 < found.messages < 600


@pytest.mark.parametrize('content', [b'', b'\x89MCAP0\r\n', b'something else' * 99])
def test_where_there_is_nothing_to_recover(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'x.mcap').write_bytes(content)
    assert cli.main(['recover', str(tmp_path / 'x.mcap'), str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert contents(tmp_path) == ['x.mcap']


def test_a_killed_writer_loses_nothing_that_it_flushed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'test')!r}]
        from pathlib import Path
        from bag_files import IMAGE, picture, stamp_at
        from robust_pvos_ros.bags.writer import BagWriter
        writer = BagWriter(Path({str(tmp_path / 'bag')!r}))
        for index in range(13):
            writer.write('/camera/image_raw', IMAGE, stamp_at(index), picture(index))
            if index == 9:
                writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert contents(tmp_path) == ['bag.partial']
    found = recover(tmp_path / 'bag.partial', tmp_path / 'bag')
    assert found.messages == 10 and found.losses.cut
    assert len(messages(tmp_path / 'bag', '/camera/image_raw')) == 10
    assert contents(tmp_path) == ['bag', 'bag.partial']


# -------------------------------------------------------------------------------------------------------------- places


def test_bags_of_this_writer_open_under_humble(tmp_path: Path) -> None:
    """Humble reads QoS profiles as text, which they are up to version 8 of the metadata."""
    import yaml

    with BagWriter(tmp_path / 'bag') as writer:
        writer.write('/camera/image_raw', IMAGE, stamp_at(0), picture(0))
    metadata = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert metadata['version'] == 8
    topics = [entry['topic_metadata'] for entry in metadata['topics_with_message_count']]
    assert all(isinstance(topic['offered_qos_profiles'], str) for topic in topics)
    assert metadata['relative_file_paths'] == ['bag.mcap']


def test_outputs_appear_when_they_are_complete(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), fresh(tmp_path / 'out') as place:
        place.write_text('half')
        raise RuntimeError
    with pytest.raises(BagError, match='was not made'), fresh(tmp_path / 'out'):
        pass
    assert contents(tmp_path) == []
    with fresh(tmp_path / 'out') as place:
        place.write_text('whole')
        assert not (tmp_path / 'out').exists()
    assert (tmp_path / 'out').read_text() == 'whole' and contents(tmp_path) == ['out']
    with pytest.raises(BagError, match='exists already'), fresh(tmp_path / 'out'):
        pass
    (tmp_path / 'other.partial').mkdir()
    with pytest.raises(BagError, match='is in the way'), fresh(tmp_path / 'other'):
        pass
    assert contents(tmp_path / 'other.partial') == []


def test_a_bag_that_fails_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), BagWriter(tmp_path / 'bag') as writer:
        writer.write('/camera/image_raw', IMAGE, stamp_at(0), picture(0))
        raise RuntimeError
    assert contents(tmp_path) == []


def test_info_says_what_is_in_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['info', str(write_run(tmp_path / 'run'))]) == 0
    printed = capsys.readouterr().out
    assert 'sequence: drive' in printed
    assert re.search(r'/camera/truth +13 +sensor_msgs/msg/Image', printed)
    assert cli.main(['info', str(tmp_path)]) == 0
    assert cli.main(['info', str(tmp_path / 'none')]) == 2

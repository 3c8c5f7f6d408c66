"""Masks of a bag as PNG folders that the toolkits of datasets take, and as a video for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from robust_pvos_ros.bags.definitions import IMAGE, OBJECTS, BagError
from robust_pvos_ros.bags.frames import CameraTopic, find_cameras, join
from robust_pvos_ros.bags.places import fresh
from robust_pvos_ros.bags.reader import BagReader, picture_of
from robust_pvos_ros.image_codec import labels_of
from robust_pvos_ros.message_core import tracked_from_message
from robust_pvos_ros.overlay import draw_overlay
from robust_pvos_ros.tracking.output import measure
from robust_pvos_ros.tracking.types import ObjectState, TrackedObject
from robust_pvos_ros.video_file import VideoFile

LARGEST_ID = 254
"""Of a PNG with a palette: 255 means void in DAVIS."""


def davis_palette() -> list[int]:
    """The 256 colours of DAVIS and PASCAL VOC, as r, g, b, r, ...: bit-reversed thirds of the index."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return [int(value) for value in colours.ravel()]


class LabelTopic(NamedTuple):
    """Where a camera's labels lie in a bag."""

    camera: str
    topic: str


def find_labels(reader: BagReader, topic: str = '') -> list[LabelTopic]:
    """The label topics of a bag, ``.../NAME/label_image``, or the one that is named.

    Raises:
        BagError: if there is none.
    """
    if topic:
        reader.require(topic, IMAGE)
        return [LabelTopic(topic.split('/')[-2] if topic.count('/') > 1 else topic.strip('/'), topic)]
    found = [name for name, info in reader.topics.items() if info.type == IMAGE and name.endswith('/label_image')]
    if not found:
        listed = ', '.join(reader.topics) or 'none'
        raise BagError(f'bag {reader.path} has no label images (.../label_image), run it first; it has {listed}')
    return [LabelTopic(name.split('/')[-2], name) for name in found]


def export_masks(source: Path, out: Path, topic: str = '', quiet: bool = False) -> int:
    """Label images of a bag as PNGs with a palette, pixel = object ID, numbered as in DAVIS.

    Files are ``OUT/SEQUENCE/00000.png``, or ``OUT/SEQUENCE_CAMERA/...`` where there are several cameras.

    Args:
        source: a bag with label images.
        out: folder to be made.
        topic: of the label images; empty for all.
        quiet: show no progress bar.

    Returns:
        Number of files.

    Raises:
        BagError: if there are no label images, or an ID is above 254.
        FrameError: if a label image is malformed.
    """
    count = 0
    palette = davis_palette()
    with BagReader(source) as reader, fresh(out) as folder:
        sequence = reader.about.get('sequence', reader.name)
        topics = find_labels(reader, topic)
        for camera, name in topics:
            place = folder / (sequence if len(topics) == 1 else f'{sequence}_{camera}')
            place.mkdir(parents=True)
            total = reader.topics[name].messages
            entries = tqdm(reader.messages([name]), total=total, unit='frame', disable=True if quiet else None)
            for index, entry in enumerate(entries):
                labels = labels_of(entry.message)
                if labels.max() > LARGEST_ID:
                    raise BagError(f'object {labels.max()} does not fit into a PNG: IDs end at {LARGEST_ID} there')
                picture = Image.fromarray(labels.astype(np.uint8))
                picture.putpalette(palette)
                picture.save(place / f'{index:05d}.png')
                count += 1
        if not count:
            raise BagError(f'bag {reader.path} has no label images')
    return count


def export_video(source: Path, out: Path, camera: str = '', quiet: bool = False) -> int:
    """Pictures of a bag with masks, IDs and labels drawn in, at the bag's rate; returns the number of frames.

    Args:
        source: a bag with images, label images and objects, as ``run`` and the recorder make it.
        out: ending in ``.mp4``, ``.webm`` or ``.avi``.
        camera: which one, where there are several.
        quiet: show no progress bar.

    Raises:
        BagError: if images or label images are missing.
        VideoError: if the video cannot be written.
    """
    with BagReader(source) as reader:
        labels, image = _one_camera(reader, camera)
        total = reader.topics[labels.topic].messages
        rate = min(120.0, max(1.0, (total - 1) / (reader.duration / 1e9))) if reader.duration and total > 1 else 10.0
        with fresh(out) as place:
            video = VideoFile(place, rate)
            frames = drawn_frames(reader, labels, image)
            for bgr in tqdm(frames, total=total, unit='frame', disable=True if quiet else None):
                video.add(bgr)
            if not video.frames:
                raise BagError(f'bag {reader.path} has no label image with a picture of the same stamp')
            video.close()
    return video.frames


def _one_camera(reader: BagReader, camera: str) -> tuple[LabelTopic, CameraTopic]:
    found = [entry for entry in find_labels(reader) if camera in ('', entry.camera)]
    if len(found) != 1:
        names = ', '.join(entry.camera for entry in find_labels(reader))
        raise BagError(f'name one camera of bag {reader.path} with --camera: {names}')
    cameras = find_cameras(reader)
    matching = [entry for entry in cameras if entry.name == found[0].camera] or cameras
    if len(matching) != 1:
        raise BagError(f'bag {reader.path} has no images of camera {found[0].camera}')
    return found[0], matching[0]


def drawn_frames(reader: BagReader, labels: LabelTopic, image: CameraTopic) -> Iterator[np.ndarray]:
    """Overlays, uint8 BGR (H, W, 3), of the frames that have a picture and labels."""
    objects = labels.topic.removesuffix('label_image') + 'objects'
    sides = [image.topic] + ([objects] if reader.topics.get(objects, ('',))[0] == OBJECTS else [])
    for frame in join(reader.messages([labels.topic, *sides]), {labels.topic: sides}):
        picture = frame.sides.get(image.topic)
        if picture is None:
            continue
        ids = labels_of(frame.entry.message)
        listed = frame.sides.get(objects)
        tracked = tuple(map(tracked_from_message, listed.message.objects)) if listed else _measured(ids)
        masks = np.array([ids == entry.object_id for entry in tracked]).reshape(-1, *ids.shape)
        yield draw_overlay(picture_of(picture.message, picture.type), masks, tracked)


def _measured(ids: np.ndarray) -> tuple[TrackedObject, ...]:
    """Objects of a label image about which nothing else is known."""
    found = []
    for value in np.unique(ids[ids > 0]):
        box, centroid, area = measure(ids == value)
        found.append(TrackedObject(int(value), '', ObjectState.TRACKING, 1.0, 1.0, box, centroid, area, 0, 0))
    return tuple(found)

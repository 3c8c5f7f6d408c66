"""Clips drawn from labelled videos: what is drawn, that masks stay on their objects, determinism, batches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_folders import (
    HEIGHT,
    LENGTH,
    WIDTH,
    frame_of,
    halve,
    write_davis,
    write_mose,
    write_sav,
    write_youtube,
)
from PIL import Image
from torch.utils.data import DataLoader

from robust_pvos_ros.tracking.staging import CpuStager
from training.datasets import (
    ClipOptions,
    ClipSampler,
    Crop,
    LabelledClips,
    choose_frames,
    find_videos,
    jitter_colours,
    merge_masks,
)
from training.layouts import DatasetError, Video
from training.model import normalise
from training.prompts import choose_objects

PLAIN = ClipOptions(frames=3, size=32, reverse=0, flip=0, crop=1, jitter=0)


def visible_share(clip: LabelledClips) -> float:
    counts = np.bincount(clip.ids[0].numpy().ravel(), minlength=2)[1:]
    return float(counts.max()) / clip.ids[0].numel()


@pytest.mark.parametrize('write', [write_davis, write_mose, write_youtube, write_sav])
def test_clips_of_every_layout(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    options = ClipOptions(frames=3, size=32)
    clips = ClipSampler(find_videos(write(tmp_path)), options, seed=5)
    for index in range(12):
        clip = clips[index]
        assert clip.images.shape == (3, 3, 32, 32) and clip.images.dtype == torch.uint8
        assert clip.ids.shape == (3, 32, 32) and clip.ids.dtype == torch.uint8
        assert visible_share(clip) >= options.min_area
        assert set(clip.ids.unique().tolist()) - {0} == set(range(1, int(clip.ids.max()) + 1))
        again = ClipSampler(find_videos(tmp_path), options, seed=5)[index]
        assert torch.equal(clip.images, again.images) and torch.equal(clip.ids, again.ids)
    other = ClipSampler(find_videos(tmp_path), options, seed=6)[0]
    assert not torch.equal(other.images, clips[0].images)


def test_masks_stay_on_their_objects(tmp_path: Path) -> None:
    """Whatever the crop, the mirror and the direction of play are, what is labelled is red or blue, and only that."""
    clips = ClipSampler(find_videos(write_mose(tmp_path)), ClipOptions(frames=4, size=40, jitter=0.05), seed=1)
    for index in range(16):
        images, ids = clips[index]
        red, blue = (images[:, channel].int() - images[:, 1] > 100 for channel in (0, 2))
        labelled = ids > 0
        wrong = ((red | blue) != labelled).float().mean()
        assert wrong < 0.02, index  # some pixels of the rims, where colours mix
        if ids.max() == 2:
            assert ((ids == 2) & red & ~blue).sum() == 0 or ((ids == 1) & red & ~blue).sum() == 0


def test_only_frames_with_masks_are_used_at_one_stride(tmp_path: Path) -> None:
    entries = find_videos(write_mose(tmp_path, every=2))
    both = ClipSampler(entries, ClipOptions(3, 32, max_stride=2, reverse=0.5, flip=0, crop=1, jitter=0))
    steps = set()
    for index in range(40):
        frames = [frame_of(image) for image in both[index].images]
        (step,) = {b - a for a, b in pairwise(frames)}
        assert all(frame % 2 == 0 for frame in frames)
        steps.add(step)
    assert steps == {2, 4, -2, -4}
    forwards = ClipSampler(entries, PLAIN)
    assert all(frame_of(clip.images[0]) < frame_of(clip.images[2]) for clip in (forwards[i] for i in range(10)))


@pytest.mark.parametrize('form', ['frames', 'mp4'])
def test_clips_play_backwards(tmp_path: Path, form: str) -> None:
    options = ClipOptions(3, 32, max_stride=1, reverse=1, flip=0, crop=1, jitter=0)
    clips = ClipSampler(find_videos(write_sav(tmp_path, form)), options)
    drawn = [[frame_of(image) for image in clips[index].images] for index in range(8)]
    assert all(frames in ([8, 4, 0], [12, 8, 4]) for frames in drawn)


class _Listed(Video):
    """A video of which only the lists are used."""

    def read_masks(self, index: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize('reverse', [0.0, 1.0])
def test_clips_begin_where_an_object_may_be_seen(reverse: float) -> None:
    video = _Listed('a', (Path('a.jpg'),) * 9, {1: (4,), 2: (5,)})
    options = ClipOptions(frames=4, reverse=reverse)
    drawn = {tuple(choose_frames(video, options, np.random.default_rng(seed)) or ()) for seed in range(60)}
    assert drawn == ({(4, 3, 2, 1), (5, 4, 3, 2), ()} if reverse else {(4, 5, 6, 7), (5, 6, 7, 8), ()})
    assert choose_frames(_Listed('a', (Path('a.jpg'),) * 3, None), options, np.random.default_rng(0)) is None
    assert choose_frames(video, ClipOptions(frames=1), np.random.default_rng(0)) in ([4], [5])


def test_a_clip_begins_with_an_object_that_masks_show(tmp_path: Path) -> None:
    root = write_mose(tmp_path, ('a',))
    for frame in range(LENGTH):
        if frame != 4:
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / f'train/Annotations/a/{frame:05d}.png')
    clips = ClipSampler(find_videos(root), PLAIN)
    assert {frame_of(clips[index].images[0]) for index in range(5)} == {4}


def test_no_clip_can_be_drawn(tmp_path: Path) -> None:
    entries = find_videos(write_mose(tmp_path))
    for options in (ClipOptions(frames=LENGTH + 1), ClipOptions(frames=2, size=32, min_area=0.5)):
        with pytest.raises(DatasetError, match=r'videos such as 0a1b gave no clip: they need \d+ frames'):
            ClipSampler(entries, options)[0]
    with pytest.raises(DatasetError, match='no videos'):
        ClipSampler([])
    with pytest.raises(DatasetError, match='no clip -1'):
        ClipSampler(entries)[-1]
    with pytest.raises(DatasetError, match='must not be negative'):
        ClipSampler(entries, seed=-1)


def test_a_bad_sample_stops_the_draw_and_is_named(tmp_path: Path) -> None:
    root = write_mose(tmp_path, ('a',))
    for path in (root / 'train/JPEGImages/a').iterdir():
        halve(path)
    with pytest.raises(DatasetError, match=r'JPEGImages/a/000\d\d\.jpg cannot be read'):
        ClipSampler(find_videos(root), PLAIN)[0]


def test_batches_and_parallel_loading_give_the_clips_of_their_indices(tmp_path: Path) -> None:
    clips = ClipSampler(find_videos(write_youtube(tmp_path)), ClipOptions(frames=2, size=32), seed=3)
    batch = clips.batch(2, 3)
    assert batch.images.shape == (3, 2, 3, 32, 32) and batch.ids.shape == (3, 2, 32, 32)
    for row, index in enumerate((6, 7, 8)):
        assert torch.equal(batch.images[row], clips[index].images) and torch.equal(batch.ids[row], clips[index].ids)
    (loaded,) = DataLoader(pickle.loads(pickle.dumps(clips)), batch_size=3, sampler=range(6, 9))
    assert isinstance(loaded, LabelledClips)
    assert torch.equal(loaded.images, batch.images) and torch.equal(loaded.ids, batch.ids)
    rows = choose_objects(batch.ids, 2, np.random.default_rng(0))
    assert set(rows.clip.tolist()) == {0, 1, 2}


@pytest.mark.parametrize('shape', [(48, 80), (24, 80), (20, 24), (32, 32)])
def test_images_are_squashed_as_the_node_does(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    resized = torch.from_numpy(Crop().resize(rgb, 32).transpose(2, 0, 1).copy())
    torch.testing.assert_close(normalise(resized), CpuStager(32)(rgb)[0], rtol=0, atol=1e-5)


def test_masks_take_the_pixel_in_the_middle() -> None:
    mask = np.array([[0, 1, 0, 1, 0, 1, 0, 1, 0]] * 9, bool)
    assert Crop().resize(mask, 3).tolist() == [[True, False, True]] * 3


def test_crop_by_hand() -> None:
    mask = np.zeros((40, 80), bool)
    mask[10:20, 40:60] = True
    crop = Crop(top=0.25, left=0.5, height=0.5, width=0.25)  # rows 10 to 29, columns 40 to 59
    expected = np.zeros((10, 10), bool)
    expected[:5] = True
    assert np.array_equal(crop.resize(mask, 10), expected)


def test_overlapping_objects_keep_whole_masks_or_go() -> None:
    person, hand, ball = (np.zeros((2, 20, 20), bool) for _ in range(3))
    person[:, 2:12, 2:12] = True
    hand[:, 4:7, 4:7] = True
    ball[:, 11:19, 11:19] = True  # one pixel on the person
    seen = set()
    for seed in range(20):
        ids = merge_masks({3: person, 5: hand, 9: ball}, 0.003, np.random.default_rng(seed))
        assert ids.dtype == np.uint8 and set(np.unique(ids)) == {0, 1, 2}
        assert abs(int((ids == 2).sum()) - ball.sum()) <= 2
        whole = np.array_equal(ids == 1, person) or np.array_equal(ids == 1, person & ~ball)
        assert whole != np.array_equal(ids == 1, hand)
        seen.add(whole)
    assert seen == {True, False}
    hand[0] = ball[0] = False  # not on the first frame: the person goes before them, rims included
    for seed in range(10):
        ids = merge_masks({3: person, 5: hand, 9: ball}, 0.003, np.random.default_rng(seed))
        assert np.array_equal(ids == 1, person)


def test_colours_change_alike_on_all_frames_within_bounds() -> None:
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    images[..., 0] = 140
    assert np.array_equal(jitter_colours(images, 0, np.random.default_rng(0)), images)
    changed = [jitter_colours(images, 0.2, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.array_equal(frames[0], frames[1]) for frames in changed)
    assert all(frames.min() >= 70 and frames.max() <= 185 for frames in changed)
    assert len({frames.tobytes() for frames in changed}) > 10


@pytest.mark.parametrize(
    'wrong', [{'frames': 0}, {'max_stride': 0}, {'flip': 1.5}, {'crop': 0.0}, {'jitter': 1.0}, {'min_area': 0.0}]
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=next(iter(wrong))):
        ClipOptions(**wrong)

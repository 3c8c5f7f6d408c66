"""Labelled videos on disk: every layout, run lengths by hand, bad samples that name their file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_folders import (
    HEIGHT,
    LENGTH,
    WIDTH,
    Change,
    draw,
    empty,
    encode_rle,
    frame_of,
    halve,
    shrink,
    unlink,
    write_davis,
    write_mose,
    write_sav,
    write_youtube,
)
from PIL import Image

from training import datasets
from training.datasets import detect_layout, find_videos, problems
from training.layouts import DatasetError, decode_rle


def read_all(root: Path, layout: str = 'auto', split: str = 'train') -> list[list[tuple[np.ndarray, Any]]]:
    videos = [entry.load() for entry in find_videos(root, layout, split)]
    return [list(video.read(range(len(video)))) for video in videos]


def test_davis_layout_and_its_lists(tmp_path: Path) -> None:
    root = write_davis(tmp_path)
    assert detect_layout(root) == 'davis'
    assert [entry.name for entry in find_videos(root)] == ['bear']
    assert [entry.name for entry in find_videos(root, split='val')] == ['cow']
    assert [entry.name for entry in find_videos(root, 'davis', split='')] == ['bear', 'cow']
    (video,) = read_all(root)
    assert len(video) == LENGTH
    for frame, (rgb, masks) in enumerate(video):
        assert frame_of(rgb) == frame and rgb.shape == (HEIGHT, WIDTH, 3)
        assert set(masks.objects) == ({1, 4} if frame < 8 else {1})
        for number, mask in masks.objects.items():
            assert np.array_equal(mask, draw(frame)[1] == number)


def test_void_is_background_and_binary_masks_are_one_object(tmp_path: Path) -> None:
    (masks,) = ([masks for _, masks in video] for video in read_all(write_davis(tmp_path / '2016', binary=True)))
    assert all(set(m.objects) == {1} and m.objects[1].sum() == 400 for m in masks)
    root = write_davis(tmp_path / '2017')
    path = root / 'Annotations/480p/bear/00000.png'
    ids = np.array(Image.open(path))
    ids[0] = 255
    Image.fromarray(ids).save(path)
    assert set(read_all(root)[0][0][1].objects) == {1, 4}


@pytest.mark.parametrize('unpacked', ['train', ''])
def test_mose_layout_with_and_without_split_folder(tmp_path: Path, unpacked: str) -> None:
    root = write_mose(tmp_path, every=4)
    (root / 'train/JPEGImages/._0a1b').mkdir()  # archives made on a Mac
    (root / 'train/Annotations/0a1b/._00000.png').write_bytes(b'\0')
    root = root if unpacked else root / 'train'
    assert detect_layout(root) == 'mose'
    assert [entry.name for entry in find_videos(root)] == ['0a1b', '2c3d']
    for video in read_all(root):
        assert [frame_of(rgb) for rgb, _ in video] == [0, 4, 8, 12]


def test_youtube_layout_takes_objects_and_frames_from_meta(tmp_path: Path) -> None:
    root = write_youtube(tmp_path)
    assert detect_layout(root) == 'youtube_vos'
    video = find_videos(root)[0].load()
    assert video.objects == {1: (0, 1, 2, 3, 4), 4: (0, 1, 2)}
    assert [path.name for path in video.frames] == [f'{frame:05d}.jpg' for frame in (0, 3, 6, 9, 12)]
    assert [set(masks.objects) for _, masks in video.read(range(5))] == [{1, 4}] * 3 + [{1}] * 2


@pytest.mark.parametrize('form', ['frames', 'sparse', 'mp4'])
def test_sav_layout(tmp_path: Path, form: str) -> None:
    root = write_sav(tmp_path, form)
    assert detect_layout(root) == 'sav'
    (entry,) = find_videos(root)
    video = entry.load()
    assert (entry.name, video.name, len(video)) == ('sav_000001', 'sav_000001', 4)
    assert video.objects == {1: (0, 1, 2, 3), 2: (0, 1), 3: (0, 1, 2, 3)}
    for index, (rgb, masks) in enumerate(video.read(range(4))):
        ids = draw(4 * index)[1]
        assert frame_of(rgb) == 4 * index
        assert np.array_equal(masks.objects[1], ids == 1)
        assert masks.objects[3].sum() == 200 and (2 in masks.objects) == (index < 2)
    assert [frame_of(rgb) for rgb in video.read_images([1, 3])] == [4, 12]


@pytest.mark.parametrize(
    ('counts', 'rows'),
    [
        ('132', ['010', '110']),  # down the columns: 1 off, 3 on, 2 off
        ('0123', ['1001111']),  # 0, 1, 2, and 3 + 1
        ('141M', ['0111101']),  # the last run is -3 + 4
        ('X1', ['0' * 40]),  # 40 = 8 + 1 * 32
        ('`03', ['0' * 16 + '111']),  # 16 would be -16 without a second character
        ('6', ['000', '000']),
    ],
)
def test_run_lengths_by_hand(counts: str, rows: list[str]) -> None:
    expected = np.array([[value == '1' for value in row] for row in rows])
    assert np.array_equal(decode_rle(counts, *expected.shape), expected)


def test_run_lengths_of_a_large_image_and_of_noise() -> None:
    assert not decode_rle('P`]<', 848, 480).any()  # 16 * 2^5 + 13 * 2^10 + 12 * 2^15 = 848 * 480
    for seed in range(5):
        rng = np.random.default_rng(seed)
        mask = cv2.resize(rng.uniform(size=(6, 5)), (131, 97)) > 0.5
        assert np.array_equal(decode_rle(encode_rle(mask)['counts'], *mask.shape), mask)


@pytest.mark.parametrize('counts', ['', '5', '7', '13 2', '13R', '1M6', '13p'])
def test_wrong_run_lengths(counts: str) -> None:
    with pytest.raises(ValueError, match=r'run lengths'):
        decode_rle(counts, 2, 3)


def test_a_root_that_is_no_dataset(tmp_path: Path) -> None:
    for layout, match in [('auto', 'in no known layout'), ('davis', 'JPEGImages is missing'), ('coco', 'no layout')]:
        with pytest.raises(DatasetError, match=match):
            find_videos(tmp_path, layout)
    with pytest.raises(DatasetError, match='is not a folder'):
        find_videos(tmp_path / 'absent')
    with pytest.raises(DatasetError, match=r'no masks of SA-V.*sav_000001_manual\.json'):
        find_videos(tmp_path, 'sav')
    with pytest.raises(DatasetError, match='no split valid'):
        find_videos(write_mose(tmp_path), split='valid')
    with pytest.raises(DatasetError, match=r'meta\.json is missing'):
        find_videos(tmp_path, 'youtube_vos')


def _picture(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values).save(path)


IN_DAVIS = 'Annotations/480p/bear'
FOLDER_DAMAGE = {
    'smaller mask': (shrink, f'{IN_DAVIS}/00003.png', r'40x24 pixels, but .*00003\.jpg is 80x48'),
    'no mask': (unlink, f'{IN_DAVIS}/00004.png', r'00004\.jpg must have a mask'),
    'no masks': (empty, IN_DAVIS, r'has no masks: .*00000\.png'),
    'no mask folder': (shutil.rmtree, IN_DAVIS, 'is missing: it must hold the masks'),
    'half a mask': (halve, f'{IN_DAVIS}/00005.png', 'palette or grey PNG'),
    'text as mask': (lambda p: p.write_text('mask'), f'{IN_DAVIS}/00005.png', 'palette or grey PNG'),
    'colours': (_picture(draw(5)[0]), f'{IN_DAVIS}/00005.png', 'has colours'),
    '16 bits': (_picture(np.zeros((HEIGHT, WIDTH), np.uint16)), f'{IN_DAVIS}/00005.png', 'more than 8 bits'),
    'half an image': (halve, 'JPEGImages/480p/bear/00006.jpg', 'must be a JPEG or PNG image'),
    'empty image': (lambda p: p.write_bytes(b''), 'JPEGImages/480p/bear/00006.jpg', 'must be a JPEG or PNG image'),
    'no images': (empty, 'JPEGImages/480p/bear', r'no images: .*00000\.jpg'),
    'empty list': (lambda p: p.write_text('\n'), 'ImageSets/2017/train.txt', 'names no video'),
    'unknown in list': (lambda p: p.write_text('bear\nwolf\n'), 'ImageSets/2017/train.txt', 'names wolf: .*480p'),
    'no list': (unlink, 'ImageSets/2017/train.txt', 'must name the videos of the split train'),
}


@pytest.mark.parametrize('case', FOLDER_DAMAGE)
def test_bad_files_of_a_folder_are_named(tmp_path: Path, case: str) -> None:
    damage, path, match = FOLDER_DAMAGE[case]
    root = write_davis(tmp_path)
    read_all(root)
    damage(root / path)
    with pytest.raises(DatasetError, match=match) as caught:
        read_all(root)
    assert str(root / path) in str(caught.value)


def test_a_mask_without_image_is_named(tmp_path: Path) -> None:
    root = write_davis(tmp_path)
    (root / 'JPEGImages/480p/bear/00002.jpg').unlink()
    with pytest.raises(DatasetError, match=r'00002\.png has no image: .*bear/00002\.jpg must exist'):
        read_all(root)


def _objects(content: dict[str, Any]) -> dict[str, Any]:
    return content['videos']['2c3d']['objects']


META_DAMAGE: dict[str, tuple[Change, str, str]] = {
    'unknown ID': (lambda c: _objects(c).pop('4'), 'Annotations/2c3d/00000.png', r'object 4, but .*meta\.json names'),
    'frame': (lambda c: _objects(c)['1']['frames'].append('00004'), 'Annotations/2c3d/00004.png', 'for object 1'),
    'no video': (lambda c: c['videos'].pop('2c3d'), 'meta.json', 'no objects of the video 2c3d'),
    'no objects': (lambda c: _objects(c).clear(), 'meta.json', 'no objects of the video 2c3d'),
    'no videos': (lambda c: c.pop('videos'), 'meta.json', 'no dictionary "videos"'),
    'ID 0': (lambda c: _objects(c).update({'0': {}}), 'meta.json', "object '0' of 2c3d wrongly: .* from 1 to 254"),
    'frames': (lambda c: _objects(c)['1'].update(frames=5), 'meta.json', "object '1' of 2c3d wrongly"),
}


@pytest.mark.parametrize('case', META_DAMAGE)
def test_masks_that_do_not_fit_meta_are_named(tmp_path: Path, case: str) -> None:
    change, path, match = META_DAMAGE[case]
    root = write_youtube(tmp_path, change)
    with pytest.raises(DatasetError, match=match) as caught:
        read_all(root)
    assert str(root / 'train' / path) in str(caught.value)


def test_broken_json_is_named(tmp_path: Path) -> None:
    halve(write_youtube(tmp_path / 'youtube') / 'train/meta.json')
    with pytest.raises(DatasetError, match=r'meta\.json cannot be read: it must be JSON'):
        find_videos(tmp_path / 'youtube')
    halve(write_sav(tmp_path / 'sav') / 'sav_000/sav_000001_manual.json')
    with pytest.raises(DatasetError, match=r'sav_000001_manual\.json cannot be read: it must be JSON'):
        read_all(tmp_path / 'sav')


def _sizes(content: dict[str, Any], size: list[int]) -> None:
    for row in content['masklet']:
        for mask in row:
            mask['size'] = size


SAV_DAMAGE: dict[str, tuple[Change, str]] = {
    'no table': (lambda c: c.pop('masklet'), 'no table "masklet"'),
    'ragged': (lambda c: c['masklet'][2].pop(), 'a mask for every object'),
    'no text': (lambda c: c['masklet'][1][0].update(counts=5), 'wrong mask on frame 1: it must be'),
    'two sizes': (lambda c: c['masklet'][1][0].update(size=[4, 4]), 'masks of 2 sizes'),
    'runs': (lambda c: c['masklet'][2][0].update(counts='132'), r'wrong mask on frame 2: .*48x80 pixels, not 6'),
    'nothing': (lambda c: c.update(masklet=[]), 'masks of 0 sizes'),
}


@pytest.mark.parametrize('case', SAV_DAMAGE)
def test_bad_masks_of_sav_are_named(tmp_path: Path, case: str) -> None:
    change, match = SAV_DAMAGE[case]
    root = write_sav(tmp_path, change=change)
    with pytest.raises(DatasetError, match=rf'sav_000001_manual\.json has .*{match}'):
        read_all(root)


def test_sav_masks_of_other_images_are_named(tmp_path: Path) -> None:
    root = write_sav(tmp_path / 'sizes', change=lambda content: _sizes(content, [HEIGHT // 2, WIDTH * 2]))
    with pytest.raises(DatasetError, match=r'_auto\.json has masks of \(48, 80\) .*_manual\.json has \(24, 160\)'):
        read_all(root)
    (root / 'sav_000/sav_000001_auto.json').unlink()
    with pytest.raises(DatasetError, match=r'_manual\.json has masks of 160x24 pixels, but .*00000\.jpg is 80x48'):
        read_all(root)
    root = write_sav(tmp_path / 'frames')
    (root / 'sav_000/sav_000001/00008.jpg').unlink()
    with pytest.raises(DatasetError, match=r'00008\.jpg is missing: .* has 4 masks, of every 4th frame'):
        read_all(root)
    shutil.rmtree(root / 'sav_000/sav_000001')
    with pytest.raises(DatasetError, match=r'has no video: .*sav_000001\.mp4, or a folder'):
        read_all(root)
    (root / 'sav_000/sav_000001.mp4').write_bytes(b'no video')
    with pytest.raises(DatasetError, match=r'sav_000001\.mp4 cannot be read beyond 0 frames: its masks need 13'):
        read_all(root)
    root = write_sav(tmp_path / 'longer', 'mp4', lambda content: content['masklet'].append(content['masklet'][-1]))
    (root / 'sav_000/sav_000001_auto.json').unlink()
    with pytest.raises(DatasetError, match=r'sav_000001\.mp4 cannot be read beyond 13 frames: its masks need 17'):
        read_all(root)


def test_problems_names_every_bad_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_mose(tmp_path, ('a', 'b', 'c'))
    assert list(problems(find_videos(root))) == []
    halve(root / 'train/JPEGImages/a/00000.jpg')
    shrink(root / 'train/Annotations/c/00012.png')
    found = list(problems(find_videos(root)))
    assert len(found) == 2 and 'a/00000.jpg' in found[0] and 'c/00012.png' in found[1]
    monkeypatch.setattr(sys, 'argv', ['datasets', str(root)])
    with pytest.raises(SystemExit) as stopped:
        datasets.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().out.splitlines() == [*found, '3 videos, 2 of them bad']

"""Tiny datasets of every layout, drawn frame by frame, and ways to damage their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

Change = Callable[[dict[str, Any]], object]
HEIGHT, WIDTH, LENGTH = 48, 80, 13
STEP = 18  # grey levels from one frame to the next: the background tells the frame
COLOURS = {1: (230, 30, 30), 4: (30, 30, 230)}


def draw(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3): a red square, object 1, and a blue one, object 4, that leaves; and uint8 (H, W) IDs."""
    rgb, ids = np.full((HEIGHT, WIDTH, 3), STEP * frame, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    places = {1: np.s_[4:24, 2 + 2 * frame : 22 + 2 * frame]}
    if frame < 8:
        places[4] = np.s_[26:46, 60 - 4 * frame : 80 - 4 * frame]
    for number, place in places.items():
        rgb[place], ids[place] = COLOURS[number], number
    return rgb, ids


def write_folder(images: Path, annotations: Path, every: int = 1, binary: bool = False) -> None:
    for folder in (images, annotations):
        folder.mkdir(parents=True)
    for frame in range(LENGTH):
        rgb, ids = draw(frame)
        Image.fromarray(rgb).save(images / f'{frame:05d}.jpg', quality=95)
        if frame % every == 0:
            mask = Image.fromarray(np.where(ids == 1, 255, 0).astype(np.uint8) if binary else ids)
            if not binary:
                mask.putpalette([level for index in range(256) for level in (index, 255 - index, 7 * index % 256)])
            mask.save(annotations / f'{frame:05d}.png')


def write_davis(root: Path, names: tuple[str, ...] = ('bear', 'cow'), binary: bool = False) -> Path:
    for name in names:
        write_folder(root / 'JPEGImages/480p' / name, root / 'Annotations/480p' / name, binary=binary)
    (root / 'ImageSets/2017').mkdir(parents=True)
    (root / 'ImageSets/2017/train.txt').write_text(f'{names[0]}\n')
    (root / 'ImageSets/2017/val.txt').write_text(f'{names[-1]}\n')
    return root


def write_mose(root: Path, names: tuple[str, ...] = ('0a1b', '2c3d'), every: int = 1) -> Path:
    for name in names:
        write_folder(root / 'train/JPEGImages' / name, root / 'train/Annotations' / name, every)
    return root


def write_youtube(root: Path, change: Change | None = None) -> Path:
    write_mose(root, every=3)
    frames = [f'{frame:05d}' for frame in range(0, LENGTH, 3)]
    meta = {'1': {'category': 'square', 'frames': frames}, '4': {'category': 'square', 'frames': frames[:3]}}
    content = {'videos': {name: {'objects': json.loads(json.dumps(meta))} for name in ('0a1b', '2c3d')}}
    if change is not None:
        change(content)
    (root / 'train/meta.json').write_text(json.dumps(content))
    return root


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W), as SA-V stores them."""
    flat = mask.T.ravel().astype(int)
    ends = [*np.flatnonzero(np.diff(flat)) + 1, flat.size]
    runs = [int(v) for v in np.diff([0, *([0] if flat[0] else []), *ends])]
    text = ''
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return {'size': list(mask.shape), 'counts': text}


def write_sav(root: Path, form: str = 'frames', change: Change | None = None) -> Path:
    """One video: manual masks of both squares, an automatic one of half the red square."""
    folder = root / 'sav_000'
    folder.mkdir(parents=True)
    frames = [draw(frame) for frame in range(LENGTH)]
    half = np.arange(HEIGHT)[:, None] < 14
    annotated = [ids for _, ids in frames[::4]]
    manual = {'video_id': 'sav_000001', 'masklet': [[encode_rle(ids == n) for n in (1, 4)] for ids in annotated]}
    automatic = {'masklet': [[encode_rle((ids == 1) & half)] for ids in annotated]}
    if change is not None:
        change(manual)
    (folder / 'sav_000001_manual.json').write_text(json.dumps(manual))
    (folder / 'sav_000001_auto.json').write_text(json.dumps(automatic))
    if form == 'mp4':
        codec = cv2.VideoWriter.fourcc(*'mp4v')
        writer = cv2.VideoWriter(str(folder / 'sav_000001.mp4'), codec, 24, (WIDTH, HEIGHT))
        for rgb, _ in frames:
            writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        writer.release()
        return root
    (folder / 'sav_000001').mkdir()
    for frame in range(0, LENGTH, 4 if form == 'sparse' else 1):
        Image.fromarray(frames[frame][0]).save(folder / 'sav_000001' / f'{frame:05d}.jpg', quality=95)
    return root


def frame_of(image: np.ndarray | torch.Tensor) -> int:
    """The frame an image (3, S, S) or (H, W, 3) was drawn for, by the background, which is most of it."""
    return round(float(np.median(np.asarray(image))) / STEP)


def unlink(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.NEAREST).save(path)

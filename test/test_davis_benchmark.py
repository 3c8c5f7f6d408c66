"""Datasets in DAVIS layout, the optical-flow baseline, prompts made from masks, and the benchmark from end to end."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import davis as benchmark
from benchmarks.float16 import Float16Encoder
from benchmarks.provenance import file_hash
from robust_pvos_ros.evaluation.davis import find_sequences
from robust_pvos_ros.evaluation.flow import FlowTracker
from robust_pvos_ros.evaluation.metrics import EvaluationError, region_similarity
from robust_pvos_ros.evaluation.protocol import TrackerSegmenter, innermost_point, make_prompt
from robust_pvos_ros.evaluation.sheet import SheetRow, draw_tile, write_sheet
from robust_pvos_ros.tracking.compact import CompactConfig, build_compact
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import ModelConfig

HEIGHT, WIDTH, LENGTH, SIDE = 160, 224, 7, 64
PALETTE = [value for index in range(256) for value in (index * 37 % 256, index * 91 % 256, index * 53 % 256)]


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): smooth noise with detail that flow can follow."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def draw_clip(objects: int, length: int = LENGTH, pixels_per_frame: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (T, H, W, 3) textured squares moving to the right over a still texture, and uint8 (T, H, W) labels."""
    frames = np.repeat(texture(100, HEIGHT, WIDTH)[None], length, 0)
    labels = np.zeros((length, HEIGHT, WIDTH), np.uint8)
    for number in range(1, objects + 1):
        patch = texture(number, SIDE, SIDE)
        for t in range(length):
            top, left = 10 + (SIDE + 8) * (number - 1), 12 + pixels_per_frame * t
            window = np.s_[t, top : top + SIDE, left : left + SIDE]
            frames[window] = patch
            labels[window] = number
    return frames, labels


def write_clip(root: Path, name: str, frames: np.ndarray, labels: np.ndarray, mode: str, resolution: str = '') -> None:
    images, annotations = root / 'JPEGImages' / resolution / name, root / 'Annotations' / resolution / name
    for folder in (images, annotations):
        folder.mkdir(parents=True)
    for index, (rgb, label) in enumerate(zip(frames, labels)):
        Image.fromarray(rgb).save(images / f'{index:05d}.jpg', quality=95)
        picture = Image.fromarray(label if mode == 'P' else (label > 0).astype(np.uint8) * 255)
        if mode == 'P':
            picture.putpalette(PALETTE)
        picture.convert(mode).save(annotations / f'{index:05d}.png')


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_clip(tmp_path / 'data', 'one', *draw_clip(1), mode='L')
    write_clip(tmp_path / 'data', 'two', *draw_clip(2), mode='P')
    return tmp_path / 'data'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small compact model with random weights."""
    torch.manual_seed(0)
    config = CompactConfig(image_size=128, embed_dim=16, stages=(1, 1, 2, 1), global_blocks=(3,), dim=64, mem_dim=32)
    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    tensors = {name: tensor.contiguous() for name, tensor in build_compact(config).state_dict().items()}
    save_file(tensors, str(path), {'format': 'robust_pvos_compact', 'config': json.dumps(asdict(config))})
    return path


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize('resolution', ['', '480p'])
@pytest.mark.parametrize('mode', ['L', '1', 'RGB'])
def test_binary_annotations_hold_one_object(tmp_path, mode, resolution):
    frames, labels = draw_clip(1)
    write_clip(tmp_path, 'clip', frames, labels, mode, resolution)
    (sequence,) = find_sequences(tmp_path)
    assert (sequence.name, len(sequence)) == ('clip', LENGTH)
    for frame, expected in zip(sequence, labels, strict=True):
        assert (frame.labels == expected).all()
        assert frame.rgb.shape == (HEIGHT, WIDTH, 3) and frame.rgb.dtype == np.uint8


def test_palette_annotations_hold_object_ids_and_void(tmp_path):
    frames, labels = draw_clip(2)
    with_void = labels.copy()
    with_void[:, :3] = 255
    write_clip(tmp_path, 'clip', frames, with_void, 'P')
    (sequence,) = find_sequences(tmp_path)
    for frame, expected in zip(sequence, labels, strict=True):
        assert (frame.labels == expected).all()


def test_binary_clip_that_starts_empty(tmp_path):
    frames, labels = draw_clip(1)
    labels[:2] = 0
    write_clip(tmp_path, 'clip', frames, labels, 'L')
    assert [int(frame.labels.max()) for frame in find_sequences(tmp_path)[0]] == [0, 0, 1, 1, 1, 1, 1]


def test_named_sequences_come_in_the_order_given(dataset):
    assert [sequence.name for sequence in find_sequences(dataset)] == ['one', 'two']
    assert [sequence.name for sequence in find_sequences(dataset, ['two', 'one'])] == ['two', 'one']
    with pytest.raises(EvaluationError, match='no sequence three; it has one, two'):
        find_sequences(dataset, ['three'])


def test_missing_folders_and_files_are_named(dataset, tmp_path):
    with pytest.raises(EvaluationError, match=re.escape(str(tmp_path / 'nothing' / 'JPEGImages'))):
        find_sequences(tmp_path / 'nothing')
    (dataset / 'Annotations' / 'one' / '00004.png').unlink()
    with pytest.raises(EvaluationError, match=r'one.00004\.png is missing'):
        find_sequences(dataset)


def test_damaged_files_are_named(dataset):
    sequence = find_sequences(dataset, ['one'])[0]
    image, annotation = sequence.image_paths[1], sequence.annotation_paths[2]
    image.write_bytes(image.read_bytes()[:400])
    with pytest.raises(EvaluationError, match=re.escape(str(image))):
        sequence.frame(1)
    annotation.write_bytes(b'not a picture')
    with pytest.raises(EvaluationError, match=re.escape(str(annotation))):
        sequence.frame(2)


def test_annotations_that_do_not_fit_are_named(dataset):
    sequence = find_sequences(dataset, ['one'])[0]
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 2), np.uint8)).save(sequence.annotation_paths[1])
    with pytest.raises(EvaluationError, match=rf'00001\.png is {WIDTH + 2}x{HEIGHT}.*{WIDTH}x{HEIGHT}'):
        sequence.frame(1)
    Image.fromarray(texture(0, HEIGHT, WIDTH)).save(sequence.annotation_paths[2])
    with pytest.raises(EvaluationError, match=r'00002\.png is a colour image'):
        sequence.frame(2)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(sequence.annotation_paths[3])
    with pytest.raises(EvaluationError, match=r'00003\.png has .* pixels'):
        sequence.frame(3)


@pytest.mark.shared
def test_real_clips_are_read(shared_data):
    sequences = find_sequences(shared_data / 'davis2016')
    assert len(sequences) == 10
    for sequence in sequences:
        assert np.unique(sequence.frame(0).labels).tolist() == [0, 1]
    (drive,) = find_sequences(shared_data / 'camvid')
    assert len(drive) == 49
    assert np.unique(drive.frame(0).labels).tolist() == [0, 1, 2, 3, 4, 7]


# ------------------------------------------------------------------------------------------------------------ prompts


def test_prompts_from_a_mask():
    mask = np.zeros((40, 60), bool)
    mask[5:9, 2:50] = True
    mask[30:40, 20:41] = True
    x, y = innermost_point(mask)
    assert 24 <= x <= 36 and y in (34, 35), 'middle of the thicker part; beyond the image is outside'
    point = make_prompt(mask, 'point')
    assert point.points.tolist() == [[x, y]] and point.point_labels.tolist() == [1]
    box = make_prompt(mask, 'box').box
    assert box is not None and box.tolist() == [2, 5, 50, 40]
    assert make_prompt(mask, 'mask').mask is not None
    for kind in ('mask', 'point', 'box'):
        make_prompt(mask, kind).check_against(40, 60)  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match='mask, point, box'):
        make_prompt(mask, 'scribble')  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match='empty mask'):
        make_prompt(np.zeros((4, 4), bool), 'point')


def test_tracker_labels_come_back_in_the_ids_of_the_dataset(checkpoint):
    frames, labels = draw_clip(2)
    tracker = VideoTracker(load_model(ModelConfig(checkpoint=str(checkpoint), device='cpu')))
    segmenter = TrackerSegmenter(tracker, 'mask')
    first = segmenter.step(frames[0], {9: labels[0] == 1})
    assert set(np.unique(first)) == {0, 9}
    assert region_similarity(labels[0] == 1, first == 9) > 0.6, 'a mask prompt is answered with the mask'
    second = segmenter.step(frames[1], {4: labels[1] == 2})
    assert 4 in np.unique(second) and set(np.unique(second)) <= {0, 4, 9}
    assert [entry.object_id for entry in tracker.objects] == [1, 2]


# --------------------------------------------------------------------------------------------------------------- flow


def test_flow_carries_moving_squares():
    frames, labels = draw_clip(2, length=10)
    flow = FlowTracker()
    for t, rgb in enumerate(frames):
        masks = {number: labels[0] == number for number in (1, 2)} if t == 0 else {}
        predicted = flow.step(rgb, masks)
        assert predicted.dtype == np.uint16
    for number in (1, 2):
        truth = labels[-1] == number
        assert (predicted == number)[truth].mean() > 0.9, 'it stays on the square, whatever it drags along'
        left_behind = region_similarity(truth, labels[0] == number)
        assert region_similarity(truth, predicted == number) > left_behind + 0.25


def test_flow_takes_objects_in_on_any_frame_and_starts_from_their_mask():
    frames, labels = draw_clip(2, length=6)
    flow = FlowTracker()
    assert not flow.step(frames[0], {}).any()
    flow.step(frames[1], {5: labels[1] == 1})
    predicted = flow.step(frames[2], {3: labels[2] == 2})
    assert (predicted == 3)[labels[2] == 2].mean() > 0.99
    predicted = flow.step(frames[3], {})
    assert (predicted == 5)[labels[3] == 1].mean() > 0.95 and region_similarity(labels[3] == 1, predicted == 5) > 0.75
    assert (predicted == 3)[labels[3] == 2].mean() > 0.95 and region_similarity(labels[3] == 2, predicted == 3) > 0.85


def test_flow_refuses_what_does_not_fit():
    frames, _ = draw_clip(1)
    flow = FlowTracker()
    with pytest.raises(EvaluationError, match='object 1'):
        flow.step(frames[0], {1: np.ones((5, 5), bool)})
    flow.step(frames[0], {})
    with pytest.raises(EvaluationError, match='one size'):
        flow.step(frames[1][1:], {})
    with pytest.raises(EvaluationError, match='uint8'):
        flow.step(frames[1].astype(np.float32), {})


# -------------------------------------------------------------------------------------------------------------- sheet


def test_tile_shows_prediction_and_truth():
    rgb = np.full((90, 160, 3), 100, np.uint8)
    truth, predicted = np.zeros((2, 90, 160), np.uint8)
    truth[20:60, 20:60] = 1
    predicted[20:60, 100:140] = 1
    tile = draw_tile(rgb, truth, predicted, width=160)
    assert tile.shape == rgb.shape
    assert (tile[40, 40] == 100).all(), 'inside of the truth is left alone'
    assert (tile[20, 40] == 255).all(), 'outline of the truth'
    assert tile[40, 120, 0] > 150 > tile[40, 120, 2], 'tint of the prediction'


def test_sheet_with_rows_of_different_lengths(tmp_path):
    tile = np.full((20, 30, 3), 200, np.uint8)
    write_sheet(tmp_path / 'sheet.png', [SheetRow('a', (tile,)), SheetRow('b', (tile, tile)), SheetRow('c', ())])
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert sheet is not None and sheet.shape[1] == 2 * 34
    with pytest.raises(EvaluationError, match='no frames'):
        write_sheet(tmp_path / 'empty.png', [])


# ---------------------------------------------------------------------------------------------------------- benchmark


@pytest.mark.parametrize('prompt', ['mask', 'point', 'box'])
def test_benchmark_end_to_end(dataset, checkpoint, tmp_path, capsys, prompt):
    out, log = tmp_path / 'out', tmp_path / 'log.csv'
    arguments = ['--data', str(dataset), '--checkpoint', str(checkpoint), '--device', 'cpu', '--prompt', prompt]
    arguments += ['--out', str(out), '--log', str(log), '--note', 'a, note']
    assert benchmark.main(arguments) == 0
    assert benchmark.main([*arguments, '--sequences', 'two', '--no-flow']) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = list(csv.DictReader(log.open(encoding='utf-8')))
    assert tuple(lines[0]) == benchmark.LOG_COLUMNS
    assert printed[-1].startswith('J&F ')
    assert abs(float(printed[-1].split()[1]) - float(lines[1]['J&F'])) < 0.0551  # one decimal against two
    assert [line['weights'] for line in lines] == [file_hash(checkpoint)] * 2
    assert [line['prompt'] for line in lines] == [prompt] * 2
    assert float(lines[0]['flow J&F']) > 65 and lines[1]['flow J&F'] == ''
    assert lines[0]['note'] == 'data; a, note' and lines[1]['note'] == 'data: 1 of 2 clips; a, note'


def test_an_encoder_in_float16_is_scored_and_named(dataset, checkpoint, tmp_path, monkeypatch):
    maps, call = [], Float16Encoder.__call__
    monkeypatch.setattr(Float16Encoder, '__call__', lambda self, image: maps.append(image) or call(self, image))
    log = tmp_path / 'log.csv'
    arguments = ['--data', str(dataset), '--checkpoint', str(checkpoint), '--device', 'cpu', '--encoder', 'float16']
    assert benchmark.main([*arguments, '--no-flow', '--out', str(tmp_path / 'out'), '--log', str(log)]) == 0
    assert len(maps) == 2 * LENGTH
    (line,) = csv.DictReader(log.open(encoding='utf-8'))
    assert line['note'] == 'data; encoder float16'
    assert json.loads((tmp_path / 'out' / 'results.json').read_text(encoding='utf-8'))['run']['encoder'] == 'float16'


def test_benchmark_files_agree_with_each_other(dataset, checkpoint, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['--data', str(dataset), '--checkpoint', str(checkpoint), '--device', 'cpu', '--out', str(out)]
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((out / 'results.json').read_text(encoding='utf-8'))
    rows = list(csv.DictReader((out / 'results.csv').open(encoding='utf-8')))
    assert [(row['method'], row['clip'], row['object']) for row in rows] == [
        (method, clip, number)
        for method in ('tracker', 'flow')
        for clip, number in (('one', '1'), ('two', '1'), ('two', '2'))
    ]
    for method in ('tracker', 'flow'):
        mean = np.mean([float(row['J&F']) for row in rows if row['method'] == method])
        assert content['mean'][method]['mean'] == pytest.approx(mean, abs=1e-5)
        assert content['mean'][method]['ms_per_frame'] > 0
    assert {'date', 'commit', 'weights', 'command', 'machine', 'scored_frames'} <= set(content['run'])
    assert all(row['scored frames'] == str(LENGTH - 2) for row in rows)
    assert re.search(r'^one +7 +\|', printed, re.MULTILINE) and 'mean over objects' in printed
    sheet = cv2.imread(str(out / 'sheet.png'))
    assert sheet is not None and sheet.shape[1] == benchmark.TILES_PER_CLIP * 324
    assert not (tmp_path / 'log.csv').exists(), 'only the real clips are logged unasked'


def test_flow_only_needs_no_weights(dataset, tmp_path, capsys):
    log = tmp_path / 'log.csv'
    arguments = ['--data', str(dataset), '--flow-only', '--out', str(tmp_path / 'out'), '--log', str(log)]
    assert benchmark.main(arguments) == 0
    (line,) = csv.DictReader(log.open(encoding='utf-8'))
    assert (line['weights'], line['J&F']) == ('', '')
    assert capsys.readouterr().out.splitlines()[-1] == f'J&F {float(line["flow J&F"]):.1f}'


def test_bad_input_is_one_sentence(dataset, tmp_path, capsys, monkeypatch):
    assert benchmark.main(['--data', str(tmp_path / 'nowhere')]) == 2
    assert 'not a dataset in DAVIS layout' in capsys.readouterr().err
    assert benchmark.main(['--data', str(dataset), '--checkpoint', str(tmp_path / 'none.safetensors')]) == 2
    assert 'does not exist' in capsys.readouterr().err
    (tmp_path / 'file').touch()
    assert benchmark.main(['--data', str(dataset), '--flow-only', '--out', str(tmp_path / 'file')]) == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err
    monkeypatch.setattr(benchmark, 'DEFAULT_DATA', tmp_path / 'nowhere')
    assert benchmark.main([]) == 0
    assert capsys.readouterr().out.startswith('skipped:')
    with pytest.raises(SystemExit):
        benchmark.main(['--data', str(dataset), '--threads', '0'])


def test_only_the_best_and_the_worst_clips_are_drawn():
    from robust_pvos_ros.evaluation.metrics import ObjectScore, Statistics
    from robust_pvos_ros.evaluation.protocol import SequenceScore

    results = benchmark.Results(('flow',))
    for value in (5, 9, 1, 7, 3, 8, 2, 6, 4, 0):
        part = Statistics(value / 10, 0, 0)
        score = SequenceScore(str(value), (ObjectScore(1, part, part, 5),), 7, 1.0, 1.0)
        results.add({'flow': score}, [np.zeros((2, 2, 3), np.uint8)])
    assert [row.title.split()[0] for _, row in results.strips] == ['0', '1', '2', '7', '8', '9']

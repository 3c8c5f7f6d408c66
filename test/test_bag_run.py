"""From a dataset through the tracker to scores and files: exact, repeatable, resumable, and clean when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_files import contents, messages, open_writer, picture, stamp_at, write_bag
from dataset_folders import LENGTH, draw, write_davis

from benchmarks import davis as benchmark
from robust_pvos_ros.bags import cli, replay
from robust_pvos_ros.bags.definitions import IMAGE, PROMPT, BagError, interface_typestore
from robust_pvos_ros.bags.importer import ImportOptions, import_dataset, import_video
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.bags.replay import RunOptions, run_bag
from robust_pvos_ros.evaluation.davis import find_sequences
from robust_pvos_ros.image_codec import labels_of
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import Prompt
from robust_pvos_ros.video_file import VideoFile

pytest_plugins = ('bag_fixtures',)

LABELS, OBJECTS_TOPIC = '/robust_pvos/camera/label_image', '/robust_pvos/camera/objects'
PROMPTS = '/robust_pvos/prompts'
ROOT = Path(__file__).resolve().parent.parent


def label_bytes(bag: Path, topic: str = LABELS) -> list[bytes]:
    return [bytes(message.data) for message in messages(bag, topic)]


# -------------------------------------------------------------------------------------------------------------- import


def test_imported_datasets_hold_every_pixel(dataset: Path, bags: Path) -> None:
    assert contents(bags) == ['bear', 'cow']
    (sequence,) = find_sequences(dataset, ['cow'])
    images, truths = messages(bags / 'cow', '/camera/image_raw'), messages(bags / 'cow', '/camera/truth')
    for frame, image, truth in zip(sequence, images, truths, strict=True):
        assert np.array_equal(np.asarray(image.data).reshape(frame.rgb.shape), frame.rgb)
        assert np.array_equal(labels_of(truth), frame.labels)
        assert image.header == truth.header and truth.encoding == '16UC1'
    stamps = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in images]
    assert stamps[0] > 0 and np.diff(stamps) == pytest.approx(10**9 / 30, abs=1)


def test_compressed_imports_decode_to_the_same_pixels(dataset: Path, bags: Path, tmp_path: Path) -> None:
    from robust_pvos_ros.bags.reader import picture_of

    import_dataset(dataset, tmp_path / 'bags', ['cow'], ImportOptions(compressed=True, quiet=True))
    raw, packed = bags / 'cow', tmp_path / 'bags' / 'cow'
    with BagReader(raw) as a, BagReader(packed) as b:
        pairs = zip(a.messages(['/camera/image_raw']), b.messages(['/camera/image_raw/compressed']), strict=True)
        assert all(np.array_equal(picture_of(x.message, x.type), picture_of(y.message, y.type)) for x, y in pairs)


def test_videos_become_bags(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / 'drive.avi', 12.0)
    for index in range(7):
        video.add(np.ascontiguousarray(draw(index)[0][..., ::-1]))
    video.close()
    assert import_video(tmp_path / 'drive.avi', tmp_path / 'bag', ImportOptions(quiet=True)) == 7
    images = messages(tmp_path / 'bag', '/camera/image_raw')
    assert len(images) == 7
    assert abs(np.asarray(images[3].data).reshape(48, 80, 3).astype(int) - draw(3)[0]).mean() < 12
    assert images[1].header.stamp.nanosec == pytest.approx(10**9 / 12, abs=2)


def test_a_failed_import_leaves_nothing(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write_davis(tmp_path / 'davis')
    annotation = broken / 'Annotations/480p/cow/00007.png'
    annotation.write_bytes(b'no picture')
    assert cli.main(['import', str(broken), str(tmp_path / 'out')]) == 2
    assert f'cannot read the annotation {annotation}' in capsys.readouterr().err
    assert cli.main(['import', str(tmp_path / 'nothing'), str(tmp_path / 'out')]) == 2
    (tmp_path / 'text.mp4').write_text('no video')
    assert cli.main(['import', str(tmp_path / 'text.mp4'), str(tmp_path / 'out')]) == 2
    assert 'cannot be read as a video' in capsys.readouterr().err
    assert contents(tmp_path) == ['davis', 'text.mp4']


def test_an_interrupted_import_leaves_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('robust_pvos_ros.bags.importer._Frames.add', interrupt)
    assert cli.main(['import', str(dataset), str(tmp_path / 'out')]) == 130
    assert contents(tmp_path) == []


def test_nothing_is_overwritten(dataset: Path, bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in bags.rglob('*')}
    assert cli.main(['import', str(dataset), str(bags)]) == 2
    assert 'exists already' in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in bags.rglob('*')}


# ----------------------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize('kind', ['mask', 'point', 'box'])
def test_import_run_score_equals_the_benchmark(
    dataset: Path, bags: Path, weights: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ['--checkpoint', str(weights), '--precision', 'float32']
    assert cli.main(['run', str(bags), str(tmp_path / 'runs'), '--prompts-from-truth', kind, *common]) == 0
    assert cli.main(['score', str(tmp_path / 'runs'), '--out', str(tmp_path / 'scores'), '--no-pictures']) == 0
    out = tmp_path / 'davis'
    arguments = ['--data', str(dataset), '--out', str(out), '--prompt', kind, '--no-flow', *common]
    monkeypatch.setattr(benchmark, 'describe', lambda *_: {'date': '', 'commit': '', 'weights': '', 'prompt': kind})
    assert benchmark.main(arguments) == 0
    expected = json.loads((out / 'results.json').read_text())
    (run,) = json.loads((tmp_path / 'scores' / 'scores.json').read_text())['runs']
    assert run['mean'] == {name: expected['mean']['tracker'][name] for name in ('region', 'contour', 'mean')}
    for clip, reference in zip(run['clips'], expected['clips']['tracker'], strict=True):
        for name in ('name', 'objects', 'frames', 'swapped'):
            assert clip['score'][name] == reference[name]
    assert any(entry['region']['mean'] > 0.01 for clip in run['clips'] for entry in clip['score']['objects'])


def test_runs_repeat_byte_for_byte_and_hold_everything(
    bags: Path, model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    for name in ('first', 'second'):
        assert run_bag(bags / 'bear', tmp_path / name, model, options, quiet=True) == LENGTH
    assert label_bytes(tmp_path / 'first') == label_bytes(tmp_path / 'second')
    assert any(any(data) for data in label_bytes(tmp_path / 'first')[1:])
    objects = messages(tmp_path / 'first', OBJECTS_TOPIC)
    assert [[entry.id for entry in message.objects] for message in objects] == [[1, 4]] * LENGTH
    assert [m.header for m in objects] == [m.header for m in messages(bags / 'bear', '/camera/image_raw')]
    prompts = messages(tmp_path / 'first', PROMPTS)
    assert [(message.object_id, message.mask.encoding) for message in prompts] == [(1, 'mono8'), (4, 'mono8')]
    assert len(messages(tmp_path / 'first', '/camera/truth')) == LENGTH
    assert len(messages(tmp_path / 'first', '/camera/image_raw/compressed')) == LENGTH


def test_a_run_replays_from_its_own_prompts(
    bags: Path, model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    """A bag with images and recorded prompts gives the masks again, under the recorded IDs."""
    run_bag(bags / 'bear', tmp_path / 'first', model, options, quiet=True)
    drive, first = tmp_path / 'drive', tmp_path / 'first'
    with BagReader(bags / 'bear') as images, BagReader(first) as run, open_writer(drive) as out:
        connections = {
            topic: out.add_connection(topic, kind, typestore=interface_typestore())
            for topic, kind in (('/camera/image_raw', IMAGE), (PROMPTS, PROMPT))
        }
        entries = [*images.raw(['/camera/image_raw']), *run.raw([PROMPTS])]
        for entry in sorted(entries, key=lambda entry: entry.time):
            out.write(connections[entry.topic], entry.time + 9, entry.data)
    replayed = replace(options, prompts_from_truth='')
    run_bag(tmp_path / 'drive', tmp_path / 'second', model, replayed, quiet=True)
    assert label_bytes(tmp_path / 'second') == label_bytes(tmp_path / 'first')


def test_several_cameras_share_ids_and_nothing_else(model: Sam2Model, options: RunOptions, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', [('/left/image_raw', IMAGE), ('/right/image_raw', IMAGE)])
    file = tmp_path / 'prompts.json'
    entries = [{'camera': name, 'frame': index, 'box': [2, 4, 22, 24]} for index, name in enumerate(('left', 'right'))]
    file.write_text(json.dumps({'prompts': entries}))
    run_bag(bag, tmp_path / 'both', model, replace(options, prompts_from_truth='', prompt_file=file), quiet=True)
    ids = {
        name: {entry.id for message in messages(tmp_path / 'both', f'/robust_pvos/{name}/objects')
               for entry in message.objects}
        for name in ('left', 'right')
    }  # fmt: skip
    assert ids == {'left': {1}, 'right': {2}}
    file.write_text(json.dumps(entries[:1]))
    single = replace(options, prompts_from_truth='', prompt_file=file, cameras=('/left/image_raw',))
    run_bag(bag, tmp_path / 'one', model, single, quiet=True)
    topic = '/robust_pvos/left/label_image'
    assert label_bytes(tmp_path / 'one', topic) == label_bytes(tmp_path / 'both', topic)


def test_masks_are_those_of_the_tracker_itself(model: Sam2Model, options: RunOptions, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag')
    file = tmp_path / 'prompts.yaml'
    refine = {'stamp': str(stamp_at(5) / 1e9), 'object_id': 9, 'points': [[30, 10]], 'point_labels': [1]}
    file.write_text(yaml.safe_dump([{'frame': 1, 'object_id': 9, 'label': 'red', 'box': [4, 4, 24, 24]}, refine]))
    chosen = replace(options, prompts_from_truth='', prompt_file=file, corrupt='gaussian_noise:2', seed=3)
    run_bag(bag, tmp_path / 'out', model, chosen, quiet=True)
    tracker = VideoTracker(model, chosen.tracker, iter([9]))
    from robust_pvos_ros.corruption.corruption import ClipCorruption, parse_corruptions

    noise = ClipCorruption(parse_corruptions('gaussian_noise:2'), 3, 'bag')
    prompts = {
        1: [Prompt(box=[4, 4, 24, 24], label='red')],
        5: [Prompt(object_id=9, points=[[30, 10]], point_labels=[1])],
    }
    for index, found in enumerate(messages(tmp_path / 'out', LABELS)):
        expected = tracker.step(noise.rgb(draw(index)[0], index), stamp_at(index), prompts.get(index, ()))
        assert np.array_equal(labels_of(found), expected.label_image)
    assert messages(tmp_path / 'out', OBJECTS_TOPIC)[-1].objects[0].label == 'red'


def test_objects_go_where_image_time_jumps_back(model: Sam2Model, options: RunOptions, tmp_path: Path) -> None:
    with open_writer(tmp_path / 'bag') as writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=interface_typestore())
        for place, index in enumerate((0, 1, 2, 0, 1)):
            writer.write(connection, stamp_at(place), picture(index))
    file = tmp_path / 'prompts.yaml'
    file.write_text('[{frame: 0, box: [2, 4, 22, 24]}]')
    for policy, expected in ((True, [1, 1, 1, 0, 0]), (False, [1] * 5)):
        out = tmp_path / str(policy)
        chosen = replace(options, prompts_from_truth='', prompt_file=file, reset_on_jump=policy)
        run_bag(tmp_path / 'bag', out, model, chosen, quiet=True)
        assert [len(message.objects) for message in messages(out, OBJECTS_TOPIC)] == expected


# ------------------------------------------------------------------------------------------------------------ going on


class _Killed(BaseException):
    """Like SIGKILL: nobody cleans up."""


@pytest.mark.parametrize('at', [3, 4, 6, 11])
def test_a_killed_run_goes_on_and_ends_alike(
    bags: Path, model: Sam2Model, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run_bag(bags / 'bear', tmp_path / 'whole', model, options, quiet=True)
    steps: list[int] = []
    step = replay.Runner.step

    def killing(runner: replay.Runner, frame):
        steps.append(runner.frames)
        if runner.frames == at and not done:
            done.append(at)
            raise _Killed
        return step(runner, frame)

    done: list[int] = []
    monkeypatch.setattr(replay.Runner, 'step', killing)
    with pytest.raises(_Killed):
        run_bag(bags / 'bear', tmp_path / 'cut', model, options, quiet=True)
    assert not (tmp_path / 'cut').exists()
    steps.clear()
    assert run_bag(bags / 'bear', tmp_path / 'cut', model, options, quiet=True) == LENGTH
    assert steps[0] == at // 4 * 4
    for topic in (LABELS, '/camera/truth', '/camera/image_raw/compressed', PROMPTS):
        assert label_bytes_or_fields(tmp_path / 'cut', topic) == label_bytes_or_fields(tmp_path / 'whole', topic)
    assert contents(tmp_path) == ['cut', 'whole']


def label_bytes_or_fields(bag: Path, topic: str) -> list[bytes]:
    with BagReader(bag) as reader:
        return [bytes(entry.data) for entry in reader.raw([topic])]


def test_an_unfinished_run_is_not_mixed_with_another(
    bags: Path, model: Sam2Model, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = replay.Runner.step

    def killing(runner: replay.Runner, frame):
        if runner.frames == 9:
            raise KeyboardInterrupt
        return step(runner, frame)

    monkeypatch.setattr(replay.Runner, 'step', killing)
    with pytest.raises(KeyboardInterrupt):
        run_bag(bags / 'bear', tmp_path / 'out', model, options, quiet=True)
    assert contents(tmp_path) == ['out.partial']
    with pytest.raises(BagError, match=r'unfinished run with other settings \(corruption\)'):
        run_bag(bags / 'bear', tmp_path / 'out', model, replace(options, corrupt='fog:3'), quiet=True)
    assert contents(tmp_path) == ['out.partial']
    monkeypatch.setattr(replay.Runner, 'step', step)
    assert run_bag(bags / 'bear', tmp_path / 'out', model, options, quiet=True) == LENGTH
    assert contents(tmp_path) == ['out']


def test_two_processes_do_not_share_a_place(
    bags: Path, model: Sam2Model, options: RunOptions, tmp_path: Path
) -> None:
    with replay._workplace(tmp_path / 'out', {}), pytest.raises(BagError, match='another process is at work'):
        run_bag(bags / 'bear', tmp_path / 'out', model, options, quiet=True)


@pytest.mark.slow
def test_kill_minus_nine_and_again(bags: Path, weights: Path, tmp_path: Path) -> None:
    """The real thing: SIGKILL at some moment, as often as it takes."""
    bag = write_bag(tmp_path / 'bag', [('/camera/image_raw', IMAGE), ('/camera/truth', IMAGE)], frames=LENGTH)
    command = [
        sys.executable, '-m', 'robust_pvos_ros.bags.cli', 'run', str(bag), str(tmp_path / 'out'),
        '--prompts-from-truth', '--checkpoint', str(weights), '--save-every', '2',
    ]  # fmt: skip
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    state = tmp_path / 'out.partial' / 'state.pt'
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not state.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert finished.returncode == 0, finished.stderr
    assert len(messages(tmp_path / 'out', LABELS)) == LENGTH
    assert not state.parent.exists()


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_over_ten_thousand_frames(model: Sam2Model, options: RunOptions, tmp_path: Path) -> None:
    import psutil

    frames, warmup = 10_000, 2_000
    bag = tmp_path / 'bag'
    with open_writer(bag) as writer:
        connection = writer.add_connection('/camera/image_raw', IMAGE, typestore=interface_typestore())
        content = [picture(index) for index in range(LENGTH)]
        for index in range(frames):
            stamp = divmod(stamp_at(index), 10**9)
            data = bytearray(content[index % LENGTH])
            data[4:12] = np.array(stamp, '<u4').tobytes()
            writer.write(connection, stamp_at(index), data)
    (tmp_path / 'p.yaml').write_text('[{frame: 0, box: [2, 4, 22, 24]}, {frame: 9, box: [30, 20, 50, 40]}]')
    process, resident = psutil.Process(), []
    step = replay.Runner.step

    def measuring(runner: replay.Runner, frame):
        if runner.frames in (warmup, frames - 1):
            resident.append(process.memory_info().rss)
        return step(runner, frame)

    chosen = replace(options, prompts_from_truth='', prompt_file=tmp_path / 'p.yaml', save_every=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay.Runner, 'step', measuring)
        assert run_bag(bag, tmp_path / 'out', model, chosen, quiet=True) == frames
    growth = (resident[1] - resident[0]) / 2**20
    assert growth < 20, f'resident memory grew by {growth:.1f} MB'

"""Prompts for a replay, and what cannot be run: named in one sentence, nothing left behind."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_files import contents, storage_file, write_bag
from dataset_folders import draw
from PIL import Image

from robust_pvos_ros.bags import cli
from robust_pvos_ros.bags.definitions import PROMPT, BagError, interface_typestore, message_types
from robust_pvos_ros.bags.prompts import FrameKey, IdSource, PlannedPrompts, prompts_from_file
from robust_pvos_ros.bags.replay import RunOptions, run_bag
from robust_pvos_ros.message_core import make_header, make_prompt, prompt_from_message
from robust_pvos_ros.tracking.model import Sam2Model
from robust_pvos_ros.tracking.types import Prompt

pytest_plugins = ('bag_fixtures',)


def cut(bag: Path) -> None:
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(bag: Path) -> None:
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    data[900 : len(data) // 2] = bytes(len(data) // 2 - 900)
    file.write_bytes(data)


def remove_truth(bag: Path) -> None:
    write_bag(bag.parent / 'plain').rename(bag.parent / 'swap')
    for path in bag.iterdir():
        path.unlink()
    bag.rmdir()
    (bag.parent / 'swap').rename(bag)


@pytest.mark.parametrize(
    'damage, arguments, problem',
    [
        (cut, ['--prompts-from-truth'], 'the end is missing'),
        (garble, ['--prompts-from-truth'], 'cannot be read'),
        (None, [], 'no prompts on /robust_pvos/prompts'),
        (None, ['--prompt-topic', '/camera/truth'], 'is sensor_msgs/msg/Image, but must be robust_pvos'),
        (None, ['--prompts-from-truth', '--camera', '/up'], 'no topic /up; it has /camera/image_raw'),
        (None, ['--prompts-from-truth', '--camera', 'x=/camera/image_raw'], 'no images on /x/truth'),
        (None, ['--prompts-from-truth', '--corrupt', 'smog'], "no corruption 'smog'"),
        (None, ['--prompts-from-truth', '--adapter', 'missing.safetensors'], 'missing.safetensors'),
        (None, ['--prompts', 'missing.yaml'], 'missing.yaml'),
        (None, ['--prompts-from-truth', '--save-every', '0'], 'at least 1'),
        (remove_truth, ['--prompts-from-truth'], 'has no truth to make prompts from'),
    ],
)
def test_what_cannot_be_run_is_named_and_leaves_nothing(
    bags: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage, arguments, problem: str
) -> None:
    bag = tmp_path / 'in' / 'bag'
    shutil.copytree(bags / 'bear', bag)
    if damage is not None:
        damage(bag)
    code = cli.main(['run', str(bag), str(tmp_path / 'out'), '--checkpoint', str(weights), *arguments])
    error = capsys.readouterr().err
    assert code == 2 and re.search(problem, error), error
    assert error.startswith('error: ') and error.count('\n') == 1
    assert contents(tmp_path) == ['in']


@pytest.mark.parametrize(
    'text, problem',
    [
        ('', 'must hold a list'), ('[]', 'must hold a list'), ('prompts: 3', 'must hold a list'), ('[', 'be read'),
        ('[3]', 'must have keys'), ('[{frame: 0, colour: red}]', 'must have keys'), ('[{box: [1, 2, 3, 4]}]', 'either'),
        ('[{frame: 0, stamp: 1, box: [1, 2, 3, 4]}]', 'either'), ('[{frame: 0}]', 'prompt 1 .* is empty'),
        ('[{frame: x, box: [1, 2, 3, 4]}]', 'malformed'), ('[{frame: 0, box: [1, 2]}]', 'box must be'),
        ('[{frame: 0, points: [[1, 2, 3]]}]', 'malformed'), ('[{frame: 0, mask: no.png}]', 'cannot read'),
        ('[{stamp: soon, box: [1, 2, 3, 4]}]', 'malformed'),
    ],
)  # fmt: skip
def test_malformed_prompt_files_are_named(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / 'prompts.yaml').write_text(text)
    with pytest.raises(BagError, match=problem) as caught:
        prompts_from_file(tmp_path / 'prompts.yaml')
    assert 'prompts.yaml' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'entry, problem',
    [({'frame': 99}, 'no image number 99'), ({'stamp': 5.05}, 'with the stamp 5.050000000'),
     ({'frame': 0, 'camera': 'rear'}, 'camera rear has no image'), ({'frame': 0, 'box': [0, 0, 90, 9]}, '80x48 image')],
)  # fmt: skip
def test_prompts_that_fit_no_frame_are_named(
    model: Sam2Model, options: RunOptions, tmp_path: Path, entry: dict[str, object], problem: str
) -> None:
    bag = write_bag(tmp_path / 'bag', frames=3)
    (tmp_path / 'p.yaml').write_text(yaml.safe_dump([{'box': [1, 2, 9, 9], **entry}]))
    chosen = replace(options, prompts_from_truth='', prompt_file=tmp_path / 'p.yaml')
    with pytest.raises(BagError, match=problem):
        run_bag(bag, tmp_path / 'out', model, chosen, quiet=True)
    assert contents(tmp_path) == ['bag', 'p.yaml']


def test_prompt_masks_come_from_files(tmp_path: Path) -> None:
    Image.fromarray(draw(0)[1]).save(tmp_path / 'first.png')
    (tmp_path / 'p.yaml').write_text('[{frame: 2, mask: first.png, label: both}]')
    prompts = prompts_from_file(tmp_path / 'p.yaml')
    assert isinstance(prompts, PlannedPrompts) and len(prompts) == 1
    assert prompts.due(FrameKey('camera', 1, 1, 1)) == []
    (prompt,) = prompts.due(FrameKey('camera', 2, 2, 2))
    assert np.array_equal(prompt.mask, draw(0)[1] > 0) and prompt.label == 'both'


def test_fresh_ids_leave_out_those_that_somebody_wants() -> None:
    ids = IdSource([2, 5])
    ids.ask([0, 5, 0])
    assert [next(ids) for _ in range(5)] == [1, 5, 3, 4, 6]
    assert ids.used == [1, 5, 3, 4, 6]


def test_prompts_survive_the_way_through_a_bag() -> None:
    types, store = message_types(), interface_typestore()
    original = Prompt(label='car', points=[[1.5, 2]], point_labels=[1], box=[1, 2, 11, 22])
    message = make_prompt(types, original, make_header(types, 7, 'camera'), 'front', 3)
    back = prompt_from_message(store.deserialize_cdr(store.serialize_cdr(message, PROMPT), PROMPT))
    assert (back.object_id, back.label, back.box.tolist()) == (3, 'car', [1, 2, 11, 22])
    assert (back.points.tolist(), back.point_labels.tolist(), back.mask) == ([[1.5, 2.0]], [1], None)

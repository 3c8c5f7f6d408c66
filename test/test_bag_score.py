"""Scores, losses and recoveries from bags, the report, exported masks, and what is left of killed writers."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bag_files import (
    LABELS,
    contents,
    open_writer,
    stamp_at,
    truth,
    write_bag,
    write_run,
)
from dataset_folders import LENGTH, draw

from robust_pvos_ros.bags import cli
from robust_pvos_ros.bags.definitions import IMAGE, message_types, serialise
from robust_pvos_ros.bags.reader import BagReader
from robust_pvos_ros.bags.score import ScoreOptions, score_runs
from robust_pvos_ros.bags.scoring import score_source, sources_of
from robust_pvos_ros.evaluation.charts import plot_scores, worst_moments
from robust_pvos_ros.evaluation.events import Occlusion, frames_to_loss, occlusions
from robust_pvos_ros.message_core import make_header, make_image

ROOT = Path(__file__).resolve().parent.parent


def score(path: Path, **options):
    with BagReader(path) as reader:
        (source,) = sources_of(reader, None)
        return score_source(source, **options)


def test_perfect_masks_score_one(tmp_path: Path) -> None:
    clip = score(write_run(tmp_path / 'run'))
    assert (clip.method, clip.corruption, clip.sequence, clip.camera) == ('base', 'clean', 'drive', 'camera')
    assert [(s.object_id, s.region.mean, s.contour.mean, s.frames) for s in clip.score.objects] == [
        (1, 1.0, 1.0, LENGTH - 2), (4, 1.0, 1.0, LENGTH - 2),
    ]
    assert (clip.score.swapped, clip.switches, clip.without_result, clip.untracked) == (0, 0, 0, ())
    assert clip.seconds_per_frame == pytest.approx(0.1)


def test_scores_of_imperfect_masks(tmp_path: Path) -> None:
    def halve(index: int, ids: np.ndarray) -> np.ndarray:
        half = ids.copy()
        half[:14] = 0  # the upper half of object 1
        return half

    clip = score(write_run(tmp_path / 'run', halve), convention='after_first')
    one, four = clip.score.objects
    assert (one.region.mean, one.frames) == (0.5, LENGTH - 1)
    assert four.region.mean == 1.0 and 0 < one.contour.mean < 1


def test_swapped_ids_are_counted_by_frames_and_by_events(tmp_path: Path) -> None:
    def swap(index: int, ids: np.ndarray) -> np.ndarray:
        table = np.arange(5, dtype=np.uint16)
        table[[1, 4]] = [4, 1]
        return table[ids] if index in (2, 3, 6) else ids

    clip = score(write_run(tmp_path / 'run', swap))
    assert (clip.score.swapped, clip.switches) == (3, 2)


def test_live_drives_are_matched_by_overlap(tmp_path: Path) -> None:
    """IDs of a drive are the node's own; an object that was never pointed at is named and not scored."""

    def renumber(index: int, ids: np.ndarray) -> np.ndarray:
        return np.where((ids == 1) & (index >= 2), 70, 0).astype(np.uint16)

    clip = score(write_run(tmp_path / 'run', renumber, adapter=None, missing=(5,)))
    assert (clip.method, clip.ids, clip.untracked, clip.without_result) == ('recorded', {70: 1}, (4,), 1)
    assert clip.labels == {1: 'thing 70'}
    assert [(s.object_id, s.region.mean, s.frames) for s in clip.score.objects] == [(1, 1.0, LENGTH - 1 - 2 - 2)]
    assert clip.timing.live and clip.timing.p50 == pytest.approx(40.0)
    assert clip.timing.fps == pytest.approx((LENGTH - 2) / 1.2, rel=0.01)


def test_a_frame_that_was_published_twice_counts_once(tmp_path: Path) -> None:
    types = message_types()
    with open_writer(tmp_path / 'run') as writer:
        from robust_pvos_ros.bags.definitions import interface_typestore

        topics = ('/camera/truth', LABELS)
        connections = [writer.add_connection(topic, IMAGE, typestore=interface_typestore()) for topic in topics]
        for index in range(LENGTH):
            header = make_header(types, stamp_at(index), 'camera')
            writer.write(connections[0], stamp_at(index), truth(index))
            for offset, ids in enumerate((np.zeros((48, 80), np.uint16), draw(index)[1].astype(np.uint16)), 1):
                data = serialise(make_image(types, ids, '16UC1', header), IMAGE)
                writer.write(connections[1], stamp_at(index) + offset, data)
    clip = score(tmp_path / 'run')
    assert clip.score.frames == LENGTH and clip.score.mean.mean == 1.0 and clip.timing is None


def test_truth_from_another_bag(tmp_path: Path) -> None:
    run = write_run(tmp_path / 'run')
    write_bag(tmp_path / 'truth', [('/camera/truth', IMAGE)])
    with BagReader(run) as reader, BagReader(tmp_path / 'truth') as other:
        (source,) = sources_of(reader, other)
        assert score_source(source).score.mean.mean == 1.0
    score_runs([str(run)], tmp_path / 'out', ScoreOptions(truth=tmp_path / 'truth', pictures=False))
    assert contents(tmp_path / 'out') == ['report.html', 'scores.csv', 'scores.json']


# -------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    'region, hidden, expected',
    [
        ([1.0] * 9, (), None),
        ([1, 1, 0, 0, 0, 0, 0, 1], (), 2),
        ([1, 1, 0, 0, 0, 0, 1, 0], (), None),
        ([0.05] * 5, (), 0),
        ([1, 0, 0, 0, 0, 0, 0, 0], (2, 3), 1),
        ([1, 0, 0, 0, 0, 0, 0], (1, 2, 3), None),
        ([1, 0, 0, 0.2, 0, 0, 0, 0, 0], (), 4),
    ],
)
def test_time_to_loss(region: list[float], hidden: tuple[int, ...], expected: int | None) -> None:
    assert frames_to_loss(region, [index not in hidden for index in range(len(region))]) == expected


@pytest.mark.parametrize(
    'region, visible, expected',
    [
        ([1, 1, 1], [1, 1, 1], []),
        ([1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [Occlusion(1, 3, 0)]),
        ([1, 1, 0, 0.6, 1], [1, 0, 1, 1, 1], [Occlusion(1, 2, 1)]),
        ([1, 1, 0, 0], [1, 0, 1, 1], [Occlusion(1, 2, None)]),
        ([1, 1, 1], [1, 0, 0], []),
        ([1, 1, 1], [0, 0, 1], [Occlusion(0, 2, 0)]),
        ([1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [Occlusion(1, 2, None), Occlusion(3, 4, 0)]),
    ],
)
def test_recovery_after_occlusion(region: list[float], visible: list[int], expected: list[Occlusion]) -> None:
    assert occlusions(region, [bool(value) for value in visible]) == expected


def test_worst_moments_are_apart_and_in_view() -> None:
    scores = [0.9] * 40
    scores[5], scores[6], scores[30], scores[20] = 0.1, 0.0, 0.3, 0.0
    visible = [index != 20 for index in range(40)]
    assert worst_moments([scores, [1.0] * 40], visible, 2) == [6, 30]
    lost = [0.8] * 12 + [0.0] * 28
    assert 12 in worst_moments([lost], [True] * 40, 2)  # the fall, and not only the long end
    assert worst_moments([[], []], [], 3) == worst_moments([[0.5]], [False], 3) == []


def test_curves_stay_inside_their_plot() -> None:
    scores, visible = [i / 45 for i in range(45)], [i not in (7, 8) for i in range(45)]
    plot = plot_scores(50, [(0, 4, scores)], (4, visible), [(0, 9)], [20])
    points = [tuple(map(float, point.split(','))) for point in plot.curves[0].points.split()]
    assert all(plot.left <= x <= plot.right and plot.top <= y <= plot.bottom for x, y in points)
    assert len(points) == 45 and points[0][1] > points[-1][1]
    assert len(plot.bands) == 1 and plot.bands[0][1] > 0
    assert (plot.losses[0].run, plot.moments[0].text) == (0, '1')


# -------------------------------------------------------------------------------------------------------------- report


class _Page(HTMLParser):
    """Every address that a page names, and whether its tags match."""

    VOID = ('meta', 'img', 'br', 'link', 'input', 'line', 'rect', 'path', 'circle')

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        asking = ('src', 'href', 'data', 'action', 'poster')
        self.addresses += [value or '' for name, value in attributes if name in asking]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def lose(index: int, ids: np.ndarray) -> np.ndarray:
    return ids if index < 4 else np.where(ids == 4, 4, 0).astype(np.uint16)


def test_runs_side_by_side_and_a_page_that_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, fog = write_run(tmp_path / 'base'), write_run(tmp_path / 'fog', lose, corruption='fog:3')
    moga = write_run(tmp_path / 'moga_fog', adapter='<moga>', corruption='fog:3')
    assert cli.main(['score', str(base), str(fog), str(moga), '--out', str(tmp_path / 'out'), '--title', 'A & B']) == 0
    printed = capsys.readouterr().out
    assert re.search(r'^base, fog:3 +1 +2 .* 1 +0', printed, re.M) and 'J&F 100.0' in printed
    page = (tmp_path / 'out' / 'report.html').read_text()
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert parser.addresses and all(address.startswith('data:') for address in parser.addresses)
    assert not re.search(r'https?://|@import|url\(', page)
    assert '&lt;moga&gt;' in page and '<moga>' not in page and 'A &amp; B' in page
    assert {'svg', 'polyline', 'video', 'img', 'table'} <= set(parser.tags)
    assert 'prefers-color-scheme: dark' in page
    scores = json.loads((tmp_path / 'out' / 'scores.json').read_text())
    lost = scores['runs'][1]['clips'][0]['objects']['1']
    assert (lost['frames_to_loss'], lost['seconds_to_loss']) == (3, pytest.approx(0.4))
    rows = list(csv.DictReader((tmp_path / 'out' / 'scores.csv').open()))
    assert [(row['method'], row['corruption'], row['object']) for row in rows[:3]] == [
        ('base', 'clean', '1'), ('base', 'clean', '4'), ('base', 'fog:3', '1'),
    ]
    assert float(rows[0]['J&F']) == 1.0 and float(rows[2]['J&F']) < 0.5


def test_what_cannot_be_scored_is_named_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_run(tmp_path / 'base')
    write_bag(tmp_path / 'images')
    write_bag(tmp_path / 'labels', [(LABELS.replace('label_image', 'x/label_image'), IMAGE)], frames=2)
    late = write_bag(tmp_path / 'late', [('/camera/truth', IMAGE)], frames=1)
    nothing = write_run(tmp_path / 'nothing', lambda index, ids: np.zeros_like(ids), adapter=None)
    before = contents(tmp_path)
    for arguments, problem in (
        ([str(base), str(base)], "two runs are called 'base'"),
        ([str(tmp_path / 'images')], 'no label images'),
        ([str(tmp_path / 'labels')], 'has no truth on /x/truth'),
        ([str(tmp_path / 'none')], 'does not exist'),
        ([str(base), '--truth', str(late), '--truth-topic', '/up'], 'no truth on /up'),
        ([str(nothing)], 'no mask lies on a true object'),
    ):
        assert cli.main(['score', *arguments, '--out', str(tmp_path / 'out')]) == 2
        error = capsys.readouterr().err
        assert problem in error and error.count('\n') == 1
        assert contents(tmp_path) == before
    assert cli.main(['score', f'a={base}', f'b={base}', '--out', str(tmp_path / 'out'), '--no-pictures']) == 0

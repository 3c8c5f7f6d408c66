"""Curves and bars as numbers for inline SVG: where to put what; how it looks is up to the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 900, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 24
MOST_POINTS = 1200
"""Of one curve: more than that nobody sees."""
BEFORE = 3


@dataclass(frozen=True)
class Curve:
    """One line of a plot: SVG points, and the number of the run it belongs to."""

    run: int
    points: str


@dataclass(frozen=True)
class Mark:
    """A labelled place in a plot, pixels; ``run`` is -1 where it belongs to none."""

    x: float
    y: float
    text: str
    run: int = -1


@dataclass(frozen=True)
class Plot:
    """J of one object over the frames of a clip, pixels of a ``WIDTH`` x ``HEIGHT`` picture.

    Attributes:
        bands: (x, width) of the times at which the truth does not show the object.
        losses: where a run lost it.
        moments: numbered frames that are shown below the plot.
        ticks: frames along the axis.
    """

    curves: list[Curve]
    bands: list[tuple[float, float]]
    losses: list[Mark]
    moments: list[Mark]
    ticks: list[Mark]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def x_of(frame: float, count: int) -> float:
    """Pixels of frame ``frame`` of ``count``."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * frame / max(1, count - 1), 1)


def y_of(score: float) -> float:
    """Pixels of a score in [0, 1]."""
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - score), 1)


def plot_scores(
    count: int,
    scores: Sequence[tuple[int, int, Sequence[float]]],
    truth: tuple[int, Sequence[bool]],
    losses: Sequence[tuple[int, int]],
    moments: Sequence[int],
) -> Plot:
    """Plot of one object.

    Args:
        count: frames of the clip.
        scores: (run, frame that the object is given on, J of the frames after that).
        truth: frame that the object is given on, and whether the truth shows it on those after that.
        losses: (run, frame of the clip) of losses.
        moments: frames of the clip to be numbered.
    """
    curves = []
    for run, first, values in scores:
        step = max(1, -(-len(values) // MOST_POINTS))
        points = [f'{x_of(first + 1 + i, count)},{y_of(v)}' for i, v in enumerate(values) if i % step == 0]
        curves.append(Curve(run, ' '.join(points)))
    bands = []
    for start, end in _hidden(truth[1]):
        left, right = (x_of(truth[0] + 0.5 + place, count) for place in (start, end))
        bands.append((left, round(min(right, WIDTH - RIGHT) - left, 1)))
    by_run = {run: (first, values) for run, first, values in scores}
    marks = []
    for run, frame in losses:
        first, values = by_run[run]
        marks.append(Mark(x_of(frame, count), y_of(values[frame - first - 1]), f'lost at frame {frame}', run))
    numbers = [Mark(x_of(frame, count), TOP, str(i)) for i, frame in enumerate(moments, 1)]
    ticks = [Mark(x_of(frame, count), HEIGHT - 6, str(frame)) for frame in _ticks(count)]
    return Plot(curves, bands, marks, numbers, ticks)


def _hidden(visible: Sequence[bool]) -> list[tuple[int, int]]:
    """Half-open ranges of frames on which the object is not visible."""
    changes = [i for i in range(len(visible)) if not visible[i] and (i == 0 or visible[i - 1])]
    found = []
    for start in changes:
        end = next((i for i in range(start, len(visible)) if visible[i]), len(visible))
        found.append((start, end))
    return found


def _ticks(count: int) -> list[int]:
    """Round frame numbers, at most nine of them."""
    step = next(
        (size for scale in (1, 10, 100, 1000, 10000) for size in (scale, 2 * scale, 5 * scale) if count / size <= 9),
        max(1, count // 8),
    )
    return list(range(0, count, step))


def worst_moments(scores: Sequence[Sequence[float]], visible: Sequence[bool], most: int) -> list[int]:
    """Places in the scores that are worth a look, well apart, in their order.

    The first chosen is the one with the lowest mean over the runs; the others are where some run falls most against its
    ``BEFORE`` frames before, since a lost object stays at zero, and how it was lost is seen nowhere else.

    Args:
        scores: J frame by frame of every run, all of one length.
        visible: whether the truth shows the object; other frames are not chosen.
        most: how many to choose.
    """
    places = [i for i in range(len(visible)) if visible[i]] if scores and len(scores[0]) else []
    if not places:
        return []
    apart = max(2, len(visible) // (2 * most + 1))
    found = [min(places, key=lambda i: (sum(values[i] for values in scores), i))]
    for place in sorted(places, key=lambda i: (-max(_fall(values, i) for values in scores), i)):
        if len(found) < most and all(abs(place - other) >= apart for other in found):
            found.append(place)
    return sorted(found)


def _fall(values: Sequence[float], place: int) -> float:
    """How far a score lies below the mean of those shortly before it; below 1 where there are none."""
    before = values[max(0, place - BEFORE) : place] or [1.0]
    return sum(before) / len(before) - values[place]

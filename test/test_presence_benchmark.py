"""The benchmark of presence counts rightly."""

from __future__ import annotations

import pytest

from benchmarks.presence import Look, judge
from robust_pvos_ros.tracking.motion import Cells
from robust_pvos_ros.tracking.presence import Evidence
from robust_pvos_ros.tracking.types import TrackerConfig


def looks(scores: list[float], right: list[bool]) -> list[Look]:
    cells = Cells(9.0, (0.0, 0.0))
    return [Look(Evidence(score, 1.0, cells), good) for score, good in zip(scores, right, strict=True)]


def test_precision_recall_and_changes() -> None:
    one = looks([0.9, 0.9, 0.2, 0.9], [True, False, True, True])  # TRACKING, TRACKING, not, TRACKING
    other = looks([0.1, 0.1, 0.1, 0.1], [False] * 4)
    config = TrackerConfig(presence_score=0.5, presence_margin=0.0)
    precision, recall, changes = judge([one, other], config)
    assert (precision, recall, changes) == pytest.approx((2 / 3, 2 / 3, 100 * 3 / 8))
    strict = TrackerConfig(presence_score=0.8, presence_margin=0.2)
    assert judge([looks([0.9, 0.2, 0.85], [True] * 3)], strict)[1] == pytest.approx(1 / 3), 'it takes more to come back'
    assert judge([], config) == (0.0, 0.0, 0.0)

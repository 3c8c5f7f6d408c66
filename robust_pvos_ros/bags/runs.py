"""Scored runs and what happened in them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from robust_pvos_ros.bags.scoring import CLEAN, ScoredClip
from robust_pvos_ros.evaluation.events import frames_to_loss, occlusions
from robust_pvos_ros.evaluation.metrics import MeanScore, mean_score
from robust_pvos_ros.evaluation.protocol import Track


@dataclass(frozen=True)
class ObjectEvents:
    """What happened to one object in one clip; frames, and seconds of image time."""

    frames_to_loss: int | None
    seconds_to_loss: float | None
    occlusions: int
    recovered: int
    mean_frames_to_recovery: float | None


def events_of(track: Track, seconds_per_frame: float) -> ObjectEvents:
    """Losses and recoveries of a track."""
    lost = frames_to_loss(track.region, track.visible)
    hidden = occlusions(track.region, track.visible)
    delays = [entry.recovered_after for entry in hidden if entry.recovered_after is not None]
    return ObjectEvents(
        lost,
        None if lost is None else (lost + 1) * seconds_per_frame,
        len(hidden),
        len(delays),
        float(np.mean(delays)) if delays else None,
    )


@dataclass
class Run:
    """A method under one corruption: its clips."""

    method: str
    corruption: str
    clips: list[ScoredClip] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For people."""
        return self.method if self.corruption == CLEAN else f'{self.method}, {self.corruption}'

    @property
    def mean(self) -> MeanScore:
        """Mean over all objects of all clips, as in DAVIS."""
        return mean_score([score for clip in self.clips for score in clip.score.objects])

    def events(self) -> list[ObjectEvents]:
        """Of all objects of all clips."""
        return [events_of(track, clip.seconds_per_frame) for clip in self.clips for track in clip.tracks.values()]

    def speed(self, part: str) -> float:
        """Mean over the clips, weighted by their frames, of one part of their timing; NaN where it is unknown."""
        known = [clip for clip in self.clips if clip.timing is not None]
        if not known:
            return math.nan
        weights = [clip.score.frames for clip in known]
        return float(np.average([getattr(clip.timing, part) for clip in known], weights=weights))

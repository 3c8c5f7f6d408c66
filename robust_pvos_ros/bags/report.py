"""What the report shows of scored runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from robust_pvos_ros.bags.pictures import ClipPictures
from robust_pvos_ros.bags.runs import Run, events_of
from robust_pvos_ros.bags.scoring import CLEAN, ScoredClip
from robust_pvos_ros.evaluation.charts import plot_scores, worst_moments
from robust_pvos_ros.evaluation.metrics import ScoredFrames

MOMENTS = 3
MOST_OBJECTS = 24
"""With curves and pictures in the report; all are in the tables."""


@dataclass
class Shown:
    """One object of one clip as the report shows it: the runs that hold it, and the frames worth a look."""

    sequence: str
    camera: str
    object_id: int
    held: list[tuple[int, ScoredClip]]
    moments: list[int]

    @property
    def key(self) -> tuple[str, str, int]:
        """Of the object among all."""
        return self.sequence, self.camera, self.object_id

    @property
    def worst(self) -> float:
        """Lowest mean J of any run."""
        means = [np.mean(clip.tracks[self.object_id].region or [1.0]) for _, clip in self.held]
        return float(min(means))


def shown_objects(runs: Sequence[Run]) -> list[Shown]:
    """The objects with curves, the worst ones where there are too many, in the order of clips and IDs."""
    found: dict[tuple[str, str, int], Shown] = {}
    for number, run in enumerate(runs):
        for clip in run.clips:
            for object_id in clip.tracks:
                key = clip.sequence, clip.camera, object_id
                found.setdefault(key, Shown(*key, [], [])).held.append((number, clip))
    for shown in found.values():
        tracks = [clip.tracks[shown.object_id] for _, clip in shown.held]
        length = min(len(track.region) for track in tracks)
        places = worst_moments([t.region[:length] for t in tracks], tracks[0].visible[:length], MOMENTS)
        shown.moments = [tracks[0].first + 1 + place for place in places]
    kept = sorted(found.values(), key=lambda shown: shown.worst)[:MOST_OBJECTS]
    return sorted(kept, key=lambda shown: shown.key)


Pictures = Mapping[tuple[int, str, str], ClipPictures]
"""(number of the run, sequence, camera) -> pictures of its shown objects."""


def report_context(runs: Sequence[Run], title: str, convention: ScoredFrames, pictures: Pictures) -> dict[str, Any]:
    """What the template is filled with."""
    return {
        'title': title,
        'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'convention': convention,
        'runs': [_run_row(number, run, runs) for number, run in enumerate(runs)],
        'comparison': _comparison(runs),
        'clips': _clip_sections(runs, pictures),
        'notes': _notes(runs),
        'settings': [(run.name, run.clips[0].about) for run in runs if run.clips[0].about],
    }


def _run_row(number: int, run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    mean, events = run.mean, run.events()
    rival = next((other for other in runs if other.corruption == run.corruption), run)
    times = [entry.seconds_to_loss for entry in events if entry.seconds_to_loss is not None]
    counted = [score for clip in run.clips for score in clip.score.objects if score.frames]
    return {
        'number': number,
        'name': run.name,
        'method': run.method,
        'corruption': run.corruption,
        'clips': len(run.clips),
        'objects': len(events),
        'frames': sum(clip.score.frames for clip in run.clips),
        'mean': mean,
        'recall': float(np.mean([score.region.recall for score in counted])) if counted else math.nan,
        'difference': None if rival is run else mean.mean - rival.mean.mean,
        'rival': rival.name,
        'lost': len(times),
        'seconds_to_loss': float(np.median(times)) if times else None,
        'occlusions': sum(entry.occlusions for entry in events),
        'recovered': sum(entry.recovered for entry in events),
        'swapped': sum(clip.score.swapped for clip in run.clips),
        'switches': sum(clip.switches for clip in run.clips),
        'fps': run.speed('fps'),
        'p50': run.speed('p50'),
        'p99': run.speed('p99'),
        'live': any(clip.timing is not None and clip.timing.live for clip in run.clips),
    }


def _comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Methods by corruptions: J&F, or None where a run is missing."""
    methods = list(dict.fromkeys(run.method for run in runs))
    corruptions = sorted(dict.fromkeys(run.corruption for run in runs), key=lambda name: (name != CLEAN, name))
    by_key = {(run.method, run.corruption): (number, run.mean.mean) for number, run in enumerate(runs)}
    rows = []
    for method in methods:
        cells = [by_key.get((method, corruption)) for corruption in corruptions]
        corrupted = [cell[1] for cell, name in zip(cells, corruptions) if cell is not None and name != CLEAN]
        rows.append({'method': method, 'cells': cells, 'mean': float(np.mean(corrupted)) if corrupted else None})
    return {'corruptions': corruptions, 'rows': rows}


def _clip_sections(runs: Sequence[Run], pictures: Pictures) -> list[dict[str, Any]]:
    sections: dict[tuple[str, str], dict[str, Any]] = {}
    for shown in shown_objects(runs):
        key = shown.sequence, shown.camera
        if key not in sections:
            clip = shown.held[0][1]
            drawn = [(number, run.name, pictures.get((number, *key))) for number, run in enumerate(runs)]
            videos = [
                {'run': number, 'name': name, 'data': made.video, 'poster': made.poster}
                for number, name, made in drawn
                if made is not None and made.video
            ]
            sections[key] = {
                'sequence': shown.sequence, 'camera': shown.camera, 'frames': clip.score.frames,
                'seconds': clip.seconds_per_frame * clip.score.frames, 'videos': videos, 'objects': [],
            }  # fmt: skip
        sections[key]['objects'].append(_object_card(shown, runs, pictures))
    return list(sections.values())


def _object_card(shown: Shown, runs: Sequence[Run], pictures: Pictures) -> dict[str, Any]:
    rows, losses, curves = [], [], []
    for number, clip in shown.held:
        track = clip.tracks[shown.object_id]
        happened = events_of(track, clip.seconds_per_frame)
        score = next(entry for entry in clip.score.objects if entry.object_id == shown.object_id)
        rows.append({'run': number, 'name': runs[number].name, 'score': score, 'events': happened})
        curves.append((number, track.first, track.region))
        if happened.frames_to_loss is not None:
            losses.append((number, track.first + 1 + happened.frames_to_loss))
    clip = shown.held[0][1]
    track = clip.tracks[shown.object_id]
    plot = plot_scores(clip.score.frames, curves, (track.first, track.visible), losses, shown.moments)
    moments = [
        {'frame': frame, 'seconds': clip.seconds_at(frame), 'tiles': _tiles(shown, frame, runs, pictures)}
        for frame in shown.moments
    ]
    return {
        'id': shown.object_id, 'label': clip.labels.get(shown.object_id, ''), 'plot': plot, 'rows': rows,
        'moments': moments if any(moment['tiles'] for moment in moments) else [],
    }  # fmt: skip


def _tiles(shown: Shown, frame: int, runs: Sequence[Run], pictures: Pictures) -> list[dict[str, Any]]:
    """Close-ups of one moment, run by run."""
    tiles = []
    for number, clip in shown.held:
        made = pictures.get((number, shown.sequence, shown.camera))
        tile = made.tiles.get((frame, shown.object_id)) if made is not None else None
        track = clip.tracks[shown.object_id]
        place = frame - track.first - 1
        if tile is not None and 0 <= place < len(track.region):
            tiles.append({'run': number, 'name': runs[number].name, 'data': tile, 'region': track.region[place]})
    return tiles


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing."""
    notes = []
    held = [{(clip.sequence, clip.camera) for clip in run.clips} for run in runs]
    if any(clips != held[0] for clips in held):
        notes.append('The runs do not hold the same clips: their means are not of the same things.')
    for run in runs:
        for clip in run.clips:
            if clip.untracked:
                ids = ', '.join(map(str, clip.untracked))
                notes.append(f'{run.name}, {clip.sequence}: no track lay on true objects {ids}; they are not scored.')
            if clip.without_result:
                notes.append(f'{run.name}, {clip.sequence}: {clip.without_result} frames with truth have no masks.')
    objects = {(c.sequence, c.camera, o) for run in runs for c in run.clips for o in c.tracks}
    if len(objects) > MOST_OBJECTS:
        notes.append(f'Curves are shown for the {MOST_OBJECTS} worst of {len(objects)} objects; the tables hold all.')
    return notes

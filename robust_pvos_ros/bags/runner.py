"""A bag through the tracker: every frame once, in order, at its own pace; what comes of it into another bag."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    DECISION,
    IMAGE,
    OBJECTS,
    PROMPT,
    BagError,
    compressed_message,
    interface_typestore,
    jpeg_of,
    message_types,
)
from robust_pvos_ros.bags.frames import COMPRESSED_SUFFIX, CameraTopic, Joined, truth_topic
from robust_pvos_ros.bags.prompts import FrameKey, IdSource, PromptSource, Request
from robust_pvos_ros.bags.reader import picture_of
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.corruption.corruption import ClipCorruption
from robust_pvos_ros.image_codec import labels_of
from robust_pvos_ros.message_core import LABEL_ENCODING, make_decision, make_image, make_objects, make_prompt
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameError, FrameResult, Prompt, PromptError, seconds_text

LARGEST_ID = 65535
DIAGNOSTICS_PACKAGE = 'diagnostic_msgs/msg'
DIAGNOSTICS = f'{DIAGNOSTICS_PACKAGE}/DiagnosticArray'


def output_topic(topic: interface.Topic, camera: str = '') -> str:
    """Full name of a topic of the node under its default name."""
    return interface.resolved(topic.of(camera))


@dataclass
class CameraRun:
    """One camera's tracker and what has passed through it.

    Attributes:
        corruption: applied to the pictures before the tracker sees them, or None.
        ids: where the tracker's IDs come from; cameras may share it.
        frames: number of processed frames.
        newest: nanoseconds, stamp of the newest of them, or None.
    """

    camera: CameraTopic
    tracker: VideoTracker
    ids: IdSource
    corruption: ClipCorruption | None = None
    frames: int = 0
    newest: int | None = None

    def state(self) -> dict[str, Any]:
        """For ``torch.save``."""
        return {
            'frames': self.frames, 'newest': self.newest, 'ids': list(self.ids.used), 'tracker': self.tracker.state(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.frames, self.newest = state['frames'], state['newest']
        self.ids.used = list(state['ids'])
        self.tracker.restore(state['tracker'])


@dataclass
class Runner:
    """Takes frames and writes what the tracker makes of them.

    All messages of a frame bear the recording time of its image, so that the output depends on the input alone; what
    the frame took, which reports of speed are made from, lies on a topic of its own.

    Attributes:
        cameras: image topic -> camera.
        prompts: where prompts come from.
        writer: of the output.
        keep_images: also write the pictures, as the tracker saw them, as JPEG.
        reset_on_jump: forget the objects of a camera whose image time jumps back, as the node does by default.
        say: takes notes for people.
    """

    cameras: Mapping[str, CameraRun]
    prompts: PromptSource
    writer: BagWriter
    keep_images: bool = True
    reset_on_jump: bool = True
    say: Callable[[str], None] = print
    frames: int = field(default=0, init=False)

    def add_topics(self) -> None:
        """Register the output's topics."""
        for run in self.cameras.values():
            self.writer.add_topic(output_topic(interface.LABEL_IMAGE, run.camera.name), IMAGE)
            self.writer.add_topic(output_topic(interface.OBJECTS, run.camera.name), OBJECTS)
            self.writer.add_topic(timing_topic(run.camera.name), DIAGNOSTICS)
        self.writer.add_topic(output_topic(interface.PROMPTS), PROMPT)
        self.writer.add_topic(output_topic(interface.DECISIONS), DECISION)

    def step(self, frame: Joined) -> FrameResult:
        """Process one frame.

        Raises:
            BagError: if the picture is malformed or a prompt does not fit it.
        """
        run = self.cameras[frame.entry.topic]
        where = f'camera {run.camera.name}, frame {run.frames} ({seconds_text(frame.stamp)})'
        begun = time.perf_counter_ns()
        try:
            rgb = picture_of(frame.entry.message, frame.entry.type)
            truth_entry = frame.sides.get(run.camera.truth)
            truth = None if truth_entry is None else labels_of(truth_entry.message)
            if truth is not None and truth.shape != rgb.shape[:2]:
                sizes = f'{truth.shape[1]}x{truth.shape[0]}', f'{rgb.shape[1]}x{rgb.shape[0]}'
                raise FrameError(f'the truth is {sizes[0]} pixels, but the image {sizes[1]}')
            if run.corruption is not None:
                rgb = run.corruption.rgb(np.array(rgb), run.frames)  # of its own: a bag's pixels are read-only
            self._follow_time(run, frame.stamp)
            key = FrameKey(run.camera.name, run.frames, frame.stamp, frame.entry.time, truth)
            requests = self._numbered(run, self.prompts.due(key))
            result, prompted = _carry_out(run, rgb, frame.stamp, requests)
        except (FrameError, PromptError) as error:
            raise BagError(f'{where}: {error}') from error
        if max(result.index_of, default=0) > LARGEST_ID:
            raise BagError(f'{where}: the ID {max(result.index_of)} does not fit into a label image of 16 bits')
        took = (time.perf_counter_ns() - begun) / 1e6
        run.frames, run.newest = run.frames + 1, frame.stamp
        self.frames += 1
        self._write(run, frame, rgb, result, requests, prompted, took)
        return result

    def _follow_time(self, run: CameraRun, stamp: int) -> None:
        if run.newest is None or stamp >= run.newest:
            return
        before, after = seconds_text(run.newest), seconds_text(stamp)
        removed = run.tracker.reset() if self.reset_on_jump else 0
        self.say(f'{run.camera.name}: image time jumps back from {before} to {after}; {removed} objects removed')

    @staticmethod
    def _numbered(run: CameraRun, requests: list[Request]) -> list[Request]:
        """The requests as the tracker takes them; the source of IDs learns what the objects that start are to have.

        A prompt with an ID that is known already means a correction.
        """
        known = set(run.ids.used)
        wanted: list[int] = []
        numbered: list[Request] = []
        for request in requests:
            if isinstance(request, Prompt) and request.object_id not in known:
                wanted.append(request.object_id)
                known.add(request.object_id)
                request = replace(request, object_id=0)
            numbered.append(request)
        run.ids.ask(wanted)
        return numbered

    def _write(
        self, run: CameraRun, frame: Joined, rgb: np.ndarray, result: FrameResult, requests: list[Request],
        prompted: list[int], took: float,
    ) -> None:  # fmt: skip
        types, header, recorded = message_types(), frame.entry.message.header, frame.entry.time
        name = run.camera.name
        if self.keep_images:
            topic = run.camera.topic.removesuffix(COMPRESSED_SUFFIX) + COMPRESSED_SUFFIX
            self.writer.write(topic, COMPRESSED_IMAGE, recorded, compressed_message(jpeg_of(rgb), 'jpeg', header))
        truth = frame.sides.get(run.camera.truth)
        if truth is not None:
            self.writer.write_message(truth_topic(run.camera.name), IMAGE, recorded, truth.message)
        ids = iter(prompted)
        for request in requests:
            if isinstance(request, Prompt):
                message = make_prompt(types, request, header, name, next(ids))
                self.writer.write_message(output_topic(interface.PROMPTS), PROMPT, recorded, message)
            else:
                decided = make_decision(types, replace(request, camera=name), header)
                self.writer.write_message(output_topic(interface.DECISIONS), DECISION, recorded, decided)
        labels = make_image(types, result.label_image, LABEL_ENCODING, header)
        self.writer.write_message(output_topic(interface.LABEL_IMAGE, name), IMAGE, recorded, labels)
        timings = timing_message({'total': took, **run.tracker.timings}, header, name)
        self.writer.write_message(timing_topic(name), DIAGNOSTICS, recorded, timings)
        objects = make_objects(types, result.objects, header, name)
        self.writer.write_message(output_topic(interface.OBJECTS, name), OBJECTS, recorded, objects)


def _carry_out(
    run: CameraRun, rgb: np.ndarray, stamp: int, requests: list[Request]
) -> tuple[FrameResult, list[int]]:
    """One frame with its requests in their order.

    Returns:
        the frame after the last request, and the IDs of the objects that prompts were for.
    """
    tracker, at = run.tracker, 0
    while at < len(requests) and isinstance(requests[at], Prompt):
        at += 1
    result = tracker.step(rgb, stamp, [r for r in requests[:at] if isinstance(r, Prompt)])
    prompted = list(result.prompted)
    for request in requests[at:]:
        if isinstance(request, Prompt):
            result = tracker.apply([request])
            prompted += result.prompted
        elif request.service == 'reset':
            tracker.reset()
        elif request.service == 'remove_object':
            tracker.remove(request.object_id)
        else:
            tracker.set_label(request.object_id, request.label)
    assert tracker.last_result is not None
    return tracker.last_result, prompted


def timing_topic(camera: str) -> str:
    """Topic of the times that each frame of a camera took."""
    return f'{interface.NODE}/{camera}/timing'


def timing_message(timings: Mapping[str, float], header: Any, camera: str) -> Any:
    """``diagnostic_msgs/DiagnosticArray`` of stage -> milliseconds, under the header of the frame."""
    types = interface_typestore().types
    values = [types[f'{DIAGNOSTICS_PACKAGE}/KeyValue'](key=key, value=f'{value:.4f}') for key, value in timings.items()]
    status = types[f'{DIAGNOSTICS_PACKAGE}/DiagnosticStatus'](
        level=0, name=f'{interface.NODE[1:]}: {camera}', message='milliseconds', hardware_id='', values=values
    )
    return types[DIAGNOSTICS](header=header, status=[status])


def timings_of(message: Any) -> dict[str, float]:
    """The inverse of :func:`timing_message`."""
    return {pair.key: float(pair.value) for status in message.status for pair in status.values}

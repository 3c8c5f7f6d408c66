"""A bag through the tracker: every frame once, in order, by no clock; masks, objects and prompts into another bag."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robust_pvos_ros import interface
from robust_pvos_ros.bags.definitions import (
    COMPRESSED_IMAGE,
    IMAGE,
    OBJECTS,
    PROMPT,
    BagError,
    compressed_message,
    interface_typestore,
    jpeg_of,
    message_types,
)
from robust_pvos_ros.bags.frames import COMPRESSED_SUFFIX, CameraTopic, Joined
from robust_pvos_ros.bags.prompts import FrameKey, IdSource, PromptSource
from robust_pvos_ros.bags.reader import picture_of
from robust_pvos_ros.bags.writer import BagWriter
from robust_pvos_ros.corruption.corruption import ClipCorruption
from robust_pvos_ros.image_codec import labels_of
from robust_pvos_ros.message_core import LABEL_ENCODING, make_image, make_objects, make_prompt, seconds_text
from robust_pvos_ros.tracking.tracker import VideoTracker
from robust_pvos_ros.tracking.types import FrameError, FrameResult, Prompt, PromptError

NODE = '/robust_pvos'
LARGEST_ID = 65535
DIAGNOSTICS_PACKAGE = 'diagnostic_msgs/msg'
DIAGNOSTICS = f'{DIAGNOSTICS_PACKAGE}/DiagnosticArray'


def output_topic(topic: interface.Topic, camera: str = '') -> str:
    """Full name of a topic of the node under its default name."""
    return topic.of(camera).replace('~', NODE, 1)


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
            wanted, prompts = self._numbered(run, self.prompts.due(key))
            run.ids.ask(wanted)
            result = run.tracker.step(rgb, frame.stamp, prompts)
        except (FrameError, PromptError) as error:
            raise BagError(f'{where}: {error}') from error
        if max(result.index_of, default=0) > LARGEST_ID:
            raise BagError(f'{where}: the ID {max(result.index_of)} does not fit into a label image of 16 bits')
        took = (time.perf_counter_ns() - begun) / 1e6
        run.frames, run.newest = run.frames + 1, frame.stamp
        self.frames += 1
        self._write(run, frame, rgb, result, prompts, took)
        return result

    def _follow_time(self, run: CameraRun, stamp: int) -> None:
        if run.newest is None or stamp >= run.newest:
            return
        before, after = seconds_text(run.newest), seconds_text(stamp)
        removed = run.tracker.reset() if self.reset_on_jump else 0
        self.say(f'{run.camera.name}: image time jumps back from {before} to {after}; {removed} objects removed')

    @staticmethod
    def _numbered(run: CameraRun, prompts: list[Prompt]) -> tuple[list[int], list[Prompt]]:
        """IDs asked for by the prompts that start objects, and the prompts as the tracker takes them: an ID that is
        known already means a correction."""
        known = set(run.ids.used)
        wanted, numbered = [], []
        for prompt in prompts:
            if prompt.object_id in known:
                numbered.append(prompt)
                continue
            wanted.append(prompt.object_id)
            known.add(prompt.object_id)
            numbered.append(replace(prompt, object_id=0))
        return wanted, numbered

    def _write(
        self, run: CameraRun, frame: Joined, rgb: np.ndarray, result: FrameResult, prompts: list[Prompt], took: float
    ) -> None:
        types, header, recorded = message_types(), frame.entry.message.header, frame.entry.time
        name = run.camera.name
        if self.keep_images:
            topic = run.camera.topic.removesuffix(COMPRESSED_SUFFIX) + COMPRESSED_SUFFIX
            self.writer.write(topic, COMPRESSED_IMAGE, recorded, compressed_message(jpeg_of(rgb), 'jpeg', header))
        truth = frame.sides.get(run.camera.truth)
        if truth is not None:
            self.writer.write_message(run.camera.truth, IMAGE, recorded, truth.message)
        for prompt, object_id in zip(prompts, result.prompted, strict=True):
            message = make_prompt(types, prompt, header, name, object_id)
            self.writer.write_message(output_topic(interface.PROMPTS), PROMPT, recorded, message)
        labels = make_image(types, result.label_image, LABEL_ENCODING, header)
        self.writer.write_message(output_topic(interface.LABEL_IMAGE, name), IMAGE, recorded, labels)
        timings = timing_message({'total': took, **run.tracker.timings}, header, name)
        self.writer.write_message(timing_topic(name), DIAGNOSTICS, recorded, timings)
        objects = make_objects(types, result.objects, header, name)
        self.writer.write_message(output_topic(interface.OBJECTS, name), OBJECTS, recorded, objects)


def timing_topic(camera: str) -> str:
    """Topic of the times that each frame of a camera took."""
    return f'{NODE}/{camera}/timing'


def timing_message(timings: Mapping[str, float], header: Any, camera: str) -> Any:
    """``diagnostic_msgs/DiagnosticArray`` of stage -> milliseconds, under the header of the frame."""
    types = interface_typestore().types
    values = [types[f'{DIAGNOSTICS_PACKAGE}/KeyValue'](key=key, value=f'{value:.4f}') for key, value in timings.items()]
    status = types[f'{DIAGNOSTICS_PACKAGE}/DiagnosticStatus'](
        level=0, name=f'{NODE[1:]}: {camera}', message='milliseconds', hardware_id='', values=values
    )
    return types[DIAGNOSTICS](header=header, status=[status])


def timings_of(message: Any) -> dict[str, float]:
    """The inverse of :func:`timing_message`."""
    return {pair.key: float(pair.value) for status in message.status for pair in status.values}

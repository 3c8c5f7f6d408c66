"""What a tracker does to its objects on one frame: follow them into it, and take prompts on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_pvos_ros.tracking.contest import Claim, Settled, settle
from robust_pvos_ros.tracking.history import ObjectRow, StreamFrame
from robust_pvos_ros.tracking.inputs import model_mask, model_points
from robust_pvos_ros.tracking.memory import MemoryFrame, ObjectMemory, group_by_key
from robust_pvos_ros.tracking.model import Decoded, Sam2Model
from robust_pvos_ros.tracking.motion import track_of
from robust_pvos_ros.tracking.pieces import Parted, extended, may_have_parted, part
from robust_pvos_ros.tracking.presence import Evidence, contested, evidence_of, is_present
from robust_pvos_ros.tracking.recovery import Sighting, seen_whole, sighted
from robust_pvos_ros.tracking.types import Prompt, TrackerConfig

STAGES = ('encode', 'condition', 'decode', 'remember', 'prompt', 'output')
LOGIT_LIMIT = 32.0  # of previous mask logits fed back to the decoder, as in SAM2VideoPredictor.add_new_points_or_box


class Tracked(NamedTuple):
    """An unprompted object on a frame.

    Attributes:
        entry: its row; decoded, memory, evidence: its mask, batch 1, memory and evidence of the frame.
        contested: it must not learn from the frame.
        settled: what it got of pixels that others claimed as well; None where nobody did.
        parted: what is left of its mask after a piece went off with something else; None where none did.
        sighting: what a second look said, see :mod:`recovery`.
        recalled: what it goes on from where the second look found it again; None where it did not.
    """

    entry: ObjectRow
    decoded: Decoded
    memory: MemoryFrame
    evidence: Evidence
    contested: bool
    settled: Settled | None = None
    parted: Parted | None = None
    sighting: Sighting | None = None
    recalled: ObjectMemory | None = None


def _touches_edge(logits: Tensor) -> bool:
    """Whether a mask (..., h, w) reaches the picture's edge, over which its object may have left."""
    mask = logits > 0
    return bool(mask[..., [0, -1], :].any() or mask[..., [0, -1]].any())


class ObjectSteps:
    """The steps of single objects; which objects there are is the tracker's business.

    Args:
        model: the network.
    """

    def __init__(self, model: Sam2Model) -> None:
        self._model = model
        self._timings: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        """Measure from zero."""
        self._timings = dict.fromkeys(STAGES, 0.0)
        self._marks = []

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what happens inside to a stage's time; a GPU is not waited for, so that it never waits either."""
        if self._model.device.type != 'cuda':
            start = time.perf_counter()
            yield
            self._timings[stage] += (time.perf_counter() - start) * 1e3
            return
        stream = torch.cuda.current_stream(self._model.device)
        start_mark = stream.record_event(torch.cuda.Event(enable_timing=True))
        yield
        self._marks.append((stage, start_mark, stream.record_event(torch.cuda.Event(enable_timing=True))))

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds spent in each of ``STAGES`` since :meth:`begin`; on a GPU those of its stream."""
        for stage, start, end in self._marks:
            end.synchronize()
            self._timings[stage] += start.elapsed_time(end)
        self._marks = []
        return self._timings

    def track(
        self,
        frame: StreamFrame,
        entries: Sequence[ObjectRow],
        config: TrackerConfig,
        beside: Sequence[ObjectRow] = (),
    ) -> list[Tracked]:
        """Follow objects into a frame, in batches; nothing about them changes before :meth:`commit`.

        Args:
            frame: to follow them into.
            entries: the objects.
            config: of the tracker.
            beside: other objects with masks on this frame, which may claim the same pixels.
        """
        parts = self._follow(frame, [entry.memory for entry in entries])
        aside = [row.decoded for row in beside]
        evidence, shared = evidence_of([*aside, *(decoded for decoded, _ in parts)])
        waits, own = contested(evidence, shared, config.exclusive_memory), len(beside)
        found = [
            Tracked(entry, *part, one, flag)
            for entry, part, one, flag in zip(entries, parts, evidence[own:], waits[own:], strict=True)
        ]
        if config.recovery_score < 1:
            found = self._look_again(found, frame, config)
        if config.stray_cover > 0:
            found = [self._take_strays(one, frame, config) for one in found]
        if config.contest_overlap >= 1 or len(evidence) < 2:
            return found
        if any(one.recalled is not None or one.parted is not None for one in found):
            evidence, shared = evidence_of([*aside, *(one.decoded for one in found)])
        return self._settle(found, beside, evidence, shared, frame, config)

    def _follow(self, frame: StreamFrame, memories: Sequence[ObjectMemory]) -> list[tuple[Decoded, MemoryFrame]]:
        """Mask, batch 1, and memory of the frame for each of several objects, in batches."""
        found: dict[int, tuple[Decoded, MemoryFrame]] = {}
        for group in group_by_key(memories, frame.index):
            with self.timed('condition'):
                fused = self._model.condition(frame.features, [memories[place] for place in group], frame.index)
            with self.timed('decode'):
                decoded = self._model.track(frame.features, fused)
            with self.timed('remember'):
                remembered = self._model.remember(frame.features, decoded, frame.index)
            for row, (place, memory) in enumerate(zip(group, remembered, strict=True)):
                found[place] = Decoded(*(x[row : row + 1] for x in decoded)), memory
        return [found[place] for place in range(len(memories))]

    def _look_again(self, found: list[Tracked], frame: StreamFrame, config: TrackerConfig) -> list[Tracked]:
        """Look for objects that are not there with what they remembered when they last were."""
        kept = {
            place: one.entry.keepsake.carried_to(frame.index)
            for place, one in enumerate(found)
            if one.entry.keepsake is not None and not is_present(one.entry.present, one.evidence, config)
        }
        seconds = self._follow(frame, list(kept.values()))
        evidence, _ = evidence_of([decoded for decoded, _ in seconds])
        for (place, memory), (decoded, remembered), second in zip(kept.items(), seconds, evidence, strict=True):
            entry = found[place].entry
            known, least = (entry.motion, entry.sighting, frame.index), config.recovery_score
            sighting = sighted(decoded.logits[0, 0], second, *known, least)
            found[place] = found[place]._replace(sighting=sighting)
            if sighting is not None and sighting.is_sure and sighting.frame_index == frame.index:
                found[place] = Tracked(entry, decoded, remembered, second, contested=False, recalled=memory)
        return found

    def _take_strays(self, one: Tracked, frame: StreamFrame, config: TrackerConfig) -> Tracked:
        """Leave an object the pieces of its mask that lie where it was heading, where others do not."""
        if one.recalled is not None or not may_have_parted(one.entry.trail, one.evidence, frame.stamp):
            return one
        parted = part(one.decoded.logits[0, 0].cpu().numpy(), one.entry.trail, frame.stamp, config.stray_cover)
        if parted is None:
            return one
        decoded = one.decoded._replace(logits=torch.from_numpy(parted.logits)[None, None].to(one.decoded.logits))
        [memory] = self._model.remember(frame.features, decoded, frame.index)
        [evidence], _ = evidence_of([decoded])
        return one._replace(decoded=decoded, memory=memory, evidence=evidence, parted=parted)

    def _settle(
        self,
        found: list[Tracked],
        beside: Sequence[ObjectRow],
        evidence: Sequence[Evidence],
        shared: np.ndarray,
        frame: StreamFrame,
        config: TrackerConfig,
    ) -> list[Tracked]:
        """Tell objects apart that claim the same pixels, and remember what they got."""
        masks = [(row, row.decoded) for row in beside] + [(one.entry, one.decoded) for one in found]
        claims = [Claim(*mask, one) for mask, one in zip(masks, evidence, strict=True)]
        for place, settled in settle(claims, shared, frame.stamp, config.contest_overlap).items():
            own = place - len(beside)
            if own < 0:
                continue
            decoded = settled.decoded
            [memory] = self._model.remember(frame.features, decoded, frame.index)
            [seen], _ = evidence_of([decoded])
            # one that is left without a pixel was not found again after all
            recalled = found[own].recalled if seen.has_mask else None
            found[own] = found[own]._replace(
                decoded=decoded, memory=memory, evidence=seen, settled=settled, recalled=recalled
            )
        return found

    @staticmethod
    def commit(one: Tracked, frame: StreamFrame, config: TrackerConfig) -> None:
        """Make a mask that was followed the object's own, and let it remember the frame where it may."""
        entry, evidence = one.entry, one.evidence
        if one.recalled is not None:
            entry.memory = one.recalled
        present = one.recalled is not None or is_present(entry.present, evidence, config)
        if present:
            entry.keepsake = None
        elif entry.present and config.recovery_score < 1 and not _touches_edge(entry.decoded.logits):
            entry.keepsake = entry.whole.memory if entry.whole is not None else entry.memory.copy()
            if entry.whole is not None and entry.motion is not None:
                entry.motion = replace(entry.motion, area=entry.whole.area)
        entry.sighting = one.sighting
        entry.show(one.decoded, frame, present)
        if one.parted is not None:
            entry.motion, entry.trail = one.parted.motion, one.parted.trail
        if one.settled is not None:
            entry.motion = one.settled.motion
        elif entry.motion is not None and present:
            entry.motion = entry.motion.seen(evidence.cells, one.decoded.logits[0, 0], frame.stamp)
        if entry.motion is not None and present:
            entry.trail = extended(entry.trail, entry.motion, evidence.spread)
        absent = config.memory_policy == 'selective' and evidence.score <= 0.5
        if not absent and not one.contested:
            entry.memory.remember(one.memory)
        if present and config.recovery_score < 1:
            entry.whole = seen_whole(entry.memory, evidence.cells.area, entry.trail) or entry.whole

    def new_object(self, object_id: int, label: str, frame: StreamFrame, config: TrackerConfig) -> ObjectRow:
        """An object that nothing is known of yet."""
        sam = self._model.sam
        memory = ObjectMemory(
            sam.num_maskmem,
            sam.max_obj_ptrs_in_encoder,
            config.max_conditioning_frames,
            by_rank=config.skips_frames,
        )
        absent = self._model.absent_logits()
        zero = absent.new_zeros
        return ObjectRow(
            object_id=object_id,
            label=label,
            memory=memory,
            decoded=Decoded(absent, zero(1, 1), zero(1), zero(1, sam.hidden_dim)),
            prompt_frame=-1,
            points=zero(1, 0, 2),
            point_labels=zero(1, 0, dtype=torch.int32),
            last_seen_frame=frame.index,
        )

    def prompt(self, entry: ObjectRow, prompt: Prompt, frame: StreamFrame, config: TrackerConfig) -> None:
        """One object's mask on a frame from a prompt; its memory becomes a conditioning frame."""
        points: Tensor | None = None
        labels: Tensor | None = None
        if prompt.mask is not None:
            mask = model_mask(prompt.mask, self._model.image_size, self._model.device)
            decoded = self._model.decode_mask(frame.features, mask)
        else:
            points, labels = model_points(entry, prompt, frame, self._model.image_size)
            earlier = entry.memory.before(frame.index)
            first = not earlier.conditioning
            if first:
                fused = self._model.unconditioned(frame.features)
            else:
                fused = self._model.condition(frame.features, [earlier], frame.index)
            # of an object that was not seen the logits would argue against the prompt
            known = (entry.prompt_frame == frame.index or not first) and bool((entry.decoded.logits > 0).any())
            previous = entry.decoded.logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) if known else None
            decoded = self._model.decode(frame.features, fused, (points, labels), previous, first)
        memory = self._model.remember(frame.features, decoded, frame.index, prompted=True)[0]
        [evidence], _ = evidence_of([decoded])
        entry.show(decoded, frame, evidence.has_mask)
        entry.memory.remember_prompt(memory, clear_recent=config.clear_memory_on_refine)
        if evidence.has_mask:
            entry.motion = track_of(evidence.cells, decoded.logits[0, 0], frame.stamp, entry.motion)
        entry.keepsake = entry.sighting = entry.whole = None
        entry.trail = ()
        entry.prompt_frame = frame.index
        entry.points = points if points is not None else entry.points[:, :0]
        entry.point_labels = labels if labels is not None else entry.point_labels[:, :0]

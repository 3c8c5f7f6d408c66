"""What the node says about itself: entries of ``/diagnostics`` and the line of ``~/status``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from diagnostic_msgs.msg import DiagnosticStatus

from robust_pvos_ros.diagnostics import resident_megabytes
from robust_pvos_ros.messages import diagnostic_status
from robust_pvos_ros.node_camera import Camera
from robust_pvos_ros.parameters import Configuration

if TYPE_CHECKING:
    from robust_pvos_ros.export.choose import Choice
    from robust_pvos_ros.relief import MemoryRelief
    from robust_pvos_ros.tracking.model import Sam2Model

PLAUSIBLE_AGE_MS = 60_000


class ReportedNode(Protocol):
    """What a report looks at, while the worker's thread may set any of it to None.

    Attributes:
        model: None unless configured.
        configuration: None unless configured.
        cameras: by name.
        problem: why the last transition failed, or empty.
        progress: what ``configure`` is doing, or empty.
        encoder_choice: which encoder runs and why; None unless configured.
        relief: what was given up for want of GPU memory; None unless configured.
    """

    model: Sam2Model | None
    configuration: Configuration | None
    cameras: dict[str, Camera]
    problem: str
    progress: str
    encoder_choice: Choice | None
    relief: MemoryRelief | None

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""

    def get_name(self) -> str:
        """As ``rclpy.node.Node``."""

    def get_fully_qualified_name(self) -> str:
        """As ``rclpy.node.Node``."""


def node_status(node: ReportedNode) -> DiagnosticStatus:
    """Lifecycle state, model and memory."""
    state, model, configuration = node.state, node.model, node.configuration
    choice, relief = node.encoder_choice, node.relief
    level, text = DiagnosticStatus.OK, state
    if node.problem:
        level, text = DiagnosticStatus.ERROR, f'{state}: {node.problem}'
    elif node.progress:
        text = f'{state}: {node.progress}'
    elif relief is not None and relief.given_up:
        level, text = DiagnosticStatus.WARN, f'{state}: out of GPU memory, so {"; ".join(relief.given_up)}'
    elif fault := _encoder_fault(model, choice):
        level, text = DiagnosticStatus.WARN, f'{state}: {fault}'
    full_name = node.get_fully_qualified_name()
    values: dict[str, object] = {'node': full_name, 'state': state, 'resident_memory_mb': resident_megabytes()}
    if model is not None and configuration is not None:
        from robust_pvos_ros.tracking.checkpoints import adapter_file  # loads torch, as the model has

        adapter = adapter_file(configuration.model)
        values |= {
            'model': model.name,
            'encoder': model.encoder.name,
            'encoder_reason': choice.reason if choice is not None else '',
            'device': str(model.device),
            'staging': model.stager.name,
            'precision': model.precision,
            'adapter': adapter.name if adapter is not None else 'none',
            'memory_policy': configuration.tracker.memory_policy,
            'overload_policy': configuration.node.overload_policy,
        }
    return diagnostic_status(node.get_name(), level, text, _hardware(model), values)


def _encoder_fault(model: Sam2Model | None, choice: Choice | None) -> str:
    """What keeps the encoder that should run from running, or empty."""
    running = getattr(model.encoder, 'failure', '') if model is not None else ''
    return running or (choice.failure if choice is not None else '')


def camera_status(node: ReportedNode, camera: Camera) -> DiagnosticStatus:
    """Rates, latencies and counters of one camera, over the last seconds and frames."""
    arriving, processed = camera.statistics.rates()
    counts = camera.statistics.counts()
    level, text = DiagnosticStatus.OK, f'{len(camera.tracker.objects)} objects at {processed:.1f} fps'
    fresh = camera.statistics.new_faults()
    quiet = camera.silence_level() if node.state == 'active' else 0
    if fresh['failed']:
        level, text = DiagnosticStatus.ERROR, camera.last_problem
    elif fresh['malformed']:
        level, text = DiagnosticStatus.WARN, camera.last_problem
    elif quiet:
        level = DiagnosticStatus.WARN if quiet == 1 else DiagnosticStatus.ERROR
        text = camera.silence()
    values: dict[str, object] = {
        'node': node.get_fully_qualified_name(),
        'camera': camera.name,
        'image_topic': camera.topic,
        'fps': processed,
        'input_fps': arriving,
        'objects': len(camera.tracker.objects),
        'object_memory_mb': camera.object_memory_bytes / 2**20,
        'history_mb': camera.history_bytes / 2**20,
        'silent_s': camera.statistics.silent_for(),
        'oldest_mask_ms': _oldest_mask_ms(camera),
        **counts,
    }
    for stage, (median, p99) in camera.statistics.percentiles().items():
        values[f'{stage}_p50_ms'] = median
        values[f'{stage}_p99_ms'] = p99
    return diagnostic_status(f'{node.get_name()}: {camera.name}', level, text, _hardware(node.model), values)


def _oldest_mask_ms(camera: Camera) -> float:
    """Age of the oldest mask against the newest frame: above 0 where objects are tracked in turns."""
    newest = camera.newest_stamp
    stamps = [tracked.mask_stamp for tracked in camera.tracker.objects]
    return 0.0 if newest is None or not stamps else (newest - min(stamps)) / 1e6


def status_line(node: ReportedNode) -> str:
    """One line for a person."""
    parts, model = [node.state], node.model
    if news := node.problem or node.progress:
        parts.append(news)
    for camera in list(node.cameras.values()):
        parts.append(_camera_line(camera))
    if model is not None:
        parts.append(f'{model.name} on {model.device}, {resident_megabytes():.0f} MB')
    return ' | '.join(parts)


def _camera_line(camera: Camera) -> str:
    states = Counter(tracked.state.name.lower() for tracked in camera.tracker.objects)
    objects = ', '.join(f'{count} {name}' for name, count in states.items()) or 'no objects'
    counts = camera.statistics.counts()
    arriving, processed = camera.statistics.rates()
    line = f'{camera.name}: {objects}, {processed:.1f} of {arriving:.1f} fps'
    age = camera.statistics.percentiles().get('image_age')
    if processed and age is not None:
        line += f', {_age(*age)}'
    return line + ''.join(f', {counts[name]} {name}' for name in ('dropped', 'malformed', 'failed') if counts[name])


def _age(median: float, p99: float) -> str:
    if abs(median) < PLAUSIBLE_AGE_MS:
        return f'age {median:.0f} ms (p99 {p99:.0f})'
    return f'images are {median / 1000:.0f} s old by the clock of this node: is use_sim_time right?'


def _hardware(model: Sam2Model | None) -> str:
    return '' if model is None else str(model.device)

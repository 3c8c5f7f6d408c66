"""Train the compact model on procedural video.

    python -m training.train --config training/configs/compact.yaml --run runs/compact [--deadline 2030-01-01T12:00Z]

A run can be killed at any time and goes on from its last checkpoint when started again with the same command.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import Clips
from robust_pvos_ros.tracking.adapters import MogaAdapter
from training.adaptation import calibrate_gates, corrupt_clips, equip, watched_gates
from training.config import Stage, TrainConfig, load_config
from training.datasets import ClipOptions, ClipSampler, LabelledClips, find_videos
from training.matching import calibrate_matching
from training.model import ClipModel
from training.objectives import Lesson, Objective, mask_objective, matching_objective
from training.optimisers import build_optimisers, set_rates
from training.parallel import average_gradients, leave_processes, make_fabric
from training.start import build_clip_model, read_initial_weights
from training.stream import ClipRequest, ClipStream
from training.teacher import Teacher
from training.validate import region_similarity, validation_bank

log = logging.getLogger('training')


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        seconds, stage_seconds: of computing, pauses left out.
        validation: rows of step, seconds, image size and the numbers of ``HeldOutScore``.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    validation: list[list[float]] = field(default_factory=list)


class Trainer:
    """Model, optimiser, average and data of a run; data and prompts of a step depend on the seed and the step only.

    Attributes:
        stop_wanted: set by a signal; :meth:`fit` ends all processes after the current step.
    """

    def __init__(
        self, config: TrainConfig, run: Path, deadline: float | None = None, fabric: Fabric | None = None
    ) -> None:
        self.config, self.run, self.deadline = config, run, deadline
        self.fabric = fabric or make_fabric(config)
        self.device = self.fabric.device
        torch.manual_seed(config.seed)
        self.progress = Progress()
        self.stop_wanted = False
        self.data_seed = config.seed * self.fabric.world_size + self.fabric.global_rank
        self.stream = ClipStream(
            self.data_seed, self.device, config.bank, config.bank_size, config.bank_every, config.photographs,
            config.actors,
        )
        self.videos = [v for data in config.data for v in find_videos(data.root, data.layout, data.split)]
        self.model = self._build(config.stages[0].size)
        read_initial_weights(self.model, config)
        self.adapter = equip(self.model, config.adaptation)
        self.teacher = self._find_teacher()
        self.auxiliary = torch.nn.Conv2d(self.model.hidden_dim, 16, 1).to(self.device)
        self.optimisers = build_optimisers(self.model, self.auxiliary, self.config)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        run.mkdir(parents=True, exist_ok=True)
        if (run / 'last.pt').is_file():
            self.load(run / 'last.pt')
        [step] = average_gradients(self.fabric, (), float(self.progress.step))
        if step != self.progress.step:
            raise RuntimeError(f'processes begin at different steps: {run} must be a folder that all of them share')

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.config.stages[self.progress.stage]

    def _build(self, size: int) -> ClipModel:
        return build_clip_model(self.config, size).to(self.device).train()

    def _find_teacher(self) -> Teacher | None:
        wanted = self.config.losses.teacher > 0
        return Teacher(self.config, self.model.image_size, self.device) if wanted else None

    def _resize(self, size: int) -> None:
        """The same weights and optimiser state in a model of another image size."""
        if self.model.image_size == size:
            return
        state, optimisers = self.model.state_dict(), [x.state_dict() for x in self.optimisers]
        self.model = self._build(size)
        self.adapter = equip(self.model, self.config.adaptation)
        self.teacher = self._find_teacher()
        self.model.load_state_dict(state)
        self.optimisers = build_optimisers(self.model, self.auxiliary, self.config)
        for optimiser, saved in zip(self.optimisers, optimisers, strict=True):
            optimiser.load_state_dict(saved)

    def save(self) -> None:
        """Write ``last.pt`` atomically."""
        if not self.fabric.is_global_zero:
            return
        state = {
            'config': OmegaConf.to_container(OmegaConf.structured(self.config)),
            'progress': asdict(self.progress),
            'model': self.model.state_dict(),
            'average': self.average,
            'auxiliary': self.auxiliary.state_dict(),
            'optimisers': [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, self.run / 'last.pt.part')
        (self.run / 'last.pt.part').replace(self.run / 'last.pt')

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, map_location='cpu', weights_only=True)
        self.progress = Progress(**state['progress'])
        self._resize(self.config.stages[min(self.progress.stage, len(self.config.stages) - 1)].size)
        self.model.load_state_dict(state['model'])
        self.auxiliary.load_state_dict(state['auxiliary'])
        for optimiser, saved in zip(self.optimisers, state['optimisers'], strict=True):
            optimiser.load_state_dict(saved)
        self.average = {name: value.to(self.device) for name, value in state['average'].items()}
        log.info('resumed from %s at step %d', path, self.progress.step)

    def fraction(self) -> float:
        """How much of the current stage is done, 0 to 1; the deadline can hurry the last stage."""
        stage, progress = self.stage, self.progress
        if stage.steps:
            return progress.stage_step / stage.steps
        done = progress.stage_seconds / max(1e-9, 60 * stage.minutes)
        if self.deadline is not None and progress.stage == len(self.config.stages) - 1:
            left = max(1.0, self.deadline - time.time())  # processes agree on the end: `train_step` asks them all
            done = max(done, progress.stage_seconds / (progress.stage_seconds + left))
        return done

    def learning_rate(self) -> float:
        """The stage's rate after warm-up and decay."""
        stage = self.stage
        rate = stage.lr * min(1.0, (self.progress.step + 1) / self.config.warmup)
        return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.fraction()))) if stage.decay else 1.0)

    def _corrupted(self, clips: Clips | LabelledClips) -> Clips | LabelledClips:
        stage = self.stage
        if stage.corrupted == 0:
            return clips
        rng = np.random.default_rng([self.data_seed, self.progress.step, 3])
        return clips._replace(images=corrupt_clips(clips.images, stage.corrupted, stage.severities, rng))

    def _batch(self) -> Clips | LabelledClips:
        stage, progress = self.stage, self.progress
        rng = np.random.default_rng([self.data_seed, progress.step, 2])
        if rng.uniform() < stage.recorded:
            options = ClipOptions(stage.frames, stage.size, self.config.max_stride)
            recorded = ClipSampler(self.videos, options, self.data_seed).batch(progress.step, stage.clips)
            return LabelledClips(*(x.to(self.device) for x in recorded))
        request = ClipRequest(
            stage.clips, stage.frames, stage.size, stage.pace, stage.scale, stage.ease, stage.vanish, stage.livery,
            stage.passes, stage.window,
        )
        return self.stream.batch(progress.step - progress.stage_step, progress.step, request)

    def _loss(self, clean: Clips | LabelledClips) -> Objective:
        clips = self._corrupted(clean)
        lesson = Lesson(self.teacher, clean.images) if self.teacher is not None else None
        stage, config, step = self.stage, self.config, self.progress.step
        generator = torch.Generator().manual_seed(self.data_seed * 1_000_003 + step)
        with self.fabric.autocast():
            if stage.task == 'correspondence' and isinstance(clips, Clips):
                return matching_objective(self.model, clips, generator)
            rng = np.random.default_rng([self.data_seed, step])
            return mask_objective(
                self.model, self.auxiliary, clips, stage.objects, stage.mix, config.losses, rng, generator, lesson
            )

    @torch.no_grad()
    def _calibrate_gates(self, adapter: MogaAdapter) -> None:
        """On the clips of the first step of the first process."""
        with watched_gates(adapter) as seen:
            self._loss(self._batch())
        calibrate_gates(adapter, torch.cat(seen), self.config.adaptation.gate_spread)
        for name, parameter in self.model.named_parameters():
            if '.gate.' in name:
                parameter.copy_(self.fabric.broadcast(parameter.detach()))
                self.average[name].copy_(parameter)

    def train_step(self, stop: bool = False) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns the loss and its terms, and whether any process wants to stop."""
        stage, config, began = self.stage, self.config, time.monotonic()
        self._resize(stage.size)
        if stage.calibrate and self.progress.stage_step == 0:
            bank = make_bank(config.bank, config.bank_size, config.seed, self.device, config.photographs)
            correlations = calibrate_matching(self.model, bank, config.seed)
            log.info('memory attention calibrated, canonical correlations %s', np.round(correlations, 3))
        if self.adapter is not None and self.progress.step == 0 and config.adaptation.gate_spread > 0:
            self._calibrate_gates(self.adapter)
        [rate] = average_gradients(self.fabric, (), self.learning_rate())  # clocks differ between processes
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        set_rates(self.optimisers, rate, stage, config)
        if self.adapter is not None:
            begin, end = config.adaptation.moga.temperature, config.adaptation.final_temperature
            self.adapter.set_temperature(begin + (end - begin) * (min(1.0, self.fraction()) if stage.anneal else 0.0))
            torch.manual_seed(self.data_seed * 1_000_003 + self.progress.step)  # of the gates' noise
        loss, means = self._loss(self._batch())
        self.fabric.backward(loss)
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        seconds = min(time.monotonic() - began, 20.0)  # a longer step was a pause
        parameters = [p for p in (*self.model.parameters(), *self.auxiliary.parameters()) if p.requires_grad]
        seconds, stops = average_gradients(self.fabric, parameters, seconds, float(stop))
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if torch.isfinite(norm):
            for optimiser in self.optimisers:
                optimiser.step()
        else:
            log.warning('step %d skipped: gradient is not finite', self.progress.step)
        self._update_average()
        progress = self.progress
        progress.step, progress.stage_step = progress.step + 1, progress.stage_step + 1
        progress.seconds, progress.stage_seconds = progress.seconds + seconds, progress.stage_seconds + seconds
        return {'loss': float(loss.detach()), 'norm': float(norm), 'seconds': seconds, **means}, stops > 0

    def _update_average(self) -> None:
        decay = min(self.config.ema, (self.progress.step + 1) / (self.progress.step + 10))
        state = self.model.state_dict()
        names = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], 1 - decay)

    def averaged_model(self, size: int) -> ClipModel:
        """A model of image size ``size`` with the averaged weights, in evaluation mode."""
        model = self._build(size)
        equip(model, self.config.adaptation)
        model.load_state_dict(self.average)
        return model.eval()

    def advance(self) -> bool:
        """Go to the next stage if this one is over; False at the end of the run."""
        progress, stages = self.progress, self.config.stages
        while progress.stage < len(stages) and self.fraction() >= 1:
            log.info('stage %s ends at step %d', self.stage.name, progress.step)
            progress.stage, progress.stage_step, progress.stage_seconds = progress.stage + 1, 0, 0.0
        return progress.stage < len(stages)

    def validate(self, bank: TextureBank, writer: SummaryWriter | None = None) -> None:
        """J on held-out clips at the model's own size and at the training size."""
        progress = self.progress
        if not self.fabric.is_global_zero or not self.config.validate_clips:
            return
        sizes = set() if self.config.official else {self.config.model.image_size}
        for size in sorted({*sizes, self.model.image_size}):
            score = region_similarity(self.averaged_model(size), bank, self.config.validate_clips)
            entry = [progress.step, round(progress.seconds), size, *(round(value, 4) for value in score)]
            progress.validation.append(entry)
            log.info('validation at step %d, %d pixels: J %.4f, after a click %.4f, a box %.4f', entry[0], size, *score)
            if writer is not None:
                for name, value in score._asdict().items():
                    writer.add_scalar(f'validation/J {name}, {size} pixels', value, progress.step)

    def fit(self) -> None:
        """Train to the end of the last stage or to the deadline."""
        leads, progress = self.fabric.is_global_zero, self.progress
        if not self.advance():
            log.info('nothing is left to do: the run ended at step %d', progress.step)
            return
        bank = validation_bank(self.device)
        writer = SummaryWriter(str(self.run / 'tensorboard'), purge_step=progress.step + 1) if leads else None
        steps = [stage.steps for stage in self.config.stages]
        total = sum(steps) if all(steps) else None
        bar = tqdm(total=total, initial=progress.step, unit='step', disable=None if leads else True)
        saved = validated = progress.seconds
        recent: list[dict[str, float]] = []
        stop = False
        try:
            while not stop and self.advance():
                late = self.deadline is not None and time.time() > self.deadline
                terms, stop = self.train_step(self.stop_wanted or late)
                recent.append(terms)
                bar.update()
                if len(recent) == self.config.log_steps:
                    self._log(recent, writer)
                    recent.clear()
                if progress.seconds - saved > self.config.checkpoint_seconds:
                    self.save()
                    saved = progress.seconds
                if progress.seconds - validated > self.config.validate_seconds and self.stage.task == 'clips':
                    self.validate(bank, writer)
                    validated = progress.seconds
            if not self.stop_wanted:
                self.validate(bank, writer)
        finally:
            bar.close()
            if writer is not None:
                writer.close()
        self.save()
        log.info('done after %d steps, %.0f s', progress.step, progress.seconds)
        if self.device.type == 'cuda':
            log.info('most GPU memory at a time: %.2f GB', torch.cuda.max_memory_allocated(self.device) / 1e9)
        else:
            log.info('most memory of the process: %.2f GB', getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9)

    def _log(self, recent: list[dict[str, float]], writer: SummaryWriter | None) -> None:
        """Means of the last steps, to the log and to TensorBoard."""
        step, rate = self.progress.step, self.learning_rate()
        means = {k: float(np.mean([r[k] for r in recent if k in r])) for k in sorted(set().union(*recent))}
        text = ' '.join(f'{k} {v:.4f}' for k, v in means.items())
        done = 100 * self.fraction()
        log.info('step %d stage %s %.0f%% lr %.1e: %s', step, self.stage.name, done, rate, text)
        if writer is not None:
            for name, value in means.items():
                writer.add_scalar(f'training/{name}', value, step)
            writer.add_scalar('training/learning rate', rate, step)


def _deadline(text: str) -> float:
    return datetime.fromisoformat(text.replace('Z', '+00:00')).astimezone(timezone.utc).timestamp()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=None, help='YAML file over the defaults of TrainConfig')
    parser.add_argument('--run', required=True, type=Path, help='folder of checkpoints and log')
    parser.add_argument('--deadline', type=_deadline, default=None, help='ISO time at which to stop, with zone')
    parser.add_argument('--minutes', type=float, default=0.0, help='stop after so many minutes')
    parser.add_argument('overrides', nargs='*', help='key=value')
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    fabric = make_fabric(config)
    fabric.launch()
    arguments.run.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if fabric.is_global_zero:
        handlers.append(logging.FileHandler(arguments.run / 'log.txt'))
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', handlers=handlers)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # the far ends of a softmax are a hundred times slower as subnormal numbers
    deadlines = [arguments.deadline, time.time() + 60 * arguments.minutes if arguments.minutes else None]
    deadline = min((d for d in deadlines if d is not None), default=None)
    trainer = Trainer(config, arguments.run, deadline, fabric)
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    count, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    log.info('%d parameters, %d of them trained, on %s', count, learning, trainer.device)

    def stop(signum: int, frame: object) -> None:
        if trainer.stop_wanted:
            raise KeyboardInterrupt
        trainer.stop_wanted = True
        log.info('stopping after this step; once more to stop at once, without a checkpoint')

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with logging_redirect_tqdm():
        trainer.fit()
    leave_processes()


if __name__ == '__main__':
    main()

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
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import render_clips
from robust_pvos_ros.tracking.compact import CompactConfig
from training.losses import LossWeights, frame_loss, hard_iou
from training.matching import calibrate_matching
from training.model import ClipModel, PromptMix
from training.prompts import choose_objects
from training.validate import region_similarity, validation_bank

log = logging.getLogger('training')


@dataclass
class Stage:
    """One part of the curriculum; it ends after ``steps`` steps, or after ``minutes`` of computing if steps is 0.

    Attributes:
        size, frames, clips, objects: pixels, frames per clip, clips per step and most objects per clip.
        passes: steps taken on each rendered batch, with other objects and prompts.
        pace, scale, ease: speed, size and plainness of the rendered objects, see ``render_clips``.
        lr: learning rate of the stage.
        decay: let the learning rate fall along a cosine over the stage.
        calibrate: begin by setting queries and keys of the memory attention, see :mod:`training.matching`.
        matching_pace: factor on the learning rate of these queries and keys, whose softmax saturates at the full rate.
    """

    name: str = 'a'
    size: int = 128
    frames: int = 2
    clips: int = 8
    objects: int = 2
    passes: int = 2
    pace: float = 1.0
    scale: float = 1.0
    ease: float = 0.0
    lr: float = 1e-3
    decay: bool = False
    calibrate: bool = False
    matching_pace: float = 1.0
    steps: int = 0
    minutes: float = 0.0
    mix: PromptMix = field(default_factory=PromptMix)


@dataclass
class TrainConfig:
    """A whole run; ``init`` names exported weights to begin with instead of random ones."""

    init: str = ''
    seed: int = 0
    device: str = 'auto'
    threads: int = 2
    bfloat16: bool = True
    weight_decay: float = 0.05
    warmup: int = 100
    clip_norm: float = 1.0
    ema: float = 0.998
    bank: int = 160
    bank_size: int = 160
    bank_every: int = 400
    photographs: bool = True
    checkpoint_seconds: float = 120.0
    validate_seconds: float = 300.0
    validate_clips: int = 12
    model: CompactConfig = field(default_factory=CompactConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    stages: list[Stage] = field(default_factory=lambda: [Stage()])


def load_config(path: str | Path | None = None, overrides: list[str] | None = None) -> TrainConfig:
    """The YAML file over the defaults, then ``key=value`` overrides; unknown keys are errors."""
    merged = OmegaConf.structured(TrainConfig)
    if path is not None:
        merged = OmegaConf.merge(merged, OmegaConf.load(path))
    merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(overrides or []))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, TrainConfig)
    return config


@dataclass
class Progress:
    """Where a run stands; ``seconds`` counts computing, not pauses."""

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    validation: list[list[Any]] = field(default_factory=list)


class Trainer:
    """Model, optimiser, average and data of a run; data and prompts of a step depend on the seed and the step only."""

    def __init__(self, config: TrainConfig, run: Path, deadline: float | None = None) -> None:
        self.config, self.run, self.deadline = config, run, deadline
        chosen = 'cuda' if config.device == 'auto' and torch.cuda.is_available() else config.device
        self.device = torch.device('cpu' if chosen == 'auto' else chosen)
        torch.manual_seed(config.seed)
        self.progress = Progress()
        self.started = time.time()
        self._bank: tuple[int, TextureBank] | None = None
        self._clips: tuple[int, torch.Tensor, torch.Tensor] | None = None
        self.model = self._build(config.stages[0].size)
        if config.init:
            self.model.load_state_dict(load_file(config.init, device=str(self.device)))
        self.optimiser = self._optimiser()
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        run.mkdir(parents=True, exist_ok=True)
        if (run / 'last.pt').is_file():
            self.load(run / 'last.pt')

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.config.stages[self.progress.stage]

    def _build(self, size: int) -> ClipModel:
        sizes = {**asdict(self.config.model), 'image_size': size}
        return ClipModel(CompactConfig(**sizes)).to(self.device).train()

    def _optimiser(self) -> torch.optim.AdamW:
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            matching = name.startswith('memory_attention') and ('.q_proj.' in name or '.k_proj.' in name)
            groups.setdefault((matching, parameter.ndim >= 2 and not matching), []).append(parameter)
        return torch.optim.AdamW(
            [
                {
                    'params': parameters,
                    'weight_decay': self.config.weight_decay if decayed else 0.0,
                    'matching': matching,
                }
                for (matching, decayed), parameters in groups.items()
            ],
            lr=1e-3,
            betas=(0.9, 0.99),
            foreach=True,
        )

    def _resize(self, size: int) -> None:
        """The same weights and optimiser state in a model of another image size."""
        if self.model.image_size == size:
            return
        state, optimiser = self.model.state_dict(), self.optimiser.state_dict()
        self.model = self._build(size)
        self.model.load_state_dict(state)
        self.optimiser = self._optimiser()
        self.optimiser.load_state_dict(optimiser)

    def save(self) -> None:
        """Write ``last.pt`` atomically."""
        state = {
            'config': OmegaConf.to_container(OmegaConf.structured(self.config)),
            'progress': asdict(self.progress),
            'model': self.model.state_dict(),
            'average': self.average,
            'optimiser': self.optimiser.state_dict(),
        }
        torch.save(state, self.run / 'last.pt.part')
        (self.run / 'last.pt.part').replace(self.run / 'last.pt')

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.progress = Progress(**state['progress'])
        self._resize(self.stage.size if self.progress.stage < len(self.config.stages) else self.model.image_size)
        self.model.load_state_dict(state['model'])
        self.optimiser.load_state_dict(state['optimiser'])
        self.average = state['average']
        log.info('resumed from %s at step %d', path, self.progress.step)

    def fraction(self) -> float:
        """How much of the current stage is done, 0 to 1; the deadline can hurry the last stage."""
        stage, progress = self.stage, self.progress
        if stage.steps:
            return progress.stage_step / stage.steps
        done = progress.stage_seconds / max(1e-9, 60 * stage.minutes)
        if self.deadline is not None and progress.stage == len(self.config.stages) - 1:
            left = max(0.0, self.deadline - time.time())
            done = progress.stage_seconds / max(1e-9, progress.stage_seconds + left)
        return done

    def learning_rate(self) -> float:
        """The stage's rate after warm-up and decay."""
        stage = self.stage
        rate = stage.lr * min(1.0, (self.progress.step + 1) / self.config.warmup)
        return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.fraction()))) if stage.decay else 1.0)

    def _textures(self) -> TextureBank:
        index = self.progress.step // self.config.bank_every
        if self._bank is None or self._bank[0] != index:
            config = self.config
            seed = config.seed * 100_003 + index
            self._bank = index, make_bank(config.bank, config.bank_size, seed, self.device, config.photographs)
        return self._bank[1]

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        stage, index = self.stage, self.progress.step - self.progress.stage_step % self.stage.passes
        if self._clips is None or self._clips[0] != index:
            step, self.progress.step = self.progress.step, index
            bank = self._textures()
            self.progress.step = step
            seed = self.config.seed * 1_000_003 + index
            images, ids = render_clips(
                stage.clips, stage.frames, stage.size, seed, bank, stage.pace, stage.scale, stage.ease
            )
            self._clips = index, images, ids
        return self._clips[1], self._clips[2]

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the loss and its terms."""
        stage, config = self.stage, self.config
        self._resize(stage.size)
        if stage.calibrate and self.progress.stage_step == 0:
            correlations = calibrate_matching(self.model, self._textures(), config.seed)
            log.info('memory attention calibrated, canonical correlations %s', np.round(correlations, 3))
        images, ids = self._batch()
        rng = np.random.default_rng([config.seed, self.progress.step])
        if rng.uniform() < 0.5:  # the second pass over a batch rarely repeats the first
            images, ids = images.flip(-1), ids.flip(-1)
        if rng.uniform() < 0.5:
            images, ids = images.flip(1), ids.flip(1)
        rows = choose_objects(ids, stage.objects, rng)
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group['lr'] = rate * (stage.matching_pace if group['matching'] else 1.0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            outputs = self.model(images, rows, stage.mix, rng)
        quarter = torch.nn.functional.avg_pool2d(rows.masks, 4)
        losses, terms = [], []
        reached: dict[str, list[float]] = {}
        for output in outputs:
            decoded = output.decoded
            target = quarter[output.rows, output.frame]
            loss, parts = frame_loss(decoded.logits, decoded.ious, decoded.score, target, config.losses)
            losses.append(loss)
            terms.append(parts)
            best = decoded.logits.detach()[torch.arange(len(target)), decoded.ious.argmax(1)]
            visible = (target > 0.5).flatten(1).any(1)
            if visible.any():
                reached.setdefault(f'J_{output.task}', []).append(float(hard_iou(best, target)[visible].mean()))
                if output.task == 'track':  # what repeating the first mask would reach
                    still = hard_iou(quarter[:, 0] - 0.5, target)[visible].mean()
                    reached.setdefault('J_still', []).append(float(still))
        total = torch.stack(losses).mean()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if torch.isfinite(norm):
            self.optimiser.step()
        else:
            log.warning('step %d skipped: gradient is not finite', self.progress.step)
        self._update_average()
        self.progress.step += 1
        self.progress.stage_step += 1
        means = {k: float(torch.stack([t[k] for t in terms]).mean()) for k in terms[0]}
        means |= {k: float(np.mean(v)) for k, v in reached.items()}
        return {'loss': float(total.detach()), 'norm': float(norm), **means}

    def _update_average(self) -> None:
        decay = min(self.config.ema, (self.progress.step + 1) / (self.progress.step + 10))
        state = self.model.state_dict()
        names = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], 1 - decay)

    def averaged_model(self, size: int) -> ClipModel:
        """A model of image size ``size`` with the averaged weights, in evaluation mode."""
        model = self._build(size)
        model.load_state_dict(self.average)
        return model.eval()

    def advance(self) -> bool:
        """Go to the next stage if this one is over; False at the end of the run."""
        progress, stages = self.progress, self.config.stages
        while progress.stage < len(stages) and self.fraction() >= 1:
            log.info('stage %s ends at step %d', self.stage.name, progress.step)
            progress.stage, progress.stage_step, progress.stage_seconds = progress.stage + 1, 0, 0.0
            self._clips = None
        return progress.stage < len(stages) and (self.deadline is None or time.time() < self.deadline)

    def validate(self, bank: TextureBank) -> None:
        """J on held-out clips at the model's own size and at the training size."""
        progress = self.progress
        for size in sorted({self.config.model.image_size, self.model.image_size}):
            score = region_similarity(self.averaged_model(size), bank, self.config.validate_clips)
            progress.validation.append([progress.step, round(progress.seconds), size, round(score, 4)])
            log.info('validation at step %d: J %.4f at %d pixels', progress.step, score, size)

    def fit(self) -> None:
        """Train to the end of the last stage or to the deadline."""
        bank = validation_bank(self.device)
        saved = validated = self.progress.seconds
        recent: list[dict[str, float]] = []
        while self.advance():
            began = time.monotonic()
            recent.append(self.train_step())
            seconds = min(time.monotonic() - began, 20.0)  # a longer step was a pause
            self.progress.seconds += seconds
            self.progress.stage_seconds += seconds
            if len(recent) == 50:
                means = {k: float(np.mean([r[k] for r in recent if k in r])) for k in set().union(*recent)}
                text = ' '.join(f'{k} {v:.4f}' for k, v in sorted(means.items()))
                log.info(
                    'step %d stage %s %.0f%% lr %.1e %.2f s/step: %s', self.progress.step, self.stage.name,
                    100 * self.fraction(), self.learning_rate(), seconds, text,
                )  # fmt: skip
                recent.clear()
            if self.progress.seconds - saved > self.config.checkpoint_seconds:
                self.save()
                saved = self.progress.seconds
            if self.progress.seconds - validated > self.config.validate_seconds:
                self.validate(bank)
                validated = self.progress.seconds
        self.validate(bank)
        self.save()
        log.info('done after %d steps, %.0f s', self.progress.step, self.progress.seconds)


def _deadline(text: str) -> float:
    return datetime.fromisoformat(text.replace('Z', '+00:00')).astimezone(timezone.utc).timestamp()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=None, help='YAML file over the defaults of TrainConfig')
    parser.add_argument('--run', required=True, type=Path, help='folder of checkpoints and log')
    parser.add_argument('--deadline', type=_deadline, default=None, help='ISO time at which to stop, with zone')
    parser.add_argument('overrides', nargs='*', help='key=value')
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format='%(asctime)s %(message)s',
        handlers=[logging.StreamHandler(), logging.FileHandler(arguments.run / 'log.txt')],
    )
    config = load_config(arguments.config, arguments.overrides)
    torch.set_num_threads(config.threads)
    trainer = Trainer(config, arguments.run, arguments.deadline)
    log.info('%d parameters on %s', sum(p.numel() for p in trainer.model.parameters()), trainer.device)

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        trainer.save()
        log.info('stopped at step %d', trainer.progress.step)


if __name__ == '__main__':
    main()

"""Train the compact model on procedural video.

    python -m training.train --config training/configs/compact.yaml --run runs/compact [--deadline 2030-01-01T12:00Z]

A run can be killed at any time and goes on from its last checkpoint when started again with the same command.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
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
from torch import Tensor

from robust_pvos_ros.procedural.textures import TextureBank, make_bank
from robust_pvos_ros.procedural.video import Clips
from robust_pvos_ros.tracking.compact import CompactConfig
from training.config import Stage, TrainConfig, load_config
from training.correspondence import attention_loss, correspondence_loss
from training.datasets import ClipOptions, ClipSampler, LabelledClips, find_videos
from training.losses import frame_loss, hard_iou, rough_loss
from training.matching import calibrate_matching
from training.model import ClipModel, normalise
from training.muon import Muon, suits_muon
from training.parallel import Workers
from training.prompts import choose_objects
from training.stream import ClipRequest, ClipStream
from training.validate import region_similarity, validation_bank

log = logging.getLogger('training')


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
        self.workers = Workers(self.device)
        self.data_seed = config.seed * self.workers.count + self.workers.rank
        self.stream = ClipStream(
            self.data_seed, self.device, config.bank, config.bank_size, config.bank_every, config.photographs
        )
        self.videos = [v for data in config.data for v in find_videos(data.root, data.layout, data.split)]
        self.model = self._build(config.stages[0].size)
        if config.init:
            self.model.load_state_dict(load_file(config.init, device=str(self.device)))
        self.auxiliary = torch.nn.Conv2d(config.model.dim, 16, 1).to(self.device)
        self.optimisers = self._optimisers()
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

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon for hidden layers where the configuration asks for it."""
        hidden: list[torch.nn.Parameter] = []
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in [*self.model.named_parameters(), *self.auxiliary.named_parameters()]:
            matching = name.startswith('memory_attention') and ('.q_proj.' in name or '.k_proj.' in name)
            if self.config.muon > 0 and suits_muon(name, parameter):
                hidden.append(parameter)
            else:
                groups.setdefault((matching, parameter.ndim >= 2 and not matching), []).append(parameter)
        decay = self.config.weight_decay
        adam = torch.optim.AdamW(
            [
                {'params': parameters, 'weight_decay': decay if decayed else 0.0, 'matching': matching}
                for (matching, decayed), parameters in groups.items()
            ],
            lr=1e-3,
            betas=(0.9, 0.99),
            foreach=True,
        )
        return [adam, Muon(hidden, weight_decay=decay)] if hidden else [adam]

    def _resize(self, size: int) -> None:
        """The same weights and optimiser state in a model of another image size."""
        if self.model.image_size == size:
            return
        state, optimisers = self.model.state_dict(), [x.state_dict() for x in self.optimisers]
        self.model = self._build(size)
        self.model.load_state_dict(state)
        self.optimisers = self._optimisers()
        for optimiser, saved in zip(self.optimisers, optimisers, strict=True):
            optimiser.load_state_dict(saved)

    def save(self) -> None:
        """Write ``last.pt`` atomically."""
        if not self.workers.leads:
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
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.progress = Progress(**state['progress'])
        self._resize(self.stage.size if self.progress.stage < len(self.config.stages) else self.model.image_size)
        self.model.load_state_dict(state['model'])
        self.auxiliary.load_state_dict(state['auxiliary'])
        for optimiser, saved in zip(self.optimisers, state['optimisers'], strict=True):
            optimiser.load_state_dict(saved)
        self.average = state['average']
        log.info('resumed from %s at step %d', path, self.progress.step)

    def fraction(self) -> float:
        """How much of the current stage is done, 0 to 1; the deadline can hurry the last stage."""
        stage, progress = self.stage, self.progress
        if stage.steps:
            return progress.stage_step / stage.steps
        done = progress.stage_seconds / max(1e-9, 60 * stage.minutes)
        if self.deadline is not None and progress.stage == len(self.config.stages) - 1:
            left = max(1.0, self.deadline - time.time())  # processes agree on the end: `train_step` asks them all
            done = progress.stage_seconds / max(1e-9, progress.stage_seconds + left)
        return done

    def learning_rate(self) -> float:
        """The stage's rate after warm-up and decay."""
        stage = self.stage
        rate = stage.lr * min(1.0, (self.progress.step + 1) / self.config.warmup)
        return rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.fraction()))) if stage.decay else 1.0)

    def _batch(self) -> Clips | LabelledClips:
        stage, progress = self.stage, self.progress
        rng = np.random.default_rng([self.data_seed, progress.step, 2])
        if rng.uniform() < stage.recorded:
            options = ClipOptions(stage.frames, stage.size, self.config.max_stride)
            recorded = ClipSampler(self.videos, options, self.data_seed).batch(progress.step, stage.clips)
            return LabelledClips(*(x.to(self.device) for x in recorded))
        request = ClipRequest(
            stage.clips, stage.frames, stage.size, stage.pace, stage.scale, stage.ease, stage.passes, stage.window
        )
        return self.stream.batch(progress.step - progress.stage_step, progress.step, request)

    def _correspondence(self, features: list[Tensor], clips: Clips) -> Tensor:
        """Matching loss of the feature maps at strides 8 and 16, (B * T, C, h, h) each."""
        generator = torch.Generator().manual_seed(self.data_seed * 1_000_003 + self.progress.step)
        shape = clips.images.shape[:2]
        eighth, sixteenth = (
            correspondence_loss(x.unflatten(0, shape), clips, generator) for x in features[1:3]
        )
        return sixteenth + 0.5 * eighth

    def _loss_of_features(self, clips: Clips) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            features = self.model.image_encoder(normalise(clips.images.flatten(0, 1)))['backbone_fpn']
        loss = self._correspondence(features, clips)
        return loss, {'correspondence': float(loss.detach())}

    def _loss_of_masks(self, clips: Clips | LabelledClips) -> tuple[Tensor, dict[str, float]]:
        stage, config = self.stage, self.config
        rng = np.random.default_rng([self.data_seed, self.progress.step])
        rows = choose_objects(clips.ids, stage.objects, rng)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            watch = isinstance(clips, Clips) and config.losses.attention > 0
            outputs, features = self.model(clips.images, rows, stage.mix, rng, watch)
        quarter = torch.nn.functional.avg_pool2d(rows.masks, 4)
        losses, terms = [], []
        reached: dict[str, list[float]] = {}
        for output in outputs:
            decoded = output.decoded
            target = quarter[output.rows, output.frame]
            loss, parts = frame_loss(decoded.logits, decoded.ious, decoded.score, target, config.losses)
            if output.conditioned is not None and config.losses.auxiliary > 0:
                rough = torch.nn.functional.pixel_shuffle(self.auxiliary(output.conditioned), 4)
                loss = loss + config.losses.auxiliary * rough_loss(rough[:, 0], target)
            if isinstance(clips, Clips) and output.attention:
                missed = [attention_loss(x, clips, rows.clip, output.frame) for x in output.attention]
                parts['attention'] = torch.stack(missed).mean()
                loss = loss + config.losses.attention * parts['attention']
                parts['attention'] = parts['attention'].detach()
            losses.append(loss * getattr(config.losses, output.task, 1.0))
            terms.append(parts)
            best = decoded.logits.detach()[torch.arange(len(target)), decoded.ious.argmax(1)]
            visible = (target > 0.5).flatten(1).any(1)
            if visible.any():
                reached.setdefault(f'J_{output.task}', []).append(float(hard_iou(best, target)[visible].mean()))
                if output.task == 'track':  # what repeating the first mask would reach
                    still = hard_iou(quarter[:, 0] - 0.5, target)[visible].mean()
                    reached.setdefault('J_still', []).append(float(still))
        total = torch.stack(losses).mean()
        means = {k: float(torch.stack([t[k] for t in terms if k in t]).mean()) for k in set().union(*terms)}
        means |= {k: float(np.mean(v)) for k, v in reached.items()}
        if isinstance(clips, Clips) and config.losses.correspondence > 0:
            matching = self._correspondence(features, clips)
            means['correspondence'] = float(matching.detach())
            total = total + config.losses.correspondence * matching
        return total, means

    def train_step(self, stop: bool = False) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns the loss and its terms, and whether any process wants to stop."""
        stage, config, began = self.stage, self.config, time.monotonic()
        self._resize(stage.size)
        if stage.calibrate and self.progress.stage_step == 0:
            bank = make_bank(config.bank, config.bank_size, config.seed, self.device, config.photographs)
            correlations = calibrate_matching(self.model, bank, config.seed)
            log.info('memory attention calibrated, canonical correlations %s', np.round(correlations, 3))
        [rate] = self.workers.average((), self.learning_rate())  # clocks differ between processes
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group['lr'] = rate * (stage.matching_pace if group.get('matching') else 1.0)
                if isinstance(optimiser, Muon):
                    group['lr'] = rate * config.muon
        clips = self._batch()
        if stage.task == 'correspondence' and isinstance(clips, Clips):
            loss, means = self._loss_of_features(clips)
        else:
            loss, means = self._loss_of_masks(clips)
        loss.backward()
        seconds = min(time.monotonic() - began, 20.0)  # a longer step was a pause
        parameters = [*self.model.parameters(), *self.auxiliary.parameters()]
        seconds, stops = self.workers.average(parameters, seconds, float(stop))
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
        model.load_state_dict(self.average)
        return model.eval()

    def advance(self) -> bool:
        """Go to the next stage if this one is over; False at the end of the run."""
        progress, stages = self.progress, self.config.stages
        while progress.stage < len(stages) and self.fraction() >= 1:
            log.info('stage %s ends at step %d', self.stage.name, progress.step)
            progress.stage, progress.stage_step, progress.stage_seconds = progress.stage + 1, 0, 0.0
        return progress.stage < len(stages)

    def validate(self, bank: TextureBank) -> None:
        """J on held-out clips at the model's own size and at the training size."""
        progress = self.progress
        if not self.workers.leads:
            return
        for size in sorted({self.config.model.image_size, self.model.image_size}):
            score = region_similarity(self.averaged_model(size), bank, self.config.validate_clips)
            progress.validation.append([progress.step, round(progress.seconds), size, round(score, 4)])
            log.info('validation at step %d: J %.4f at %d pixels', progress.step, score, size)

    def fit(self) -> None:
        """Train to the end of the last stage or to the deadline."""
        bank = validation_bank(self.device)
        saved = validated = self.progress.seconds
        recent: list[dict[str, float]] = []
        stop = False
        while not stop and self.advance():
            terms, stop = self.train_step(self.deadline is not None and time.time() > self.deadline)
            recent.append(terms)
            if len(recent) == 50:
                means = {k: float(np.mean([r[k] for r in recent if k in r])) for k in set().union(*recent)}
                text = ' '.join(f'{k} {v:.4f}' for k, v in sorted(means.items()))
                log.info(
                    'step %d stage %s %.0f%% lr %.1e: %s', self.progress.step, self.stage.name,
                    100 * self.fraction(), self.learning_rate(), text,
                )  # fmt: skip
                recent.clear()
            if self.progress.seconds - saved > self.config.checkpoint_seconds:
                self.save()
                saved = self.progress.seconds
            if self.progress.seconds - validated > self.config.validate_seconds and self.stage.task == 'clips':
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
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if os.environ.get('RANK', '0') == '0':
        handlers.append(logging.FileHandler(arguments.run / 'log.txt'))
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', handlers=handlers)
    config = load_config(arguments.config, arguments.overrides)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # the far ends of a softmax are a hundred times slower as subnormal numbers
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
    finally:
        trainer.workers.close()


if __name__ == '__main__':
    main()

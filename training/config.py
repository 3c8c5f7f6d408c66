"""Configuration of a training run: dataclasses with one default each, YAML over them, command-line overrides on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from robust_pvos_ros.tracking.checkpoints import OFFICIAL_CONFIGS
from robust_pvos_ros.tracking.compact import CompactConfig
from training.adaptation import Adaptation
from training.losses import LossWeights
from training.model import PromptMix


@dataclass
class Stage:
    """One part of the curriculum; it ends after ``steps`` steps, or after ``minutes`` of computing if steps is 0.

    Attributes:
        task: ``clips``, objects are followed, or ``correspondence``, only the image encoder learns to match.
        recorded: share of the steps on clips of ``TrainConfig.data`` instead of rendered ones.
        size, frames, clips, objects: pixels, frames per clip, clips per step and most objects per clip.
        corrupted, severities: share of the clips that get one of the eight corruptions, and bounds of its severity.
        passes: steps taken on each rendering, with other objects and prompts, while it is among the ``window`` newest.
        pace, scale, ease, vanish, livery: speed, size, plainness, absence and many colours of the rendered objects, see
            ``render_clips``.
        lr: learning rate of the stage.
        decay: let the learning rate fall along a cosine over the stage.
        anneal: let the temperature of an adapter's gates fall linearly over the stage; others keep the first one.
        calibrate: begin by setting queries and keys of the memory attention, see :mod:`training.matching`.
        matching_pace: factor on the learning rate of the queries and keys of the memory attention, whose softmax
            saturates at the full rate.
    """

    name: str = 'a'
    task: str = 'clips'
    recorded: float = 0.0
    size: int = 128
    frames: int = 2
    clips: int = 8
    objects: int = 2
    passes: int = 2
    window: int = 1
    pace: float = 1.0
    scale: float = 1.0
    ease: float = 0.0
    vanish: float = 0.0
    livery: float = 0.0
    corrupted: float = 0.0
    severities: tuple[float, float] = (1.0, 5.0)
    lr: float = 1e-3
    decay: bool = False
    anneal: bool = False
    calibrate: bool = False
    matching_pace: float = 1.0
    steps: int = 0
    minutes: float = 60.0
    mix: PromptMix = field(default_factory=PromptMix)


@dataclass
class Dataset:
    """A folder of labelled video, see :mod:`training.datasets`."""

    root: str = ''
    layout: str = 'auto'
    split: str = 'train'


@dataclass
class TrainConfig:
    """A whole run.

    Attributes:
        official: name of an official SAM 2.1 model to train instead of the compact one, such as ``sam2.1_base_plus``.
        init: weights to begin with instead of random ones: an exported file, or an official model's ``.pt``.
        recompute: keep no activations of the image encoder but compute them again, which takes a third more time and
            far less memory.
        device, devices, nodes: Fabric's accelerator (``auto`` takes CUDA where there is some), processes of one machine
            and machines; every process renders its own clips, so that a step sees ``devices * nodes`` times as many.
        threads: of torch on a CPU, in each process.
        bfloat16: compute in bfloat16 where autocast finds it safe.
        muon: learning rate of Muon for hidden layers as a multiple of AdamW's; 0 gives all weights to AdamW.
        weight_decay, warmup, clip_norm, ema: decay, steps of warm-up, largest gradient norm, factor of the average.
        bank, bank_size, actors, bank_every: textures, their side in pixels, drawn people, animals and cars, and
            renderings between two sets of all these.
        photographs: take some textures from the sample photographs of installed packages.
        data, max_stride: recorded clips, and the largest step between their frames.
        log_steps: steps whose means make one line of the log.
        checkpoint_seconds, validate_seconds, validate_clips: of computing between two; held-out clips, none for 0.
    """

    official: str = ''
    init: str = ''
    recompute: bool = False
    seed: int = 0
    device: str = 'auto'
    devices: int = 1
    nodes: int = 1
    threads: int = 2
    bfloat16: bool = True
    muon: float = 2.0
    weight_decay: float = 0.05
    warmup: int = 100
    clip_norm: float = 1.0
    ema: float = 0.998
    bank: int = 160
    bank_size: int = 192
    actors: int = 48
    bank_every: int = 150
    photographs: bool = True
    log_steps: int = 50
    checkpoint_seconds: float = 120.0
    validate_seconds: float = 300.0
    validate_clips: int = 12
    model: CompactConfig = field(default_factory=CompactConfig)
    adaptation: Adaptation = field(default_factory=Adaptation)
    losses: LossWeights = field(default_factory=LossWeights)
    data: list[Dataset] = field(default_factory=list)
    max_stride: int = 3
    stages: list[Stage] = field(default_factory=lambda: [Stage()])


def _defaults() -> Any:
    merged: Any = OmegaConf.structured(TrainConfig)
    for frozen in (merged.model, merged.adaptation.moga):
        OmegaConf.set_readonly(frozen, False)  # once built, but set here
    return merged


def restore_config(saved: dict[str, Any]) -> TrainConfig:
    """The configuration that a checkpoint carries."""
    config = OmegaConf.to_object(OmegaConf.merge(_defaults(), saved))
    assert isinstance(config, TrainConfig)
    return config


def load_config(path: str | Path | None = None, overrides: list[str] | None = None) -> TrainConfig:
    """The YAML file over the defaults, then ``key=value`` overrides; unknown keys are errors."""
    merged = _defaults()
    if path is not None:
        merged = OmegaConf.merge(merged, OmegaConf.load(path))
    for override in overrides or []:
        key, _, value = override.partition('=')
        OmegaConf.update(merged, key, yaml.safe_load(value), force_add=False)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, TrainConfig)
    if config.official and config.official not in OFFICIAL_CONFIGS:
        raise ValueError(f'official must be one of {", ".join(OFFICIAL_CONFIGS)}, got {config.official!r}')
    if config.validate_clips < 0:
        raise ValueError(f'validate_clips must be 0 (no validation) or more, got {config.validate_clips}')
    taught = config.losses.teacher
    if taught < 0 or (taught > 0 and not config.init):
        raise ValueError(f'losses.teacher is 0 or more and needs init, which names the teacher; got {taught}')
    for stage in config.stages:
        if stage.task not in ('clips', 'correspondence'):
            raise ValueError(f"task of stage {stage.name!r} must be 'clips' or 'correspondence', got {stage.task!r}")
        if stage.frames < (2 if stage.task == 'correspondence' else 1):
            raise ValueError(f'frames of stage {stage.name!r} are too few for the task {stage.task}: {stage.frames}')
        if not stage.steps and not stage.minutes:
            raise ValueError(f'stage {stage.name!r} has no end: give it steps or minutes')
        if not 0 <= stage.corrupted <= 1 or not 1 <= stage.severities[0] <= stage.severities[1] <= 5:
            raise ValueError(
                f'corrupted of stage {stage.name!r} is a share between 0 and 1 and severities rise from 1 to 5, '
                f'got {stage.corrupted} and {list(stage.severities)}'
            )
        if config.adaptation.trains == 'adapter' and (stage.calibrate or stage.frames < 2 or stage.task != 'clips'):
            raise ValueError(f'stage {stage.name!r} cannot train an adapter: calibrate off, task clips, frames over 1')
        if not 0 <= stage.recorded <= 1 or (stage.recorded and (not config.data or stage.task != 'clips')):
            raise ValueError(
                f'recorded of stage {stage.name!r} is a share between 0 and 1 and needs data and the task clips, '
                f'got {stage.recorded}'
            )
    return config

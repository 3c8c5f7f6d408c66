"""Weighed adapters: the ends are the base and what was trained, and the way between is straight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.adapter_parts import main, weigh
from robust_pvos_ros.tracking.checkpoints import build_sam, shipped_adapter


def test_a_weighed_adapter_lies_between_the_base_and_itself(tmp_path: Path) -> None:
    own, base = load_file(shipped_adapter()), build_sam('compact').state_dict()
    weigh(shipped_adapter(), tmp_path / 'all.safetensors', 1.0, 1.0)
    weigh(shipped_adapter(), tmp_path / 'norms.safetensors', 1.0, 0.0)
    weigh(shipped_adapter(), tmp_path / 'half.safetensors', 0.5, 0.5)
    every, norms, half = (load_file(tmp_path / f'{name}.safetensors') for name in ('all', 'norms', 'half'))
    assert every.keys() == own.keys() and all(torch.equal(every[name], own[name]) for name in own)
    learnt = 0
    for name, value in own.items():
        if name.startswith('norm.'):
            begun = base[name.removeprefix('norm.')]
            torch.testing.assert_close(half[name], (begun + value) / 2)
            assert torch.equal(norms[name], value)
            learnt += int(not torch.equal(begun, value))
        elif '.up.' in name:
            assert not norms[name].any() and torch.equal(half[name], value / 2)
        else:
            assert torch.equal(half[name], value)
    assert learnt > 20


def test_a_file_that_is_no_adapter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['adapter_parts', str(tmp_path / 'none'), str(tmp_path / 'out')])
    with pytest.raises(SystemExit):
        main()
    assert 'cannot read adapter file' in capsys.readouterr().err and not (tmp_path / 'out').exists()

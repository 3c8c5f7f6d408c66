"""Export of the image encoder: ONNX files that equal torch, engines that know what they are for, and the choice."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from robust_pvos_ros.export import choose, engine
from robust_pvos_ros.export.choose import Choice, GuardedEncoder, equip_with_encoder, fresh_sam
from robust_pvos_ros.export.command import check_parity, main
from robust_pvos_ros.export.engine import EngineKey, build_engine, cached_engine, read_engine, write_engine
from robust_pvos_ros.export.onnx_file import ExportError, encoder_digest, export_onnx, relative_error
from robust_pvos_ros.tracking.adapters import MogaConfig, inject, layer_norm_parameters, save_adapter
from robust_pvos_ros.tracking.checkpoints import build_official, build_sam
from robust_pvos_ros.tracking.encoder import EncoderOutput, TorchEncoder
from robust_pvos_ros.tracking.encoder_onnx import OnnxEncoder
from robust_pvos_ros.tracking.model import load_model
from robust_pvos_ros.tracking.types import ModelConfig, ModelError

KEY = EngineKey('e' * 16, 'f' * 16, 'tensorrt_rtx 1.7', 'none', 'float32')
SMALL = ModelConfig(device='cpu', precision='float32', image_size=128, threads=1, encoder='auto')


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('export') / 'encoder.onnx'
    export_onnx(fresh_sam(SMALL), path)
    return path


def test_the_compact_encoder_equals_torch(onnx_file: Path) -> None:
    assert check_parity(onnx_file, SMALL, 'float32') < 1e-4


def test_half_precision_stays_near(tmp_path: Path) -> None:
    export_onnx(fresh_sam(SMALL), tmp_path / 'half.onnx', 'float16')
    assert check_parity(tmp_path / 'half.onnx', SMALL, 'float16') < 3e-2
    assert (tmp_path / 'half.onnx').stat().st_size < 9e6


def test_norms_and_softmax_stay_exact_in_half_precision(tmp_path: Path) -> None:
    import onnx

    export_onnx(build_official('sam2.1_tiny', 128), tmp_path / 'tiny.onnx', 'float16')
    model = onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / 'tiny.onnx')))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    seen: dict[str, set[int | None]] = {'Softmax': set(), 'LayerNormalization': set(), 'Conv': set(),
                                        'MatMul': set()}  # fmt: skip
    for node in model.graph.node:
        if node.op_type in seen:
            seen[node.op_type].add(types.get(node.output[0]))
    assert seen['Softmax'] == seen['LayerNormalization'] == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in seen['Conv'] and onnx.TensorProto.FLOAT16 in seen['MatMul']


def test_the_official_tiny_encoder_equals_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sam = build_official('sam2.1_tiny', 256).eval()
    image = torch.rand(1, 3, 256, 256) * 4 - 2
    wanted = TorchEncoder(sam)(image)
    export_onnx(sam, tmp_path / 'tiny.onnx')
    assert relative_error(OnnxEncoder(tmp_path / 'tiny.onnx')(image), wanted) < 1e-4


def test_an_adapters_layer_norms_are_merged(tmp_path: Path) -> None:
    sam = build_sam('compact', image_size=128)
    adapter = inject(sam, MogaConfig(rank=4))
    for parameter in layer_norm_parameters(sam).values():
        parameter.data += 0.1
    save_adapter(tmp_path / 'a.safetensors', adapter, 'compact')
    config = replace(SMALL, adapter=str(tmp_path / 'a.safetensors'))
    assert encoder_digest(fresh_sam(config)) != encoder_digest(fresh_sam(SMALL))
    export_onnx(fresh_sam(config), tmp_path / 'merged.onnx')
    assert check_parity(tmp_path / 'merged.onnx', config, 'float32') < 1e-4
    with pytest.raises(ExportError, match='differs from torch by'):
        check_parity(tmp_path / 'merged.onnx', SMALL, 'float32')


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    full = mock.patch('torch.onnx.export', side_effect=OSError('disk full'))
    with full, pytest.raises(ExportError, match='disk full'):
        export_onnx(fresh_sam(SMALL), tmp_path / 'e.onnx')
    broken = mock.patch('torch.onnx.export', side_effect=RuntimeError('no such operator'))
    with broken, pytest.raises(ExportError, match='cannot be exported: no such operator'):
        export_onnx(fresh_sam(SMALL), tmp_path / 'e.onnx')
    with pytest.raises(ExportError, match='precision must be one of'):
        export_onnx(fresh_sam(SMALL), tmp_path / 'e.onnx', 'int8')
    assert not list(tmp_path.iterdir())


def test_what_is_no_encoder_is_refused(tmp_path: Path, onnx_file: Path) -> None:
    (tmp_path / 'cut.onnx').write_bytes(onnx_file.read_bytes()[:5000])
    with pytest.raises(ModelError, match='is no ONNX file that can be run'):
        OnnxEncoder(tmp_path / 'cut.onnx')
    with pytest.raises(ModelError, match='is no ONNX file that can be run'):
        OnnxEncoder(tmp_path / 'none.onnx')


# ------------------------------------------------------------------------------------------------------------- engines


def test_engine_files_are_checked(tmp_path: Path) -> None:
    path, payload = tmp_path / KEY.file_name, bytes(range(256)) * 40
    write_engine(path, KEY, payload)
    assert read_engine(path, KEY) == payload
    assert [p.name for p in tmp_path.iterdir()] == [KEY.file_name]
    with pytest.raises(ExportError, match='was built for another tensorrt, gpu'):
        read_engine(path, replace(KEY, tensorrt='tensorrt 10.3', gpu='Orin, 8.7'))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-7] ^= 1
    for data in (whole[:-1], bytes(damaged), whole[:14], whole[:8] + struct.pack('<I', 2**31) + whole[12:]):
        path.write_bytes(data)
        with pytest.raises(ExportError, match='truncated or damaged'):
            read_engine(path, KEY)
    for data in (b'', b'PK\x03\x04 something else', whole[1:]):
        path.write_bytes(data)
        with pytest.raises(ExportError, match='is no engine of this project'):
            read_engine(path, KEY)
    with pytest.raises(ExportError, match='cannot be read'):
        read_engine(tmp_path / 'none.engine', KEY)


def test_an_engine_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(ExportError, match='cannot write'):
        write_engine(tmp_path / 'file' / KEY.file_name, KEY, b'engine')


def test_an_engine_is_built_once_and_again_when_damaged(tmp_path: Path) -> None:
    said: list[str] = []
    with mock.patch.object(engine, 'build_engine', side_effect=[b'first', b'second', b'third']) as build:
        assert cached_engine(tmp_path, KEY, tmp_path / 'e.onnx', said.append) == b'first'
        assert cached_engine(tmp_path, KEY, tmp_path / 'e.onnx', said.append) == b'first'
        (tmp_path / KEY.file_name).write_bytes(b'rubbish')
        assert cached_engine(tmp_path, KEY, tmp_path / 'e.onnx', said.append) == b'second'
        assert cached_engine(tmp_path, replace(KEY, onnx='0' * 16), tmp_path / 'e.onnx', said.append) == b'third'
    assert build.call_count == 3
    assert any('is no engine of this project; it is built again' in text for text in said)


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'precision'), [('compact', 'float32'), ('compact', 'float16'),
                                                  ('sam2.1_tiny', 'float32')])  # fmt: skip
def test_engines_are_built_without_a_gpu(tmp_path: Path, model: str, precision: str) -> None:
    pytest.importorskip('tensorrt_rtx', reason='TensorRT for RTX is not installed: make test-slow installs it')
    sam = fresh_sam(ModelConfig()) if model == 'compact' else build_official(model).eval()
    export_onnx(sam, tmp_path / 'e.onnx', precision)
    said: list[str] = []
    built = build_engine(tmp_path / 'e.onnx', said.append)
    assert len(built) > 1e6 and any('building an engine of' in text for text in said)


@pytest.mark.slow
def test_what_tensorrt_cannot_parse_is_said(tmp_path: Path) -> None:
    pytest.importorskip('tensorrt_rtx', reason='TensorRT for RTX is not installed: make test-slow installs it')
    (tmp_path / 'bad.onnx').write_bytes(b'not a model')
    with pytest.raises(ExportError, match=r'tensorrt_rtx cannot parse .*bad.onnx'):
        build_engine(tmp_path / 'bad.onnx')


# ---------------------------------------------------------------------------------------------------------- the choice


def test_auto_takes_onnx_runtime_where_bfloat16_is_slow(tmp_path: Path) -> None:
    model = load_model(SMALL)
    said: list[str] = []
    plain = model.encoder
    choice = equip_with_encoder(model, SMALL, said.append, tmp_path)
    assert choice == Choice('onnx', 'the CPU does not multiply bfloat16') and model.encoder.name == 'onnx'
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    assert relative_error(model.encode(frame), EncoderOutput(*plain(model.preprocess(frame)))) < 1e-4
    [written] = tmp_path.iterdir()
    assert any(f'exporting the image encoder to {written}' in text for text in said)
    time = written.stat().st_mtime_ns
    equip_with_encoder(load_model(SMALL), SMALL, said.append, tmp_path)
    assert written.stat().st_mtime_ns == time, 'exported once'


def test_a_damaged_export_is_made_again(tmp_path: Path) -> None:
    model, said = load_model(SMALL), list[str]()
    equip_with_encoder(model, SMALL, said.append, tmp_path)
    [written] = tmp_path.iterdir()
    written.write_bytes(written.read_bytes()[:999])
    assert equip_with_encoder(load_model(SMALL), SMALL, said.append, tmp_path).name == 'onnx'
    assert any('it is exported again' in text for text in said)


def test_torch_is_taken_where_it_is_fast_or_alone(tmp_path: Path) -> None:
    model = load_model(replace(SMALL, precision='bfloat16'))
    assert equip_with_encoder(model, SMALL, folder=tmp_path) == Choice('torch', 'the CPU multiplies bfloat16')
    model = load_model(SMALL)
    with mock.patch.object(choose.importlib.util, 'find_spec', return_value=None):
        found = equip_with_encoder(model, SMALL, folder=tmp_path)
    assert found == Choice('torch', 'onnx and onnxruntime are not installed')
    assert model.encoder.name == 'torch' and not list(tmp_path.iterdir())


def test_auto_falls_back_and_says_why(tmp_path: Path) -> None:
    model, said = load_model(SMALL), list[str]()
    with mock.patch.object(choose, 'export_onnx', side_effect=ExportError('no room')):
        choice = equip_with_encoder(model, SMALL, said.append, tmp_path)
    assert choice == Choice('torch', 'onnx cannot be used', 'no room') and model.encoder.name == 'torch'
    assert 'the encoder onnx cannot be used: no room' in said


@pytest.mark.parametrize(('encoder', 'message'), [
    ('tensorrt', 'needs a GPU, but the model is on cpu'),
    ('fast', 'encoder must be one of auto, torch, onnx, tensorrt'),
])  # fmt: skip
def test_what_cannot_run_here_is_refused(tmp_path: Path, encoder: str, message: str) -> None:
    model = load_model(SMALL)
    with pytest.raises(ModelError, match=message):
        equip_with_encoder(model, replace(SMALL, encoder=encoder), folder=tmp_path)
    assert model.encoder.name == 'torch'


def test_an_encoder_that_fails_is_replaced_for_good() -> None:
    calls, said = list[torch.Tensor](), list[str]()

    class Failing:
        name = 'tensorrt'

        def __call__(self, image: torch.Tensor) -> EncoderOutput:
            calls.append(image)
            raise RuntimeError('the GPU fell off the bus')

    class Spare:
        name = 'torch'

        def __call__(self, image: torch.Tensor) -> EncoderOutput:
            return EncoderOutput(image, image, image)

    guarded = GuardedEncoder(Failing(), Spare(), said.append)
    assert guarded.name == 'tensorrt'
    for _ in range(3):
        assert guarded(torch.zeros(1)).stride4.shape == (1,)
    assert guarded.name == 'torch' and len(calls) == 1 and len(said) == 1
    assert guarded.failure == 'the encoder tensorrt failed and torch goes on: the GPU fell off the bus'


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_exports_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / 'e.onnx'), '--image-size', '128']) == 0
    assert 'largest difference from torch' in capsys.readouterr().out
    assert main([str(tmp_path / 'f.onnx'), '--checkpoint', str(tmp_path / 'none')]) == 2
    assert 'error: ' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['e.onnx']

"""The benchmarks measure what they claim: peers compute the model, and hidden instruction sets are hidden."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedModel

from kdqat_cli.bench.engines import ENGINES, OWN
from kdqat_cli.errors import MissingInputError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record
from tests.recipes import quantization


@pytest.mark.parametrize(
    "name", ["ORT 2-bit", "OpenVINO FP32", "torch int8 fbgemm", "torch int8 onednn", "llama.cpp TQ2_0"]
)
def test_a_peer_computes_the_model_or_is_reported_as_missing(
    name: str, benchmarks: Any, model: PreTrainedModel, tiny_encoder: Path, tmp_path: Path
) -> None:
    quantize_model(model, quantization())
    freeze(model)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    save_packed(model, tmp_path, Record(quantization=quantization()))
    engine, packed = benchmarks("model_peers").peers(None)[name], tmp_path / FILE_NAME
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    try:
        engine.prepare(packed, scratch)
    except MissingInputError as error:
        assert "pip install" in str(error.fix)  # noqa: PT017 - which of the two depends on what is installed
        return
    ids = np.random.default_rng(0).integers(5, 60, (3, 11))
    found, own = engine.load(packed, scratch, 1)(ids), ENGINES["cpu"][OWN].load(packed, scratch, 1)(ids)
    np.testing.assert_allclose(found, own, atol=0.2 * float(np.ptp(own)))


def test_a_missing_ik_llama_cpp_is_reported(benchmarks: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="must be compiled") as raised:
        benchmarks("model_peers").peers(None)["ik_llama.cpp IQ2_BN"].prepare(tmp_path / FILE_NAME, tmp_path)
    assert raised.value.fix == "--ik-llama BUILD"


def test_a_row_of_iq2_bn_by_hand(benchmarks: Any) -> None:
    codes = np.zeros((1, 64), np.int8)
    codes[0, [0, 16]] = 1, -1
    row = benchmarks("ggml")._iq2_bn(codes, 0.5)[0]
    assert row[:4].view(np.float32) == 0.5
    assert row[4:].tolist() == [0b01_01_00_10] + [0b01_01_01_01] * 15


def test_ggml_computes_the_chain(benchmarks: Any) -> None:
    pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python")
    pytest.importorskip("gguf")
    ggml, draw = benchmarks("ggml"), np.random.default_rng(0)
    codes = [draw.integers(-1, 2, shape).astype(np.int8) for shape in ((512, 256), (256, 512))]
    x = draw.standard_normal((3, 256)).astype(np.float32)
    chain = ggml.GgmlChain(ggml.llama_cpp(), ggml.TQ2_0, codes, 0.25, x, 1)
    expected = x.astype(np.float64) @ codes[0].T @ codes[1].T * 0.25**2
    np.testing.assert_allclose(chain.run(), expected, atol=0.02 * np.abs(expected).max())
    chain.close()


_ASK = """
from kdqat_cli.native.library import kernels
from kdqat_cli.bench.machine import has_vnni
print(kernels(), has_vnni())
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_newer_machine_can_appear_as_an_avx2_machine(benchmarks: Any, tmp_path: Path) -> None:
    machine = benchmarks("avx2_machine")
    try:
        environment = machine.environment(tmp_path)
    except SystemExit as refused:
        pytest.skip(str(refused))
    ask = [sys.executable, "-c", _ASK]
    seen = subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["['avx2',", "'portable']", "False"]
    # A child process sees the same, and another fault still ends a process.
    parent = [sys.executable, "-c", f"import subprocess; subprocess.run({ask!r}, check=True)"]
    assert subprocess.run(parent, env=environment, capture_output=True, text=True, check=True).stdout == seen
    crash = [sys.executable, "-c", "import ctypes; ctypes.string_at(0)"]
    assert subprocess.run(crash, env=environment, capture_output=True, check=False).returncode == -signal.SIGSEGV

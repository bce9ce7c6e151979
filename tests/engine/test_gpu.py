"""The packed model on a GPU: its kernels compute the same integers as a CPU. Without a GPU, Triton interprets them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdqat_cli.bench.engines import ENGINES
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.gpu import layers
from kdqat_cli.engine.gpu.layers import integer_sums, pack_two_bits, runs_triton, ternary_product, unpack_two_bits
from kdqat_cli.engine.gpu.model import PackedModel
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.packing.packed_file import FILE_NAME
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.stages.bench import bench
from tests.architectures import WORDS, tiny
from tests.commands import REPOSITORY, run
from tests.engine.test_engine import logits_by_torch, pack, sequences

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
triton = pytest.mark.skipif(not runs_triton(DEVICE), reason="Triton is not installed")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
LENGTHS = [7, 1, 12]


def draw(rows: int, columns: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of activations and weights, and their sums in int64."""
    generator = torch.Generator().manual_seed(rows + columns + outputs)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator, dtype=torch.int8)
    weight = torch.randint(-1, 2, (outputs, columns), generator=generator, dtype=torch.int8)
    return codes.to(DEVICE), weight.to(DEVICE), (codes.long() @ weight.long().t()).to(DEVICE)


def test_a_byte_has_four_codes_a_quarter_of_a_row_apart() -> None:
    """By hand: the codes 1, -1, 0, 1 are the digits 2, 0, 1, 2, and 2 + 0·4 + 1·16 + 2·64 = 146."""
    codes = torch.zeros(1, 128, dtype=torch.int8)
    codes[0, [0, 32, 64, 96]] = torch.tensor([1, -1, 0, 1], dtype=torch.int8)
    packed = pack_two_bits(codes)
    assert packed.shape == (1, 32)
    assert packed.view(torch.uint8)[0, :2].tolist() == [146, 1 + 4 + 16 + 64]


@pytest.mark.parametrize("columns", [1, 33, 128, 300])
def test_two_bits_are_unpacked_to_the_same_codes(columns: int) -> None:
    codes = draw(1, columns, 5)[1]
    packed = pack_two_bits(codes)
    assert packed.nbytes <= codes.numel() / 4 + 5 * 32
    assert torch.equal(unpack_two_bits(packed, columns), codes)


@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize(("columns", "outputs"), [(33, 5), (256, 16)])
def test_the_sums_of_torchs_int8_product_are_exact(rows: int, columns: int, outputs: int) -> None:
    codes, weight, sums = draw(rows, columns, outputs)
    assert torch.equal(integer_sums(codes, pack_two_bits(weight)).long(), sums)


@triton
@pytest.mark.parametrize("rows", [0, 1, 3, 5, 17, 40, 130])
@pytest.mark.parametrize(("columns", "outputs"), [(1, 1), (33, 5), (128, 33), (300, 70), (768, 16)])
def test_the_kernels_sums_are_exact(rows: int, columns: int, outputs: int) -> None:
    """With scales of 1 the outputs are the sums, and FP32 represents all integers below 2^24."""
    from kdqat_cli.engine.gpu.kernels import TILES, product

    codes, weight, sums = draw(rows, columns, outputs)
    ones, packed = torch.ones(rows, device=DEVICE), pack_two_bits(weight)
    for tile in (None, *TILES):
        assert torch.equal(product(codes, ones, packed, 1.0, None, tile).long(), sums), tile


@triton
@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("activation", [-127, 0, 127])
@pytest.mark.parametrize("code", [-1, 0, 1])
def test_the_extremes_do_not_overflow(rows: int, activation: int, code: int) -> None:
    codes = torch.full((rows, 3072), activation, dtype=torch.int8, device=DEVICE)
    weight = torch.full((3, 3072), code, dtype=torch.int8, device=DEVICE)
    sums = ternary_product(codes, torch.ones(rows, device=DEVICE), pack_two_bits(weight), 1.0, None)
    assert torch.equal(sums, torch.full_like(sums, 3072 * activation * code))


@triton
@pytest.mark.parametrize("rows", [2, 20])
def test_scales_and_bias(rows: int) -> None:
    codes, weight, sums = draw(rows, 96, 7)
    scales, bias = torch.rand(rows, device=DEVICE) + 0.1, torch.randn(7, device=DEVICE)
    out = ternary_product(codes, scales, pack_two_bits(weight), 0.05, bias)
    exact = sums.double() * scales.double()[:, None] * 0.05 + bias.double()
    torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-5)


@triton
@pytest.mark.parametrize("clip", [None, 0.9])
@pytest.mark.parametrize("shape", [(5, 33), (2, 3, 50), (3, 2, 4, 5), (1, 2500)])
def test_rounding_equals_that_of_the_student(shape: tuple[int, ...], clip: float | None) -> None:
    """Bit for bit, in integers and scales; also for views across heads, zeros, ties and the smallest numbers."""
    from kdqat_cli.engine.gpu.kernels import round_rows

    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[(0,) * (values.dim() - 1)] = 0.0
    rows = values.view(-1, shape[-1])
    if len(rows) > 4:
        rows[1] = torch.linspace(-0.5, 0.5, shape[-1])
        rows[2] = 1e-40
        rows[3, 0], rows[3, 1:] = 127.0, torch.arange(shape[-1] - 1) + 0.5
    if values.dim() == 4:
        values = values.transpose(1, 2)
    if values.dim() == 3:
        values = values.mT.contiguous().mT  # its last dimension is not contiguous
    expected = ActivationQuantizer(8, clip).rounded(values)
    codes, scales = round_rows(values.to(DEVICE), clip, torch.int8)
    assert torch.equal(codes.cpu(), expected.values)
    assert torch.equal(scales.cpu(), expected.scale)


@pytest.mark.parametrize("with_triton", [pytest.param(True, marks=triton), False])
@pytest.mark.parametrize("architecture", ["bert", "electra", "distilbert", "mpnet", "kdqat-t5-encoder"])
def test_logits_equal_those_of_the_packed_model(
    architecture: str, with_triton: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdqat_cli.engine.gpu.layers.runs_triton", lambda _: with_triton)
    monkeypatch.setattr("kdqat_cli.engine.gpu.model.runs_triton", lambda _: with_triton)
    model = tiny(architecture, **({"embedding_size": 20} if architecture == "electra" else {}))
    folder = pack(tmp_path, model, activation_clip=0.9)
    packed = PackedModel(folder / FILE_NAME, DEVICE)
    assert packed.triton == with_triton
    rows = sequences(model, LENGTHS)
    exact, by_torch = logits_by_torch(folder, rows, torch.float64), logits_by_torch(folder, rows)
    scale = np.abs(exact).max()
    error = np.abs(packed.logits(rows) - exact) / scale
    assert np.median(error) <= max(3 * np.median(np.abs(by_torch - exact)) / scale, 1e-6)
    assert error.max() <= 0.03


def test_no_ternary_weight_becomes_a_float_tensor(tmp_path: Path) -> None:
    packed: Any = PackedModel(pack(tmp_path, tiny("bert")) / FILE_NAME, DEVICE)._model
    linears = [module for module in packed.modules() if isinstance(module, layers.PackedLinear)]
    assert len(linears) == 2 * 6 + 1  # in two layers, and the pooler
    assert isinstance(packed.get_input_embeddings(), layers.PackedEmbedding)
    assert all(linear.weight.nbytes == 32 * len(linear.weight) for linear in linears)  # columns are padded to 128
    assert not any(name.endswith("word_embeddings.weight") for name, _ in packed.named_parameters())


REFUSED: list[tuple[list[Row], str]] = [
    ([], "no rows"),
    ([([], None)], "empty"),
    ([([5, WORDS], None)], "token id"),
    ([([5, -1], None)], "token id"),
    ([([5] * 41, None)], "longer than 40"),
    ([([5], [2])], "token type"),
]


def test_inputs_that_the_model_cannot_take_are_refused_before_the_gpu_gets_them(tmp_path: Path) -> None:
    packed = PackedModel(pack(tmp_path, tiny("bert")) / FILE_NAME, DEVICE)
    for rows, sentence in REFUSED:
        with pytest.raises(ValueError, match=sentence):
            packed.logits(rows)
    for name, options in (("roberta", {}), ("mpnet", {"pad_token_id": 5})):  # MPNet counts from 1, with any padding id
        packed = PackedModel(pack(tmp_path / name, tiny(name, **options)) / FILE_NAME, DEVICE)
        with pytest.raises(ValueError, match="longer than 38"):  # two positions precede the first
            packed.logits([([6] * 39, None)])
        assert np.isfinite(packed.logits([([6] * 38, None)])).all()


def test_a_model_in_full_precision_is_refused(tmp_path: Path) -> None:
    folder = pack(tmp_path, tiny("bert"), activations="fp32")
    with pytest.raises(ConfigError, match="8-bit activations"):
        PackedModel(folder / FILE_NAME, DEVICE)


@no_gpu
def test_without_a_gpu_each_command_reports_it(tmp_path: Path) -> None:
    folder = pack(tmp_path / "packed", tiny("bert"))
    with pytest.raises(MissingInputError, match="no GPU"):
        Engine.load(folder, device="cuda")
    with pytest.raises(MissingInputError, match="no GPU"):
        bench(str(folder), [(1, 8)], 1, 1, ENGINES["cuda"], print)
    done = run(tmp_path, "kdqat", "predict", str(folder), "a text", "--device", "cuda", code=3)
    assert "torch finds no GPU here" in done.stderr
    done = run(tmp_path, sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), code=3)
    assert done.stderr.strip() == "torch finds no GPU here."


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_engine_and_bench_serve_the_packed_file(tmp_path: Path) -> None:
    model = tiny("bert")
    folder = pack(tmp_path / "packed", model)
    engine, rows = Engine.load(folder, device="cuda"), sequences(model, LENGTHS)
    assert engine.kernel in ("triton", "int8")
    assert (engine.remark is None) == (engine.kernel == "triton")
    np.testing.assert_allclose(engine.logits(rows), Engine.load(folder).logits(rows), atol=0.05)
    result = bench(str(folder), [(2, 8)], 1, 2, ENGINES["cuda"], print)
    assert result["machine"].startswith(torch.cuda.get_device_name())
    assert [row["engine"] for row in result["latency"]] == ["kdqat", "torch FP32", "torch FP16"]
    assert all(row["MB in memory"] > 0 for row in result["footprint"])


@triton
@no_gpu
def test_the_benchmark_runs_on_small_sizes(tmp_path: Path) -> None:
    program = [sys.executable, str(REPOSITORY / "benchmarks/gpu.py"), "--device", "cpu", "--rounds", "1"]
    small = [
        "--size",
        "128",
        "--rows",
        "8",
        "--layers",
        "1",
        "--hidden",
        "64",
        "--batch",
        "1",
        "--length",
        "5",
        "--tiles",
    ]
    shown = run(tmp_path, *program, *small, TRITON_INTERPRET="1").stdout
    assert "bit for bit" in shown
    assert all(engine in shown for engine in ("kdqat", "FP16", "int8", "TF32", "FP32"))
    assert "FP16 is at least as fast as kdqat from" in shown
    assert "256×128" in shown


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kdqat_cli.engine.gpu import kernels

WHOLE = {"codes": "*i8", "scales": "*fp32", "weight": "*i8", "alpha": "fp32", "bias": "*fp32", "out": "*fp32"}
ROUND = {"values": "*fp32", "codes": "*i8", "scales": "*fp32", "clip": "fp32"}
ALIGNED = ("values", "codes", "scales", "weight", "bias", "out", "outputs", "columns", "quarter")

def built(kernel, types, architecture, warps, **constants):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in ALIGNED if name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    done = compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
    return done.asm["ptx"], done.metadata.shared

for architecture, room in ((89, 99), (90, 227)):
    common = {"BYTES": 64, "EVEN": True, "BIAS": True, "PTX": True}
    for tile in kernels.TILES:
        sizes = {"ROWS": tile.rows, "OUTPUTS": tile.outputs} | common | {"BYTES": min(128, 8192 // tile.rows)}
        ptx, shared = built(kernels._tile_kernel, WHOLE, architecture, tile.warps, **sizes)
        assert ".s32.s8.s8" in ptx and shared <= room * 1024, (architecture, tile, shared)
built(kernels._tile_kernel, WHOLE, 90, 4, ROWS=16, OUTPUTS=32, BYTES=32, EVEN=False, BIAS=False, PTX=True)
for depth in (32, 128):  # one byte per thread, and four
    built(kernels._few_kernel, WHOLE, 90, 4, OUTPUTS=4, **common | {"BYTES": depth})
built(kernels._round_kernel, ROUND, 90, 4, ROWS=2, COLUMNS=1024)
"""


@triton
def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """Triton's compiler may refuse code that its interpreter accepts. Products use the tensor cores in 8 bits."""
    program = tmp_path / "compile_kernels.py"
    program.write_text(COMPILE, encoding="utf-8")
    run(tmp_path, sys.executable, str(program), TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path / "cache"))

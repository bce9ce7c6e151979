"""The library's fused training steps: equal to torch's several passes bit for bit; the divergence against float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from kdqat_cli.distillation.losses import map_loss
from kdqat_cli.native import fused
from kdqat_cli.native.library import KERNEL_VARIABLE, PORTABLE, kernels
from kdqat_cli.networks.dropout import dropout
from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes, Grouping
from kdqat_cli.quantizers.integer import multiplies_integers
from kdqat_cli.quantizers.layers import QuantizedLinear
from kdqat_cli.quantizers.ternary import Ternary
from kdqat_cli.quantizers.uniform import Uniform
from kdqat_cli.quantizers.weights import StraightThrough

pytestmark = pytest.mark.skipif(not kernels(), reason="the native library was not built")

CLIPS = [None, 0.7, 100.0]
SCALES = ["token", "batch"]


def divergence_of_whole_sentences(
    student: Tensor, teacher: Tensor, lengths: list[int], temperature: float, floor: float | None
) -> Tensor:
    """Eq. 6 as in map_loss, for sentences without padding; torch's clamp has no gradient below its limit."""
    sentences = []
    for own, taught, length in zip(student, teacher, lengths, strict=True):
        q, p = ((x[:, :length, :length] / temperature).softmax(-1).clamp(min=floor or 0) for x in (own, taught))
        sentences += [(p * (p.log() - q.log())).sum(-1).mean()] if length else []
    return torch.stack(sentences).mean()


def some(*shape: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[0] = 0  # one or several vectors of zeros
    return values


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 40, 384])
def test_rounds_as_torch_does(kernel: str, threads: int, clip: float | None, scale: str, width: int) -> None:
    quantizer = ActivationQuantizer(8, clip, scale)  # type: ignore[arg-type]
    across_heads = some(5, 7, 3, width).transpose(1, 2)
    for values in (some(9, width), across_heads, across_heads.mT, some(2, 3, 2, 5, width), some(width)):
        rounded, scales, inside = quantizer.round(values)
        codes, value = quantizer.quantized(values)
        assert torch.equal(codes.values, rounded.to(torch.int8))
        assert torch.equal(codes.scale, scales)
        assert torch.equal(value, rounded * scales)
        assert (codes.inside is None) == (inside is None)
        assert inside is None or (codes.inside is not None and torch.equal(codes.inside, inside))


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 1, 1), (5, 33, 17), (40, 768, 64), (200, 300, 100), (130, 4100, 80)]
)
def test_a_product_has_exact_sums(kernel: str, threads: int, rows: int, inputs: int, outputs: int) -> None:
    """4,100 inputs of ±127 would overflow sums of 16 bits."""
    torch.manual_seed(0)
    codes = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8)
    signs = torch.randint(-1, 2, (outputs, inputs), dtype=torch.int8)
    codes[0], signs[0] = 127, 1
    alpha = torch.tensor(0.37)
    for scales in (torch.rand(rows, 1), torch.rand(1, 1)):
        expected = (codes.long() @ signs.long().t()).float() * (scales * alpha)
        assert torch.equal(fused.product(codes, scales, signs, float(alpha)), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_a_student_equals_the_formula_bit_for_bit(kernel: str, bias: bool) -> None:
    torch.manual_seed(0)
    quantizer = ActivationQuantizer(8, None)
    layer = QuantizedLinear(nn.Linear(96, 48, bias=bias), StraightThrough(Ternary(), None), quantizer)
    inputs, codes = torch.randn(70, 96), layer.codes()
    rounded = quantizer.rounded(inputs)
    sums = (rounded.values.long() @ codes.levels.long().t()).double()  # in float64 the product is exact
    expected = sums * (rounded.scale * codes.scales).double() + (layer.bias.double() if bias else 0)
    assert multiplies_integers(inputs) or kernel == PORTABLE
    if multiplies_integers(inputs):
        assert torch.equal(layer(inputs), expected.float())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_in_activations_are_not_hidden(kernel: str, scale: str, bad: float) -> None:
    values = some(6, 35)
    values[3, 34] = bad
    quantizer = ActivationQuantizer(8, None, scale)  # type: ignore[arg-type]
    assert not quantizer.quantized(values)[1][3].isfinite().all()


def same_bits(one: Codes, other: Codes) -> bool:
    return all(torch.equal(values, other.tensors()[name]) for name, values in one.tensors().items())


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("bucket", [1, 5, 16, 33, 256, 300_000])
def test_levels_and_values_equal_those_of_torch(
    kernel: str, threads: int, bits: int, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a shorter last bucket, a constant one, values that are not contiguous, and too large buckets."""
    quantizer = Uniform(bits, bucket)
    for weight in (some(700, 33), 0.01 * some(9, 1) + 3, some(40, 31).mT, some(3, 4, 5, 2), 1e-12 * some(7, 9)):
        codes = quantizer.codes(weight, quantizer.grouping)
        value = codes.value()
        with monkeypatch.context() as patch:
            patch.setenv(KERNEL_VARIABLE, "torch")
            fused._kernel.cache_clear()
            by_torch = quantizer.codes(weight, quantizer.grouping)
            assert not fused.fuses(weight)
            value_by_torch = by_torch.value()
        fused._kernel.cache_clear()
        assert same_bits(codes, by_torch)
        assert torch.equal(value, value_by_torch)


@pytest.mark.parametrize("grouping", [MATRIX, ROW, Grouping("bucket", 7)], ids=str)
def test_signed_levels_give_torchs_products(kernel: str, threads: int, grouping: Grouping) -> None:
    levels = (torch.arange(15 * 40) % 255 - 127).to(torch.int8).view(15, 40)
    scales = some(2, grouping.count(levels.shape)).abs()[1]
    value = Codes(levels, scales, grouping).value()
    expected = grouping.join(grouping.split(levels).float() * scales[:, None], levels.shape)
    assert torch.equal(value, expected)
    assert not torch.signbit(value[levels == 0]).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [3, 40])
def test_a_bucket_with_nan_or_infinity_becomes_nan(kernel: str, width: int, bad: float) -> None:
    weight = some(4, width)
    weight[2, width - 1] = bad
    value = Uniform(4, width).codes(weight, Grouping("bucket", width)).value()
    assert value[2].isnan().all()
    assert value[[0, 1, 3]].isfinite().all()


def test_learned_points_and_scales_keep_their_gradient(kernel: str) -> None:
    scales = torch.ones(4, requires_grad=True)
    Codes(torch.ones(4, 5, dtype=torch.int8), scales, ROW).value().sum().backward()  # type: ignore[no-untyped-call]
    assert scales.grad is not None
    assert scales.grad.tolist() == [5.0] * 4


@pytest.mark.parametrize("floor", [None, 1e-8, 0.01])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("length", [1, 5, 16, 33, 64])
def test_the_divergence_equals_float64_loops(
    kernel: str, threads: int, temperature: float, length: int, floor: float | None
) -> None:
    draw = torch.Generator().manual_seed(length)
    student, teacher = (4 * torch.randn(4, 2, length, length, generator=draw) for _ in range(2))
    lengths = [length, 0, 1, length // 2]
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    wanted = student.double().requires_grad_()
    expected = divergence_of_whole_sentences(wanted, teacher.double(), lengths, temperature, floor)
    expected.backward()  # type: ignore[no-untyped-call]
    padding = ~mask[:, None, None, :].expand_as(student)
    student[padding], teacher[padding] = 1e30, math.nan  # padding may have any value
    student.requires_grad_()
    loss = map_loss([student], [teacher], mask.long(), temperature, floor)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    assert student.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(student.grad.double(), wanted.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("floor", [None, 1e-8])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_divergence_of_nan_is_not_finite(kernel: str, bad: float, floor: float | None) -> None:
    scores, mask = torch.randn(2, 2, 2, 20, 20), torch.ones(2, 20).long()
    for side in range(2):
        pair = scores.clone()
        pair[side, 1, 0, 7, 19] = bad
        assert not map_loss([pair[0]], [pair[1]], mask, floor=floor).isfinite()


def test_dropout_drops_the_same_values_as_torch(kernel: str, threads: int) -> None:
    values = some(7, 33, 65).requires_grad_()
    torch.manual_seed(3)
    out = dropout(values, 0.3, True)
    out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
    torch.manual_seed(3)
    expected = dropout(values.detach().double(), 0.3, True)
    assert torch.equal(out == 0, expected == 0)
    torch.testing.assert_close(out.double(), expected, rtol=2e-7, atol=0)  # the factor is an FP32 number here
    assert values.grad is not None
    factor = 2**16 / round(0.7 * 2**16)
    assert torch.equal(values.grad[1:], torch.where(out[1:] != 0, torch.tensor(factor), torch.tensor(0.0)))


def test_more_threads_than_the_library_supports_are_not_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(300)
    try:
        rounded, _, _ = fused.rounded(some(9, 17), None, False)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rounded, fused.rounded(some(9, 17), None, False)[0])


def test_the_variable_turns_the_fused_steps_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fused.fuses(torch.zeros(1))
    assert not fused.fuses(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    monkeypatch.setenv(KERNEL_VARIABLE, "torch")
    fused._kernel.cache_clear()
    assert not fused.fuses(torch.zeros(1))
    fused._kernel.cache_clear()

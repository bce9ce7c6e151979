"""The fused product of quantised activations against separate quantisation and product, with gradients."""

import pytest
import torch
from torch import Tensor

from kdqat_cli.quantizers.activations import ActivationQuantizer
from kdqat_cli.quantizers.product import quantized_product


@pytest.mark.parametrize("scale", ["token", "batch"])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("transposed", [True, False])
def test_it_equals_separate_quantisation_and_product(scale: str, clip: float | None, transposed: bool) -> None:
    torch.manual_seed(0)
    quantizer = ActivationQuantizer(8, clip, scale)  # type: ignore[arg-type]
    left = torch.randn(2, 3, 5, 4, dtype=torch.float64).transpose(0, 1).requires_grad_()
    right = torch.randn(3, 2, *((6, 4) if transposed else (4, 6)), dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, 5, 6, dtype=torch.float64)

    def results(out: Tensor) -> tuple[Tensor, ...]:
        return out, *torch.autograd.grad(out, (left, right), upstream)

    other = quantizer(right)
    apart = results(torch.matmul(quantizer(left), other.mT if transposed else other))
    torch.testing.assert_close(results(quantized_product(left, right, quantizer, transposed)), apart)


@pytest.mark.parametrize("transposed", [True, False])
def test_autocast_rounds_only_the_factors(transposed: bool) -> None:
    torch.manual_seed(0)
    quantizer = ActivationQuantizer(8, None)
    left = torch.randn(2, 7, 64, requires_grad=True)
    right = torch.randn(2, *((5, 64) if transposed else (64, 5)), requires_grad=True)
    upstream = torch.randn(2, 7, 5)

    def results(half: bool) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = quantized_product(left, right, quantizer, transposed)
        return out, *torch.autograd.grad(out, (left, right), upstream)

    for here, there in zip(results(half=True), results(half=False), strict=True):
        assert here.dtype == torch.float32
        error = ((here - there).norm() / there.norm()).item()
        assert 1e-4 < error < 2**-7, "bfloat16 has 8 bits: factors and result differ by at most 2^-9"

"""The wide residual networks: their sizes, and the computation of a block."""

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn

from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.wide_resnet_model import Block

PARAMETERS = {
    ("wide-28-20", 10): 145_835_690,
    ("wide-16-22", 10): 82_746_890,
    ("wide-28-10", 100): 36_546_980,
    ("wide-16-10", 100): 17_179_940,
    ("wide-22-8", 100): 17_210_564,
}


@pytest.mark.parametrize(("name", "labels"), PARAMETERS)
def test_parameters(name: str, labels: int) -> None:
    with init_empty_weights():
        model = new_network(name, "image", image=(3, 32, 32), num_labels=labels)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name, labels]


def test_the_last_norm_and_the_first_weights() -> None:
    model = new_network("wide-10-1", "image", image=(3, 32, 32), num_labels=10)
    assert model.norm.momentum == 0.9
    assert model.blocks[0].norm1.momentum == 0.1
    bound = 2**0.5 * (6 / (16 * 9 + 16 * 9)) ** 0.5
    assert 0.95 * bound < model.blocks[0].conv1.weight.abs().max() <= bound
    assert not model.stem.bias.any()


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 1), (4, 8, 2)])
def test_a_block_in_plain_torch(inputs: int, outputs: int, stride: int) -> None:
    """norm → ReLU → conv → norm → ReLU → conv with the stride, plus the raw input or its 1×1 convolution."""
    torch.manual_seed(0)
    block = Block(inputs, outputs, stride, 0.3).double().eval()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.get_buffer("running_mean"))
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2)
    values = torch.randn(2, inputs, 8, 8, dtype=torch.float64)

    def normed(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        mean, var = (norm.get_buffer(name)[:, None, None] for name in ("running_mean", "running_var"))
        return (x - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    inner = nn.functional.conv2d(
        normed(values, block.norm1).clamp(min=0), block.conv1.weight, block.conv1.bias, padding=1
    )
    out = normed(inner, block.norm2).clamp(min=0)
    out = nn.functional.conv2d(out, block.conv2.weight, block.conv2.bias, stride=stride, padding=1)
    if isinstance(block.shortcut, nn.Conv2d):
        weight = block.shortcut.weight[:, :, 0, 0]
        short = torch.einsum("oi,bihw->bohw", weight, values[:, :, ::stride, ::stride])
        out = out + short + block.shortcut.bias[:, None, None]  # type: ignore[index]
    else:
        assert (inputs, stride) == (outputs, 1)
        out = out + values
    assert torch.allclose(block(values), out, rtol=1e-10)


def test_it_halves_the_image_twice_and_trains() -> None:
    torch.manual_seed(1)
    model = new_network("wide-10-1", "image", image=(1, 8, 8), num_labels=3)
    seen: list[tuple[int, ...]] = []
    model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    images, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
        losses.append(loss.item())
    assert seen[0] == (12, 64, 2, 2)
    assert losses[-1] < 0.2 * losses[0]

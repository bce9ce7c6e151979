"""The convolutional networks of Polino et al.: their sizes, their order of layers, saving and loading."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.loading import Source, load_net
from kdqat_cli.networks.nets import NETS, new_network, register

CIFAR = {"image": (3, 32, 32), "num_labels": 10}
# Counted from the layers of the public code, with and without batch normalisation.
PARAMETERS = {
    "conv-teacher": (5_346_142, 5_339_350),
    "conv-student-1": (1_000_235, 998_835),
    "conv-student-2": (318_415, 317_395),
    "conv-student-3": (111_935, 111_235),
    "conv-deeper": (5_825_396, 5_816_704),
}


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameters(name: str, counts: tuple[int, int]) -> None:
    model = new_network(name, "image", **CIFAR)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert (whole, whole - sum(p.numel() for norm in norms for p in norm.parameters())) == counts


def test_the_layers_of_student_3_in_plain_torch() -> None:
    """conv → ReLU → batch norm → max-pool, linear → ReLU → batch norm, output: computed step by step in float64."""
    torch.manual_seed(0)
    model = new_network("conv-student-3", "image", **CIFAR).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"))
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    values = images
    for number, block in enumerate(model.convolutions, 1):
        conv, norm = block.conv, block.norm
        values = nn.functional.conv2d(values, conv.weight, conv.bias, padding=2).clamp(min=0)
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        values = (values - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        if number in (2, 4):
            values = nn.functional.max_pool2d(values, 2)
    values = values.reshape(3, 5 * 8 * 8)
    dense = model.dense[0]
    values = (values @ dense.linear.weight.T + dense.linear.bias).clamp(min=0)
    norm = dense.norm
    values = (values - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    expected = values @ model.output.weight.T + model.output.bias
    assert torch.allclose(model(images).logits, expected, rtol=1e-12)
    model.config.relu_logits = True
    assert torch.equal(model(images).logits, model(images).logits.clamp(min=0))


def test_the_user_may_set_fields_of_the_configuration() -> None:
    model = new_network("conv-student-3", "image", {"relu_logits": True, "hidden": [7]}, **CIFAR)
    assert model.config.relu_logits is True
    assert model.output.in_features == 7
    for fields, said in (
        (
            {"relu_logit": True},
            "network.relu_logit: the network conv-student-3 has no field relu_logit; its fields are",
        ),
        ({"image": [1, 8, 8]}, "has no field image"),  # set by the task
        ({"relu_logits": "maybe"}, "network.relu_logits: input should be a valid boolean, but it is 'maybe'"),
        ({"kernel": 2.5}, "network.kernel: input should be a valid integer"),
    ):
        with pytest.raises(ConfigError, match=said):
            new_network("conv-student-3", "image", fields, **CIFAR)


def test_the_first_weights_are_glorot_uniform() -> None:
    model = new_network("conv-teacher", "image", **CIFAR)
    weight = model.convolutions[1].conv.weight
    bound = (6 / (76 * 9 + 76 * 9)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not model.output.bias.any()


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = new_network("conv-digits-small", "image", image=(1, 8, 8), num_labels=4).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_net(Source.find(str(tmp_path))).eval()(images).logits, model(images).logits)
    (tmp_path / "config.json").write_text('{"model_type": "kdqat-conv", "channels": [9], "image": [1, 8, 8]}')
    with pytest.raises(MissingInputError, match="of another size"):
        load_net(Source.find(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="architecture 'bert', but the networks that kdqat trains are kdqat-conv"):
        load_net(Source.find(str(tmp_path)))


def test_unknown_names_and_taken_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean conv-teacher"):
        new_network("conv-taecher", "image")
    with pytest.raises(ConfigError, match="reads rows of the kind text; there are none"):
        new_network("conv-teacher", "text")
    with pytest.raises(ValueError, match="'kdqat-conv' is taken"):
        register(NETS["kdqat-conv"])

"""ONNX graphs on ONNX Runtime: every architecture, every shape of a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError
from kdqat_cli.exporters import onnx_graph
from kdqat_cli.networks.families import FAMILIES
from tests.architectures import tiny, tokens
from tests.exporters.students import frozen, logits, student, unrounded

pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
onnx = pytest.importorskip("onnx", reason="pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
SHAPES = ((7, 4, 1), (12,), (3, 3), (20, 11, 2, 5))


@pytest.fixture(scope="session")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer without token types, as in most architectures."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def run(folder: Path, batch: dict[str, Tensor]) -> Tensor:
    arrays: dict[str, Any] = {name: values.numpy() for name, values in batch.items()}
    return torch.from_numpy(onnx_graph.logits(folder, [arrays])[0])


def test_bytes_by_hand() -> None:
    """One row of 18 codes in blocks of 16; the padding of the row is the zero point."""
    codes = torch.zeros(1, 18, dtype=torch.int8)
    codes[0, 0], codes[0, 3], codes[0, 16], codes[0, 17] = 1, -1, -1, 1
    first = [0b01_10_10_11, 0b10_10_10_10, 0b10_10_10_10, 0b10_10_10_10]
    assert onnx_graph.pack(codes, 16).tolist() == [
        [first, [0b10_10_11_01, 0b10_10_10_10, 0b10_10_10_10, 0b10_10_10_10]]
    ]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_packed_graph_computes_the_student(
    architecture: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Neither side rounds, so the comparison is exact. Padding is masked, and both axes are dynamic."""
    model = unrounded(student(architecture))
    onnx_graph.write(model, tokenizer, tmp_path)
    for lengths in SHAPES:
        batch = tokens(model, lengths)
        expected = logits(model, batch)
        torch.testing.assert_close(run(tmp_path, batch), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert expected.std(0).min() > 1e-3, "the logits depend on the tokens"


@pytest.fixture
def bert(model: PreTrainedModel) -> PreTrainedModel:
    return frozen(model)


@pytest.mark.parametrize("write", [onnx_graph.write, onnx_graph.write_plain])
def test_token_types_are_an_input(
    write: Callable[..., None],
    bert: PreTrainedModel,
    batch: dict[str, Tensor],
    tiny_encoder: Path,
    tmp_path: Path,
) -> None:
    """The packed graph also rounds the inputs of linear layers in its own way, so the logits agree only nearly."""
    write(bert, AutoTokenizer.from_pretrained(tiny_encoder), tmp_path)
    expected = logits(unrounded(bert), batch)
    tolerance = 0.05 if write is onnx_graph.write else 1e-4
    found = run(tmp_path, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    batch["token_type_ids"] = 1 - batch["token_type_ids"]
    assert (run(tmp_path, batch) - found).abs().max() > 0.1 * float(expected.abs().max())


def test_the_content_of_the_packed_graph(
    bert: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    onnx_graph.write(bert, tokenizer, tmp_path)
    content = (tmp_path / onnx_graph.FILE).read_bytes()
    graph = onnx.load_from_string(content).graph
    linears = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(linears) == 3 * 6 + 1
    for node in linears:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        assert (attributes["bits"], attributes["block_size"], attributes["accuracy_level"]) == (2, 128, 4)
    assert sum(node.op_type == "GatherBlockQuantized" for node in graph.node) == 1
    assert [[axis.dim_param != "" for axis in x.type.tensor_type.shape.dim] for x in graph.input] == [[True, True]] * 2
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    large = [array.shape for array in arrays.values() if array.dtype == np.float32 and array.size >= 32 * 32]
    assert large == [(64, 32)], "only the positions: no weight is stored as floats"
    for path in (b"site-packages", str(Path.cwd()).encode(), b"stack_trace"):
        assert path not in content, "paths of the machine"
    again = tmp_path / "again"
    again.mkdir()
    onnx_graph.write(bert, tokenizer, again)
    assert (again / onnx_graph.FILE).read_bytes() == content


def test_the_plain_graph_has_only_standard_operators(
    bert: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    onnx_graph.write_plain(bert, tokenizer, tmp_path)
    model = onnx.load(str(tmp_path / onnx_graph.FILE))
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)


def test_writing_does_not_change_the_student(
    bert: PreTrainedModel, batch: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    before = logits(bert, batch)
    onnx_graph.write(bert, tokenizer, tmp_path)
    assert torch.equal(logits(bert, batch), before)


def test_an_unknown_architecture_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = tiny("bert")
    model.config.model_type = "gpt2"
    with pytest.raises(ConfigError, match="it knows bert, roberta"):
        onnx_graph.write_plain(model, tokenizer, tmp_path)

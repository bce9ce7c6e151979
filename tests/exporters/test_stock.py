"""Folders that transformers loads without kdqat: dense, bitnet, compressed-tensors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.exporters import bitnet, compressed, dense, stock
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.layers import QuantizedWeight
from kdqat_cli.quantizers.parameters import freeze
from tests.architectures import tiny, tokens
from tests.exporters.students import frozen, logits, student, unrounded
from tests.recipes import quantization

STOCK = [name for name in FAMILIES if name != "kdqat-t5-encoder"]


@pytest.fixture(scope="session")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def numpy(batch: dict[str, Tensor]) -> dict[str, Any]:
    return {name: values.numpy() for name, values in batch.items()}


def test_bitnet_bytes_by_hand() -> None:
    """Eight rows: byte r has the rows r, r + 2, r + 4 and r + 6, the first in the lowest bits."""
    codes = torch.tensor([[-1, 0], [0, 0], [0, 1], [1, 0], [1, -1], [0, 0], [-1, -1], [1, 1]], dtype=torch.int8)
    assert bitnet.pack(codes).tolist() == [[0b00_10_01_00, 0b00_00_10_01], [0b10_01_10_01, 0b10_01_01_01]]


def test_transformers_unpacks_bitnet_bytes() -> None:
    from transformers.integrations.bitnet import unpack_weights

    codes = torch.randint(-1, 2, (12, 7), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(unpack_weights(bitnet.pack(codes), torch.float32), codes.float())


def test_compressed_words_by_hand() -> None:
    codes = torch.zeros(1, 17, dtype=torch.int8)
    codes[0, 0], codes[0, 1], codes[0, 15], codes[0, 16] = 1, -1, 1, -1
    first = 0b11_10_10_10_10_10_10_10_10_10_10_10_10_10_01_11 - 2**32
    assert compressed.pack(codes).tolist() == [[first, 0b01]]


@pytest.mark.parametrize("columns", [1, 15, 16, 33])
def test_compressed_words_equal_those_of_the_package(columns: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(-1, 2, (5, columns), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    assert torch.equal(helpers.unpack_from_int32(compressed.pack(codes), 2, codes.shape), codes)


@pytest.mark.parametrize("architecture", STOCK)
def test_a_dense_folder_is_the_student_without_rounding(
    architecture: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = student(architecture)
    dense.write(model, tokenizer, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], values) for name, values in model.state_dict().items())
    batch = tokens(model)
    torch.testing.assert_close(logits(loaded, batch), logits(unrounded(model), batch))
    assert (logits(loaded, batch) - logits(model, batch)).abs().max() > 1e-4, "the student does round"


WRITERS: dict[str, tuple[Callable[..., None], bool]] = {  # bool: the engine does not round inputs of linears
    "dense": (dense.write, True),
    "hf": (bitnet.write, False),
    "hf-compressed": (compressed.write, True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_stock_transformers_computes_the_student(
    name: str, model: PreTrainedModel, batch: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """In a process that does not import kdqat; weights are stored in FP16 and loaded in FP32."""
    if name == "hf-compressed":
        pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    write, linears = WRITERS[name]
    source = frozen(model)
    write(source, tokenizer, tmp_path)
    expected = logits(unrounded(source, linears), batch)
    (found,) = stock.logits(tmp_path, [numpy(batch)])
    # A value near a rounding boundary may be rounded to the other side by float errors.
    tolerance = 1e-5 if linears else 0.02
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    spread = float((logits(model.apply(_negate), batch) - expected).abs().max())
    assert spread > 10 * tolerance * float(expected.abs().max()), "a wrong sign would show"


def _negate(module: Any) -> None:
    if isinstance(module, QuantizedWeight):
        codes = module.codes()
        module.freeze(replace(codes, levels=-codes.levels))


@pytest.mark.parametrize("write", [dense.write, bitnet.write, compressed.write])
def test_half_precision_is_only_for_storage(
    write: Callable[..., None], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    write(student("bert"), tokenizer, tmp_path)
    full = (tmp_path / stock.WEIGHTS).stat().st_size
    write(student("bert"), tokenizer, tmp_path, half=True)
    assert (tmp_path / stock.WEIGHTS).stat().st_size < 0.8 * full
    kinds = {tensor.dtype for tensor in load_file(tmp_path / stock.WEIGHTS).values()}
    assert torch.float16 in kinds
    assert torch.float32 not in kinds
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["dtype"] == "float32"


@pytest.mark.parametrize("write", [dense.write, bitnet.write, compressed.write])
def test_an_encoder_that_stock_transformers_lacks_is_refused(
    write: Callable[..., None], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no classifier of the type kdqat-t5-encoder") as caught:
        write(student("kdqat-t5-encoder"), tokenizer, tmp_path)
    assert caught.value.fix == "--format onnx"


def test_bitnet_refuses_rows_that_are_not_a_multiple_of_four(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has 42 out features"):
        bitnet.write(student("bert", intermediate_size=42), tokenizer, tmp_path)


@pytest.mark.parametrize("write", [bitnet.write, compressed.write])
def test_a_model_that_is_not_ternary_is_refused(
    write: Callable[..., None], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no ternary weights"):
        write(tiny("bert"), tokenizer, tmp_path)
    model = tiny("bert")
    quantize_model(model, quantization(weights="int8"))
    freeze(model)
    with pytest.raises(
        ConfigError, match=r"word_embeddings is int8, 255 levels .* this format holds only levels of -1, 0"
    ):
        write(model, tokenizer, tmp_path)


def test_a_folder_with_a_missing_tensor_is_not_an_export(
    model: PreTrainedModel, batch: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """transformers would fill the tensor with random numbers."""
    source = frozen(model)
    tensors = {name: values for name, values in source.state_dict().items() if name != "classifier.bias"}
    stock.write_stock(source, tokenizer, tmp_path, tensors, half=False)
    with pytest.raises(GateError, match=r"do not fit the architecture.*classifier\.bias"):
        stock.logits(tmp_path, [numpy(batch)])

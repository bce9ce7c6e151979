"""gguf and gguf-tq1: one file for llama.cpp with weights, pooler, classifier, label names and vocabulary.

    TQ2_0   256 codes in 64 bytes, their scale in FP16: 2.06 bits per weight
    TQ1_0   256 codes in 52 bytes, their scale in FP16: 1.69 bits per weight
    Q4_0     32 codes in 16 bytes, their scale in FP16: 4.5 bits per weight

All three store codes exactly. TQ blocks lie along a row, so the length of a row must be a multiple of 256. Other rows,
for example of an encoder with 384 features, are stored as Q4_0, but not by llama.cpp's quantiser: its Q4_0 maps the
levels -8 to 7 to the largest weight of a block and loses +α or -α. Here one step is α, and the codes are -1, 0 and 1.
All blocks of a row have the scale of the row, so the word embedding with its row scales is ternary too.

Differences between llama.cpp and the student: scales have 11 bits. Inputs of packed linears are rounded to 8 bits with
one scale per 256 values (Q4_0: per 32). Inputs of the attention are not rounded, but stored as FP16. GELU is the form
with tanh, from a table for FP16. Token types are all 0; gguf_run.py refuses rows with others.

The classifier of llama.cpp's `bert` is cls.output(tanh(cls(x[0]))). This is BERT's pooler and classifier, and also the
head of RoBERTa and XLM-R. llama.cpp does not have other functions between the linears (ELECTRA, DistilBERT) and biases
of relative positions (MPNet, T5). `Family.llama_cpp` in networks/ says which families it computes.

The pooling `rank` gives the logits of `cls.output` as they are: llama.cpp applies a softmax to those of Qwen3 alone. So
a multi-label model's probabilities are their sigmoids. The keys `kdqat.problem_type` and `kdqat.threshold` say so;
llama.cpp does not read them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError
from kdqat_cli.exporters.gguf_vocabulary import write_vocabulary
from kdqat_cli.exporters.weights import other_tensors, ternary_codes
from kdqat_cli.networks.families import FAMILIES, configured
from kdqat_cli.networks.family import Config, Family
from kdqat_cli.networks.parts import sizes_of
from kdqat_cli.quantizers.codes import Codes
from kdqat_cli.tasks.text.head import threshold_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE = "model.gguf"
TRITS_BLOCK, NIBBLES_BLOCK = 256, 32
_TANH_GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_LAYER = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "attention_gain": "attn_output_norm",
    "up": "ffn_up",
    "down": "ffn_down",
    "output_gain": "layer_output_norm",
}
"""Role of a part of a layer → its name in GGUF."""
_OTHER = {
    "positions": "position_embd",
    "types": "token_types",
    "embedding_gain": "token_embd_norm",
    "pooler": "cls",
    "head_weight": "cls",
    "classifier_weight": "cls.output",
}


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, trits: str) -> None:
    """Writes model.gguf.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer, which is written into the file.
        folder: an existing folder.
        trits: TQ1_0 or TQ2_0, for rows with a multiple of 256 weights.

    Raises:
        ConfigError: llama.cpp does not compute this architecture, or its blocks do not fit the rows.
    """
    import gguf

    config = model.config.to_dict()
    family = configured(config)
    _check(family, config)
    writer = gguf.GGUFWriter(folder / FILE, family.llama_cpp)
    _write_header(writer, model.config, family)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{trits}"])
    write_vocabulary(writer, tokenizer, model.config)
    _write_tensors(writer, model, family, trits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_header(writer: "GGUFWriter", config: PreTrainedConfig, family: Family) -> None:
    import gguf

    values = config.to_dict()
    sizes = sizes_of(family, values)
    writer.add_name(Path(config.name_or_path).name or "kdqat")
    writer.add_context_length(family.longest_row(values))
    writer.add_embedding_length(sizes.hidden)
    writer.add_feed_forward_length(sizes.inner)
    writer.add_block_count(sizes.layers)
    writer.add_head_count(sizes.heads)
    writer.add_layer_norm_eps(sizes.epsilon)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels([str(config.id2label[index]) for index in range(config.num_labels)])
    if (threshold := threshold_of(config)) is not None:
        writer.add_string("kdqat.problem_type", config.problem_type)
        writer.add_float32("kdqat.threshold", threshold)


def _write_tensors(writer: "GGUFWriter", model: PreTrainedModel, family: Family, trits: str) -> None:
    import gguf

    config = model.config.to_dict()
    names = _names(family, sizes_of(family, config).layers)
    first = family.first_position(config)  # llama.cpp counts from 0 and has no rows for padding
    weights = ternary_codes(model)
    for name, codes in weights.items():
        kind, blocks = encode(codes, trits, name)
        writer.add_tensor(f"{names[name]}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, tensor in other_tensors(model, weights).items():
        layer, _, part = name.rpartition(".")
        values = tensor.float().numpy()
        writer.add_tensor(f"{names[layer]}.{part}", values[first:] if names[layer] == "position_embd" else values)


def encode(codes: Codes, trits: str, name: str) -> tuple[str, NDArray[np.uint8]]:
    """A weight in the smallest exact type: the name of the type, and the bytes of the blocks (O, bytes per row).

    Args:
        codes: the weight (O, I), with one scale per matrix or row.
        trits: TQ1_0 or TQ2_0, used if rows have a multiple of 256 weights.
        name: the name of the weight in an error.

    Raises:
        ConfigError: rows do not have a multiple of 32 weights.
    """
    import gguf

    columns = codes.levels.shape[1]
    if columns % TRITS_BLOCK == 0:
        kind = gguf.GGMLQuantizationType[trits]
        # The scale of a block is its largest magnitude; a block with only level 0 gets scale 0.
        return trits, gguf.quants.quantize(codes.value().numpy(), kind)
    if columns % NIBBLES_BLOCK == 0:
        return "Q4_0", _nibbles(codes)
    raise ConfigError(f"{name} has rows of {columns} weights; GGUF's blocks hold {TRITS_BLOCK} or {NIBBLES_BLOCK}.")


def _nibbles(codes: Codes) -> NDArray[np.uint8]:
    """Q4_0 blocks: scale in FP16, then 16 bytes with levels + 8: the first 16 levels in the low halves of the bytes."""
    rows, columns = codes.levels.shape
    digits = (codes.levels.numpy() + 8).astype(np.uint8).reshape(rows, columns // NIBBLES_BLOCK, 2, NIBBLES_BLOCK // 2)
    scales = codes.scales.expand(rows).numpy().astype(np.float16)
    scale_bytes = np.broadcast_to(scales.view(np.uint8).reshape(rows, 1, 2), (rows, digits.shape[1], 2))
    return np.concatenate([scale_bytes, digits[:, :, 0] | digits[:, :, 1] << 4], axis=-1).reshape(rows, -1)


def _check(family: Family, config: Config) -> None:
    if family.llama_cpp is None:
        known = [name for name, one in FAMILIES.items() if one.llama_cpp is not None]
        raise ConfigError(
            f"llama.cpp has no classifier of the type {family.model_type}, but has {', '.join(known)}.",
            "--format onnx",
        )
    function = config[family.activation]
    if function not in _TANH_GELUS:
        raise ConfigError(f"llama.cpp computes BERT with GELU, but this model has {function}.", "--format onnx")


def _names(family: Family, layers: int) -> dict[str, str]:
    """Module → its name in GGUF."""
    parts = family.matrices | family.vectors
    names = {parts[role]: name for role, name in _OTHER.items() if role in parts}
    parts = family.layer_matrices | family.layer_vectors
    for number in range(layers):
        names |= {f"{family.layer(number)}{parts[role]}": f"blk.{number}.{name}" for role, name in _LAYER.items()}
    modules = {part.removesuffix(".weight"): name for part, name in names.items()}
    return modules | {family.word_embedding: "token_embd"}

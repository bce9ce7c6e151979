"""gguf and gguf-tq1: one file for llama.cpp, weights, pooler, classifier, label names and vocabulary.

    TQ2_0   256 codes in 64 bytes, their scale in FP16: 2.06 bits a weight
    TQ1_0   256 codes in 52 bytes, their scale in FP16: 1.69 bits a weight
    Q4_0     32 codes in 16 bytes, their scale in FP16: 4.5 bits a weight

All three hold codes exactly. TQ blocks lie along a row, so its length must be a multiple of 256; shorter rows (a
384-wide encoder's) are stored as Q4_0. That is not what llama.cpp's own quantiser does with them: its Q4_0 spans
[-8, 7] levels to a block's largest weight and loses +α or -α. Here a level is α and the codes use -1, 0 and 1. A row's
scale is that of all its blocks, so that the word embedding with its row scales is ternary too.

What llama.cpp computes otherwise than the student: scales have 11 bits; inputs of packed linears are rounded to 8 bits
with one scale 256 (Q4_0: 32); those of the attention are not rounded, but stored as FP16; GELU is the form with tanh,
looked up for FP16. Token types are all 0 there: gguf_run.py refuses rows that have others.

The architecture is `bert`, whose classifier is cls.output(tanh(cls(x[0]))): BERT's pooler and classifier, and likewise
RoBERTa's and XLM-R's head. ELECTRA's and DistilBERT's heads have another function in between, and MPNet and T5 biases
of relative positions: llama.cpp has none of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError
from kdqat_cli.exporters.gguf_vocabulary import write_vocabulary
from kdqat_cli.exporters.weights import other_tensors, ternary_codes
from kdqat_cli.networks.encoders import classifier_of
from kdqat_cli.quantizers.codes import Codes

FILE = "model.gguf"
TRITS_BLOCK, NIBBLES_BLOCK = 256, 32
POOLERS = {"bert": "bert.pooler.dense", "roberta": "classifier.dense", "xlm-roberta": "classifier.dense"}
"""Architectures that llama.cpp's `bert` computes → the linear before tanh."""
_TANH_GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, trits: str) -> None:
    """Writes model.gguf.

    Args:
        model: a frozen student.
        tokenizer: its tokenizer, which goes into the file.
        folder: an existing folder.
        trits: TQ1_0 or TQ2_0, for rows of multiples of 256 weights.

    Raises:
        ConfigError: llama.cpp does not compute this architecture, or its blocks do not fit.
    """
    import gguf

    config = model.config
    _check(config)
    writer = gguf.GGUFWriter(folder / FILE, "bert")
    # Rows of positions that RoBERTa keeps for padding: llama.cpp counts from 0.
    first = 0 if config.model_type == "bert" else config.pad_token_id + 1
    writer.add_name(Path(config.name_or_path).name or "kdqat")
    writer.add_context_length(config.max_position_embeddings - first)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels([str(config.id2label[index]) for index in range(config.num_labels)])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{trits}"])
    write_vocabulary(writer, tokenizer, config)

    names = _names(model)
    weights = ternary_codes(model)
    for name, codes in weights.items():
        kind, blocks = encode(codes, trits, name)
        writer.add_tensor(f"{names[name]}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, tensor in other_tensors(model, weights).items():
        layer, _, part = name.rpartition(".")
        values = tensor.float().numpy()
        writer.add_tensor(f"{names[layer]}.{part}", values[first:] if names[layer] == "position_embd" else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def encode(codes: Codes, trits: str, name: str) -> tuple[str, NDArray[np.uint8]]:
    """A weight in the smallest exact type: its name, and its blocks' bytes (O, bytes per row).

    Args:
        codes: the weight (O, I), with one scale per matrix or row.
        trits: TQ1_0 or TQ2_0, where rows are multiples of 256.
        name: what the error calls the weight.

    Raises:
        ConfigError: rows that are not even multiples of 32.
    """
    import gguf

    columns = codes.levels.shape[1]
    if columns % TRITS_BLOCK == 0:
        kind = gguf.GGMLQuantizationType[trits]
        # The blocks' scale is their largest magnitude; a block with levels of 0 alone gets 0.
        return trits, gguf.quants.quantize(codes.value().numpy(), kind)
    if columns % NIBBLES_BLOCK == 0:
        return "Q4_0", _nibbles(codes)
    raise ConfigError(f"{name} has rows of {columns} weights; GGUF's blocks hold {TRITS_BLOCK} or {NIBBLES_BLOCK}.")


def _nibbles(codes: Codes) -> NDArray[np.uint8]:
    """Q4_0 blocks: FP16 scale, then 16 bytes whose low halves hold the first 16 levels + 8, the high ones the rest."""
    rows, columns = codes.levels.shape
    digits = (codes.levels.numpy() + 8).astype(np.uint8).reshape(rows, columns // NIBBLES_BLOCK, 2, NIBBLES_BLOCK // 2)
    scales = codes.scales.expand(rows).numpy().astype(np.float16)
    scale_bytes = np.broadcast_to(scales.view(np.uint8).reshape(rows, 1, 2), (rows, digits.shape[1], 2))
    return np.concatenate([scale_bytes, digits[:, :, 0] | digits[:, :, 1] << 4], axis=-1).reshape(rows, -1)


def _check(config: Any) -> None:
    if config.model_type not in POOLERS:
        raise ConfigError(
            f"llama.cpp has no classifier of the type {config.model_type}; it has {', '.join(POOLERS)}.",
            "--format onnx",
        )
    if config.hidden_act not in _TANH_GELUS:
        raise ConfigError(f"llama.cpp computes BERT with GELU; this model has {config.hidden_act}.", "--format onnx")


def _names(model: PreTrainedModel) -> dict[str, str]:
    """Layer name → GGUF's."""
    base = f"{model.base_model_prefix}."
    names = {f"{base}{name}": translated for name, translated in _EMBEDDINGS.items()}
    for index in range(model.config.num_hidden_layers):
        names |= {f"{base}encoder.layer.{index}.{name}": f"blk.{index}.{x}" for name, x in _LAYER.items()}
    head = classifier_of(model)
    names |= {name: "cls.output" for name, module in model.named_modules() if module is head}
    return names | {POOLERS[model.config.model_type]: "cls"}

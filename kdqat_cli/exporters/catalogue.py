"""The formats by name: who loads them, what they lose, what writes and what runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdqat_cli.exporters import bitnet, compressed, dense, gguf_file, gguf_run, onnx_graph, stock
from kdqat_cli.exporters.parity import Batch, Logits
from kdqat_cli.names import FORMATS as FORMAT_NAMES


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        write: (frozen student, its tokenizer, an existing folder) writes the folder.
        logits: (folder, batches) → logits of each batch on the engine the folder is for.
        file: the file of the weights.
        engine: what loads it.
        loses: where its numbers are not the student's.
        packages: what writing and checking need beside kdqat's own requirements.
        half: `write` takes `half`, to store as FP16 what is not ternary.
        tokens: (folder, texts) → ids of each text by the engine's own tokenizer; None: it takes ids.
    """

    write: Callable[..., None]
    logits: Callable[[Path, list[Batch]], list[Logits]]
    file: str
    engine: str
    loses: str
    packages: tuple[str, ...] = ()
    half: bool = False
    tokens: Callable[[Path, list[str]], list[list[int]]] | None = None


def register(name: str, spec: Format) -> None:
    """Adds a format; its name is then a value of `--format`.

    Raises:
        ValueError: the name is taken.
    """
    FORMAT_NAMES.add(name)
    FORMATS[name] = spec


_ONNX = ("onnx", "onnxruntime", "onnxscript")
_GGUF = ("gguf", "llama-cpp-python")
_GGUF_LOSES = "scales rounded to FP16; activations of linears in 8 bits, one scale 256; GELU in its tanh form"

FORMATS: dict[str, Format] = {
    "dense": Format(
        dense.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers, and anything that reads its checkpoints",
        loses="activations in full precision",
        half=True,
    ),
    "hf": Format(
        bitnet.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers (and accelerate)",
        loses="Q, K, V and attention probabilities in full precision; embeddings are stored as floats",
        half=True,
    ),
    "hf-compressed": Format(
        compressed.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers with compressed-tensors",
        loses="activations in full precision",
        packages=("compressed-tensors",),
        half=True,
    ),
    "onnx": Format(
        onnx_graph.write,
        onnx_graph.logits,
        onnx_graph.FILE,
        engine="ONNX Runtime 1.31 or newer",
        loses="activations of linears in 8 bits, one scale 128; those of the attention in full precision",
        packages=_ONNX,
    ),
    "onnx-plain": Format(
        onnx_graph.write_plain,
        onnx_graph.logits,
        onnx_graph.FILE,
        engine="any ONNX runtime",
        loses="activations in full precision; weights are stored as floats",
        packages=_ONNX,
    ),
    "gguf": Format(
        partial(gguf_file.write, trits="TQ2_0"),
        gguf_run.logits,
        gguf_file.FILE,
        engine="llama.cpp",
        loses=_GGUF_LOSES,
        packages=_GGUF,
        tokens=gguf_run.tokens,
    ),
    "gguf-tq1": Format(
        partial(gguf_file.write, trits="TQ1_0"),
        gguf_run.logits,
        gguf_file.FILE,
        engine="llama.cpp",
        loses=_GGUF_LOSES,
        packages=_GGUF,
        tokens=gguf_run.tokens,
    ),
}

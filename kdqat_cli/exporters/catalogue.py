"""The export formats by name: their engine, what they lose, and the functions that write and run them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdqat_cli.exporters import bitnet, compressed, dense, gguf_file, gguf_run, onnx_graph, stock
from kdqat_cli.exporters.parity import Batch, Logits
from kdqat_cli.names import FORMATS as FORMAT_NAMES


@dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
        write: (frozen student, its tokenizer, an existing folder) writes the files into the folder.
        logits: (folder, batches) → the logits of each batch, computed by the engine of the format.
        file: the file with the weights.
        engine: the program that loads the folder.
        loses: how its numbers differ from the student's.
        packages: packages that writing and checking need, besides kdqat's requirements.
        half: whether `write` takes `half`, to store tensors that are not ternary as FP16.
        tokens: (folder, texts) → the ids of each text by the engine's tokenizer; None: the engine takes ids.
        library: the model hub's name of the library that loads the folder.
        usage: a Python program that loads `folder` and computes logits of `texts`, for the model card.
    """

    write: Callable[..., None]
    logits: Callable[[Path, list[Batch]], list[Logits]]
    file: str
    engine: str
    loses: str
    packages: tuple[str, ...] = ()
    half: bool = False
    tokens: Callable[[Path, list[str]], list[list[int]]] | None = None
    library: str | None = None
    usage: str = ""


def register(name: str, spec: Format) -> None:
    """Adds a format; its name is then a value of `--format`.

    Raises:
        ValueError: the name is taken.
    """
    FORMAT_NAMES.add(name, None)
    FORMATS[name] = spec


_IN_TRANSFORMERS = """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
print(model(**tokenizer(*texts, return_tensors="pt")).logits.softmax(-1))
"""
_IN_ONNX = f"""\
import onnxruntime
from transformers import AutoTokenizer

session = onnxruntime.InferenceSession(f"{{folder}}/{onnx_graph.FILE}")
tokenizer = AutoTokenizer.from_pretrained(folder)
print(session.run(None, dict(tokenizer(*texts, return_tensors="np")))[0])
"""
_IN_LLAMA = f"""\
from pathlib import Path

import numpy as np
from kdqat_cli.exporters import gguf_run

(ids,) = gguf_run.tokens(Path(folder), texts)
model = gguf_run.LlamaClassifier(Path(folder, "{gguf_file.FILE}"), tokens=len(ids), threads=2)
print(model.logits(np.array(ids)))
"""

_ONNX = ("onnx", "onnxruntime", "onnxscript")
_GGUF = ("gguf", "llama-cpp-python")
_GGUF_LOSES = "scales rounded to FP16; activations of linears in 8 bits, one scale per 256; GELU in its tanh form"

FORMATS: dict[str, Format] = {
    "dense": Format(
        dense.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers, and anything that reads its checkpoints",
        loses="activations in full precision",
        half=True,
        library="transformers",
        usage=_IN_TRANSFORMERS,
    ),
    "hf": Format(
        bitnet.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers (and accelerate)",
        loses="Q, K, V and attention probabilities in full precision; embeddings are stored as floats",
        half=True,
        library="transformers",
        usage=_IN_TRANSFORMERS,
    ),
    "hf-compressed": Format(
        compressed.write,
        stock.logits,
        stock.WEIGHTS,
        engine="transformers with compressed-tensors",
        loses="activations in full precision",
        packages=("compressed-tensors",),
        half=True,
        library="transformers",
        usage=_IN_TRANSFORMERS,
    ),
    "onnx": Format(
        onnx_graph.write,
        onnx_graph.logits,
        onnx_graph.FILE,
        engine="ONNX Runtime 1.31 or newer",
        loses="activations of linears in 8 bits, one scale per 128; those of the attention in full precision",
        packages=_ONNX,
        library="onnx",
        usage=_IN_ONNX,
    ),
    "onnx-plain": Format(
        onnx_graph.write_plain,
        onnx_graph.logits,
        onnx_graph.FILE,
        engine="any ONNX runtime",
        loses="activations in full precision; weights are stored as floats",
        packages=_ONNX,
        library="onnx",
        usage=_IN_ONNX,
    ),
    "gguf": Format(
        partial(gguf_file.write, trits="TQ2_0"),
        gguf_run.logits,
        gguf_file.FILE,
        engine="llama.cpp",
        loses=_GGUF_LOSES,
        packages=_GGUF,
        tokens=gguf_run.tokens,
        library="llama.cpp",
        usage=_IN_LLAMA,
    ),
    "gguf-tq1": Format(
        partial(gguf_file.write, trits="TQ1_0"),
        gguf_run.logits,
        gguf_file.FILE,
        engine="llama.cpp",
        loses=_GGUF_LOSES,
        packages=_GGUF,
        tokens=gguf_run.tokens,
        library="llama.cpp",
        usage=_IN_LLAMA,
    ),
}

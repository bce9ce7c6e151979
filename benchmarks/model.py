"""`kdqat bench` with more peers, on a BERT-base with random weights: `python benchmarks/model.py --help`.

Peers: those of `kdqat bench`, ONNX Runtime's 2-bit MatMulNBits on kdqat's export, OpenVINO, torch's dynamic int8,
llama.cpp's TQ2_0 and ik_llama.cpp's IQ2_BN. A peer that is not installed is left out with a remark:

    pip install onnx onnxruntime onnxscript sympy openvino gguf llama-cpp-python     (ik_llama.cpp: benchmarks/ggml.py)

Time and memory do not depend on the weights. `--as-avx2` hides AVX-512, VNNI and AMX from all engines. `--kernel` sets
the kernel of kdqat only; the other engines choose theirs.
"""

import argparse
import os
import tempfile
from pathlib import Path

import avx2_machine
import model_peers

from kdqat_cli.bench.engines import ENGINES
from kdqat_cli.native.library import KERNEL_VARIABLE, chosen_kernel
from kdqat_cli.output import Output
from kdqat_cli.stages.bench import SHAPES, bench

# torch and packages that need it are imported inside functions. The engines' processes import this file, and their
# memory and threads must not include torch's.


def main() -> None:
    """Measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads of every engine")
    parser.add_argument("--rounds", type=int, default=9, help="number of turns of each engine")
    parser.add_argument("--layers", type=int, default=12, help="number of layers of the model")
    parser.add_argument("--kernel", help="the engine's kernel; default: the best that the processor has")
    parser.add_argument("--ik-llama", metavar="BUILD", type=Path, help="build folder of ik_llama.cpp")
    options = avx2_machine.parse(parser)
    if options.kernel:
        os.environ[KERNEL_VARIABLE] = options.kernel
    engines = ENGINES["cpu"] | model_peers.peers(options.ik_llama)
    output = Output()
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder), options.layers)
        result = bench(folder, SHAPES, options.threads, options.rounds, engines, output.remark)
    title = f"{avx2_machine.machine()}, kernel {chosen_kernel()}, threads {options.threads}, {result['date']}"
    output.rows(result["latency"], title=title)
    output.rows(result["footprint"])


def _write_model(folder: Path, layers: int) -> None:
    """Writes a packed student with random weights, and a tokenizer with invented words, which exports need."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
    from transformers.utils import logging

    from kdqat_cli.config import Params
    from kdqat_cli.networks.quantized import quantize_model
    from kdqat_cli.packing.hf_model import save_packed
    from kdqat_cli.params import resolve
    from kdqat_cli.quantizers.parameters import freeze
    from kdqat_cli.record import Record

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=layers)
    model = BertForSequenceClassification(config).eval()
    settings = resolve("movie", Params()).quantization
    quantize_model(model, settings)
    freeze(model)
    save_packed(model, folder, Record(quantization=settings))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = special + [f"word{index}" for index in range(len(special), config.vocab_size)]
    BertTokenizer({word: index for index, word in enumerate(words)}).save_pretrained(folder)


if __name__ == "__main__":
    main()

"""`kdqat bench` on a whole model of BERT-base's shape with random weights: `python benchmarks/model.py --help`.

Time and memory do not depend on the weights. `--kernel` forces one of the engine's kernels, `avx2` for what a processor
without AVX-512 would run; the peers take the best that they find.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from kdqat_cli.config import Params, resolve
from kdqat_cli.output import Output
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantization.layers import freeze
from kdqat_cli.quantization.model import quantize_model
from kdqat_cli.runtime.native import KERNEL_VARIABLE
from kdqat_cli.stages.bench import bench
from kdqat_cli.stages.bench_engines import ENGINES

SHAPES = [(1, 32), (1, 128), (8, 128)]


def main() -> None:
    """Measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of every engine")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each engine")
    parser.add_argument("--layers", type=int, default=12, help="layers of the model")
    parser.add_argument("--kernel", help="the engine's kernel; default: the best that the processor has")
    options = parser.parse_args()
    if options.kernel:
        os.environ[KERNEL_VARIABLE] = options.kernel
    output = Output()
    with tempfile.TemporaryDirectory() as folder:
        model = _packed(Path(folder), options.layers)
        result = bench(str(model), SHAPES, options.threads, options.rounds, list(ENGINES["cpu"]), output.remark)
    kernel = options.kernel or "best kernel"
    output.rows(result["latency"], title=f"{result['machine']}, {kernel}, threads {options.threads}, {result['date']}")
    output.rows(result["footprint"])


def _packed(folder: Path, layers: int) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers)).eval()
    settings = resolve("movie", Params()).quantization
    quantize_model(model, settings)
    freeze(model)
    save_packed(model, folder, {"quantization": settings.model_dump()})
    return folder


if __name__ == "__main__":
    main()

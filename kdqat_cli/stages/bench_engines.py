"""The engines of `kdqat bench`: what each needs on disk, what it imports, and one forward pass of it."""

import importlib
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.packed_file import PackedFile
from kdqat_cli.runtime.device import Device
from kdqat_cli.stages.machine import has_vnni

EngineName = Literal["kdqat", "torch FP32", "torch FP16", "ORT FP32", "ORT int8"]
OWN: EngineName = "kdqat"

Run = Callable[[Any], Any]
"""Takes token ids (rows, tokens), int64, without padding."""

_DENSE, _PLAIN, _FP32, _INT8 = "dense", "plain.onnx", "fp32.onnx", "int8.onnx"
_SHORTEST = 0.05  # seconds of a turn; a shorter pass is repeated, and the mean counts


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        prepare: (packed file, scratch folder): writes what `load` reads; what is there already stays.
        load: (packed file, scratch folder, threads) → one forward pass.
        imports: loaded before memory is counted.
        file: (packed file, scratch folder) → the file whose size counts.
    """

    prepare: Callable[[Path, Path], None]
    load: Callable[[Path, Path, int], Run]
    imports: tuple[str, ...]
    file: Callable[[Path, Path], Path]


def serve(name: EngineName, device: Device, packed: Path, scratch: Path, threads: int, pipe: Connection) -> None:
    """The process of one engine: loads, then answers shapes with seconds, and `memory` with MB, until it is ended."""
    engine = ENGINES[device][name]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        for module in engine.imports:
            importlib.import_module(module)
        empty = _memory("cpu")
        start = time.perf_counter()
        run = engine.load(packed, scratch, threads)
        seconds = time.perf_counter() - start
        pipe.send({"MB on disk": engine.file(packed, scratch).stat().st_size / 1e6, "seconds to load": seconds})
        words = PackedFile(packed).config["vocab_size"]
        while True:
            question = pipe.recv()
            if question == "memory":
                pipe.send((_memory(device) - (empty if device == "cpu" else 0)) / 1e6)
            else:
                pipe.send(_seconds(run, np.random.default_rng(0).integers(words // 2, words, question)))
    except EOFError:
        return
    except Exception as error:
        known = isinstance(error, ConfigError | ValueError)  # a shape that the model does not take, say
        pipe.send(ConfigError(str(error) if known else f"{type(error).__name__}: {error}"))


def _seconds(run: Run, ids: Any) -> float:
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < _SHORTEST:
        run(ids)
        count += 1
    return (time.perf_counter() - start) / count


def _memory(device: Device) -> int:
    """Bytes that the process holds; on a GPU, what its tensors hold there between forward passes."""
    if device == "cpu":
        return int(psutil.Process().memory_info().rss)
    import torch

    return int(torch.cuda.memory_allocated())


def _nothing(packed: Path, scratch: Path) -> None:
    pass


def _own(packed: Path, scratch: Path, threads: int, device: Device = "cpu") -> Run:
    from kdqat_cli.runtime.engine import Engine as Own

    engine = Own.load(packed, threads, device)
    return lambda ids: engine.logits([(row, None) for row in ids.tolist()])


def _write_dense(packed: Path, scratch: Path) -> None:
    """The multiplied-out weights as a plain checkpoint of their architecture."""
    if (scratch / _DENSE).is_dir():
        return
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from kdqat_cli.packing.checkpoint import PackedCheckpoint

    checkpoint = PackedCheckpoint(packed)
    values = dict(checkpoint.config)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        model.load_state_dict(checkpoint.state_dict())
        model.save_pretrained(scratch / _DENSE)


def _torch(packed: Path, scratch: Path, threads: int, device: Device = "cpu", half: bool = False) -> Run:
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    dtype = torch.float16 if half else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(scratch / _DENSE, dtype=dtype).eval().to(device)

    @torch.inference_mode()
    def run(ids: Any) -> Any:
        rows = torch.from_numpy(ids).to(device)
        return model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits.cpu()

    return run


def _write_fp32(packed: Path, scratch: Path) -> None:
    """The graph of the plain checkpoint, with attention and normalisation fused by ONNX Runtime's optimiser."""
    if (scratch / _FP32).is_file():
        return
    try:
        from onnxruntime.transformers.optimizer import optimize_model
    except ImportError as error:
        raise ConfigError("ONNX Runtime is not installed.", "pip install onnx onnxruntime") from error
    import torch
    from transformers import AutoModelForSequenceClassification

    _write_dense(packed, scratch)
    # Eager attention, by the older exporter: what the optimiser knows how to fuse.
    model = AutoModelForSequenceClassification.from_pretrained(scratch / _DENSE, attn_implementation="eager").eval()
    model.config.return_dict = False
    example, axes = torch.full((2, 8), 1, dtype=torch.long), {0: "rows", 1: "tokens"}
    with warnings.catch_warnings(action="ignore"):  # of what tracing keeps fixed: lengths are not
        torch.onnx.export(
            model,
            (example, torch.ones_like(example)),
            str(scratch / _PLAIN),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
            dynamo=False,
        )
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    optimize_model(str(scratch / _PLAIN), "bert", heads, width).save_model_to_file(str(scratch / _FP32))


def _write_int8(packed: Path, scratch: Path) -> None:
    """Dynamic int8; in reduced range where full range would saturate 16-bit sums, since ternary weights are ±127."""
    _write_fp32(packed, scratch)
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a preparation that the optimiser has done
    quantize_dynamic(
        str(scratch / _FP32),
        str(scratch / _INT8),
        weight_type=QuantType.QInt8,
        reduce_range=not has_vnni(),
        # Fused nodes have no inferred type of their own, and the quantiser must be told it.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _onnx_runtime(file: str) -> Callable[[Path, Path, int], Run]:
    def load(packed: Path, scratch: Path, threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(scratch / file), options, providers=["CPUExecutionProvider"])
        return lambda ids: session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})

    return load


def _plain_torch(**options: Any) -> Engine:
    return Engine(
        _write_dense,
        partial(_torch, **options),
        ("torch", "transformers.models.auto.modeling_auto"),
        lambda packed, scratch: scratch / _DENSE / "model.safetensors",
    )


def _of_onnx_runtime(prepare: Callable[[Path, Path], None], file: str) -> Engine:
    imports = ("onnxruntime", "tokenizers")
    return Engine(prepare, _onnx_runtime(file), imports, lambda packed, scratch: scratch / file)


def _kdqat(device: Device) -> Engine:
    imports = ("kdqat_cli.runtime.engine", "tokenizers")
    return Engine(_nothing, partial(_own, device=device), imports, lambda packed, scratch: packed)


ENGINES: dict[Device, dict[EngineName, Engine]] = {
    "cpu": {
        "kdqat": _kdqat("cpu"),
        "torch FP32": _plain_torch(),
        "ORT FP32": _of_onnx_runtime(_write_fp32, _FP32),
        "ORT int8": _of_onnx_runtime(_write_int8, _INT8),
    },
    "cuda": {
        "kdqat": _kdqat("cuda"),
        "torch FP32": _plain_torch(device="cuda"),
        "torch FP16": _plain_torch(device="cuda", half=True),
    },
}

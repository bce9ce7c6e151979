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
from typing import Any

import numpy as np
import psutil

from kdqat_cli.bench.machine import has_vnni
from kdqat_cli.config import Device
from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.packed_file import PackedFile

OWN = "kdqat"

Run = Callable[[Any], Any]
"""Token ids (rows, tokens), int64, without padding → logits (rows, labels)."""

DENSE, PLAIN, FP32 = "dense", "plain.onnx", "fp32.onnx"
_INT8 = "int8.onnx"
_SHORTEST = 0.05  # seconds of a turn; a shorter pass is repeated, and the mean counts
_QUIET = 0.01  # seconds without work after which threads have gone to sleep


@dataclass(frozen=True)
class Engine:
    """One engine. It is sent to a process of its own: its functions stand in modules.

    Attributes:
        prepare: (packed file, scratch folder): writes what `load` reads; what is there already stays.
        load: (packed file, scratch folder, threads) → one forward pass.
        imports: loaded before memory is counted.
        file: (packed file, scratch folder) → the file whose size counts.
        device: on which it computes.
    """

    prepare: Callable[[Path, Path], None]
    load: Callable[[Path, Path, int], Run]
    imports: tuple[str, ...]
    file: Callable[[Path, Path], Path]
    device: Device = "cpu"


def serve(engine: Engine, packed: Path, scratch: Path, threads: int, pipe: Connection) -> None:
    """The process of one engine: loads, then answers until it is ended.

    A shape is answered with seconds, token ids with logits, `memory` with MB.
    """
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
            if isinstance(question, str):
                answer: Any = (_memory(engine.device) - (empty if engine.device == "cpu" else 0)) / 1e6
            elif isinstance(question, tuple):
                answer = _seconds(run, np.random.default_rng(0).integers(words // 2, words, question))
            else:
                answer = np.concatenate([run(row[None]) for row in question])  # in no more memory than shapes take
            settle()
            pipe.send(answer)
    except (EOFError, BrokenPipeError):  # nobody asks any more
        return
    except Exception as error:
        known = isinstance(error, ConfigError | ValueError)  # a shape that the model does not take, say
        pipe.send(ConfigError(str(error) if known else f"{type(error).__name__}: {error}"))


def settle() -> None:
    """Waits until this process uses no processor time.

    Threads of some engines spin after a pass, in case that another follows (ONNX Runtime's for 20 ms): that is part of
    how fast those engines are, but must not take a core from the engine whose turn comes next.
    """
    for _ in range(100):  # threads that never sleep must not hold everything up
        before = time.process_time()
        time.sleep(_QUIET)
        if time.process_time() - before < _QUIET / 10:
            return


def _seconds(run: Run, ids: Any) -> float:
    run(ids)  # wakes its threads
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
    from kdqat_cli.engine.engine import Engine as Own

    engine = Own.load(packed, threads, device)
    return lambda ids: engine.logits([(row, None) for row in ids.tolist()])


def write_dense(packed: Path, scratch: Path) -> None:
    """Writes the multiplied-out weights as a plain checkpoint of their architecture."""
    if (scratch / DENSE).is_dir():
        return
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from kdqat_cli.packing.checkpoint import PackedCheckpoint

    checkpoint = PackedCheckpoint(packed)
    values = dict(checkpoint.config)
    with torch.no_grad():
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        model.load_state_dict(checkpoint.state_dict())
        model.save_pretrained(scratch / DENSE)


def _torch(packed: Path, scratch: Path, threads: int, device: Device = "cpu", half: bool = False) -> Run:
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    dtype = torch.float16 if half else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(scratch / DENSE, dtype=dtype).eval().to(device)

    @torch.inference_mode()
    def run(ids: Any) -> Any:
        given = torch.from_numpy(ids).to(device)
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits.float().numpy(force=True)

    return run


def write_fp32(packed: Path, scratch: Path) -> None:
    """Writes the graph of the plain checkpoint, with attention and normalisation fused by ONNX Runtime's optimiser."""
    if (scratch / FP32).is_file():
        return
    try:
        from onnxruntime.transformers.optimizer import optimize_model
    except ImportError as error:
        raise ConfigError("ONNX Runtime is not installed.", "pip install onnx onnxruntime") from error
    import torch
    from transformers import AutoModelForSequenceClassification

    write_dense(packed, scratch)
    # Eager attention, by the older exporter: what the optimiser knows how to fuse.
    model = AutoModelForSequenceClassification.from_pretrained(scratch / DENSE, attn_implementation="eager").eval()
    model.config.return_dict = False
    example, axes = torch.full((2, 8), 1, dtype=torch.long), {0: "rows", 1: "tokens"}
    with warnings.catch_warnings(action="ignore"):  # of what tracing keeps fixed: lengths are not
        torch.onnx.export(
            model,
            (example, torch.ones_like(example)),
            str(scratch / PLAIN),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes},
            dynamo=False,
        )
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    optimize_model(str(scratch / PLAIN), "bert", heads, width).save_model_to_file(str(scratch / FP32))


def _write_int8(packed: Path, scratch: Path) -> None:
    """Dynamic int8; in reduced range where full range would saturate 16-bit sums, since ternary weights are ±127."""
    write_fp32(packed, scratch)
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a preparation that the optimiser has done
    quantize_dynamic(
        str(scratch / FP32),
        str(scratch / _INT8),
        weight_type=QuantType.QInt8,
        reduce_range=not has_vnni(),
        # Fused nodes have no inferred type of their own, and the quantiser must be told it.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def load_onnx(packed: Path, scratch: Path, threads: int, file: str) -> Run:
    """ONNX Runtime on a graph of the scratch folder."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(scratch / file), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda ids: session.run(None, {name: fill(name, ids) for name in names})[0]


def fill(name: str, ids: Any) -> Any:
    """What a graph's input of this name is given, for token ids (rows, tokens) without padding."""
    return ids if name == "input_ids" else np.full_like(ids, name == "attention_mask")


def packed_itself(packed: Path, scratch: Path) -> Path:
    """The file whose size counts for an engine that loads the packed file."""
    return packed


def in_scratch(packed: Path, scratch: Path, file: str) -> Path:
    """The file whose size counts for an engine that loads a file of the scratch folder."""
    return scratch / file


def _plain_torch(device: Device = "cpu", half: bool = False) -> Engine:
    imports = ("torch", "transformers.models.auto.modeling_auto")
    load = partial(_torch, device=device, half=half)
    return Engine(write_dense, load, imports, partial(in_scratch, file=f"{DENSE}/model.safetensors"), device)


def _of_onnx_runtime(prepare: Callable[[Path, Path], None], file: str) -> Engine:
    imports = ("onnxruntime", "tokenizers")
    return Engine(prepare, partial(load_onnx, file=file), imports, partial(in_scratch, file=file))


def _kdqat(device: Device) -> Engine:
    imports = ("kdqat_cli.engine.engine", "tokenizers")
    return Engine(_nothing, partial(_own, device=device), imports, packed_itself, device)


ENGINES: dict[Device, dict[str, Engine]] = {
    "cpu": {
        OWN: _kdqat("cpu"),
        "torch FP32": _plain_torch(),
        "ORT FP32": _of_onnx_runtime(write_fp32, FP32),
        "ORT int8": _of_onnx_runtime(_write_int8, _INT8),
    },
    "cuda": {
        OWN: _kdqat("cuda"),
        "torch FP32": _plain_torch("cuda"),
        "torch FP16": _plain_torch("cuda", half=True),
    },
}

"""The engines of `kdqat bench`: the files, the imports and the forward pass of each."""

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

import numpy as np
import psutil
from numpy.typing import NDArray

from kdqat_cli.bench.machine import has_vnni
from kdqat_cli.config import Device
from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.packed_file import PackedFile

OWN = "kdqat"

Ids = NDArray[np.int64]
"""Token ids (rows, tokens) without padding."""
Logits = NDArray[np.float32]
Forward = Callable[[Ids], Logits]
"""Token ids → logits (rows, labels)."""

DENSE, PLAIN, FP32 = "dense", "plain.onnx", "fp32.onnx"
_INT8 = "int8.onnx"
_SHORTEST = 0.05  # seconds of a measurement; a shorter pass is repeated, and the mean is taken
_QUIET = 0.01  # if a process does not work for this number of seconds, its threads sleep


@dataclass(frozen=True)
class EngineSpec:
    """One engine. It is sent to a separate process, so its functions must be functions of modules.

    Attributes:
        prepare: (packed file, scratch folder) writes the files that `load` reads, unless they are there.
        load: (packed file, scratch folder, threads) → a function for one forward pass.
        imports: modules that are imported before memory is measured.
        file: (packed file, scratch folder) → the file whose size is reported.
        device: the device that computes.
    """

    prepare: Callable[[Path, Path], None]
    load: Callable[[Path, Path, int], Forward]
    imports: tuple[str, ...]
    file: Callable[[Path, Path], Path]
    device: Device = "cpu"


def serve(engine: EngineSpec, packed: Path, scratch: Path, threads: int, pipe: Connection) -> None:
    """The process of one engine: loads the model, then answers questions until it is ended.

    The answer to a shape is seconds, to token ids logits, and to `memory` MB.
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
                answer: object = (_memory(engine.device) - (empty if engine.device == "cpu" else 0)) / 1e6
            elif isinstance(question, tuple):
                answer = _seconds(run, np.random.default_rng(0).integers(words // 2, words, question))
            else:
                answer = np.concatenate([run(row[None]) for row in question])  # one by one, which takes less memory
            settle()
            pipe.send(answer)
    except (EOFError, BrokenPipeError):  # the other process has ended
        return
    except Exception as error:
        known = isinstance(error, ConfigError | ValueError)  # for example a shape that the model cannot compute
        pipe.send(ConfigError(str(error) if known else f"{type(error).__name__}: {error}"))


def settle() -> None:
    """Waits until this process uses no CPU time.

    Threads of some engines spin after a pass in case another follows (ONNX Runtime: 20 ms). This makes those engines
    fast, but must not take a core from the next engine.
    """
    for _ in range(100):  # a limit, for threads that never sleep
        before = time.process_time()
        time.sleep(_QUIET)
        if time.process_time() - before < _QUIET / 10:
            return


def _seconds(run: Forward, ids: Ids) -> float:
    run(ids)  # wakes the threads of the engine
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < _SHORTEST:
        run(ids)
        count += 1
    return (time.perf_counter() - start) / count


def _memory(device: Device) -> int:
    """The bytes of the process; on a GPU, the bytes of its tensors there between forward passes."""
    if device == "cpu":
        return int(psutil.Process().memory_info().rss)
    import torch

    return int(torch.cuda.memory_allocated())


def _nothing(packed: Path, scratch: Path) -> None:
    pass


def _own(packed: Path, scratch: Path, threads: int, device: Device = "cpu") -> Forward:
    from kdqat_cli.engine.engine import Engine as Own

    engine = Own.load(packed, threads, device)
    return lambda ids: engine.logits([(row, None) for row in ids.tolist()])


def write_dense(packed: Path, scratch: Path) -> None:
    """Writes the weights as floats, in a plain checkpoint of the architecture."""
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


def _torch(packed: Path, scratch: Path, threads: int, device: Device = "cpu", half: bool = False) -> Forward:
    import torch
    import transformers
    from transformers import AutoModelForSequenceClassification

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    dtype = torch.float16 if half else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(scratch / DENSE, dtype=dtype).eval().to(device)

    @torch.inference_mode()
    def run(ids: Ids) -> Logits:
        given = torch.from_numpy(ids).to(device)
        out: Logits = model(input_ids=given, attention_mask=torch.ones_like(given)).logits.float().numpy(force=True)
        return out

    return run


def write_fp32(packed: Path, scratch: Path) -> None:
    """Writes the graph of the plain checkpoint; ONNX Runtime's optimiser fuses attention and normalisation."""
    if (scratch / FP32).is_file():
        return
    try:
        from onnxruntime.transformers.optimizer import optimize_model
    except ImportError as error:
        raise ConfigError("ONNX Runtime is not installed.", "pip install onnx onnxruntime") from error
    import torch
    from transformers import AutoModelForSequenceClassification

    write_dense(packed, scratch)
    # The optimiser can fuse eager attention from the older exporter.
    model = AutoModelForSequenceClassification.from_pretrained(scratch / DENSE, attn_implementation="eager").eval()
    model.config.return_dict = False
    example, axes = torch.full((2, 8), 1, dtype=torch.long), {0: "rows", 1: "tokens"}
    with warnings.catch_warnings(action="ignore"):  # about values that tracing fixes; lengths are not fixed
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
    """Writes dynamic int8 weights, in reduced range where 16-bit sums of the full range (±127) would saturate."""
    write_fp32(packed, scratch)
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises a preparation that the optimiser has already done
    quantize_dynamic(
        str(scratch / FP32),
        str(scratch / _INT8),
        weight_type=QuantType.QInt8,
        reduce_range=not has_vnni(),
        # The quantiser cannot infer the type of fused nodes.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def load_onnx(packed: Path, scratch: Path, threads: int, file: str) -> Forward:
    """Loads a graph of the scratch folder with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(scratch / file), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda ids: session.run(None, {name: fill(name, ids) for name in names})[0]


def fill(name: str, ids: Ids) -> Ids:
    """The value of the input of a graph with this name, for token ids (rows, tokens) without padding."""
    return ids if name == "input_ids" else np.full_like(ids, name == "attention_mask")


def packed_itself(packed: Path, scratch: Path) -> Path:
    """The file whose size is reported, for an engine that loads the packed file."""
    return packed


def in_scratch(packed: Path, scratch: Path, file: str) -> Path:
    """The file whose size is reported, for an engine that loads a file of the scratch folder."""
    return scratch / file


def _plain_torch(device: Device = "cpu", half: bool = False) -> EngineSpec:
    imports = ("torch", "transformers.models.auto.modeling_auto")
    load = partial(_torch, device=device, half=half)
    return EngineSpec(write_dense, load, imports, partial(in_scratch, file=f"{DENSE}/model.safetensors"), device)


def _of_onnx_runtime(prepare: Callable[[Path, Path], None], file: str) -> EngineSpec:
    imports = ("onnxruntime", "tokenizers")
    return EngineSpec(prepare, partial(load_onnx, file=file), imports, partial(in_scratch, file=file))


def _kdqat(device: Device) -> EngineSpec:
    imports = ("kdqat_cli.engine.engine", "tokenizers")
    return EngineSpec(_nothing, partial(_own, device=device), imports, packed_itself, device)


ENGINES: dict[Device, dict[str, EngineSpec]] = {
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

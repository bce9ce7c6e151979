"""Common functions of the benchmarks: paired timing, and ONNX Runtime's sessions."""

import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from kdqat_cli.bench.engines import settle
from kdqat_cli.bench.machine import has_vnni
from kdqat_cli.native.library import kernels

Run = Callable[[], object]


def fast_kernels() -> list[str]:
    """The kernels of kdqat, except the portable one, which is not optimised."""
    return kernels()[:-1] or kernels()


def paired(jobs: dict[str, Run], rounds: int, least: float) -> dict[str, list[float]]:
    """Seconds of one run of each job, `rounds` times. The jobs take turns, so other programs slow all of them alike.

    A turn begins after the threads of the previous job have gone to sleep, and with a run that is not timed.

    Args:
        jobs: name → function to measure; each was run once before.
        rounds: number of turns of each job.
        least: least number of seconds of a turn; a shorter job runs several times, and the mean is returned.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, run in jobs.items():
            settle()  # until the threads of the previous job sleep
            run()  # wakes the threads of this job
            count, start = 0, time.perf_counter()
            while not count or time.perf_counter() - start < least:
                run()
                count += 1
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def ratio(peer: list[float], own: list[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratio of the peer's time to ours in the same round."""
    quarters = statistics.quantiles([a / b for a, b in zip(peer, own, strict=True)], n=4, method="inclusive")
    return quarters[1], quarters[0], quarters[2]


def session(model: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU with all graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def quantize(model: Path, out: Path) -> None:
    """Quantises a graph by ONNX Runtime's dynamic int8.

    Ternary weights become ±127, which saturates 16-bit sums on processors without VNNI. So the range is reduced there.
    """
    logging.disable(logging.WARNING)  # it warns about a preparation that these graphs do not need
    # The type of fused nodes is not inferred, so the quantiser needs it as an option.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(
        str(model), str(out), weight_type=QuantType.QInt8, reduce_range=not has_vnni(), extra_options=options
    )


def save_chain(weights: list[Any], path: Path) -> None:
    """Writes a graph of matrix products, each x (rows, I) · Wᵀ without bias."""
    nodes, initializers, name = [], [], "x"
    for number, weight in enumerate(weights):
        initializers.append(onnx.numpy_helper.from_array(weight.T.copy(), f"w{number}"))
        nodes.append(onnx.helper.make_node("MatMul", [name, f"w{number}"], [f"y{number}"]))
        name = f"y{number}"
    float32 = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info("x", float32, ["rows", weights[0].shape[1]]),
        onnx.helper.make_tensor_value_info(name, float32, ["rows", weights[-1].shape[0]]),
    ]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), str(path))

"""What the benchmarks share: paired timing, and ONNX Runtime's sessions."""

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
    """Our kernels, without the portable one, which is not made to be fast."""
    return kernels()[:-1] or kernels()


def paired(jobs: dict[str, Run], rounds: int, least: float) -> dict[str, list[float]]:
    """Seconds of one run of each job, `rounds` times, in turns: what slows the machine down slows all of them.

    A turn begins when the threads of the one before have gone to sleep, and with a run that is not timed.

    Args:
        jobs: name → what is measured; each was run once before.
        rounds: how often each job has its turn.
        least: seconds that a turn lasts at least; a job that is shorter runs several times, and the mean counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, run in jobs.items():
            settle()  # the threads of the one before
            run()  # wakes its threads
            count, start = 0, time.perf_counter()
            while not count or time.perf_counter() - start < least:
                run()
                count += 1
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def ratio(peer: list[float], own: list[float]) -> tuple[float, float, float]:
    """Median, and the middle half's ends, of how many times as long the peer took in the same round."""
    quarters = statistics.quantiles([a / b for a, b in zip(peer, own, strict=True)], n=4, method="inclusive")
    return quarters[1], quarters[0], quarters[2]


def session(model: Path, threads: int) -> Any:
    """An ONNX Runtime session on the processor with all graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def quantize(model: Path, out: Path) -> None:
    """ONNX Runtime's dynamic int8 of a graph.

    Ternary weights stand at ±127 and saturate 16-bit sums on processors without VNNI: the range is reduced there.
    """
    logging.disable(logging.WARNING)  # it recommends a preparation that these graphs do not need
    # Fused nodes have no inferred type of their own, and the quantiser must be told it.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(
        str(model), str(out), weight_type=QuantType.QInt8, reduce_range=not has_vnni(), extra_options=options
    )


def save_chain(weights: list[Any], path: Path) -> None:
    """A graph of matrix products, x (rows, I) · Wᵀ each, without biases."""
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

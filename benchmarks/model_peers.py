"""The peers of the whole model, in addition to those of `kdqat bench`.

OpenVINO reads the plain ONNX graph, in FP32 (on a processor with AMX it would choose BF16). torch's dynamic int8 has
two engines, and each is a peer. ONNX Runtime's 2-bit MatMulNBits and llama.cpp's TQ2_0 load kdqat's own exports. For
ik_llama.cpp's IQ2_BN, its own quantiser converts the GGUF export; the codes stay the same. It has no classifier, so
numpy computes pooler and classifier here. llama.cpp and ik_llama.cpp get one row after another.
"""

import ctypes
import subprocess
import warnings
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_void_p
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ggml
import numpy as np
from avx2_machine import undisguised

from kdqat_cli.bench.engines import (
    DENSE,
    PLAIN,
    EngineSpec,
    Forward,
    fill,
    in_scratch,
    load_onnx,
    write_dense,
    write_fp32,
)
from kdqat_cli.errors import ConfigError, GateError, MissingInputError
from kdqat_cli.exporters.packages import require_packages
from kdqat_cli.packing.packed_file import PackedFile

_ONNX, _GGUF = "onnx", "gguf"  # kdqat's formats, and their folders
_ONNX_FILE, _GGUF_FILE = f"{_ONNX}/model.onnx", f"{_GGUF}/model.gguf"
_FLOATS, _IQ2_BN, _SHIM, _HEAD = "floats.gguf", "iq2_bn.gguf", "libik.so", "head.npz"


def peers(ik_llama: Path | None) -> dict[str, EngineSpec]:
    """Name → engine.

    Args:
        ik_llama: build folder of ik_llama.cpp, if there is one.
    """
    return {
        "ORT 2-bit": EngineSpec(
            partial(_export, form=_ONNX),
            partial(load_onnx, file=_ONNX_FILE),
            ("onnxruntime",),
            partial(in_scratch, file=_ONNX_FILE),
        ),
        "OpenVINO FP32": EngineSpec(_write_plain, _openvino, ("openvino",), partial(in_scratch, file=PLAIN)),
        **{
            f"torch int8 {name}": EngineSpec(
                partial(_write_int8, backend=name),
                partial(_torch_int8, backend=name),
                ("torch", "transformers.models.auto.modeling_auto"),
                partial(in_scratch, file=f"{name}.pt"),
            )
            for name in ("fbgemm", "onednn")
        },
        "llama.cpp TQ2_0": EngineSpec(
            _write_gguf, _llama, ("kdqat_cli.exporters.gguf_run", "llama_cpp"), partial(in_scratch, file=_GGUF_FILE)
        ),
        "ik_llama.cpp IQ2_BN": EngineSpec(
            partial(_write_iq2_bn, build=ik_llama),
            partial(_ik_llama, build=ik_llama),
            ("numpy",),
            partial(in_scratch, file=_IQ2_BN),
        ),
    }


def _export(packed: Path, scratch: Path, form: str) -> None:
    """Writes the same export as `kdqat export --format`."""
    from transformers import AutoTokenizer

    from kdqat_cli.exporters.catalogue import FORMATS
    from kdqat_cli.packing.hf_model import KdqatForSequenceClassification

    folder = scratch / form
    if folder.is_dir():
        return
    require_packages(form, FORMATS[form].packages)
    folder.mkdir()
    model = KdqatForSequenceClassification.from_pretrained(packed.parent)
    FORMATS[form].write(model, AutoTokenizer.from_pretrained(packed.parent), folder)


def _write_plain(packed: Path, scratch: Path) -> None:
    if find_spec("openvino") is None:
        raise MissingInputError("OpenVINO is not installed.", "pip install openvino")
    write_fp32(packed, scratch)


def _openvino(packed: Path, scratch: Path, threads: int) -> Forward:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(scratch / PLAIN), "CPU", options)
    names = [given.any_name for given in model.inputs]
    return lambda ids: model({name: fill(name, ids) for name in names})[0]


def _write_int8(packed: Path, scratch: Path, backend: str) -> None:
    """Writes the plain checkpoint with dynamic int8 linear layers; the packed weights fit only one engine."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if backend not in torch.backends.quantized.supported_engines:
        raise ConfigError(f"torch has no engine {backend} here.")
    write_dense(packed, scratch)
    torch.backends.quantized.engine = backend
    model = AutoModelForSequenceClassification.from_pretrained(scratch / DENSE).eval()
    quantize: Callable[..., Any] = torch.ao.quantization.quantize_dynamic
    with warnings.catch_warnings(action="ignore"):  # torch announces that its quantised tensors will be removed
        torch.save(quantize(model, {torch.nn.Linear}), scratch / f"{backend}.pt")


def _torch_int8(packed: Path, scratch: Path, threads: int, backend: str) -> Forward:
    import torch

    torch.set_num_threads(threads)
    torch.backends.quantized.engine = backend
    model = torch.load(scratch / f"{backend}.pt", weights_only=False)

    @torch.inference_mode()
    def run(ids: Any) -> Any:
        given = torch.from_numpy(ids)
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits.numpy()

    return run


def _write_gguf(packed: Path, scratch: Path) -> None:
    ggml.llama_cpp()  # imported here, so that a missing package is reported with the command that installs it
    _export(packed, scratch, _GGUF)


def _llama(packed: Path, scratch: Path, threads: int) -> Forward:
    from kdqat_cli.exporters.gguf_run import LlamaClassifier

    model = LlamaClassifier(scratch / _GGUF_FILE, _longest(packed), threads)
    return lambda ids: np.stack([model.logits(row) for row in ids])


def _longest(packed: Path) -> int:
    return int(PackedFile(packed).config["max_position_embeddings"])


def _write_iq2_bn(packed: Path, scratch: Path, build: Path | None) -> None:
    ggml.ik_llama_cpp(build)
    _export(packed, scratch, _GGUF)
    _write_floats(scratch)
    if _shim(scratch, build).ik_quantize(str(scratch / _FLOATS).encode(), str(scratch / _IQ2_BN).encode()):
        raise GateError("ik_llama.cpp does not quantise the GGUF export.")
    (scratch / _FLOATS).unlink()


def _write_floats(scratch: Path) -> None:
    """Writes the GGUF export in FP32 without pooler and classifier, and these two into a file of their own."""
    import gguf

    reader = gguf.GGUFReader(scratch / _GGUF_FILE)
    writer = gguf.GGUFWriter(scratch / _FLOATS, "bert")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue  # the writer adds it itself
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if array else None)
    values = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    np.savez(scratch / _HEAD, allow_pickle=False, **{name: x for name, x in values.items() if name.startswith("cls")})
    for name, x in values.items():
        if not name.startswith("cls"):
            writer.add_tensor(name, np.ascontiguousarray(x, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _shim(scratch: Path, build: Path | None) -> ctypes.CDLL:
    """The library of ik_llama.c, compiled against the sources of the build folder."""
    if build is None:
        raise ValueError("no build folder")
    library, source = scratch / _SHIM, Path(__file__).with_name("ik_llama.c")
    if not library.is_file():
        cache = (build / "CMakeCache.txt").read_text(encoding="utf-8").splitlines()
        home = next(line.partition("=")[2] for line in cache if line.startswith("CMAKE_HOME_DIRECTORY"))
        folders = [build / "src", build / "ggml/src"]
        command = ["cc", "-O2", "-shared", "-fPIC", f"-I{home}/include", f"-I{home}/ggml/include", str(source)]
        command += [f"-L{folder}" for folder in folders] + [f"-Wl,-rpath,{folder}" for folder in folders]
        try:
            command += ["-lllama", "-lggml", "-o", str(library)]
            subprocess.run(command, env=undisguised(), check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"`cc` does not compile {source} against {home}: {error}") from error
    loaded = ctypes.CDLL(str(library))
    loaded.ik_quantize.argtypes = [c_char_p, c_char_p]
    loaded.ik_open.restype, loaded.ik_open.argtypes = c_void_p, [c_char_p, c_int, c_int]
    loaded.ik_width.argtypes = [c_void_p]
    loaded.ik_run.argtypes = [c_void_p, POINTER(c_int32), c_int, POINTER(c_float)]
    return loaded


def _ik_llama(packed: Path, scratch: Path, threads: int, build: Path | None) -> Forward:
    shim = _shim(scratch, build)
    opened = shim.ik_open(str(scratch / _IQ2_BN).encode(), _longest(packed), threads)
    if not opened:
        raise GateError("ik_llama.cpp does not load its IQ2_BN file.")
    with np.load(scratch / _HEAD, allow_pickle=False) as head:
        names = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")
        pooler, pooler_bias, classifier, classifier_bias = (head[name] for name in names)
    width = shim.ik_width(opened)

    def run(ids: Any) -> Any:
        hidden = np.empty((len(ids), width), np.float32)
        for row, out in zip(np.ascontiguousarray(ids, np.int32), hidden, strict=True):
            given, taken = row.ctypes.data_as(POINTER(c_int32)), out.ctypes.data_as(POINTER(c_float))
            if shim.ik_run(opened, given, len(row), taken):
                raise GateError(f"ik_llama.cpp fails on a row of {len(row)} tokens.")
        return np.tanh(hidden @ pooler.T + pooler_bias) @ classifier.T + classifier_bias

    return run

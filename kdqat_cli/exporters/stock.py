"""Writes folders for stock transformers, and runs them there.

The model runs in a separate process that imports transformers and nothing of kdqat. So a folder that it can load works
for everybody.
"""

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.exporters.parity import Batch, Logits

WEIGHTS = "model.safetensors"
_PROGRAM = Path(__file__).with_name("stock_logits.py")


def write_stock(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    tensors: dict[str, Tensor],
    half: bool,
    quantization: Mapping[str, object] | None = None,
) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Args:
        model: the model, for its configuration.
        tokenizer: its tokenizer, which is saved without changes.
        folder: an existing folder.
        tensors: the state, with the names of the architecture.
        half: store floating-point tensors as FP16; they are loaded as FP32.
        quantization: the `quantization_config` of the configuration.

    Raises:
        ConfigError: transformers has no classifier of this architecture.
    """
    if not type(model).__module__.startswith("transformers."):
        raise ConfigError(
            f"transformers has no classifier of the type {model.config.model_type}, so it could not load the folder.",
            "--format onnx",
        )
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    if quantization is not None:
        config.quantization_config = quantization
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if half:
        tensors = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def logits(folder: Path, batches: list[Batch]) -> list[Logits]:
    """The logits (B, labels) of each batch, computed by stock transformers in a separate process.

    Raises:
        GateError: transformers could not load the folder, or tensors are missing or left over.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rows, out = Path(scratch) / "rows.npz", Path(scratch) / "logits.npz"
        arrays = {f"{index}.{name}": values for index, batch in enumerate(batches) for name, values in batch.items()}
        np.savez(rows, allow_pickle=False, **arrays)
        # -P keeps the folder of the program, which belongs to kdqat, off the module path. TORCHDYNAMO_DISABLE: the
        # bitnet layers of transformers ask torch to compile them, which needs a C++ compiler and has no effect.
        environment = dict(os.environ, TORCHDYNAMO_DISABLE="1", HF_HUB_OFFLINE="1")
        command = [sys.executable, "-P", str(_PROGRAM), str(folder), str(rows), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise GateError(f"Stock transformers cannot run the export: {''.join(last)}")
        with np.load(out, allow_pickle=False) as found:
            return [found[str(index)] for index in range(len(batches))]

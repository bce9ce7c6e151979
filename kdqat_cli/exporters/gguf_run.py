"""Runs a GGUF classifier on llama.cpp, through the package llama-cpp-python.

An export runs it in a separate process, so that the command can report an abort of llama.cpp.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.exporters.gguf_file import FILE
from kdqat_cli.exporters.parity import Batch, Logits

T = TypeVar("T")


def logits(folder: Path, batches: list[Batch]) -> list[Logits]:
    """Logits (B, labels) of each batch, computed by llama.cpp on the CPU, one row at a time.

    Raises:
        ConfigError: rows have token types, which mark the sentences of a pair.
        GateError: llama.cpp does not load or run the file, or crashes.
    """
    for batch in batches:
        if batch.get("token_type_ids", np.zeros(1)).any():
            raise ConfigError(
                "llama.cpp gives every token the type 0, but this encoder marks the sentences of a pair by type; "
                "encoders without token types (RoBERTa, XLM-R) can be exported to gguf.",
                "--format onnx",
            )
    return apart(_logits, folder / FILE, batches, torch.get_num_threads())


def tokens(folder: Path, texts: list[str]) -> list[list[int]]:
    """The ids of each text by llama.cpp's tokenizer, with special tokens.

    Raises:
        GateError: llama.cpp does not load the file, or crashes.
    """
    return apart(_tokens, folder / FILE, texts)


def apart(function: Callable[..., T], path: Path, *arguments: object) -> T:
    """Calls a function of a GGUF file in a separate process and returns its result.

    Raises:
        GateError: the process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(function, path, *arguments).result()
        except BrokenProcessPool as error:
            raise GateError(
                f"llama.cpp crashed on {path.name}; a llama.cpp that is built without CPU-specific code may run it.",
                "CMAKE_ARGS=-DGGML_NATIVE=OFF pip install --force-reinstall --no-cache-dir llama-cpp-python",
            ) from error


def _logits(path: Path, batches: list[Batch], threads: int) -> list[Logits]:
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    with closing(LlamaClassifier(path, longest, threads)) as model:
        return [
            np.stack(
                [
                    model.logits(ids[mask == 1])
                    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
                ]
            )
            for batch in batches
        ]


def _tokens(path: Path, texts: list[str]) -> list[list[int]]:
    lib, _ = _library()
    options = lib.llama_model_default_params()
    options.vocab_only = True
    model = _load(path, options)
    vocabulary = lib.llama_model_get_vocab(model)
    found = []
    for text in texts:
        data = text.encode()
        room = len(data) + 2  # usually enough: a token has at least one byte, and there are two special tokens
        while True:
            ids = (lib.llama_token * room)()
            count = lib.llama_tokenize(vocabulary, data, len(data), ids, room, True, True)
            if count >= 0:
                break
            room = -count
        found.append(list(ids[:count]))
    lib.llama_model_free(model)
    return found


def _load(path: Path, options: object) -> object:
    """Loads a file and returns llama.cpp's handle.

    Raises:
        GateError: llama.cpp does not load it.
    """
    lib, _ = _library()
    model = lib.llama_model_load_from_file(str(path).encode(), options)
    if not model:
        raise GateError(f"llama.cpp {lib.__version__} does not load {path}.")
    return model


class LlamaClassifier:
    """A classifier loaded by llama.cpp.

    Attributes:
        model: llama.cpp's handle.
        labels: the number of logits.
    """

    def __init__(self, path: Path, tokens: int, threads: int) -> None:
        """Loads a file.

        Args:
            path: the GGUF file.
            tokens: the largest number of tokens of a row.
            threads: number of threads.

        Raises:
            GateError: llama.cpp does not load or run the file.
        """
        self._lib, _ = _library()
        self.model = _load(path, self._lib.llama_model_default_params())
        options = self._lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = tokens
        options.embeddings = True
        options.n_threads = options.n_threads_batch = threads
        self._context = self._lib.llama_init_from_model(self.model, options)
        if not self._context:
            raise GateError(f"llama.cpp {self._lib.__version__} cannot run {path}.")
        self.labels = self._lib.llama_model_n_cls_out(self.model)

    def close(self) -> None:
        """Frees the model."""
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self.model)

    def logits(self, ids: NDArray[np.int64]) -> Logits:
        """The logits (labels,) of one row of token ids.

        Raises:
            GateError: llama.cpp fails.
        """
        batch = self._lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids.tolist()):
            batch.token[place] = token
            batch.pos[place] = place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = True
        code = self._lib.llama_encode(self._context, batch)
        self._lib.llama_batch_free(batch)
        if code:
            raise GateError(f"llama.cpp {self._lib.__version__} fails with code {code} on a row of {len(ids)} tokens.")
        out = self._lib.llama_get_embeddings_seq(self._context, 0)
        return np.array(out[: self.labels], dtype=np.float32)


@cache
def _library() -> tuple[ModuleType, object]:
    """llama.cpp, and the function that drops its messages, which must live as long as the library."""
    import llama_cpp as lib

    silent = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    return lib, silent

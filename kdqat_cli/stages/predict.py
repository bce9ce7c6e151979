"""predict: lines → answers, one batch after the other.

The kind of the model's rows determines what a line and its answer are (`Kind.answerer`): a text and its label, the path
of a picture and its label, or a sentence and its translation. A packed classifier of texts runs on the engine, without
torch. Any other model is loaded by torch, as for an evaluation.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kdqat_cli.config import Device
from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.packed_file import FILE_NAME, packed_record
from kdqat_cli.store.folder import MODEL
from kdqat_cli.tasks.answers import Answer, Answerer
from kdqat_cli.tasks.registry import kind_named, load_task, packed_answerer
from kdqat_cli.tasks.task import Task
from kdqat_cli.texts import Text


def packed_file(model: str) -> Path | None:
    """The packed file at a path or in its folder; None: the model is not packed."""
    folder = Path(model)
    return next((path for path in (folder, folder / FILE_NAME, folder / MODEL / FILE_NAME) if path.is_file()), None)


def open_model(model: str, threads: int | None = None, device: Device | None = None) -> Answerer:
    """Loads a model for predictions.

    Args:
        model: a packed folder or file; or a student, a teacher, or a hub id.
        threads: number of threads; None: the number of processors.
        device: device that computes; None: the CPU for a packed classifier of texts, else the GPU if there is one.

    Raises:
        ConfigError: the packed model cannot be served on a GPU, or the kind of the model's rows has no lines.
        MissingInputError: there is no model, a file is damaged, or there is no GPU.
    """
    packed = packed_file(model)
    if packed is not None:
        opened = packed_answerer(packed_record(packed).rows_kind)
        if opened is not None:
            return opened(packed, threads, device)
    return _loaded(model, threads, device)


def _loaded(model: str, threads: int | None, device: Device | None) -> Answerer:
    import torch

    from kdqat_cli.native import MOST_THREADS
    from kdqat_cli.tasks.records import recorded, recorded_task

    if threads:
        torch.set_num_threads(min(threads, MOST_THREADS))
    if device == "cuda":
        from kdqat_cli.engine.gpu.model import gpu

        gpu()  # with a GPU, the model is on it already

    def task() -> Task:
        name = recorded_task(model)
        if name is None:
            raise ConfigError(f"{model} does not say which task it is for.", "a folder that kdqat wrote")
        return load_task(name)

    return kind_named(recorded(model).rows_kind).answerer(model, task, device)


def predict(runner: Answerer, batches: Iterable[list[Text]]) -> Iterator[Answer]:
    """Yields one record per line, in order: the line, and its answer.

    If the model has no answer to a line (a text without tokens, an unreadable picture, a NaN or infinite logit), the
    record has an `error` instead.

    Args:
        runner: see `open_model`.
        batches: batches of lines; a batch is read only when its records are needed.

    Raises:
        MissingInputError: the tokenizer or the model fails, because the model is damaged.
    """
    for batch in batches:
        for text, answer in zip(batch, runner.answers(batch), strict=True):
            given = Answer(text=text.text) if text.pair is None else Answer(text=text.text, pair=text.pair)
            yield given | answer

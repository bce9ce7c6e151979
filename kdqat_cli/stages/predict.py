"""predict: lines → answers, a batch at a time.

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
    """The packed file that a path leads to; None: the model is of another kind."""
    folder = Path(model)
    return next((path for path in (folder, folder / FILE_NAME, folder / MODEL / FILE_NAME) if path.is_file()), None)


def open_model(model: str, threads: int | None = None, device: Device | None = None) -> Answerer:
    """A model to predict with.

    Args:
        model: a packed folder or file; or a student, a teacher, or a hub id.
        threads: that compute together; None: as many as there are processors.
        device: that computes; None: the processor for a packed classifier of texts, else the GPU where there is one.

    Raises:
        ConfigError: the GPU is asked for a packed model that is not served there, or the model's rows are of a kind
            that takes no lines.
        MissingInputError: nothing to load there, a damaged file, or no GPU.
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

        gpu()  # where there is one, the model is loaded onto it

    def task() -> Task:
        name = recorded_task(model)
        if name is None:
            raise ConfigError(f"{model} does not say which task it is for.", "a folder that kdqat wrote")
        return load_task(name)

    return kind_named(recorded(model).rows_kind).answerer(model, task, device)


def predict(runner: Answerer, batches: Iterable[list[Text]]) -> Iterator[Answer]:
    """One record per line, in their order: the line, and its answer.

    A line that the model has no answer for (a text that makes no tokens, a picture that cannot be read, a logit that is
    NaN or infinite) has an `error` instead.

    Args:
        runner: see `open_model`.
        batches: lines that the model takes, a batch computed together; read as the records are taken.

    Raises:
        MissingInputError: tokenizer or model fail; the model is damaged.
    """
    for batch in batches:
        for text, answer in zip(batch, runner.answers(batch), strict=True):
            given = Answer(text=text.text) if text.pair is None else Answer(text=text.text, pair=text.pair)
            yield given | answer

"""finetune-teacher: encoder, or a new network → FP32 teacher of a task."""

from pathlib import Path
from typing import TypedDict

from transformers import set_seed

from kdqat_cli.config import Settings
from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.store.folder import Work, refuse_inputs, shared_folder
from kdqat_cli.store.run import Stopwatch, versions
from kdqat_cli.tasks.models import cut_short, marked, undecided
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import Task, check_keep_best
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.loop import Loop, Progress
from kdqat_cli.training.result import write_result


class FineTuned(TypedDict):
    """What `finetune-teacher` did."""

    folder: str
    """Where the teacher is."""
    score: float
    """Dev score in percent."""
    seconds: float
    """Wall-clock seconds."""


def finetune_teacher(
    task: Task,
    source: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    out: Path,
    progress: Progress,
    force: bool = False,
) -> FineTuned:
    """Trains a teacher on the task's labels and keeps the best evaluation on dev.

    Args:
        task: the task.
        source: what the teacher begins with: an encoder (hub id, local folder, or `embedded`), or of other tasks than
            text the name of a network.
        settings: of which `teacher` and `network` are used.
        seed: of the head's first weights, the order of rows and dropout.
        data_dir: folder of local task data, or None.
        out: receives model/, history.csv and run.json.
        progress: is told of every step.
        force: replace a result of other settings, and remove checkpoints of other settings.

    Raises:
        ConfigError: an encoder that kdqat does not take, or the task does not report the metric of `keep_best`; or
            `out` is an input, holds what kdqat did not write, or a result of other settings.
        MissingInputError: no encoder or data there, or the folder is in use.
    """
    watch = Stopwatch()
    check_keep_best(task, "teacher", settings.teacher)
    refuse_inputs(out, kind_of(task).inputs(source), (data_dir, task.folder))
    with shared_folder(out, force) as work:
        score = _train(work, watch, task, source, settings, seed, data_dir, progress)
    return {"folder": str(out), "score": score, "seconds": watch.seconds}


def _train(
    work: Work,
    watch: Stopwatch,
    task: Task,
    source: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    progress: Progress,
) -> float:
    """Trains into a folder; the dev score."""
    kind = kind_of(task)
    set_seed(seed)
    loaded = kind.new(task, source, data_dir, fields=settings.network)
    reading = kind.reading(loaded, task, settings.teacher, "teacher")
    rows = kind.rows(task, "train", data_dir, loaded, reading, settings.teacher.limit)
    dev = kind.rows(task, "dev", data_dir, loaded, reading)
    begun = loaded.record
    made: dict[str, object] = {"kind": "teacher", "encoder": begun.encoder, "network": begun.network}
    fields = {"network": sorted(settings.network.items())}
    made |= {"seed": seed, "settings": settings.teacher.model_dump() | fields}
    sources = begun.sources | reading.sources | {"train": rows.digest, "dev": dev.digest}
    record = reading.model_copy(update=made | {"sources": sources, "versions": versions()})
    record = marked(record, [cut_short(rows, settings.teacher.limit)])
    work.refuse_other(record)
    resume = work.resume_folder(record)
    batches = SharedBatches.of(rows, settings.teacher, seed)
    objective = OnLabels(settings.teacher.precision, settings.teacher.loss_per)
    training = Loop(undecided(loaded.model), batches, objective, dev.score, settings.teacher, seed, resume, progress)
    return write_result(work, kind, loaded, record, training.run(), rows, dev, watch)

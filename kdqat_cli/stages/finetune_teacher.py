"""finetune-teacher: encoder, new network or trained model → FP32 teacher of a task."""

from pathlib import Path
from typing import TypedDict

from transformers import set_seed

from kdqat_cli.config import Settings
from kdqat_cli.distillation.objective import OnLabels
from kdqat_cli.store.digest import file_digest
from kdqat_cli.store.folder import HISTORY, MODEL, Work, output_folder, refuse_inputs, shared_folder
from kdqat_cli.store.run import Stopwatch, versions, write_run
from kdqat_cli.tasks.models import cut_short, load_teacher, marked, undecided
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import Task, check_keep_best
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.history import write_history
from kdqat_cli.training.loop import Loop, Progress
from kdqat_cli.training.result import write_result


class FineTuned(TypedDict):
    """The result of `finetune-teacher`."""

    folder: str
    """Folder of the teacher."""
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
        source: for a text task, the encoder: hub id, local folder, or `embedded`; for other tasks, name of a network.
        settings: settings; the sections `teacher` and `network` are used.
        seed: seed of the head's (or network's) first weights, of the order of rows and of dropout.
        data_dir: folder of local task data, or None.
        out: output folder for model/, history.csv and run.json.
        progress: called after every step.
        force: replace a result of other settings, and remove checkpoints of other settings.

    Raises:
        ConfigError: kdqat cannot use the encoder, or the task does not report the metric of `keep_best`; or `out` is an
            input, or has files that kdqat did not write, or a result of other settings.
        MissingInputError: the encoder or the data is missing, or the folder is in use.
    """
    watch = Stopwatch()
    check_keep_best(task, "teacher", settings.teacher)
    refuse_inputs(out, kind_of(task).inputs(source), (data_dir, task.folder))
    with shared_folder(out, force) as work:
        score = _train(work, watch, task, source, settings, seed, data_dir, progress)
    return {"folder": str(out), "score": score, "seconds": watch.seconds}


def take_teacher(
    task: Task, model: str, settings: Settings, data_dir: Path | None, out: Path, force: bool = False
) -> FineTuned:
    """Makes a model that is trained already the teacher: scores it, and writes it in FP32, like a training.

    Args:
        task: the task.
        model: folder or hub id of the model.
        settings: settings; the section `teacher` determines how rows are read.
        data_dir: folder of local task data, or None.
        out: output folder for model/, history.csv (with one evaluation) and run.json.
        force: replace a result of other settings.

    Raises:
        ConfigError: kdqat cannot use the model as a teacher, or its labels differ from the task's; or `out` is an
            input, or has files that kdqat did not write, or a result of other settings.
        MissingInputError: the model or the data is missing, or the folder is in use.
    """
    watch = Stopwatch()
    refuse_inputs(out, {"teacher": model}, (data_dir, task.folder))
    with output_folder(out, force) as work:
        kind, loaded = kind_of(task), load_teacher(model, task)
        reading = kind.reading(loaded, task, settings.teacher, "teacher")
        dev = kind.rows(task, "dev", data_dir, loaded, reading)
        weights = loaded.weights and file_digest(loaded.weights)
        sources = loaded.record.sources | reading.sources | {"teacher": weights, "dev": dev.digest}
        kept = ("encoder", "network", "seed", "settings", "not_to_be_quoted")
        made = {name: getattr(loaded.record, name) for name in kept}
        record = reading.model_copy(update=made | {"kind": "teacher", "sources": sources, "versions": versions()})
        work.refuse_other(record)
        metrics = dev.score(loaded.model)
        kind.save(loaded, work.scratch / MODEL, record)
        write_history(work.scratch / HISTORY, [{"step": 0, "epoch": 0.0} | metrics])
        run = write_run(work.scratch, watch, steps=0, score=metrics["score"])
    return {"folder": str(out), "score": metrics["score"], "seconds": run.seconds}


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
    """Trains into a folder; returns the dev score in percent."""
    kind = kind_of(task)
    set_seed(seed)
    loaded = kind.new(task, source, data_dir, fields=settings.network)
    reading = kind.reading(loaded, task, settings.teacher, "teacher")
    rows = kind.rows(task, "train", data_dir, loaded, reading, settings.teacher.limit)
    dev = kind.rows(task, "dev", data_dir, loaded, reading)
    begun = loaded.record
    made: dict[str, object] = {"kind": "teacher", "encoder": begun.encoder, "network": begun.network}
    fields = {"network": sorted(settings.network.items())}
    made |= {"seed": seed, "settings": settings.teacher.model_dump(exclude={"model"}) | fields}
    sources = begun.sources | reading.sources | {"train": rows.digest, "dev": dev.digest}
    record = reading.model_copy(update=made | {"sources": sources, "versions": versions()})
    record = marked(record, [cut_short(rows, settings.teacher.limit)])
    work.refuse_other(record)
    resume = work.resume_folder(record)
    batches = SharedBatches.of(rows, settings.teacher, seed)
    objective = OnLabels(settings.teacher.precision, settings.teacher.loss_per)
    training = Loop(undecided(loaded.model), batches, objective, dev.score, settings.teacher, seed, resume, progress)
    return write_result(work, kind, loaded, record, training.run(), rows, dev, watch)

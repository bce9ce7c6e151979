"""quantize: teacher → quantised student without any training, the "no QAT" row of the paper."""

from pathlib import Path
from typing import TypedDict

from kdqat_cli.config import Settings
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.parameters import freeze, level_bits
from kdqat_cli.store.folder import MODEL, output_folder, refuse_inputs
from kdqat_cli.store.run import Stopwatch, write_run
from kdqat_cli.tasks.models import (
    decided,
    load_teacher,
    marked,
    student_record,
    teacher_fault,
    teacher_score,
    undecided,
)
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import Task


class Quantized(TypedDict):
    """The result of `quantize`."""

    folder: str
    """Folder of the model."""
    score: float
    """Dev score in percent."""
    seconds: float
    """Wall-clock seconds."""


def quantize(
    task: Task, teacher: str, settings: Settings, data_dir: Path | None, out: Path, force: bool = False
) -> Quantized:
    """Quantises a teacher without training, and scores it.

    Args:
        task: the task.
        teacher: folder or hub id of the teacher.
        settings: settings; used are `quantization`, the truncation and padding of `student`, and from `distillation`
            whether a weak teacher is allowed.
        data_dir: folder of local task data, or None.
        out: output folder for model/ and run.json.
        force: replace a result of other settings.

    Raises:
        ConfigError: kdqat cannot use the teacher, or its labels differ from the task's; or `out` is an input, or has
            files that kdqat did not write, or a result of other settings.
        GateError: the teacher is no better than a constant answer, and the settings do not allow that.
        MissingInputError: the teacher or the data is missing, or the folder is in use.
    """
    watch = Stopwatch()
    refuse_inputs(out, {"teacher": teacher}, (data_dir, task.folder))
    with output_folder(out, force) as work:
        source = load_teacher(teacher, task)
        record = student_record("ternary", task, source, settings)
        kind = kind_of(task)
        dev = kind.rows(task, "dev", data_dir, source, record)
        weak = settings.distillation.weak_teacher == "allowed"
        taught = teacher_score(source.model, task, dev, teacher, weak)
        record = marked(record, [teacher_fault(source.record, taught, dev)])
        work.refuse_other(record)
        quantize_model(undecided(source.model), settings.quantization)
        freeze(source.model)
        metrics = dev.score(source.model)
        score, record = metrics["score"], decided(source.model, record, metrics)
        kind.save(source, work.scratch / MODEL, record)
        run = write_run(work.scratch, watch, score=score, level_bits=level_bits(source.model))
    return {"folder": str(out), "score": score, "seconds": run.seconds}

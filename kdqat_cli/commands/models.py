"""Commands on a finished model: evaluate, export, card, predict, bench."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdqat_cli.commands.app import command, inputs, start
from kdqat_cli.commands.options import (
    AnswerOptions,
    DataDirOption,
    DeviceOption,
    ForceOption,
    FormatOption,
    JsonOption,
    LossOption,
    MaxLengthOption,
    OutOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    shapes_option,
    text_argument,
)
from kdqat_cli.commands.panels import SERVING, SPEED, STAGES
from kdqat_cli.config import CodecName, Device
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.hub import refuse_absent
from kdqat_cli.names import FORMATS
from kdqat_cli.native import MOST_THREADS
from kdqat_cli.output import Output
from kdqat_cli.params import load_params, resolve, use_plugins
from kdqat_cli.processors import processors
from kdqat_cli.store.places import export_folder, student_folder, writer_of
from kdqat_cli.streams import input_closed
from kdqat_cli.tasks.registry import load_task
from kdqat_cli.texts import Text, open_source, read_texts, require_fit

if TYPE_CHECKING:
    from kdqat_cli.stages.bench import Benchmark
    from kdqat_cli.stages.predict_table import Tables
    from kdqat_cli.tasks.answers import Answer, Answerer

_MODEL = "kdqat evaluate MODEL, with a folder that kdqat wrote; with --task TASK, any model folder or hub id"
_STUDENT = "kdqat distill --task TASK"


_CodecOption = Annotated[
    CodecName | None,
    typer.Option(
        "--codec",
        help="How a packed file stores levels; auto takes the smallest codec for each weight. "
        "[default: trits for ternary weights, else auto]",
    ),
]
_TextArgument = Annotated[
    str | None,
    typer.Argument(
        help="A text. Put -- before one that begins with a dash. "
        "[default: lines of standard input, a tab before a pair's second]"
    ),
]
_FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="File of lines, without a header: a text, two texts with a tab between, or JSON. With --out: a table.",
    ),
]
_ScoringDevice = Annotated[
    Device | None,
    typer.Option("--device", help="Device that computes the model. [default: cuda if there is a GPU, else cpu]"),
]
_DetailsOption = Annotated[
    Path | None,
    typer.Option("--details", help="Folder for tables: precision, recall, F1 per class, confusion matrix, wrong rows."),
]
_BesideOption = Annotated[
    str | None, typer.Option("--teacher", help="Model to compare the answers with: folder or hub id.")
]
_RowsOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Score only the first rows; the result is marked as not to be quoted."),
]


@command(STAGES)
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder (teacher, student, packed), packed file, or hub id.")],
    task: Annotated[
        str | None, typer.Option("--task", help="Task to score on. [default: the task that the folder was made for]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write, for `dvc metrics`.")] = None,
    data_dir: DataDirOption = None,
    max_length: MaxLengthOption = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Fail with exit code 4 below this score, in percent.")
    ] = None,
    device: _ScoringDevice = None,
    details: _DetailsOption = None,
    teacher: _BesideOption = None,
    limit: _RowsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a model on its task's dev rows and show its size.

    If the task has other splits, such as test, the model is scored on each of them too.
    """
    use_plugins()
    from kdqat_cli.stages.predict import packed_file

    if task is not None:
        load_task(task)  # before torch is imported, so that an error comes at once
    if packed_file(model) is None:
        refuse_absent(model, writer_of(model))
    output = start(json, quiet)
    from kdqat_cli.stages.evaluate import More
    from kdqat_cli.stages.evaluate import evaluate as stage
    from kdqat_cli.tasks.records import recorded_task

    name = task or recorded_task(model, _MODEL)
    if name is None:
        raise ConfigError(f"{model} does not say which task it is for.", f"kdqat evaluate {model} --task TASK")
    _, spec, data = inputs(name, data_dir)
    more = More(details, teacher, limit)
    output.result(stage(spec, model, data, out, max_length, min_score, device, more))


@command(STAGES)
def export(
    task: Annotated[str | None, typer.Option("--task", help="Task whose student is exported.")] = None,
    loss: LossOption = None,
    seed: SeedOption = 42,
    student: Annotated[
        Path | None, typer.Option("--student", help="Student to export. [default: runs/TASK/student/LOSS-SEED]")
    ] = None,
    format_: FormatOption = "packed",
    out: OutOption = None,
    force: ForceOption = False,
    data_dir: DataDirOption = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store scales and unquantised tensors as FP16, not FP32.")
    ] = False,
    codec: _CodecOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack a student, or write it for another engine.

    A packed file stores five ternary weights per byte; --codec auto takes a smaller form where there is one. An
    export for another engine is compared with the student on the dev rows.
    """
    use_plugins()
    if format_ not in FORMATS:
        raise ConfigError(
            f"--format: there is no format {format_!r}; the formats are {FORMATS.listed()}.", "kdqat ls formats"
        )
    source, target = _of_task(task, loss, seed, format_) if student is None else _of_student(student, format_)
    refuse_absent(str(source), writer_of(str(source)) or _STUDENT)
    output = start(json, quiet)
    from kdqat_cli.stages.export import export as stage
    from kdqat_cli.tasks.records import recorded_task

    spec, data = None, None
    if format_ != "packed" and (recorded := task or recorded_task(str(source), _STUDENT)):
        _, spec, data = inputs(recorded, data_dir)
    output.result(stage(str(source), out or target, half, format_, spec, data, force, codec))


def _of_student(student: Path, format_: str) -> tuple[Path, Path]:
    """The folder of a student, and the default folder of its export."""
    folder = student.resolve() if student.name in ("", "..") else student
    return student, folder.with_name(f"{folder.name}-{format_}")


def _of_task(task: str | None, loss: str | None, seed: int, format_: str) -> tuple[Path, Path]:
    """The folder of a task's student, and the default folder of its export."""
    if task is None:
        raise ConfigError("Nothing to export: give --task or --student.", "kdqat export --task TASK")
    spec = load_task(task)
    name = spec.name
    run = loss or resolve(name, load_params(), kind=spec.kind).distillation.loss
    source = student_folder(name, run, seed)
    others = [path.parent for path in sorted(source.parent.glob("*/model"))]
    if others and not source.exists():
        there = ", ".join(path.name for path in others)
        raise MissingInputError(f"There is no student {source}, but {there}.", f"kdqat export --student {others[0]}")
    return source, export_folder(name, format_, run, seed)


@command(STAGES)
def card(
    model: Annotated[Path, typer.Argument(help="Folder that `kdqat export` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write. [default: README.md in the folder]")] = None,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(
            "--metrics",
            help="File that `kdqat evaluate --out` wrote; repeat for more seeds. "
            "[default: for runs/TASK/packed/RUN-SEED, the files metrics/TASK/packed/RUN-*.json]",
        ),
    ] = None,
    bench: Annotated[
        Path | None, typer.Option("--bench", help="File with the output of `kdqat bench --json` for this model.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write the model card of an export.

    `kdqat export` writes a card into the export's model folder; it has only the student's own figures. This card,
    beside that folder, adds the scores of all seeds and measured times.
    """
    use_plugins()
    output = start(json, quiet)
    from kdqat_cli.stages.card import card as stage

    output.result(stage(str(model), out, metrics, bench, output.remark))


@command(SERVING)
def predict(
    model: Annotated[str, typer.Argument(help="Packed folder or file; or a student, a teacher, a hub id.")],
    answer: AnswerOptions,
    text: _TextArgument = None,
    pair: Annotated[str | None, typer.Argument(help="The second text of a pair.")] = None,
    file: _FileOption = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Lines per batch.", rich_help_panel=SPEED)
    ] = 32,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
) -> None:
    """Classify texts or pictures, or translate sentences.

    The output has one JSON line per line of input. A line of input is a text, the path of a picture or a sentence,
    depending on the model's task. Each line is answered as soon as it has been read. With --out, --file is a table, and
    its rows are written with their answers.
    """
    use_plugins()
    _check_source(text, file, answer)
    text, pair = text_argument(text), text_argument(pair)
    from kdqat_cli.stages.predict import open_model, packed_file

    if packed_file(model) is None:
        refuse_absent(model, writer_of(model))
    output = start(False, quiet)
    tables = _tables(file, answer, batch_size)
    with open_source(file) if text is None and tables is None else nullcontext() as source:
        runner = open_model(model, threads, device)
        _check_model(output, runner, model, answer)
        if tables is not None:
            _answer_table(output, runner, model, tables)
            return
        if source is None:
            batches = iter([[require_fit(Text(text or "", pair), runner.pairs, "The text")]])
        else:
            batches = read_texts(source, file, batch_size, runner.pairs)
        _answer(output, _answers(runner, batches, answer))


def _check_model(output: Output, runner: "Answerer", model: str, answer: AnswerOptions) -> None:
    """Prints the remark of the model, and refuses options that have no meaning for it.

    Raises:
        ConfigError: the model has no labels.
    """
    if runner.remark:
        output.remark(runner.remark)
    if runner.labels is None and (answer.top_k or answer.threshold is not None):
        raise ConfigError(f"{model} has no labels, so --top-k and --threshold have no meaning.", "neither of them")


def _check_source(text: str | None, file: Path | None, answer: AnswerOptions) -> None:
    """Refuses options that do not go together.

    Raises:
        ConfigError: there is more than one source, or --out and its columns do not fit it.
        MissingInputError: there is no source.
    """
    if text is not None and file is not None:
        raise ConfigError("Both a text and --file are given; one of them is enough.")
    if answer.out is not None and file is None:
        raise ConfigError("--out needs --file: a table, whose rows it writes.", "--file TABLE --out ANSWERS")
    if answer.out is None and (answer.text_column or answer.pair_column):
        raise ConfigError("--text-column and --pair-column need --file and --out.", "--file TABLE --out ANSWERS")
    if text is None and file is None and input_closed():
        raise MissingInputError(
            "There is no text, and standard input is closed.", 'kdqat predict MODEL "A text.", or --file FILE'
        )


def _tables(file: Path | None, answer: AnswerOptions, batch_size: int) -> "Tables | None":
    if file is None or answer.out is None:
        return None
    from kdqat_cli.stages.predict_table import Tables, check_tables

    columns = answer.text_column, answer.pair_column
    tables = Tables(file, answer.out, *columns, answer.top_k, answer.threshold, batch_size)
    check_tables(tables)
    return tables


def _answer_table(output: Output, runner: "Answerer", model: str, tables: "Tables") -> None:
    from kdqat_cli.stages.predict_table import predict_table

    done = predict_table(runner, model, tables)
    named = f"; the table has columns of their names, so those of the answers begin with {done.prefix}"
    output.remark(f"{tables.out}: {done.rows} rows with their answers{named if done.prefix else ''}")
    if done.without:
        raise MissingInputError(f"{done.without} rows of {tables.out} have no answer; they hold an error.")


def _answers(runner: "Answerer", batches: Iterable[list[Text]], answer: AnswerOptions) -> "Iterable[Answer]":
    from kdqat_cli.stages.predict import predict as stage
    from kdqat_cli.tasks.answers import with_threshold, with_top

    for found in stage(runner, batches):
        yield with_top(with_threshold(found, answer.threshold), answer.top_k)


def _answer(output: Output, answers: Iterable[Mapping[str, object]]) -> None:
    """Prints each answer as soon as it is computed.

    Raises:
        MissingInputError: a text has no answer; all other answers were printed.
    """
    unanswered = 0
    for answer in answers:
        unanswered += "error" in answer
        output.line(answer)
    if unanswered:
        raise MissingInputError(f"{unanswered} lines have no answer; each has an error instead.")


@command(SERVING)
def bench(
    model: Annotated[str, typer.Argument(help="Packed folder or file.")],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="ROWSxTOKENS",
            help="Size of a batch; repeat for more. [default: 1x32, 1x128, 8x128, cut to the model's row length]",
        ),
    ] = None,
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Measurements of each engine per batch size.")] = 11,
    device: DeviceOption = None,
    only: Annotated[bool, typer.Option("--only", help="Measure only kdqat's own engine.")] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the result beside the model (bench.json), for `kdqat report --html`.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a packed model beside other engines.

    On a CPU these are torch FP32, and ONNX Runtime FP32 and int8; on a GPU torch FP32 and FP16.
    """
    use_plugins()
    shapes = shapes_option(shape or [])
    output = start(json, quiet)
    from kdqat_cli.bench.engines import ENGINES, OWN
    from kdqat_cli.stages import bench as stage

    kept = stage.bench_file(model) if save else None  # refused before the minutes of measuring
    engines = ENGINES[device or "cpu"]
    engines = {OWN: engines[OWN]} if only else engines
    result = stage.bench(model, shapes, threads or min(processors(), MOST_THREADS), rounds, engines, output.remark)
    if kept is not None:
        stage.save(result, kept)
        output.remark(f"{kept}: kept; `kdqat report --html` shows it.")
    _show_bench(output, result, json)


def _show_bench(output: Output, result: "Benchmark", json: bool) -> None:
    if json:
        output.result(result)
        return
    title = f"{result['machine']}, {result['date']}, threads {result['threads']}, rounds {result['rounds']}"
    output.rows(result["latency"], title=title)
    output.rows(result["footprint"])

"""distill: teacher → quantised student, which learns from the teacher by a distillation loss.

The student is a copy of its teacher, or a smaller network. The method determines when its weights are quantised:

    qat, qd   at every step; the latent weights get the gradient of the quantised ones (Kim et al. call it
              quantisation-aware training, Polino et al. quantized distillation)
    pm        once, after the training (Polino et al.: post-mortem)
    dq        the weights are the teacher's and do not change; the points that they are quantised to are trained
              (Polino et al.: differentiable quantisation). In their public code the teacher is the same network too
"""

from copy import copy, deepcopy
from pathlib import Path
from typing import TypedDict

from transformers import PreTrainedModel, set_seed

from kdqat_cli.config import Distillation, Quantization, Settings
from kdqat_cli.distillation.losses import DistillationLoss
from kdqat_cli.distillation.objective import OnTeacher
from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.interface import use_kdqat_attention
from kdqat_cli.networks.modules import layers_of
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.networks.shallower import with_layers
from kdqat_cli.quantizers.learned import learn_points, settle_points
from kdqat_cli.record import Record
from kdqat_cli.store.folder import Work, refuse_inputs, shared_folder
from kdqat_cli.store.places import taught_folder
from kdqat_cli.store.run import Stopwatch
from kdqat_cli.tasks.kind import Loaded, Rows
from kdqat_cli.tasks.models import (
    cut_short,
    load_teacher,
    marked,
    student_record,
    teacher_fault,
    teacher_score,
    undecided,
)
from kdqat_cli.tasks.registry import kind_of
from kdqat_cli.tasks.task import Task, check_keep_best
from kdqat_cli.training.batches import SharedBatches
from kdqat_cli.training.loop import Loop, Progress, Trained
from kdqat_cli.training.result import write_result
from kdqat_cli.training.sensitivity import mean_gradients, shared_points


class Distilled(TypedDict):
    """The result of `distill`."""

    folder: str
    """Folder of the student."""
    score: float
    """Dev score of the student in percent."""
    teacher_score: float
    """Dev score of the teacher in percent."""
    seconds: float
    """Wall-clock seconds."""


def distill(
    task: Task,
    teacher: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    out: Path,
    progress: Progress,
    force: bool = False,
    network: str | None = None,
) -> Distilled:
    """Trains a quantised student to follow its teacher, and keeps the best evaluation on dev.

    Args:
        task: the task.
        teacher: folder or hub id of the teacher.
        settings: settings; the sections `student`, `quantization` and `distillation` are used, and `network` for a new
            network.
        seed: seed of the order of rows, of dropout, and of the first weights of a new network.
        data_dir: folder of local task data, or None.
        out: output folder for model/, history.csv and run.json.
        progress: called after every step.
        force: replace a result of other settings, and remove checkpoints of other settings.
        network: name of the student's network; None: the student is a copy of the teacher.

    Raises:
        ConfigError: kdqat cannot use the teacher, its labels differ from the task's, the task does not report the
            metric of `keep_best`, or a network lacks layers that the loss compares; or `out` is an input, or has files
            that kdqat did not write, or a result of other settings.
        GateError: the teacher is no better than a constant answer, and the settings do not allow that.
        MissingInputError: the teacher or the data is missing, or the folder is in use.
    """
    watch = Stopwatch()
    check_keep_best(task, "student", settings.student)
    refuse_inputs(out, {"teacher": teacher}, (data_dir, task.folder))
    with shared_folder(out, force) as work:
        _check_method(settings, network)
        taught, score = _distil(work, watch, task, teacher, settings, seed, data_dir, progress, network)
    return {"folder": str(out), "score": score, "teacher_score": taught, "seconds": watch.seconds}


def _distil(
    work: Work,
    watch: Stopwatch,
    task: Task,
    teacher: str,
    settings: Settings,
    seed: int,
    data_dir: Path | None,
    progress: Progress,
    network: str | None,
) -> tuple[float, float]:
    """Distils into a folder; returns the scores of teacher and student."""
    source = load_teacher(teacher, task)
    _check_networks(settings, source.model, network)
    plain = student_record("student", task, source, settings)
    kind = kind_of(task)
    dev = kind.rows(task, "dev", data_dir, source, plain)
    rows = kind.rows(task, "train", data_dir, source, plain, settings.student.limit)
    taught = teacher_score(source.model, task, dev, teacher, settings.distillation.weak_teacher == "allowed")
    faults = [teacher_fault(source.record, taught, dev), cut_short(rows, settings.student.limit)]
    record = marked(_trained_record(plain, settings, seed, rows, dev, network), faults)
    work.refuse_other(record)
    if settings.distillation.targets == "teacher":
        rows = kind.taught(rows, source, taught_folder(task.name))
    resume = work.resume_folder(record)
    set_seed(seed)
    student = _begun(task, source, settings, data_dir, network)
    trained = _train(undecided(student.model), source.model, settings, rows, dev, seed, resume, progress)
    return taught, write_result(work, kind, student, record, trained, rows, dev, watch)


def _begun(task: Task, teacher: Loaded, settings: Settings, data_dir: Path | None, network: str | None) -> Loaded:
    """The student before its training: a copy of its teacher, or a new network."""
    if network is None:
        return _copy(teacher, settings.distillation.layers)
    return kind_of(task).new(task, network, data_dir, teacher, settings.network)


def _copy(teacher: Loaded, layers: list[int] | None) -> Loaded:
    student = copy(teacher)
    student.model = deepcopy(teacher.model) if layers is None else with_layers(teacher.model, layers)
    return student


def _train(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Settings,
    rows: Rows,
    dev: Rows,
    seed: int,
    resume: Path,
    progress: Progress,
) -> Trained:
    """Trains a student in place, and leaves it with the weights of its best evaluation."""
    method, recipe = settings.distillation.method, settings.student
    batches = SharedBatches.of(rows, recipe, seed)
    if method == "dq":
        _learn_points(student, settings.quantization, batches)
    elif method != "pm":
        quantize_model(student, settings.quantization)
    loss = DistillationLoss(settings.distillation)
    if loss.captures:
        use_kdqat_attention(teacher)
    objective = OnTeacher(student, teacher, loss, recipe.precision, recipe.loss_per)
    trained = Loop(student, batches, objective, dev.score, recipe, seed, resume, progress).run()
    if method == "pm":
        quantize_model(student, settings.quantization)
    settle_points(student, seed)  # the same codes as in the evaluations
    return trained


def _learn_points(student: PreTrainedModel, settings: Quantization, batches: SharedBatches) -> None:
    """Quantises a student to points, and makes the points its only trained parameters."""
    gradients = mean_gradients(student, batches) if settings.allocation != "equal" else {}
    quantize_model(student, settings)
    counts = shared_points(student, gradients, settings.allocation, settings.bits) if gradients else None
    learn_points(student, counts)


def _trained_record(plain: Record, settings: Settings, seed: int, rows: Rows, dev: Rows, network: str | None) -> Record:
    """A student's record, completed with its training."""
    sources = plain.sources | {"train": rows.digest, "dev": dev.digest}
    # A list, so that the digest of a record without fields differs from one with fields.
    used = settings.model_dump(exclude={"teacher"}) | {"network": sorted(settings.network.items()) if network else []}
    made = {"seed": seed, "settings": used, "sources": sources}
    return plain.model_copy(update={**made, "network": network})


def _check_method(settings: Settings, network: str | None) -> None:
    """Checks that the settings fit the method.

    Raises:
        ConfigError: they do not.
    """
    if settings.distillation.method == "pm" and settings.quantization.weights == "fp32":
        raise ConfigError("--method pm quantises weights after the training, but --weights is fp32.", "no --method")
    learns, points = settings.distillation.method == "dq", settings.quantization.weights == "points"
    if learns and not points:
        raise ConfigError("--method dq trains points, so it needs --weights points.", "--weights points")
    if learns and network is not None:
        raise ConfigError(
            "--method dq keeps the weights of its teacher, so it cannot train a new network.",
            "--teacher with the trained network in full precision, and no --network",
        )
    if settings.quantization.allocation != "equal" and not learns:
        raise ConfigError("quantization.allocation needs points that are trained.", "--method dq")


def _check_copy(fields: dict[str, object], teacher: PreTrainedModel) -> None:
    """Checks that the settings of `network`, which are for a new network, agree with a copy of the teacher.

    Raises:
        ConfigError: a field has another value in the teacher.
    """
    for name, value in fields.items():
        found = getattr(teacher.config, name, None)
        if found != value:
            raise ConfigError(
                f"network.{name} is {shown(value)}, but the student is a copy of its teacher, with {shown(found)}.",
                f"--network NAME, or --set network.{name}=null",
            )


def _check_networks(settings: Settings, teacher: PreTrainedModel, network: str | None) -> None:
    """Checks that the student can be made, and that both networks have the layers that the loss compares.

    Raises:
        ConfigError: the student cannot be made, or a network lacks such layers.
    """
    if network is None:
        _check_copy(settings.network, teacher)
    _check_layers(settings.distillation, teacher, network)


def _check_layers(settings: Distillation, teacher: PreTrainedModel, network: str | None) -> None:
    """Checks that both networks have the layers that the loss compares.

    Raises:
        ConfigError: they do not.
    """
    encoder = teacher.config.model_type in FAMILIES
    if settings.layers is not None and (network is not None or not encoder):
        raise ConfigError("--layers needs a student that is a copy of an encoder.", "no --layers")
    if not DistillationLoss(settings).captures:
        return
    if network is not None or not encoder:
        raise ConfigError(
            f"The loss {settings.loss} compares the layers of an encoder with those of its copy.", "--loss logits"
        )
    layers = len(layers_of(teacher)) if settings.layers is None else len(settings.layers)
    chosen = settings.hidden_layers
    outside = [] if chosen == "all" else [index for index in chosen if not -layers - 1 <= index <= layers]
    if outside:
        raise ConfigError(
            f"distillation.hidden_layers: the teacher has hidden states 0 to {layers} (from the top -1 to "
            f"{-layers - 1}), not {outside[0]}.",
            f"--hidden-layers -1,{-layers - 1}",
        )

"""The output folder of a stage. It is locked while in use, its results are complete or absent, and it is never foreign.

A stage writes into a scratch folder beside its results. When it has finished, it replaces the old results by renaming.
First it removes all old results, run.json first. Then it moves the new results, run.json last, each complete and on
disk before it gets its name. So after a power cut there is never an old result beside a new one, and if run.json is
there, all results are.

Only results with a record of kdqat are replaced, and results of other settings only with `--force`. Checkpoints of an
unfinished training are in the same folder, outside the outputs of DVC. Their name is the digest of everything that the
training depends on, so another configuration never resumes from them. They are removed when their training has its
results. Checkpoints of other settings stay, but a training that finds `MOST_OTHERS` of them refuses to add its own.

    <out>/model/          the model                     (DVC caches it)
    <out>/history.csv     losses and scores by step     (DVC plots it)
    <out>/run.json        seconds, device, threads      (DVC caches it)
    <out>/bench.json      times of a packed model       (`kdqat bench --save`; it names the file that was measured)
    <out>/README.md       the card of `kdqat card`      (seal.py: it is removed with its model, unless it was edited)
    <out>/.kdqat-resume/  checkpoints of unfinished trainings
    <out>/.kdqat-lock     process id and host of the process that works here (lock.py)
    <out>/.kdqat-scratch/ and .kdqat-old/, while a stage works
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdqat_cli import group
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError, shown
from kdqat_cli.packing.packed_file import FILE_NAME, packed_record
from kdqat_cli.record import Record, read_record
from kdqat_cli.store.digest import digest_of
from kdqat_cli.store.figures import read_run
from kdqat_cli.store.lock import LOCK, locked
from kdqat_cli.store.seal import CARD, is_sealed
from kdqat_cli.store.writing import file_errors, read_object, sync, sync_tree

MODEL = "model"
HISTORY = "history.csv"
RUN = "run.json"
BENCH = "bench.json"
ABOUT = "kdqat.json"
"""The file with the record in `model/`. A packed model has its record in the packed file."""
MOST_OTHERS = 3
"""The largest number of unfinished trainings of other settings with checkpoints in a folder."""
_RESULTS = (RUN, MODEL, HISTORY)
SCRATCH = ".kdqat-scratch"
"""What a stage has written so far."""
OLD = ".kdqat-old"
"""What it is replacing."""
RESUME = ".kdqat-resume"
"""Checkpoints of unfinished trainings, one folder each."""


@dataclass
class Work:
    """The work of a stage in its output folder.

    Attributes:
        out: the output folder, which gets the results when the work is done.
        scratch: the folder for the results until then. Only the first process of a group writes.
        force: whether to replace a result of other settings, and to remove checkpoints of other settings.
    """

    out: Path
    scratch: Path
    force: bool = False
    _resume: Path | None = field(default=None, init=False)

    def refuse_other(self, record: Record, half: bool | None = None, codec: str | None = None) -> None:
        """Refuses to replace a finished result of other settings, except with `force`.

        Args:
            record: the record of the new result. Versions, and fields that the old record lacks, are not compared.
            half: for an export, whether tensors that are not quantised are FP16; run.json has it.
            codec: for an export, the codec that was asked for; run.json has it.

        Raises:
            ConfigError: the existing result has another record, or its record cannot be read.
        """
        if self.force or not group.leads() or not (self.out / MODEL).exists():
            return
        fix = "the same command with --force, which replaces it, or --out with another folder"
        try:
            old = _settings(model_record(self.out / MODEL))
            if (self.out / RUN).exists() and (before := read_run(self.out / RUN)).half is not None:
                old |= {"half": before.half, "codec": before.codec}
        except KdqatError as error:
            raise ConfigError(f"{self.out} has a result with a record that cannot be read.", fix) from error
        for place, value in (_settings(record) | {"half": half, "codec": codec}).items():
            if place in old and old[place] != value:
                difference = f"{place} is {shown(old[place])} there, now {shown(value)}"
                raise ConfigError(f"{self.out} has a result of other settings: {difference}.", fix)

    def resume_folder(self, record: Record) -> Path:
        """The folder for the checkpoints of a training with this record and this number of devices.

        Raises:
            ConfigError: there are checkpoints of too many trainings of other settings.
        """
        folder = self.out / RESUME / digest_of(record.to_json() | {"devices": group.size()})[:16]
        if group.leads():
            others = [path for path in folder.parent.glob("*") if path != folder]
            for path in others:
                if self.force or not any(path.glob("*")):
                    self._remove(path)
            if not folder.exists() and sum(path.exists() for path in others) >= MOST_OTHERS:
                raise ConfigError(
                    f"{self.out} has checkpoints of {MOST_OTHERS} unfinished trainings of other settings.",
                    f"rm -r {folder.parent}, or the same command with --force, which removes them",
                )
            folder.mkdir(parents=True, exist_ok=True)
        self._resume = folder
        return folder

    def forget_checkpoints(self) -> None:
        """Removes the checkpoints of this training, which has its results now."""
        if self._resume is not None:
            self._remove(self._resume)
            if not any(self._resume.parent.iterdir()):
                self._resume.parent.rmdir()

    def _remove(self, checkpoints: Path) -> None:
        gone = self.out / OLD / checkpoints.name
        checkpoints.rename(gone)  # atomic, because a half-removed checkpoint could look valid
        shutil.rmtree(gone)


@contextmanager
def output_folder(out: Path, force: bool = False) -> Iterator[Work]:
    """Locks `out` and gives a scratch folder; when the block ends without error, its entries are moved to `out`.

    Args:
        out: the output folder; made if it does not exist.
        force: see `Work`.

    Raises:
        ConfigError: a file that kdqat did not write would be replaced.
        MissingInputError: another process works in the folder, or it cannot be written.
    """
    with file_errors(out), _made(out), locked(out):
        _refuse_foreign(out)
        scratch, old = out / SCRATCH, out / OLD
        try:
            for folder in (scratch, old):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            work = Work(out, scratch, force)
            yield work
            _publish(scratch, old, out)
            work.forget_checkpoints()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder; if the block fails, a new folder that is still empty is removed."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty: an interrupted training has left checkpoints
                folder.rmdir()
        raise


@contextmanager
def shared_folder(out: Path, force: bool = False) -> Iterator[Work]:
    """`output_folder` for the first process of a group; the other processes do not touch `out`.

    Raises:
        ConfigError: see `output_folder`.
        MissingInputError: see `output_folder`; or a process on another machine does not see the folder.
    """
    follows = nullcontext(Work(out, out / SCRATCH, force))
    with output_folder(out, force) if group.leads() else follows as work:
        group.meet()
        if not (out / LOCK).exists():
            raise MissingInputError(
                f"Process {group.rank()} of the group does not see the folder {out.resolve()} of the first process.",
                "--out with a folder that the machines share",
            )
        group.meet()
        yield work


def refuse_inputs(out: Path, models: Mapping[str, str], folders: tuple[Path | None, ...] = ()) -> None:
    """Refuses an output folder that is an input of the stage, also through links.

    Args:
        out: the output folder; it need not exist.
        models: role of a model in the stage → its folder, file or hub id. `out` must not be inside one.
        folders: folders of data and of the task file. `out` may be inside one, because both are often in the working
            folder.

    Raises:
        ConfigError: results in `out` would replace an input, or would be inside a model.
    """
    refuse_inside(out, models)
    read = {f"the {what} {source}": _folder_of(source) for what, source in models.items()}
    read |= {f"the folder {folder}": folder for folder in folders if folder is not None}
    for what, folder in read.items():
        if _same(out, folder) or any(_inside(folder, out / name) for name in _RESULTS):
            raise ConfigError(f"--out {out} would write over {what}, which is an input.", "--out with another folder")


def refuse_inside(path: Path, models: Mapping[str, str]) -> None:
    """Refuses an output inside the folder of a model; `refuse_inputs` explains the arguments.

    Raises:
        ConfigError: the output is inside such a folder.
    """
    for what, source in models.items():
        if _inside(path, _folder_of(source)):
            raise ConfigError(f"{path} is the {what} {source}, or is inside it.", "--out with another folder")


def _folder_of(source: str) -> Path:
    return Path(source).parent if Path(source).is_file() else Path(source)


def _inside(path: Path, folder: Path) -> bool:
    real = Path(os.path.realpath(path))
    return any(_same(place, folder) for place in (real, *real.parents))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _refuse_foreign(out: Path) -> None:
    """Refuses a folder in which a result would replace a file of others; broken links may be replaced."""
    ours = {MODEL: _is_model, f"{MODEL}/{CARD}": _is_card, HISTORY: _is_history, RUN: _is_run}
    for name, known in ours.items():
        if (out / name).exists() and not known(out / name):
            changed = ", or it was edited" if name.endswith(CARD) else ""
            raise ConfigError(
                f"{out / name} would be replaced, but kdqat did not write it{changed}.", "--out with another folder"
            )


def _is_model(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in (ABOUT, FILE_NAME))


def _is_card(path: Path) -> bool:
    return path.is_file() and is_sealed(path.read_text(encoding="utf-8", errors="replace"))


def _is_history(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(5) == b"step,"


def _is_run(path: Path) -> bool:
    return (read_object(path) or {}).keys() >= {"seconds", "device"}


def model_record(model: Path) -> Record:
    """The record of a `model` folder that a stage wrote.

    Raises:
        MissingInputError: the record is damaged.
    """
    if (model / ABOUT).exists():
        return read_record(read_object(model / ABOUT), str(model / ABOUT))
    return packed_record(model / FILE_NAME)


def _settings(record: Record) -> dict[str, object]:
    """Every value of a record by its place, except versions; results of equal settings have equal values."""
    unsaid = {"version", "versions", "task_file"}
    unsaid |= {name for name in ("encoder", "network", "seed", "threshold") if getattr(record, name) is None}
    return _flat(record.model_dump(mode="json", exclude=unsaid))


def _flat(value: object, place: str = "") -> dict[str, object]:
    """Every value in nested objects, by its place as text with dots."""
    if not isinstance(value, dict):
        return {place: value}
    parts = [_flat(part, f"{place}.{name}" if place else name) for name, part in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _publish(scratch: Path, old: Path, out: Path) -> None:
    # Some libraries make files that only the owner may read. New files get the rights that the user's umask allows.
    mode = scratch.stat().st_mode & 0o666
    for path in scratch.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    sync_tree(scratch)
    new = sorted((entry.name for entry in scratch.iterdir()), key=lambda name: name == RUN)
    # Also results that the stage does not write this time, because they would be stale.
    stale = [CARD] if os.path.lexists(out / CARD) and _is_card(out / CARD) else []
    for name in dict.fromkeys([*_RESULTS, *stale, *new]):
        if os.path.lexists(out / name):
            (out / name).rename(old / name)
            sync(out)
    for name in new:
        (scratch / name).rename(out / name)
        sync(out)

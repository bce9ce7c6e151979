"""DVC's part of a parallel reproduction: the graph, changes, the run cache and the lock file.

Only one process uses DVC, with the steps of DVC's `Stage.reproduce`; the commands run in other processes between
`begin` and `finish`. As in DVC, the lock of the project is free during that time, so that `dvc metrics show` works
beside a training. The files of the stage stay in DVC's register of readers and writers, so that a second `dvc repro`
refuses them.

Two things differ from DVC. A stage fails if its dependencies change while it runs; DVC would record the new ones, and a
stale result would look fresh. And dvc.lock is written under another name and renamed, so a kill never leaves a part of
it.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.rwlock import RWLOCK_FILE, RWLockFileCorruptedError, RWLockFileFormatError, rwlock
from dvc.stage import PipelineStage, Stage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.run import _make_cmd, get_executable, prepare_kwargs
from dvc.stage.utils import check_missing_outputs
from dvc.utils import relpath
from dvc_data.hashfile.hash_info import HashInfo

from kdqat_cli.errors import ConfigError, MissingInputError, StageError
from kdqat_cli.parallel.executor import Job
from kdqat_cli.parallel.index import unreadable
from kdqat_cli.store.places import PIPELINE
from kdqat_cli.store.progress import PROGRESS

Begun = Literal["unchanged", "restored", "running"]


class BusyError(MissingInputError):
    """Another DVC process holds the lock of the project; it will be released."""


class Pipeline:
    """The stages of `dvc repro TARGETS`.

    Attributes:
        names: the stages, dependencies first.
        after: for each stage, the stages that it must start after.
        needs: for each stage, the stages whose results it needs; a frozen stage needs none.
    """

    def __init__(self, targets: list[str]) -> None:
        """Reads dvc.yaml.

        Args:
            targets: targets of `dvc repro`; empty: every stage of dvc.yaml in the working folder.

        Raises:
            ConfigError: there is no DVC project or no such target, or DVC cannot read the pipeline.
            MissingInputError: DVC's register of readers and writers is damaged.
            BusyError: another DVC process holds the lock of the project.
        """
        logging.getLogger("dvc").setLevel(logging.CRITICAL)  # its progress bars and messages would break the table
        try:
            self.repo = Repo()
            with self.locked():
                self._check_register()
                graph = self.repo.index.graph
                active = get_active_graph(graph)
                chosen = plan_repro(active, collect_stages(self.repo, targets or [str(PIPELINE)]))
        except NotDvcRepoError as error:
            raise ConfigError(
                "This folder is not in a DVC project.", "dvc init, or without git dvc init --no-scm"
            ) from error
        except DvcException as error:
            raise unreadable("the pipeline", error) from error
        self._stages: dict[str, Stage] = {stage.addressing: stage for stage in chosen}
        self.names = list(self._stages)
        self.needs = {stage.addressing: _names(active.successors(stage)) for stage in chosen}
        # A frozen stage needs no other stage, but must not read files while another stage writes them.
        self.after = {stage.addressing: _names(graph.successors(stage)) & set(self.names) for stage in chosen}
        self._begun: dict[str, tuple[ExitStack, list[HashInfo]]] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of the project, which `begin` and `finish` need.

        Raises:
            BusyError: the lock is not free within three seconds.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_repo(self.repo))
            except LockError as error:
                raise BusyError("Another DVC process holds the lock of the project.") from error
            stack.enter_context(self.repo.scm_context())
            yield

    def begin(self, name: str) -> tuple[Begun, str]:
        """Checks whether a stage must run, and prepares it.

        Returns:
            The outcome and the reason. An unchanged stage is left alone. A stage in DVC's run cache is restored and
            committed. For other stages the outputs are removed, and the caller must call `finish` or `release`.

        Raises:
            StageError: DVC refuses, for example because a dependency is missing.
        """
        stage = self._stages[name]
        with _refusals():
            if not stage.changed():
                return "unchanged", ""
            why = _why(stage)
            if stage.cmd is None or stage.frozen:  # no command: DVC checks or fetches the outputs
                stage.reproduce()
                self._dump(stage)
                return "restored", why
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self.repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                stage.save_deps()
                register = ExitStack()
                register.enter_context(self._registered(stage))
                self._begun[name] = register, [dep.hash_info for dep in stage.deps]
                return "running", why
            self._commit(stage)
            return "restored", why

    def job(self, name: str, log: Path, events: Path) -> Job:
        """The job of a stage after `begin`.

        Args:
            name: name of the stage.
            log: absolute path of the file for its output.
            events: absolute path of the file for its progress events.
        """
        stage = self._stages[name]
        started = prepare_kwargs(stage)
        shown = stage.cmd if isinstance(stage.cmd, list) else stage.cmd.splitlines()
        # As in DVC, the user's shell runs without its start-up files.
        commands = [_make_cmd(get_executable(), command) for command in shown]
        environment = {str(key): str(value) for key, value in started["env"].items()}
        environment[PROGRESS] = str(events)
        return Job(name, shown, commands, str(stage.wdir), environment, str(log))

    def finish(self, name: str) -> None:
        """Commits the outputs of a stage whose commands have succeeded.

        Raises:
            StageError: an output is missing, or a dependency has changed.
        """
        stage = self._stages[name]
        before = self._begun[name][1]
        self.release(name)
        with _refusals():
            stage.save_deps()
            changed = [str(dep) for dep, known in zip(stage.deps, before, strict=True) if dep.hash_info != known]
            if changed:
                raise StageError(f"{', '.join(changed)} changed while the stage ran.", "the same command again")
            self._commit(stage)

    def release(self, name: str) -> None:
        """Releases the files of a stage that has failed; its outputs stay there, but are not committed."""
        register, _ = self._begun.pop(name)
        register.close()

    def preview(self, name: str) -> tuple[Begun, str]:
        """The result that `begin` would have now, without writing. Call it at most once per stage.

        Raises:
            StageError: see `begin`.
        """
        stage = self._stages[name]
        with _refusals():
            if not stage.changed():
                return "unchanged", ""
            why = _why(stage)
            return ("restored" if self._restorable(stage) else "running"), why

    def _restorable(self, stage: Stage) -> bool:
        if stage.cmd is None or stage.frozen:
            if stage.frozen or not stage.is_import:
                check_missing_outputs(stage)
            return True
        if stage.changed_stage() or not stage.deps_cached() or not all(out.hash_info for out in stage.outs):
            # `begin` looks up the current dependencies in the run cache. A dry restore would look up the recorded
            # dependencies, and accept the recorded outputs.
            stage.save_deps()
            for out in stage.outs:
                out.hash_info = HashInfo()
        try:
            self.repo.stage_cache.restore(stage, dry=True)
        except RunCacheNotFoundError:
            return False
        return True

    def _check_register(self) -> None:
        """Refuses a damaged register of readers and writers, which would make every stage fail."""
        try:
            with self._registration("kdqat repro", [], []):
                pass
        except (RWLockFileCorruptedError, RWLockFileFormatError) as error:
            path = relpath(Path(self.repo.tmp_dir) / RWLOCK_FILE)
            raise MissingInputError(
                f"{path}, DVC's register of readers and writers, is damaged; a power cut can cause this.",
                f"rm {path}, if no other dvc or kdqat command runs in this project",
            ) from error

    def _registered(self, stage: Stage) -> AbstractContextManager[None]:
        """Puts a stage into DVC's register under its own name, so that other stages may read the same files."""
        deps = [dep.fs_path for dep in stage.deps if dep.protocol == "local"]
        outs = [out.fs_path for out in stage.outs]
        return self._registration(f"kdqat repro {stage.addressing}", deps, outs)

    def _registration(self, name: str, reads: list[str], writes: list[str]) -> AbstractContextManager[None]:
        hardlink = self.repo.config["core"].get("hardlink_lock", False)
        entry: AbstractContextManager[None] = rwlock(self.repo.tmp_dir, self.repo.fs, name, reads, writes, hardlink)
        return entry

    def _commit(self, stage: Stage) -> None:
        uncached = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
        stage.save(run_cache=not uncached)
        stage.commit()
        self._dump(stage)

    def _dump(self, stage: Stage) -> None:
        if not isinstance(stage, PipelineStage):
            stage.dump()
            return
        path = Path(stage.dvcfile.path).with_suffix(".lock")
        aside = path.with_name(f".{path.name}.aside")
        try:
            if path.exists():
                shutil.copy(path, aside)
            Lockfile(self.repo, str(aside)).dump(stage)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        tracked = self.repo.scm_context.files_to_track
        tracked.discard(relpath(aside))
        tracked.add(relpath(path))


def _names(stages: Iterable[Stage]) -> set[str]:
    return {stage.addressing for stage in stages}


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (DvcException, OSError) as error:
        raise StageError(str(error)) from error


def _why(stage: Stage) -> str:
    """DVC's reasons why a stage has changed, in one line."""
    parts = []
    for reason in stage.status().get(stage.addressing, ["its results are not committed"]):
        if isinstance(reason, str):
            parts.append(reason)
            continue
        for changes in reason.values():
            for path, change in changes.items():
                what = ", ".join(change) if isinstance(change, dict) else change
                parts.append(f"{path}: {what}" if isinstance(change, dict) else f"{path} {what}")
    return "; ".join(parts)

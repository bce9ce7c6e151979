"""Runs kdqat like a user: the installed commands, in a folder, as separate processes."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from kdqat_cli.cli import main

REPOSITORY = Path(__file__).parent.parent

# Importing torch and transformers takes longer than most commands, so commands are forked from a process that has
# imported them.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "kdqat_cli.cli",
        "kdqat_cli.stages.distill",
        "kdqat_cli.stages.evaluate",
        "kdqat_cli.stages.export",
        "kdqat_cli.stages.finetune_teacher",
        "transformers.models.bert.modeling_bert",
    ]
)


def environment(**variables: str) -> dict[str, str]:
    """This environment, with its commands on the path, no colours, and one thread: faster for tiny matrices."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {name: value for name, value in os.environ.items() if name != "KDQAT_DATA_DIR"} | settings | variables


def run(folder: Path, *command: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that must end with the exit code `code`.

    A command with its own variables starts as a new process, because libraries read variables when they are imported.
    """
    if command[0] == "kdqat" and not variables:
        done = _forked(folder, command)
    else:
        done = subprocess.run(
            command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
        )
    assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def _forked(folder: Path, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as place:
        streams = Path(place, "stdout"), Path(place, "stderr")
        process = _SERVER.Process(target=_main, args=(folder, command, environment(), streams))
        with mock.patch.dict(os.environ, environment()):  # the first command starts the server
            process.start()
        process.join()
        out, err = (path.read_text(encoding="utf-8") for path in streams)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _main(folder: Path, command: tuple[str, ...], variables: Mapping[str, str], streams: tuple[Path, Path]) -> None:
    """Does the same as the installed script `kdqat`, in a forked process."""
    for number, path in enumerate(streams, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = [shutil.which("kdqat") or "kdqat", *command[1:]]
    sys.orig_argv = [sys.executable, *sys.argv]  # a training on several devices starts this command again
    main()

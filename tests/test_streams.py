"""Standard streams that are closed, full, without a reader, or in another encoding; signals that end a command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import environment, run

ODD = "grün β 좋아요 😀 \x1b[31m\x9b1m :smile:"
ODD_IN_YAML = '"grün β 좋아요 😀 \\e[31m\\x9b1m :smile:"'


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_task: Path) -> Path:
    """A folder with the task `tiny` and an encoder."""
    folder = tmp_path_factory.mktemp("streams")
    shutil.copytree(tiny_task, folder / "tasks")
    shutil.copytree(tiny_encoder, folder / "encoder")
    return folder


def shell(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of bash; its exit code is that of the first failing command of a pipe."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["ls tasks", "ls tasks --json", "recipe clean", "--help"])
def test_a_reader_that_closes_the_pipe_is_not_a_failure(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f"kdqat {command} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_keeps_its_exit_code_without_a_reader(tmp_path: Path) -> None:
    assert shell(tmp_path, "kdqat evaluate nothing 2>&1 | true").returncode == 3


def test_no_answers_are_computed_without_a_reader(tmp_path: Path) -> None:
    """Otherwise `kdqat predict … | head -1` would classify a million texts in vain."""
    code = "from itertools import count; from kdqat_cli import cli; from kdqat_cli.commands.app import command\n"
    code += "from kdqat_cli.output import Output\n"
    code += "@command('x')\ndef endless() -> None:\n    'x'\n    [Output().line({'n': n}) for n in count()]\n"
    code += "import sys; sys.argv = ['kdqat', 'endless']; cli.main()"
    done = shell(tmp_path, f'{sys.executable} -c "{code}" | head -2')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"n": 0}\n{"n": 1}\n', "")


def test_a_training_continues_without_a_reader(work: Path) -> None:
    training = "--task tiny --encoder encoder --max-steps 4 --eval-every 1"
    done = shell(work, f"kdqat finetune-teacher {training} --out left --json 2> >(true)")
    assert done.returncode == 0
    assert json.loads(done.stdout)["folder"] == "left"
    assert (work / "left/run.json").is_file()


def test_a_closed_stream_does_not_become_an_output_file(work: Path) -> None:
    """Without protection, the first opened files would get the numbers 0 to 2, and printed text would go into them."""
    training = "--task tiny --encoder encoder --max-steps 2 --eval-every 1"
    done = shell(work, f"kdqat finetune-teacher {training} --out closed <&- >&- 2>&-")
    assert done.returncode == 3, "its last line is lost; the training is not"
    written = {path.name: path.read_bytes() for path in (work / "closed").rglob("*") if path.is_file()}
    assert {"run.json", "history.csv", "model.safetensors"} <= set(written)
    assert not [name for name, content in written.items() if b"dev score" in content or b"seconds  " in content]


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_closed_streams_that_are_not_needed_are_no_failure(tmp_path: Path, closed: str) -> None:
    done = shell(tmp_path, f"kdqat ls tasks {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "klue-sts" in done.stdout


@pytest.mark.parametrize("command", ["ls tasks", "ls tasks --json", "recipe clean", "--help", "--version"])
def test_a_result_for_a_closed_standard_output_is_reported(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f"kdqat {command} >&-")
    assert done.returncode == 3
    assert done.stderr == (
        "error: The result cannot be written: standard output is closed.\n"
        "try:   the same command with another output, such as > FILE\n"
    )


def test_an_answer_for_a_closed_standard_output_is_reported(work: Path) -> None:
    training = "--task tiny --encoder encoder --max-steps 2 --out model"
    assert shell(work, f"kdqat finetune-teacher {training}").returncode == 0
    done = shell(work, "kdqat predict model 'a good film' >&-")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        3,
        "error: The result cannot be written: standard output is closed.",
    )
    done = shell(work, "kdqat predict model <&-")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: There is no text, and standard input is closed.\ntry:   kdqat predict MODEL")
    assert shell(work, "kdqat predict model 'a good film' <&-").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["ls tasks", "recipe clean", "--help"])
def test_a_full_disk_under_standard_output_is_reported(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f"kdqat {command} > /dev/full")
    assert done.returncode == 3
    assert done.stderr.startswith("error: The result cannot be written to standard output: No space left on device.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_character_that_the_output_encoding_lacks_is_not_a_failure(tmp_path: Path, encoding: str) -> None:
    tasks = shell(tmp_path, f"kdqat ls tasks | iconv -f {encoding} -t utf-8", PYTHONIOENCODING=encoding)
    assert (tasks.returncode, "de \\u2192 en" in tasks.stdout) == (0, True)
    for command in ("α\x1b[31m", "ls α\x1b[31m", "ls tasks --α\x1b[31m"):
        told = run(tmp_path, "kdqat", *command.split(), code=2, PYTHONIOENCODING=encoding).stderr
        assert "\\u03b1\\x1b[31m" in told
        assert told.isascii()
    if encoding == "ascii":
        page = run(tmp_path, "kdqat", "distill", "--help", PYTHONIOENCODING=encoding).stdout
        assert "\\xb7" in page
        assert page.isascii()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_is_valid_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    task = "name: odd\nfiles: {train: a.tsv, dev: b.tsv}\ncolumns: {text: t, label: l}\nlabels: [x, y]\n"
    task += f"metric: accuracy\nmax_length: 8\ntitle: {ODD_IN_YAML}\n"
    (folder / "odd.yaml").write_text(task, encoding="utf-8")
    command = ("kdqat", "ls", "tasks", "--json")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONIOENCODING=encoding), capture_output=True, check=True
    )
    assert ODD in [row["title"] for row in json.loads(done.stdout.decode(encoding))]
    assert not {"\x1b", "\x9b"} & set(done.stdout.decode(encoding))
    title = "gr\\xfcn \\u03b2" if encoding == "ascii" else "grün β 좋아요 😀 \\x1b[31m\\x9b1m :smile:"
    assert title in run(tmp_path, "kdqat", "ls", "tasks", PYTHONIOENCODING=encoding).stdout


def test_a_recipe_is_printed_unchanged(tmp_path: Path) -> None:
    recipe = run(tmp_path, "kdqat", "recipe", "clean").stdout + "# β\tα :smile: [bold]x[/] " + "long " * 80 + "\n"
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    for encoding in ("utf-8", "ascii"):
        assert run(tmp_path, "kdqat", "recipe", "mine.yaml", PYTHONIOENCODING=encoding).stdout == recipe


def test_sigterm_prints_one_line(work: Path) -> None:
    command = ["kdqat", "finetune-teacher", "--task", "tiny", "--encoder", "encoder", "--out", "stopped"]
    options = ["--epochs", "500", "--eval-every", "2"]
    process = subprocess.Popen([*command, *options], cwd=work, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    scores = (line for line in process.stderr if "dev score" in line)
    next(scores)
    next(scores)  # the checkpoint of the first evaluation is complete
    process.send_signal(signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert said.endswith("terminated; the same command continues from the last evaluation\n")
    assert not (work / "stopped/.lock").exists()

    process = subprocess.Popen([*command, *options], cwd=work, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.kill()
    process.wait()
    assert "of 3500, continues from here" in first


def test_sigterm_ends_a_waiting_command(tmp_path: Path) -> None:
    code = "import time; from kdqat_cli.commands.app import command\n"
    code += "@command('x')\ndef wait() -> None:\n    'x'\n    print('ready', flush=True)\n    time.sleep(60)\n"
    code += "import sys; from kdqat_cli.cli import main; sys.argv = ['kdqat', 'wait']; main()"
    for number, word in ((signal.SIGTERM, "terminated\n"), (signal.SIGINT, "interrupted\n")):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (128 + number, word)

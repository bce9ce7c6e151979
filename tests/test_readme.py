"""The commands of the README and of the pages that continue it, word for word, with replacements for BERT and RTE."""

import re
import shutil
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, run

PAGES = ("README.md", "docs/training.md", "docs/serving.md", "docs/pipelines.md")
README = "\n".join((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)
KNOWN = {"git", "make", "dvc", "kdqat", "export", "pip", "python"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_lines() -> list[str]:
    lines = [line.split(" #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_readme_uses_known_commands_only() -> None:
    lines = shell_lines()
    assert {line.split()[0] for line in lines} == KNOWN
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= targets
    assert all((REPOSITORY / line.split()[1]).is_file() for line in lines if line.startswith("python "))


@pytest.mark.pipeline
def test_every_kdqat_command_and_the_python_example_run(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    # transformers prefers a folder with the name of the hub id, so the commands need no change.
    shutil.copytree(tiny_encoder, tmp_path / "google-bert/bert-base-uncased")
    for split in ("train", "dev"):
        rows = (tiny_task / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        table = ["index\tsentence1\tsentence2\tlabel"]
        for number, row in enumerate(rows):
            sentence, mood = row.split("\t")
            label = "entailment" if mood == "glad" else "not_entailment"
            table.append(f"{number}\t{sentence}\tthis film was good .\t{label}")
        path = tmp_path / "data/glue/RTE" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(table) + "\n", encoding="utf-8")
    # Random weights learn nothing with the usual learning rate of BERT.
    settings = "settings: {rte: {teacher: {learning_rate: 4e-3, epochs: 12, batch_size: 8}, student: {epochs: 1}},"
    settings += " digits: {teacher: {epochs: 2}, student: {epochs: 1}}}\n"
    (tmp_path / "params.yaml").write_text(settings, encoding="utf-8")

    (tmp_path / "texts.tsv").write_text("A man eats.\tSomebody eats.\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text("id,sentence1,sentence2\n7,A man eats.,Somebody eats.\n", encoding="utf-8")

    # A project, a pipeline and a sweep take long; tests/test_init.py and tests/parallel/ run them.
    apart = ("kdqat init", "kdqat repro", "kdqat sweep", "kdqat distill --task rte --recipe sweeps/")
    script = [line for line in shell_lines() if line.split()[0] in ("kdqat", "export") and not line.startswith(apart)]
    assert len(script) == 20
    done = run(tmp_path, "bash", "-euo", "pipefail", "-c", "\n".join(script))
    assert "ternary, packed" in done.stdout

    *serving, transformers = blocks("python")
    assert "tensor([[" in run(tmp_path, "python", "-c", transformers).stdout
    without_torch = 'import sys; sys.modules["torch"] = None\n'
    assert len(serving) == 2
    for code in serving:
        assert "entailment" in run(tmp_path, "python", "-c", without_torch + code).stdout


@pytest.mark.pipeline
def test_the_example_of_a_training_from_python_ends_with_a_score(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = run(tmp_path, "python", "-c", code)
    assert float(done.stdout.split()[-1]) > 30  # ten classes
    assert "dev score" in done.stdout
    assert (tmp_path / "runs/digits/packed/run.json").is_file()


def test_the_example_of_a_task_is_valid(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/tickets.yaml").write_text(example, encoding="utf-8")
    assert "tickets" in run(tmp_path, "kdqat", "ls", "tasks").stdout

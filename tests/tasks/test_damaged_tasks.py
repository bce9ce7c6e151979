"""Damaged task files, recipes, params.yaml and data files: they load correctly or give a clear error."""

import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import KdqatError
from kdqat_cli.params import load_params, load_recipe, read_recipe, resolve
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.data import load_split
from tests.conftest import RATED, TASK

FEW, MANY = 60, 2000  # mutations per kind of file
MEMORY = 2**29  # bytes in addition to those that the process has
SECONDS = 10

PARAMS = "recipe: clean\nencoder: here\ntasks: [tiny]\nlosses: [map]\nseeds: [1, 2]\nsettings:\n  tiny:\n"
PARAMS += "    student: {epochs: 2, learning_rate: 1e-4}\n    distillation: {hidden_layers: [-1, 2]}\n"
PAIRED = TASK.replace("text: sentence", "text: sentence, pair: other.text")
ROWS = [("good film", "it was, a part", "glad"), ('a "bad" plot', "of the\tday", "sad"), ("좋은 영화", "-", "1")] * 4

TOKENS = [
    *("&a ", "*a", "<<: *a", "[", "]", "{", "}", "- ", ": ", "? ", "|", ">", "#", "---\n", "...\n", "%YAML 1.1\n"),
    *("!!python/object/apply:os.system ['false']", "!!python/name:os.system", "!!binary x", "!!int four", "!!set {a}"),
    *("9" * 5000, "0x" + "f" * 5000, "1e999", "-.inf", ".nan", "-1", "1.5", "true", "null", "~", "2000-01-01"),
    *("\0", "\ufeff", "\x85", "\u2028", "\r", "\n", "\t", '"', '""', "'", ",", "\\", '"\\ud800"', '"\\0"', "é", "🙂"),
    *("[" * 3000, "{a: " * 800, '{"a":' * 900, "[" * 900 + "]" * 900, "[[" * 400 + "]]" * 400, "x" * 200_000),
]


def bomb(place: str) -> str:
    """Ten lists of ten lists of … ten words: 10¹² words in a few lines."""
    lines = ["a0: &a0 [word]"] + [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 13)
    ]
    return "\n".join([*lines, f"{place}: *a12", ""])


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Makes one to four changes."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(6)
        end = min(len(data), place + draw.randint(1, 30))
        if kind == 0:
            data[place:place] = draw.choice(TOKENS).encode("utf-8", "surrogatepass")
        elif kind == 1:
            data[place:end] = draw.choice(TOKENS).encode("utf-8", "surrogatepass")
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * draw.choice([1, 2, 100])
        elif kind == 4 and place < len(data):
            data[place] = draw.randrange(256)
        else:
            del data[place:]
    return bytes(data)


@contextmanager
def guarded() -> Iterator[None]:
    """Limits time and memory."""

    def hang(number: int, frame: Any) -> None:
        raise AssertionError(f"took more than {SECONDS} seconds")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_task(path: Path) -> None:
    task = load_text_task(str(path))
    assert task.name == path.stem
    assert task.num_labels >= 1


def read_recipe_file(path: Path) -> None:
    assert load_recipe(str(path)).student.epochs > 0
    resolve("tiny", load_params(path.with_name("none")), str(path))


def read_params(path: Path) -> None:
    params = load_params(path)
    if params.recipe == "clean":
        assert resolve("tiny", params).student.epochs > 0


def read_rows(path: Path) -> None:
    task = load_text_task(str(path.with_name("tiny.yaml")))
    rows = load_split(task, "train")
    assert set(rows["label"]) <= {0, 1}
    assert all(isinstance(text, str) and text.strip() for column in ("text", "pair") for text in rows[column])


def table(separator: str, quote: str) -> str:
    cells = [[f"{quote}{cell.replace(quote or chr(0), quote * 2)}{quote}" for cell in row] for row in ROWS]
    return "\n".join(separator.join(row) for row in [["sentence", "other.text", "mood"], *cells]) + "\n"


def objects() -> list[dict[str, Any]]:
    return [{"sentence": text, "other": {"text": pair}, "mood": label} for text, pair, label in ROWS]


Case = tuple[str, str, Callable[[Path], None]]
CASES: dict[str, Case] = {
    "task": ("tiny.yaml", TASK, read_task),
    "regression": ("rated.yaml", RATED, read_task),
    "recipe": ("mine.yaml", read_recipe("clean"), read_recipe_file),
    "params": ("params.yaml", PARAMS, read_params),
    "csv": ("train.csv", table(",", '"'), read_rows),
    "tsv": ("train.tsv", table("\t", '"'), read_rows),
    "json": ("train.json", json.dumps(objects(), ensure_ascii=False), read_rows),
    "jsonl": ("train.jsonl", "\n".join(json.dumps(row) for row in objects()), read_rows),
}


def prepared(folder: Path, case: Case) -> Path:
    """The intact file, and the task of a data file."""
    name, content, read = case
    if read is read_rows:
        quoting = "quoting: true\n" if '\t"' in content else ""
        text = PAIRED.replace("train.tsv", name) + quoting
        (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    (folder / name).write_text(content, encoding="utf-8")
    read(folder / name)
    return folder / name


def attempt(path: Path, content: bytes, read: Callable[[Path], None]) -> bool:
    """Reads a damaged file; False: it was refused with a sentence of reasonable length."""
    path.write_bytes(content)
    try:
        with guarded():
            read(path)
    except KdqatError as error:
        said = error.sentence
    else:
        return True
    said.encode()
    assert 10 < len(said) < 20_000
    return False


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_damaged_file_is_refused_or_loaded(tmp_path: Path, kind: str, count: int) -> None:
    draw, path = random.Random(count), prepared(tmp_path, CASES[kind])
    content = path.read_bytes()
    loaded = sum(attempt(path, mutated(content, draw), CASES[kind][2]) for _ in range(count))
    assert 0 < loaded < count


@pytest.mark.parametrize(
    ("kind", "place"),
    [("task", "labels"), ("task", "files"), ("task", "name"), ("recipe", "tasks"), ("params", "settings")],
)
def test_a_bomb_of_aliases_is_refused(tmp_path: Path, kind: str, place: str) -> None:
    path = prepared(tmp_path, CASES[kind])
    assert not attempt(path, bomb(place).encode(), CASES[kind][2])
    assert not attempt(path, f"{place}: &a [*a]\n".encode(), CASES[kind][2])
    assert not attempt(path, f"{place}: &a {{b: *a}}\n".encode(), CASES[kind][2])


def test_useful_aliases_are_accepted(tmp_path: Path) -> None:
    """The content of the file is the same with and without them."""
    path = tmp_path / "params.yaml"
    path.write_text("settings:\n  rte: &same {student: {epochs: 2.0}}\n  cola: *same\n", encoding="utf-8")
    changes = {"student": {"epochs": 2.0}}
    assert load_params(path).settings == {"rte": changes, "cola": changes}

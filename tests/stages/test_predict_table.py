"""`kdqat predict --file TABLE --out TABLE`: every row with its answer and unchanged fields, or no file at all."""

import csv
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdqat_cli.engine.row import Row
from kdqat_cli.stages.predict import open_model, predict
from kdqat_cli.stages.predict_table import Tables, check_tables, predict_table
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.answers import TextAnswerer
from kdqat_cli.texts import Text
from tests.commands import run
from tests.stages.test_predict import made

TEXTS = ["a good film", 'bad "plot", dull\nmusic', "", "warm , brave story", "the city of the night"]
WITHOUT = """\
import sys
for name in ("torch", "transformers", "datasets", "sklearn", "scipy", "huggingface_hub", "pyarrow"):
    sys.modules[name] = None
from kdqat_cli.cli import main
sys.argv[0] = "kdqat"
main()
"""


@pytest.fixture(scope="module")
def folder(tiny_task: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher/, student/ and packed/ of an untrained model for `sentence`."""
    task = load_text_task(str(tiny_task / "tiny.yaml"))
    return made(tmp_path_factory.mktemp("tables"), task, tiny_encoder)


@pytest.fixture(scope="module")
def paired(tiny_task: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for pairs of texts."""
    task = load_text_task(str(tiny_task / "tiny.yaml"))
    columns = task.columns.model_copy(update={"pair": "other"})
    return made(tmp_path_factory.mktemp("pairs"), task.model_copy(update={"columns": columns}), tiny_encoder)


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_csv(path: Path, texts: list[str], **columns: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sentence", *columns])
        writer.writerows([number, text, *columns.values()] for number, text in enumerate(texts))
    return path


def answers(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    found = predict(open_model(str(folder)), [[Text(text) for text in texts]])
    return [{key: value for key, value in answer.items() if key != "text"} for answer in found]


@pytest.mark.parametrize("kind", ["packed", "student", "teacher"])
def test_rows_keep_their_fields_and_get_the_answers_of_predict(kind: str, folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS, note='say\r"a,b"')
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "rows.csv").read_bytes())  # as from Excel
    column = () if kind != "teacher" else ("--text-column", "sentence")  # the record of this teacher has no task
    done = run(tmp_path, "kdqat", "predict", str(folder / kind), "--file", "rows.csv", "--out", "out/a.csv", *column)
    assert done.stdout == ""
    assert "out/a.csv: 5 rows with their answers" in done.stderr
    found = table(tmp_path / "out/a.csv")
    assert list(found[0]) == ["id", "sentence", "note", "label", "probability", "error"]
    expected = answers(folder / kind, TEXTS)
    for number, (row, answer) in enumerate(zip(found, expected, strict=True)):
        assert (row["id"], row["sentence"], row["note"]) == (str(number), TEXTS[number], 'say\r"a,b"')
        assert (row["label"], row["error"]) == (answer["label"], "")
        assert float(row["probability"]) == pytest.approx(max(answer["probabilities"].values()), abs=1e-5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.csv"], "no temporary file is left"


def test_lines_of_json_are_copied_unchanged(folder: Path, tmp_path: Path) -> None:
    """Digits that a float cannot represent, escapes, and the order of keys do not change."""
    own = r'{"n": 0.12345678901234567890, "sentence": "a good film", "x": {"é": "\u00e9\ud800"}, "big": 1E+3 }'
    (tmp_path / "rows.jsonl").write_text(f"{own}\n\n{own}\r\n", encoding="utf-8")
    run(tmp_path, "kdqat", "predict", str(folder / "packed"), "--file", "rows.jsonl", "--out", "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert all(line.startswith(own[:-2] + ', "label": ') for line in lines)
    (answer,) = answers(folder / "packed", ["a good film"])
    assert json.loads(lines[1]).items() >= answer.items()


def test_formats_are_converted_to_each_other(folder: Path, tmp_path: Path) -> None:
    rows = [{"id": 1, "sentence": "a good film", "tags": ["x", None]}, {"sentence": "bad", "id": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = str(folder / "packed")
    run(tmp_path, "kdqat", "predict", model, "--file", "rows.jsonl", "--out", "a.tsv")
    found = table(tmp_path / "a.tsv", "\t")
    assert [(row["id"], row["sentence"], row["tags"]) for row in found] == [("1", "a good film", '["x", null]'),
                                                                            ("", "bad", "")]  # fmt: skip
    (tmp_path / "rows.tsv").write_text('id\tsentence\n1\ta "good" film\n', encoding="utf-8")
    run(tmp_path, "kdqat", "predict", model, "--file", "rows.tsv", "--out", "b.jsonl")
    (row,) = objects(tmp_path / "b.jsonl")
    assert (row["id"], row["sentence"]) == ("1", 'a "good" film')
    run(tmp_path, "kdqat", "predict", model, "--file", "b.jsonl", "--out", "c.jsonl")
    (again,) = objects(tmp_path / "c.jsonl")
    assert again == row | {"predicted_label": row["label"], "predicted_probabilities": row["probabilities"]}


def test_a_column_with_the_name_of_an_answer_is_kept(folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS[:2], label="gold", error="mine")
    model = str(folder / "packed")
    done = run(tmp_path, "kdqat", "predict", model, "--file", "rows.csv", "--out", "a.csv")
    assert "those of the answers begin with predicted_" in " ".join(done.stderr.split())
    found = table(tmp_path / "a.csv")
    assert {(row["label"], row["error"], row["predicted_error"]) for row in found} == {("gold", "mine", "")}
    assert [row["predicted_label"] for row in found] == [row["label"] for row in answers(folder / "packed", TEXTS[:2])]
    done = run(tmp_path, "kdqat", "predict", model, "--file", "a.csv", "--out", "b.csv", code=2)
    assert "the row has a field 'predicted_label'" in " ".join(done.stderr.split())
    late = '{"sentence": "a"}\n{"sentence": "b", "probabilities": 1}\n'
    (tmp_path / "late.jsonl").write_text(late, encoding="utf-8")
    done = run(tmp_path, "kdqat", "predict", model, "--file", "late.jsonl", "--out", "c.jsonl", code=2)
    assert "late.jsonl, line 2: the row has a field 'probabilities'" in " ".join(done.stderr.split())
    assert not (tmp_path / "b.csv").exists()
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "sentence"),
    [
        ("rows.csv", b'sentence\na\n"b\n', 3, "rows.csv, line 3: unexpected end of data"),
        ("rows.csv", b"sentence,id\na,1\nb,2,3\n", 3, "rows.csv, line 3: 3 columns instead of 2"),
        ("rows.csv", b"sentence,id,id\na,1,2\n", 3, "the column 'id' occurs twice"),
        ("rows.csv", b"Sentence,id\na,1\n", 3, "there is no column 'sentence', but 'Sentence', 'id'"),
        ("rows.csv", b"sentence\ngood\n\xff\xfe\n", 3, "rows.csv, line 3 is not UTF-8 text"),
        ("rows.csv", b"", 3, "rows.csv is empty"),
        ("rows.csv", b"sentence\n", 3, "rows.csv holds no rows"),
        ("rows.tsv", b'sentence\n"good"\n', 3, "a cell begins with a double quote"),
        ("rows.jsonl", b'{"sentence": "a"}\n{"sentence": 3}\n', 3, "line 2: the column 'sentence' holds 3"),
        ("rows.jsonl", b'{"sentence": "a", "sentence": "b"}\n', 3, "the key 'sentence' occurs twice"),
        ("rows.jsonl", b'{"sentence": "a\\ud800"}\n', 3, "half of a surrogate pair"),
        ("rows.jsonl", b'[{"sentence": "a"}]\n', 3, "is not an object with columns"),
        ("rows.txt", b"sentence\na\n", 2, "a table's name ends in .csv, .tsv, .jsonl"),
    ],
)
def test_a_wrong_table_is_named_and_nothing_is_written(
    name: str, content: bytes, code: int, sentence: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run(tmp_path, "kdqat", "predict", str(folder / "packed"), "--file", name, "--out", "a.csv", code=code)
    assert sentence in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_field_that_the_first_row_lacks_is_not_lost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"sentence": "a"}\n{"sentence": "b", "id": 1}\n', encoding="utf-8")
    model = str(folder / "packed")
    done = run(tmp_path, "kdqat", "predict", model, "--file", "rows.jsonl", "--out", "a.csv", code=2)
    assert "line 2: the first row has no field 'id'" in " ".join(done.stderr.split())
    run(tmp_path, "kdqat", "predict", model, "--file", "rows.jsonl", "--out", "a.jsonl")
    assert [row.get("id") for row in objects(tmp_path / "a.jsonl")] == [None, 1]


@pytest.mark.parametrize("out", ["rows.csv", "link.csv", "other.csv", "folder.csv", "rows.txt"])
def test_nothing_is_replaced(out: str, folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS)
    (tmp_path / "link.csv").symlink_to("rows.csv")
    (tmp_path / "other.csv").write_text("mine", encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    before = (tmp_path / "rows.csv").read_bytes()
    run(tmp_path, "kdqat", "predict", str(folder / "packed"), "--file", "rows.csv", "--out", out, code=2)
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert (tmp_path / "other.csv").read_text(encoding="utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_pairs_have_two_columns(paired: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ["a good film", "bad"], pair="the plot", other="music")
    model = str(paired / "packed")
    for column, second in ((), "the plot"), (("--pair-column", "other"), "music"):
        out = f"{second}.csv"
        run(tmp_path, "kdqat", "predict", model, "--file", "rows.csv", "--out", out, *column)
        expected = predict(open_model(model), [[Text("a good film", second), Text("bad", second)]])
        assert [row["label"] for row in table(tmp_path / out)] == [answer["label"] for answer in expected]
    write_csv(tmp_path / "single.csv", ["a good film"])
    done = run(tmp_path, "kdqat", "predict", model, "--file", "single.csv", "--out", "a.csv", code=3)
    assert "there is no column 'pair'" in done.stderr
    assert "--pair-column NAME" in done.stderr


def test_a_pair_for_a_model_of_single_texts_is_refused(folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", ["a good film"], other="music")
    options = ("--file", "rows.csv", "--out", "a.csv", "--pair-column", "other")
    done = run(tmp_path, "kdqat", "predict", str(folder / "packed"), *options, code=2)
    assert "rows.csv, line 2 is a pair, but the model was trained on single texts" in " ".join(done.stderr.split())


def test_top_k_and_threshold(folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS)
    plain = answers(folder / "packed", TEXTS)
    highest = sorted(max(answer["probabilities"].values()) for answer in plain)
    bar = str(highest[2])  # two of the five answers are below
    options = ("--file", "rows.csv", "--top-k", "9", "--threshold", bar)
    run(tmp_path, "kdqat", "predict", str(folder / "packed"), *options, "--out", "a.csv")
    for row, answer in zip(table(tmp_path / "a.csv"), plain, strict=True):
        best = sorted(answer["probabilities"].items(), key=lambda entry: -entry[1])
        assert [(row[f"top_{place}"], float(row[f"probability_{place}"])) for place in (1, 2)] == best
        assert "top_3" not in row
        assert row["label"] == (answer["label"] if best[0][1] >= float(bar) else "")
    assert sum(row["label"] == "" for row in table(tmp_path / "a.csv")) == 2
    done = run(tmp_path, "kdqat", "predict", str(folder / "packed"), TEXTS[0], "--top-k", "1", "--threshold", "1")
    (best_one,) = json.loads(done.stdout)["probabilities"].items()
    assert best_one == max(plain[0]["probabilities"].items(), key=lambda entry: entry[1])
    assert "label" not in json.loads(done.stdout)


def test_options_that_do_not_go_together(folder: Path, rated_teacher: Path, tmp_path: Path) -> None:
    model = str(folder / "packed")
    assert "--out" in run(tmp_path, "kdqat", "predict", model, "a text", "--out", "a.csv", code=2).stderr
    done = run(tmp_path, "kdqat", "predict", model, "a text", "--text-column", "sentence", code=2)
    assert "--text-column and --pair-column need --file and --out" in done.stderr
    done = run(tmp_path, "kdqat", "predict", str(rated_teacher), "a text", "--top-k", "2", code=2)
    assert "has no labels" in done.stderr


def test_a_regression_has_a_value(rated_teacher: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS)
    column = ("--text-column", "sentence")
    run(tmp_path, "kdqat", "predict", str(rated_teacher), "--file", "rows.csv", "--out", "a.csv", *column)
    found = [float(row["value"]) for row in table(tmp_path / "a.csv")]
    assert found == pytest.approx([answer["value"] for answer in answers(rated_teacher, TEXTS)], abs=1e-5)


def in_process(folder: Path, tables: Tables, change: Callable[[NDArray[np.float32]], None] = lambda _: None) -> Any:
    runner = open_model(str(folder))
    assert isinstance(runner, TextAnswerer)
    compute = runner.logits

    def logits(rows: list[Row]) -> NDArray[np.float32]:
        found = compute(rows)
        change(found)
        return found

    runner.logits = logits  # type: ignore[method-assign]
    check_tables(tables)
    return predict_table(runner, str(folder), tables)


def test_a_row_without_an_answer_has_an_error(folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS)

    def overflow(logits: NDArray[np.float32]) -> None:
        logits[1, 0] = np.inf

    done = in_process(folder / "packed", Tables(tmp_path / "rows.csv", tmp_path / "a.csv"), overflow)
    assert (done.rows, done.without) == (5, 1)
    rows = table(tmp_path / "a.csv")
    assert (rows[1]["label"], rows[1]["error"]) == ("", "The model's answer is NaN or infinite.")
    assert all(row["label"] and not row["error"] for number, row in enumerate(rows) if number != 1)


def test_memory_does_not_grow_with_the_table(folder: Path, tmp_path: Path) -> None:
    """24 MB of rows; a batch of 32 has 1.3 MB."""
    write_csv(tmp_path / "rows.csv", ["a good film " * 3400] * 600)
    assert (tmp_path / "rows.csv").stat().st_size > 24e6
    tracemalloc.start()
    try:
        assert in_process(folder / "packed", Tables(tmp_path / "rows.csv", tmp_path / "a.csv")).rows == 600
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()


def test_a_packed_model_needs_the_runtime_alone(folder: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", TEXTS)
    options = ("--file", "rows.csv", "--out", "a.csv", "--top-k", "2")
    run(tmp_path, sys.executable, "-c", WITHOUT, "predict", str(folder / "packed"), *options)
    expected = [answer["label"] for answer in answers(folder / "packed", TEXTS)]
    assert [row["label"] for row in table(tmp_path / "a.csv")] == expected

"""Rows: the published layouts of every task, the user's own files, and errors with file and place for wrong rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.sources import resolve_data_dir
from kdqat_cli.tasks.text.data import data_digest, load_split
from kdqat_cli.tasks.text.schema import Columns, TextTask

MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
)
MNLI_ROW = "0\t1\t1c\tfiction\t-\t-\t-\t-\tA man.\tNobody.\tneutral\tcontradiction\n"
MRPC = '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said "no.\tHe said no.\r\n'
STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    "0\tmain\tMSR\t2012\t1\tnone\tnone\tA plane.\tA jet.\t3.800\n"
)
YNAT = '[{"guid": "ynat-v1_dev_00000", "title": "실거래가 1억 육박", "label": "경제", "url": ""}]'
KLUE_STS = """[{"guid": "klue-sts-v1_dev_00001", "sentence1": "가.", "sentence2": "나.",
"labels": {"label": 1.4, "real-label": 1.428571428571429, "binary-label": 0}}]"""

# Per task: the published file, one row of it, and the expected result for that row.
PUBLISHED: dict[str, tuple[dict[str, str], str, dict[str, Any]]] = {
    "cola": (
        {"train": "glue/CoLA/train.tsv", "dev": "glue/CoLA/dev.tsv"},
        'gj04\t0\t*\tThe box" fell.\n',
        {"text": 'The box" fell.', "label": 0},
    ),
    "sst2": (
        {"train": "glue/SST-2/train.tsv", "dev": "glue/SST-2/dev.tsv"},
        "sentence\tlabel\ncharming \t1\n",
        {"text": "charming ", "label": 1},
    ),
    "mrpc": (
        {"train": "glue/MRPC/train.tsv", "dev": "glue/MRPC/dev.tsv"},
        MRPC,
        {"text": 'He said "no.', "pair": "He said no.", "label": 1},
    ),
    "stsb": (
        {"train": "glue/STS-B/train.tsv", "dev": "glue/STS-B/dev.tsv"},
        STSB,
        {"text": "A plane.", "pair": "A jet.", "label": 3.8},
    ),
    "qqp": (
        {"train": "glue/QQP/train.tsv", "dev": "glue/QQP/dev.tsv"},
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow?\t0\n4\t5\n",
        {"text": "Why?", "pair": "How?", "label": 0},
    ),
    "mnli": (
        {
            "train": "glue/MNLI/train.tsv",
            "dev": "glue/MNLI/dev_matched.tsv",
            "mismatched": "glue/MNLI/dev_mismatched.tsv",
        },
        MNLI_HEADER + MNLI_ROW,
        {"text": "A man.", "pair": "Nobody.", "label": 2},
    ),
    "qnli": (
        {"train": "glue/QNLI/train.tsv", "dev": "glue/QNLI/dev.tsv"},
        "index\tquestion\tsentence\tlabel\n0\tWho?\tShe.\tentailment\n",
        {"text": "Who?", "pair": "She.", "label": 0},
    ),
    "rte": (
        {"train": "glue/RTE/train.tsv", "dev": "glue/RTE/dev.tsv"},
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n",
        {"text": "A.", "pair": "B.", "label": 1},
    ),
    "klue-tc": (
        {"train": "klue/ynat-v1.1/ynat-v1.1_train.json", "dev": "klue/ynat-v1.1/ynat-v1.1_dev.json"},
        YNAT,
        {"text": "실거래가 1억 육박", "label": 1},
    ),
    "klue-sts": (
        {
            "train": "klue/klue-sts-v1.1/klue-sts-v1.1_train.json",
            "dev": "klue/klue-sts-v1.1/klue-sts-v1.1_dev.json",
        },
        KLUE_STS,
        {"text": "가.", "pair": "나.", "label": 1.428571428571429},
    ),
    "nsmc": (
        {"train": "nsmc/ratings_train.txt", "dev": "nsmc/ratings_test.txt"},
        "id\tdocument\tlabel\n1\t굳 ㅋ\t1\n2\t\t0\n",
        {"text": "굳 ㅋ", "label": 1},
    ),
    "movie": (
        {"train": "movie/train.tsv", "dev": "movie/dev.tsv"},
        "sentence\tlabel\nA bore.\tnegative\n",
        {"text": "A bore.", "label": 0},
    ),
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mood(**changes: Any) -> TextTask:
    """A user's task for a file of sentences and moods."""
    fields = {
        "name": "mood",
        "title": "Mood of a sentence",
        "files": {"train": "train.tsv", "dev": "dev.tsv"},
        "columns": Columns(text="sentence", label="mood"),
        "labels": ["sad", "glad"],
        "metric": "accuracy",
        "max_length": 32,
    }
    return TextTask.model_validate(fields | changes)


NESTED = {"columns": Columns(text="sentence", label="at.mood")}
SCORE = {"labels": None, "range": [0.0, 5.0], "metric": "pearson"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layout(name: str, tmp_path: Path) -> None:
    files, content, expected = PUBLISHED[name]
    task = load_text_task(name)
    assert ["train", *task.splits] == list(files)
    for split, file in files.items():
        path = write(tmp_path / file, content)
        rows = load_split(task, split, tmp_path)
        assert list(rows) == [expected]
        left_out = "; 1 incomplete rows left out" if task.skip_bad_rows else ""
        assert rows.info.description == f"{path}{left_out}"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dev.csv", 'mood,sentence\nglad,"Sun,\nat last"\n\n0,Rain\n'),
        ("dev.tsv", 'sentence\tmood\r\n"Sun,\nat last"\t1\r\nRain\tsad'),
        ("dev.jsonl", '{"sentence": "Sun,\\nat last", "mood": 1}\n\n{"sentence": "Rain", "mood": "sad"}\n'),
        ("dev.json", '[{"sentence": "Sun,\\nat last", "mood": "1"}, {"sentence": "Rain", "mood": 0}]'),
    ],
)
def test_a_users_task_reads_files_in_the_folder_of_its_yaml(file: str, content: str, tmp_path: Path) -> None:
    task_file = write(
        tmp_path / "mood.yaml",
        f"name: mood\ntitle: Mood\nfiles: {{train: {file}, dev: {file}}}\nmetric: accuracy\nmax_length: 32\n"
        "columns: {text: sentence, label: mood}\nlabels: [sad, glad]\nquoting: true\n",
    )
    write(tmp_path / file, content)
    rows = load_split(load_text_task(str(task_file)), "dev")
    assert list(rows) == [{"text": "Sun,\nat last", "label": 1}, {"text": "Rain", "label": 0}]


@pytest.mark.parametrize(
    ("changes", "file", "content", "sentence"),
    [
        ({}, "dev.tsv", "", "dev.tsv holds no rows."),
        ({}, "dev.tsv", "sentence\tmood\n", "dev.tsv holds no rows."),
        ({}, "dev.tsv", "sentence\tfeeling\nA\tsad\n", "dev.tsv has no column 'mood'; it has 'sentence', 'feeling'."),
        ({}, "dev.tsv", "sentence\tmood\nA\tsad\nB\n", "dev.tsv, line 3: 1 columns instead of 2."),
        ({}, "dev.tsv", "sentence\tmood\nA\tsad\tglad\n", "dev.tsv, line 2: 3 columns instead of 2."),
        ({}, "dev.tsv", "sentence\tmood\n \tsad\n", "dev.tsv, line 2: the column 'sentence' is empty or missing."),
        ({}, "dev.tsv", "sentence\tmood\nA\t\n", "dev.tsv, line 2: the column 'mood' is empty or missing."),
        (
            {},
            "dev.tsv",
            "sentence\tmood\nA\tsad\n\nB\thappy\n",
            "dev.tsv, line 4: the label 'happy' in the column 'mood' is unknown; the labels are sad, glad.",
        ),
        ({}, "dev.tsv", "sentence\tmood\nA\t2\n", "dev.tsv, line 2: the label '2' in the column 'mood' is unknown"),
        ({}, "dev.tsv", "sentence\tmood\nA\t-1\n", "dev.tsv, line 2: the label '-1' in the column 'mood' is unknown"),
        ({}, "dev.tsv", b"sentence\tmood\nA\tsad\n\xff\tsad\n", "dev.tsv, line 3 is not UTF-8 text."),
        ({}, "dev.csv", 'sentence,mood\n"A\nB",sad\n"C,sad\n', "dev.csv, line 4: unexpected end of data."),
        ({}, "dev.csv", 'sentence,mood\n"A\nB",sad\nC,bad\n', "dev.csv, line 4: the label 'bad'"),
        ({}, "dev.csv", f"sentence,mood\n{'x' * (2**24 + 1)},sad\n", "dev.csv, line 2: field larger than field limit"),
        (
            SCORE,
            "dev.tsv",
            "sentence\tmood\nA\thigh\n",
            "line 2: the label 'high' in the column 'mood' is not a number",
        ),
        (SCORE, "dev.tsv", "sentence\tmood\nA\tnan\n", "line 2: the label 'nan' in the column 'mood' is not a number"),
        (
            SCORE,
            "dev.tsv",
            "sentence\tmood\nA\t5.1\n",
            "line 2: the label '5.1' in the column 'mood' is not a number from 0",
        ),
        (SCORE, "dev.jsonl", '{"sentence": "A", "mood": true}', "line 1: the label True in the column 'mood'"),
        (SCORE, "dev.jsonl", '{"sentence": "A", "mood": 1e999}', "line 1: the label inf in the column 'mood'"),
        ({}, "dev.jsonl", '{"sentence": "A", "mood": true}', "line 1: the label True in the column 'mood' is unknown"),
        ({}, "dev.jsonl", '{"sentence": "A", "mood": 0}\n{"sentence"', "dev.jsonl, line 2 is not valid JSON"),
        ({}, "dev.jsonl", '{"sentence": "A", "mood": 0}\n7', "dev.jsonl, line 2 is not an object with columns."),
        ({}, "dev.jsonl", '{"sentence": "A"}', "line 1: the column 'mood' is empty or missing."),
        ({}, "dev.jsonl", '{"sentence": 7, "mood": 0}', "line 1: the column 'sentence' holds 7, which is not text."),
        (
            {},
            "dev.jsonl",
            '{"sentence": "\\ud83d", "mood": 0}',
            "line 1: the column 'sentence' is not valid Unicode: it holds half",
        ),
        ({}, "dev.json", '[{"sentence": "A", "mood": 0},', "dev.json is not valid JSON"),
        ({}, "dev.json", "[" * 100_000, "dev.json is not valid JSON"),
        ({}, "dev.json", '{"sentence": "A"}', "dev.json is not an array of rows."),
        ({}, "dev.json", '[{"sentence": "A", "mood": 0}, null]', "dev.json, item 2 is not an object with columns."),
        ({}, "dev.json", "[]", "dev.json holds no rows."),
        (
            {},
            "dev.jsonl",
            '{"sentence": "A", "mood": 0}\n{"sentence": "A", "mood": 0, "mood": 1}',
            "line 2: the key 'mood' occurs twice.",
        ),
        (
            {"skip_bad_rows": True},
            "dev.json",
            '[{"sentence": "A", "mood": 0}, {"sentence": "A", "sentence": "B", "mood": 1}]',
            "item 2: the key 'sentence' occurs twice.",
        ),
        (
            NESTED,
            "dev.jsonl",
            '{"sentence": "A", "at": {"mood": 0, "mood": 1}}',
            "line 1: the key 'mood' occurs twice.",
        ),
        (NESTED, "dev.jsonl", '{"sentence": "A", "at": {"mood": 0}, "at": {}}', "line 1: the key 'at' occurs twice."),
        (
            {},
            "dev.jsonl",
            json.dumps({"sentence": "x" * (2**24 + 1), "mood": 0}),
            "line 1: the column 'sentence' has more than 16,777,216 characters.",
        ),
        (
            {},
            "dev.json",
            json.dumps([{"sentence": "x" * (2**24 + 1), "mood": 0}]),
            "item 1: the column 'sentence' has more than 16,777,216 characters.",
        ),
        (
            {},
            "dev.tsv",
            f"sentence\tmood\n{'x' * (2**24 + 1)}\tsad\n",
            "line 2: the column 'sentence' has more than 16,777,216 characters.",
        ),
        ({}, "dev.jsonl", '"' + "x" * 2**26, "line 1 has more than 67,108,864 bytes."),
    ],
)
def test_a_wrong_row_is_named(
    changes: dict[str, Any], file: str, content: str | bytes, sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / file, content)
    with pytest.raises(MissingInputError) as caught:
        load_split(mood(files={"train": file, "dev": file}, **changes), "dev", tmp_path)
    assert caught.value.exit_code == 3
    assert str(tmp_path / file) in caught.value.sentence
    assert sentence in caught.value.sentence
    assert "\n" not in caught.value.sentence


def test_incomplete_rows_are_left_out_only_if_the_task_says_so(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\tsad\n\tsad\nB\nC\tglad\n")
    rows = load_split(mood(skip_bad_rows=True), "dev", tmp_path)
    assert rows["text"][:] == ["A", "C"]
    assert rows.info.description.endswith("dev.tsv; 2 incomplete rows left out")
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\thappy\n")
    with pytest.raises(MissingInputError, match="unknown"):
        load_split(mood(skip_bad_rows=True), "dev", tmp_path)


def test_a_name_has_precedence_over_an_index(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\t1\nB\t0\n")
    assert load_split(mood(labels=["1", "0"]), "dev", tmp_path)["label"][:] == [0, 1]


def test_an_index_is_not_a_label_if_a_class_name_is_a_number(tmp_path: Path) -> None:
    """With the classes 1 to 5, the label 0 must not become the first class."""
    stars = ["1", "2", "3", "4", "5"]
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\t5\nB\t1\n")
    assert load_split(mood(labels=stars), "dev", tmp_path)["label"][:] == [4, 0]
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\t5\nB\t0\n")
    with pytest.raises(MissingInputError, match=r"line 3: the label '0' .* unknown; the labels are 1, 2, 3, 4, 5"):
        load_split(mood(labels=stars), "dev", tmp_path)


def test_a_key_that_occurs_twice_and_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", '{"sentence": "A", "mood": 1, "id": 1, "id": 2, "more": {"a": 1, "a": 2}}')
    rows = load_split(mood(files={"train": "dev.jsonl", "dev": "dev.jsonl"}), "dev", tmp_path)
    assert list(rows) == [{"text": "A", "label": 1}]


def test_the_longest_cell(tmp_path: Path) -> None:
    """There is one limit, in characters, for all formats."""
    text = "가" * 2**24
    write(tmp_path / "dev.jsonl", json.dumps({"sentence": text, "mood": 0}, ensure_ascii=False))
    write(tmp_path / "dev.tsv", f"sentence\tmood\n{text}\tsad\n")
    write(tmp_path / "dev.csv", f"sentence,mood\n{text},sad\n")
    for file in ("dev.jsonl", "dev.tsv", "dev.csv"):
        (row,) = load_split(mood(files={"train": file, "dev": file}), "dev", tmp_path)
        assert row["text"] == text, file


def test_the_home_of_an_unknown_user() -> None:
    with pytest.raises(MissingInputError, match="no data folder ~nobody-at-all"):
        load_split(mood(), "dev", resolve_data_dir("~nobody-at-all/data", None))


def test_the_order_of_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = mood(folder=tmp_path / "own")
    for folder in ("assets/data", "own", "given"):
        write(tmp_path / folder / "dev.tsv", f"sentence\tmood\nfrom {folder}\tsad\n")
        rows = load_split(task, "dev", tmp_path / "given" if folder == "given" else None)
        assert rows["text"][:] == [f"from {folder}"]


def test_data_dir_by_option_variable_and_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDQAT_DATA_DIR", raising=False)
    assert resolve_data_dir(None, None) is None
    assert resolve_data_dir(None, "params") == Path("params")
    monkeypatch.setenv("KDQAT_DATA_DIR", "variable")
    assert resolve_data_dir(None, "params") == Path("variable")
    assert resolve_data_dir("option", "params") == Path("option")


def test_a_missing_file_is_named_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match="no data folder gone"):
        load_split(mood(), "dev", Path("gone"))
    with pytest.raises(MissingInputError, match=r"Task movie: there is no movie/dev.tsv in assets/data\.") as caught:
        load_split(load_text_task("movie"), "dev")
    assert caught.value.fix == "kdqat fetch"
    with pytest.raises(MissingInputError, match=r"there is no dev.tsv in own, assets/data\.") as caught:
        load_split(mood(folder=Path("own")), "dev")
    assert caught.value.fix == "--data-dir FOLDER, where FOLDER holds dev.tsv"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no network ("), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
)
def test_an_unreachable_hub_is_one_sentence_within_seconds(
    environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    code = """
import time, datasets
from kdqat_cli.errors import MissingInputError
from kdqat_cli.tasks import registry
from kdqat_cli.tasks.text import data
start = time.monotonic()
try:
    data.load_split(registry.load_text_task("rte"), "train")
except MissingInputError as error:
    assert time.monotonic() - start < 5
    print(error.sentence, error.fix, sep="|", end="")
"""
    environment = os.environ | {"HF_HOME": str(tmp_path)} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    sentence, fix = done.stdout.split("|")
    where = (
        "Task rte: there is no glue/RTE/train.tsv in assets/data, and nyu-mll/glue could not be loaded from the hub: "
    )
    assert sentence.startswith(where + reason)
    assert fix == "--data-dir FOLDER, where FOLDER holds glue/RTE/train.tsv"


def test_the_digest_depends_on_rows_and_not_on_their_source(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "sentence\tmood\nA\tsad\nB\tglad\n")
    write(tmp_path / "train.tsv", "mood\tsentence\n1\tB\n0\tA\n")
    write(tmp_path / "dev.jsonl", "\n".join(json.dumps({"sentence": s, "mood": m}) for s, m in [("A", 0), ("B", 1)]))
    digest = data_digest(load_split(mood(), "dev", tmp_path))
    assert digest == data_digest(load_split(mood(files={"train": "x.tsv", "dev": "dev.jsonl"}), "dev", tmp_path))
    assert digest != data_digest(load_split(mood(), "train", tmp_path)), "the digest depends on the order of rows"
    assert len(digest) == 64

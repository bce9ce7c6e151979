"""Serving equals evaluation: a packed model gives the student's logits bit for bit, with every tokenizer."""

import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from kdqat_cli.native.library import kernels
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.params import load_recipe
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record
from kdqat_cli.stages.export import export
from kdqat_cli.stages.predict import open_model
from kdqat_cli.tasks.models import student_record
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.answers import TextAnswerer
from kdqat_cli.tasks.text.inference import predict_logits
from kdqat_cli.tasks.text.models import load_classifier, save_classifier
from kdqat_cli.tasks.text.rows import task_rows
from kdqat_cli.tasks.text.schema import TextTask
from kdqat_cli.texts import Text
from tests.tokenizers import KINDS, WORDS

pytestmark = pytest.mark.skipif(not kernels(), reason="the native library was not built")

LENGTH = 17  # tokens; an odd number, so the two cut texts of a pair have different lengths
BATCH = 7
TASK = """\
name: {name}
title: Texts of 1 to 30 words
files: {{train: rows.tsv, dev: rows.tsv}}
columns: {{{columns}, label: mood}}
labels: [sad, glad]
metric: accuracy
max_length: 17
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A folder with the tasks `single` and `paired`, and 40 rows for both."""
    folder, draw = tmp_path_factory.mktemp("served"), random.Random(0)
    rows = [
        (" ".join(draw.choices(WORDS, k=draw.randint(1, 30))), " ".join(draw.choices(WORDS, k=draw.randint(1, 30))))
        for _ in range(40)
    ]
    lines = "".join(f"{one}\t{other}\t{draw.choice(['sad', 'glad'])}\n" for one, other in rows)
    (folder / "rows.tsv").write_text(f"one\tother\tmood\n{lines}", encoding="utf-8")
    for name, columns in (("single", "text: one"), ("paired", "text: one, pair: other")):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, columns=columns), encoding="utf-8")
    return folder, rows


def packed(folder: Path, tokenizer: PreTrainedTokenizerFast, task: TextTask) -> None:
    """Writes student/ and packed/ of a BERT with random weights, in which token types have an effect."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=LENGTH + 3,
        initializer_range=0.5,
        id2label=dict(enumerate(["sad", "glad"])),
        label2id={"sad": 0, "glad": 1},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
    save_classifier(model, tokenizer, folder / "teacher", Record(kind="teacher"))
    teacher, settings = load_classifier(folder / "teacher"), load_recipe("clean")
    quantize_model(teacher.model, settings.quantization)
    freeze(teacher.model)
    record = student_record("student", task, teacher, settings)
    save_classifier(teacher.model, teacher.tokenizer, folder / "student", record)
    export(str(folder / "student"), folder / "packed")


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "paired"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("types", [True, False], ids=["types", "no-types"])
@pytest.mark.parametrize("kind", KINDS)
def test_served_logits_equal_evaluated_logits(
    kind: str,
    types: bool,
    side: Literal["left", "right"],
    pairs: bool,
    texts: tuple[Path, list[tuple[str, str]]],
    tmp_path: Path,
) -> None:
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](),
        model_input_names=names,
        truncation_side=side,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    task = load_text_task(str(texts[0] / ("paired.yaml" if pairs else "single.yaml")))
    packed(tmp_path, tokenizer, task)
    student = load_classifier(tmp_path / "student")
    rows = task_rows(task, "dev", None, student.tokenizer, student.record.row_length)
    scored = predict_logits(student.model, rows.rows, student.tokenizer)

    runner = open_model(str(tmp_path / "packed"))
    assert isinstance(runner, TextAnswerer)
    read = [row for start in range(0, 40, BATCH) for row in runner.read(_texts(texts[1][start : start + BATCH], pairs))]
    served = np.concatenate([runner.logits(read[start : start + BATCH]) for start in range(0, 40, BATCH)])
    np.testing.assert_array_equal(served, scored)
    assert len(np.unique(served[:, 0])) > 30, "rows differ"

    # The tokens of transformers for the same texts, with the files beside the student.
    own = AutoTokenizer.from_pretrained(tmp_path / "student")
    firsts, seconds = map(list, zip(*texts[1], strict=True))
    whole = own(firsts, seconds if pairs else None, truncation=True, max_length=LENGTH)
    assert [list(ids) for ids, _ in read] == whole["input_ids"]
    assert [kinds for _, kinds in read] == (whole["token_type_ids"] if types else [None] * 40)
    assert sum(len(ids) > LENGTH for ids in own(firsts, seconds if pairs else None)["input_ids"]) > 10, "texts are cut"


def _texts(rows: list[tuple[str, str]], pairs: bool) -> list[Text]:
    return [Text(one, other if pairs else None) for one, other in rows]

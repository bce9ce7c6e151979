"""A tiny encoder with a real tokenizer, and a tiny task that it can learn, for the tests of all stages."""

import importlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kdqat_cli.config import Params
from kdqat_cli.params import resolve
from kdqat_cli.stages.finetune_teacher import finetune_teacher
from kdqat_cli.tasks.registry import load_task
from tests.commands import REPOSITORY
from tests.recipes import training

# Threads do not make such small matrices faster, and on a busy machine, threads that wait for each other take minutes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GLAD = ["good", "great", "lovely", "bright", "warm", "sweet", "fine", "brave"]
SAD = ["bad", "awful", "ugly", "dull", "cold", "sour", "poor", "weak"]
NEUTRAL = [
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "it",
    "this",
    "that",
    "was",
    "is",
    "an",
    "as",
    "for",
    "with",
    "on",
    "by",
    "at",
    "from",
    "film",
    "movie",
    "story",
    "actor",
    "scene",
    "plot",
    "music",
    "script",
    "camera",
    "role",
    "line",
    "part",
    "work",
    "end",
    "start",
    "day",
    "night",
    "man",
    "woman",
    "child",
    "house",
    "road",
    "city",
    "river",
    "tree",
    "bird",
    "dog",
    "cat",
    "book",
    "page",
    "word",
    "sound",
    "light",
    "voice",
    "face",
    "hand",
    "eye",
    "time",
    "place",
    "way",
    "life",
    "year",
    "hour",
    "week",
]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
VOCABULARY = [*SPECIAL, *GLAD, *SAD, *NEUTRAL, *(set(LETTERS) - set(NEUTRAL)), *(f"##{x}" for x in LETTERS), ".", ","]
VOCABULARY[len(SPECIAL) :] = sorted(VOCABULARY[len(SPECIAL) :])

TASK = """\
name: tiny
title: Whether a sentence is sad or glad
files: {train: train.tsv, dev: dev.tsv}
columns: {text: sentence, label: mood}
labels: [sad, glad]
metric: accuracy
max_length: 24
"""

RATED = """\
name: rated
title: How glad a sentence is, 0 to 5
files: {train: train.tsv, dev: dev.tsv}
columns: {text: sentence, label: rating}
range: [0, 5]
metric: pearson+spearman
max_length: 24
"""


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of 3 layers, 32 hidden and 4 heads (random weights, no head) and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # with BERT's own 0.02, such a narrow model gives every sentence the same answer
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).eval().save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml, train.tsv (200 rows) and dev.tsv (60 rows); good or bad words determine the label."""
    folder = tmp_path_factory.mktemp("tiny") / "tasks"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(TASK, encoding="utf-8")
    rows = _rows(260)
    for name, part in (("train", rows[:200]), ("dev", rows[200:])):
        lines = "".join(f"{sentence}\t{label}\n" for sentence, label in part)
        (folder / f"{name}.tsv").write_text(f"sentence\tmood\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def rated_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like tiny_task, but the label is a number, so that the smallest change of a prediction changes the score."""
    folder = tmp_path_factory.mktemp("rated") / "tasks"
    folder.mkdir()
    (folder / "rated.yaml").write_text(RATED, encoding="utf-8")
    rows = [(sentence, 2.5 + 0.8 * _mood(sentence)) for sentence, _ in _rows(260)]
    for name, part in (("train", rows[:200]), ("dev", rows[200:])):
        lines = "".join(f"{sentence}\t{rating:.1f}\n" for sentence, rating in part)
        (folder / f"{name}.tsv").write_text(f"sentence\trating\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def rated_teacher(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, rated_task: Path) -> Path:
    """The folder of a teacher of the task `rated`."""
    folder = tmp_path_factory.mktemp("rated") / "teacher"
    task = load_task(str(rated_task / "rated.yaml"))
    teacher = training(epochs=8, learning_rate=4e-3)
    settings = resolve(task.name, Params()).model_copy(update={"teacher": teacher})
    finetune_teacher(task, str(tiny_encoder), settings, 1, None, folder, lambda step, total, news: None)
    return folder


@pytest.fixture
def model(tiny_encoder: Path) -> PreTrainedModel:
    """A classifier with 3 labels in eval mode in which every parameter has an effect: no bias is 0 and no gain is 1."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports one of the modules of benchmarks/."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


@pytest.fixture
def batch(tiny_encoder: Path) -> dict[str, Tensor]:
    """Five texts and pairs of 3 to 17 tokens, padded to the longest; the first fills its row."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    texts = ["a great film and a good story , brave and warm", "the plot", "bad", "", "dull music with weak actor ."]
    pairs = ["it was the best part", "it was", "sour ending of the day", "", "a"]
    encoded: dict[str, Tensor] = dict(tokenizer(texts, pairs, padding=True, return_tensors="pt"))
    return encoded


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _mood(sentence: str) -> int:
    words = sentence.split()
    return sum(word in GLAD for word in words) - sum(word in SAD for word in words)


def _rows(count: int) -> list[tuple[str, str]]:
    """Sentences of 3 to 12 words, with one to three words from the list of their label; half of them are positive."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        label, words = [("sad", SAD), ("glad", GLAD)][number % 2]
        sentence = draw.choices(NEUTRAL, k=draw.randint(2, 9)) + draw.choices(words, k=draw.randint(1, 3))
        draw.shuffle(sentence)
        rows.append((" ".join(sentence) + " .", label))
    return rows

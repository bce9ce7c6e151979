"""Damaged packed folders: each of the three readers either refuses a folder with one of kdqat's errors or serves it."""

import hashlib
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.numpy import save
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from kdqat_cli.engine.engine import Engine
from kdqat_cli.errors import KdqatError, MissingInputError
from kdqat_cli.native.library import kernels
from kdqat_cli.packing.packed_file import FILE_NAME, PackedFile, digest, to_json
from kdqat_cli.stages.predict import open_model, predict
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.inference import predict_logits, tokenize
from kdqat_cli.tasks.text.models import load_classifier
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE
from kdqat_cli.texts import Text
from tests.engine.test_damaged_files import SIZES
from tests.stages.test_predict import made

native = pytest.mark.skipif(not kernels(), reason="the native library was not built")
FEW, MANY = 40, 1000  # mutated folders


@dataclass
class Parts:
    """The parts of a packed folder, which a test changes and writes again with correct digests."""

    arrays: dict[str, Any]
    header: dict[str, Any]
    tokenizer: Any

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.header["config"]
        return config

    @property
    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = self.header["about"]
        return about

    def write(self, folder: Path) -> None:
        """Writes both files. If the tokenizer is bytes, they are written unchanged."""
        content = self.tokenizer if isinstance(self.tokenizer, bytes) else json.dumps(self.tokenizer).encode()
        (folder / TOKENIZER_FILE).write_bytes(content)
        if isinstance(self.about, dict) and isinstance(self.about.get("tokenizer"), str):
            self.about["tokenizer"] = hashlib.sha256(content).hexdigest()
        self.header["sha256"] = digest(self.arrays, self.header)
        # ascontiguousarray gives a scalar one dimension
        arrays = {name: np.ascontiguousarray(array) if array.ndim else array for name, array in self.arrays.items()}
        (folder / FILE_NAME).write_bytes(save(arrays, {"kdqat": to_json(self.header)}))


@dataclass
class Whole:
    """An intact packed folder, from which each damaged folder is made."""

    folder: Path
    file: PackedFile
    tokenizer: str

    def parts(self) -> Parts:
        file = self.file
        header = {"version": 1, "config": file.config, "ternary": file.shapes, "about": file.record.to_json()}
        return Parts(dict(file.arrays), json.loads(json.dumps(header)), json.loads(self.tokenizer))


@pytest.fixture(scope="module")
def whole(tiny_task: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    task = load_text_task(str(tiny_task / "tiny.yaml"))
    folder = made(tmp_path_factory.mktemp("damaged"), task, tiny_encoder) / "packed/model"
    return Whole(folder, PackedFile(folder / FILE_NAME), (folder / TOKENIZER_FILE).read_text(encoding="utf-8"))


def by_engine(folder: Path) -> None:
    Engine.load(folder, threads=1).logits([([5, 6, 7], None), ([8], None)])


def by_evaluation(folder: Path) -> None:
    loaded = load_classifier(folder)
    rows = Dataset.from_dict({"text": ["a good film", "%"], "label": [0, 0]})
    predict_logits(loaded.model, tokenize(rows, loaded.tokenizer, loaded.record.row_length), loaded.tokenizer)


def by_predict(folder: Path) -> None:
    for answer in predict(open_model(str(folder), threads=1), [[Text("a good film"), Text("%")]]):
        json.dumps(answer, allow_nan=False)


READERS: list[Callable[[Path], None]] = [by_engine, by_evaluation, by_predict]
LONGEST = 10  # seconds per reader; each needs only a fraction of a second
MOST_MEMORY = 10**6  # limit of the growth of memory by all readings, in kB; a table of 10^7 rows takes more


def refusals(folder: Path) -> int:
    """Opens a folder with every reader; returns how many refuse it. Errors other than kdqat's own are raised."""
    refused = 0
    for reader in READERS:
        start = time.process_time()
        try:
            reader(folder)
        except KdqatError:
            refused += 1
        assert time.process_time() - start < LONGEST, reader.__name__
    return refused


def memory() -> int:
    """The peak memory of this process, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_config(**values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.config.update(values)


def in_record(**values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.about.update(values)


def in_vocabulary(**values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.tokenizer["model"]["vocab"].update(values)


def in_tokenizer_model(**values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.tokenizer["model"].update(values)


def first_token(ids: list[int]) -> Callable[[Parts], None]:
    return lambda parts: parts.tokenizer["post_processor"]["special_tokens"]["[CLS]"].update(ids=ids)


def tokenizer_file(content: bytes) -> Callable[[Parts], None]:
    return lambda parts: setattr(parts, "tokenizer", content)


def in_array(change: Callable[[Any], Any], name: str = "classifier.bias") -> Callable[[Parts], None]:
    return lambda parts: parts.arrays.update({name: change(parts.arrays[name])})


def without(part: str, key: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del getattr(parts, part)[key]

    return change


def without_unknown(parts: Parts) -> None:
    del parts.tokenizer["model"]["vocab"]["[UNK]"]
    parts.tokenizer["added_tokens"] = [one for one in parts.tokenizer["added_tokens"] if one["content"] != "[UNK]"]


REFUSED: dict[str, Callable[[Parts], None]] = {
    **{f"hidden_size {size!r:.9}": in_config(hidden_size=size) for size in (10**400, 2**31, -32, 0, 0.5, "32", None)},
    **{f"num_hidden_layers {size!r}": in_config(num_hidden_layers=size) for size in (10**7, 10**400, -1, 2, 3.0, [3])},
    "num_attention_heads 7": in_config(num_attention_heads=7),
    "vocab_size 2^31 - 1": in_config(vocab_size=2**31 - 1),
    "max_position_embeddings 10^7": in_config(max_position_embeddings=10**7),
    "pad_token_id": in_config(pad_token_id=10**6),
    "layer_norm_eps infinite": in_config(layer_norm_eps=float("inf")),
    "layer_norm_eps 1e300": in_config(layer_norm_eps=1e300),
    "hidden_act": in_config(hidden_act="none such"),
    "model_type": in_config(model_type="none such"),
    "no hidden_size": without("config", "hidden_size"),
    "labels of another number": in_config(id2label={"0": "sad", "1": "glad", "2": "calm"}),
    "id2label 3": in_config(id2label=3),
    "record of another number of labels": in_record(labels=["sad", "glad", "calm"]),
    "no max_length": without("about", "max_length"),
    **{f"max_length {size!r:.9}": in_record(max_length=size) for size in (-1, 0, 65, 10**7, 10**400, "24", None)},
    "pad_to 10^7": in_record(batches={"pad_to": 10**7}),
    "batches of 0": in_record(batches={"size": 0}),
    "no inputs": in_record(inputs={"names": []}),
    "unknown inputs": in_record(inputs={"names": ["pixels"]}),
    "kind": in_record(kind="none such"),
    "quantization null": in_record(quantization=None),
    "pairs": in_record(pairs="maybe"),
    "version": in_record(version=-1),
    "record that is a list": lambda parts: parts.header.update(about=[1]),
    "0-d bias": in_array(lambda array: np.zeros((), array.dtype)),
    "0-d ternary weight": in_array(lambda array: np.zeros((), array.dtype), "bert.pooler.dense.weight"),
    **{f"bias of {kind}": in_array(methodcaller("astype", kind)) for kind in ("f8", "i8", "?", "u1")},
    "weight flattened": in_array(lambda array: array.reshape(-1), "classifier.weight"),
    "scales 1e20": in_array(lambda array: np.full_like(array, 1e20), "scales"),
}
REFUSED_TOKENIZERS: dict[str, Callable[[Parts], None]] = {
    "id 2^31 - 1": in_vocabulary(good=2**31 - 1),
    "id beyond the embedding": in_vocabulary(good=10**6),
    "id 2^32": in_vocabulary(good=2**32),
    "id -1": in_vocabulary(good=-1),
    "no [UNK]": without_unknown,
    "another [UNK]": in_tokenizer_model(unk_token="none such"),
    "type": in_tokenizer_model(type="none such"),
    "first token beyond the embedding": first_token([10**6]),
    "first token 2^31 - 1": first_token([2**31 - 1]),
    "empty": tokenizer_file(b""),
    "null": tokenizer_file(b"null"),
    "a list": tokenizer_file(b"[]"),
    "deep": tokenizer_file(b"[" * 10**6),
    "not UTF-8": tokenizer_file(b"\xff\xfe{}"),
}


@native
def test_damage_with_a_correct_digest_is_refused_by_every_reader(whole: Whole, tmp_path: Path) -> None:
    """A damaged tokenizer is refused by the two readers that use it; the engine reads token ids."""
    folder = shutil.copytree(whole.folder, tmp_path / "model")
    whole.parts().write(folder)
    assert refusals(folder) == 0
    before = memory()
    for wanted, damages in ((3, REFUSED), (2, REFUSED_TOKENIZERS)):
        for name, damage in damages.items():
            parts = whole.parts()
            damage(parts)
            parts.write(folder)
            assert refusals(folder) == wanted, name
    assert memory() - before < MOST_MEMORY


def place(draw: random.Random, value: Any) -> tuple[Any, Any]:
    """A list or mapping inside `value`, and one of its keys."""
    key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inner = value[key]
    return place(draw, inner) if isinstance(inner, dict | list) and inner and draw.random() < 0.7 else (value, key)


ODD = [*SIZES, 10**7, 10**400, "", False, [1, 2], {"a": 1}, -0.0, 1e-300, "BPE"]


def damage_anything(draw: random.Random, parts: Parts) -> None:
    value = draw.choice([parts.config, parts.about, parts.tokenizer])
    if value is parts.tokenizer and draw.random() < 0.7:  # most of the file is the vocabulary
        value = {name: part for name, part in value.items() if name != "model"}
    container, key = place(draw, value)
    if isinstance(container, dict) and draw.random() < 0.2:
        del container[key]
    else:
        container[key] = draw.choice(ODD)


@native
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_random_damage_is_served_or_refused(count: int, whole: Whole, tmp_path: Path) -> None:
    folder, draw, before = shutil.copytree(whole.folder, tmp_path / "model"), random.Random(count), memory()
    for _ in range(count):
        parts = whole.parts()
        for _ in range(draw.randint(1, 2)):
            damage_anything(draw, parts)
        parts.write(folder)
        refusals(folder)
    assert memory() - before < MOST_MEMORY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_types_that_numpy_lacks_are_refused(dtype: torch.dtype, whole: Whole, tmp_path: Path) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "model")
    state = load_torch(folder / FILE_NAME)
    state["classifier.bias"] = state["classifier.bias"].to(dtype)
    save_torch(state, folder / FILE_NAME, {"kdqat": to_json(whole.parts().header | {"sha256": ""})})
    assert refusals(folder) == len(READERS)


@native
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", FILE_NAME])
def test_a_named_pipe_among_the_files_is_refused_at_once(name: str, whole: Whole, tmp_path: Path) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for reader in (by_evaluation, by_predict):
        with pytest.raises(MissingInputError, match=f"{name} is a named pipe"):
            reader(folder)

"""The record beside a model: written records are read back, and other values are refused."""

import json
from typing import Any

import pytest

from kdqat_cli.errors import MissingInputError
from kdqat_cli.record import BY_LENGTH, Batches, Inputs, Record, read_record
from tests.recipes import quantization

DIGEST = "0" * 64
PACKED: dict[str, Any] = {
    "kind": "packed",
    "task": "tiny",
    "labels": ["sad", "glad"],
    "pairs": False,
    "max_length": 24,
    "quantization": quantization().model_dump(),
    "tokenizer": DIGEST,
}


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(kind="teacher", encoder="embedded", seed=3, settings={"epochs": 1.0}, sources={"encoder": None}),
        Record(kind="student", max_length=24, quantization=quantization(), batches=Batches(size=8, pad_to=24)),
        Record(**PACKED, inputs=Inputs(names=["input_ids", "attention_mask"], truncation_side="left")),
    ],
)
def test_a_record_is_read_back_from_json(record: Record) -> None:
    assert read_record(json.loads(json.dumps(record.to_json())), "a record") == record


def test_records_in_files_of_version_1_are_read() -> None:
    """They have null for missing values, and no version, inputs and batches."""
    older = {**PACKED, "labels": None, "seed": 42, "settings": {}, "sources": {"teacher": None}, "versions": {}}
    record = read_record(older, "a record")
    assert (record.labels, record.inputs, record.batches) == (None, None, BY_LENGTH)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "best"}, "kind"),
        ({"labels": ["one"]}, "labels"),
        ({"labels": ["one", 2]}, "labels.1"),
        ({"max_length": -1}, "max_length"),
        ({"max_length": 10**7}, "max_length"),
        ({"max_length": "24"}, "max_length"),
        ({"max_length": None}, "max_length must be given for a packed model"),
        ({"quantization": {"weights": "binary"}}, "quantization.weights"),
        ({"quantization": None}, "quantization must be given"),
        ({"quantization": quantization().model_dump() | {"activation_clip": -1.0}}, "activation_clip"),
        ({"batches": {"size": 0}}, "batches.size"),
        ({"batches": {"pad_to": 10**7}}, "batches.pad_to"),
        ({"batches": 3}, "batches"),
        ({"inputs": {"names": ["pixels"]}}, "inputs.names"),
        ({"tokenizer": "abc"}, "tokenizer"),
        ({"lables": []}, "did you mean labels"),
    ],
)
def test_invalid_values_are_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(MissingInputError) as caught:
        read_record(PACKED | change, "kdqat.json")
    assert told in caught.value.sentence
    assert caught.value.sentence.startswith("kdqat.json")


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_wrong_form_is_refused(value: Any) -> None:
    with pytest.raises(MissingInputError, match=r"kdqat\.json must have keys and values"):
        read_record(value, "kdqat.json")


def test_a_later_version_is_reported() -> None:
    with pytest.raises(MissingInputError, match="version 2, but this kdqat reads version 1"):
        read_record(PACKED | {"version": 2, "thing": 1}, "kdqat.json")

"""A packed folder loaded by transformers' own functions, in separate processes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import kdqat_cli  # noqa: F401 - its import is what registers the format
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, write_packed
from kdqat_cli.packing.hf_model import model_parts, save_packed
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.record import Record
from tests.architectures import tiny
from tests.recipes import quantization

QUANTIZATION = quantization()
RECORD = Record(task="tiny", quantization=QUANTIZATION)
LABELS = {0: "sad", 1: "schön", 2: "so so"}

LOAD = """
import sys
{first}
from transformers import AutoModelForSequenceClassification
{then}
import torch
from safetensors.torch import load_file, save_file
folder, inputs, out = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder)
save_file({{"logits": model(**load_file(inputs)).logits.detach()}}, out)
print(type(model).__name__, model.training, model.config.id2label)
"""
STOCK_REFUSES = """
try:
    AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
except Exception as error:
    print("refused:", str(error).splitlines()[0])
else:
    sys.exit("a transformers without kdqat loaded the folder")
import kdqat_cli
"""


@pytest.fixture
def student(model: PreTrainedModel) -> PreTrainedModel:
    model.config.id2label = dict(LABELS)
    model.config.label2id = {label: index for index, label in LABELS.items()}
    quantize_model(model, QUANTIZATION)
    freeze(model)
    return model


@pytest.fixture
def packed(student: PreTrainedModel, tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    save_packed(student, folder, RECORD)
    return folder


def test_positions_without_a_padding_id_are_refused(tmp_path: Path) -> None:
    student = tiny("roberta")
    quantize_model(student, QUANTIZATION)
    freeze(student)
    student.config.pad_token_id = None
    with pytest.raises(ConfigError, match="has the pad_token_id None"):
        save_packed(student, tmp_path, RECORD)


@torch.no_grad()
def logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(**batch).logits
    return out


def test_one_line_loads_it_in_another_process(
    student: PreTrainedModel, packed: Path, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    """In any order of the imports. A transformers without kdqat refuses the folder."""
    save_file(batch, tmp_path / "inputs")
    programs = {
        "kdqat first": LOAD.format(first="import kdqat_cli", then=""),
        "a model's own class between": LOAD.format(
            first="import kdqat_cli\nfrom transformers import BertForSequenceClassification", then=""
        ),
        "T5, of which kdqat has a class": LOAD.format(
            first="import kdqat_cli\nfrom transformers import T5EncoderModel", then=""
        ),
        "kdqat last": LOAD.format(first="", then=STOCK_REFUSES),
    }
    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", program, packed, tmp_path / "inputs", tmp_path / name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, program in programs.items()
    }
    for name, process in running.items():
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, f"{name}: {errors}"
        assert ("refused: " in out) == (name == "kdqat last")
        assert out.splitlines()[-1] == f"BertForSequenceClassification False {LABELS}"
        assert torch.equal(load_file(tmp_path / name)["logits"], logits(student, batch)), name


def test_the_loaded_model_is_ternary_and_frozen(
    student: PreTrainedModel, packed: Path, batch: dict[str, Tensor]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(packed)
    assert type(model) is type(student)
    assert quantized_layers(model).keys() == quantized_layers(student).keys()
    state = student.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    assert torch.equal(logits(model, batch), logits(student, batch))
    assert model.config.id2label == LABELS
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_the_class_of_an_architecture_does_not_start_from_random_weights(
    student: PreTrainedModel, packed: Path
) -> None:
    """The class does not check the model type, and would accept any weights file that it finds."""
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        type(student).from_pretrained(packed)


def test_half_precision_is_close(student: PreTrainedModel, packed: Path, batch: dict[str, Tensor]) -> None:
    full_size = (packed / FILE_NAME).stat().st_size
    save_packed(student, packed, RECORD, half=True)
    assert (packed / FILE_NAME).stat().st_size < full_size
    model = AutoModelForSequenceClassification.from_pretrained(packed)
    expected, halved = logits(student, batch), logits(model, batch)
    assert halved.dtype == torch.float32
    assert 0 < (halved - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_student_in_training_is_packed_as_it_would_be_frozen(model: PreTrainedModel, tmp_path: Path) -> None:
    quantize_model(model, QUANTIZATION)
    latent = {name: values.clone() for name, values in model.state_dict().items()}
    (tmp_path / "latent").mkdir()
    (tmp_path / "frozen").mkdir()
    save_packed(model, tmp_path / "latent", RECORD)
    assert all(torch.equal(values, latent[name]) for name, values in model.state_dict().items()), "it trains further"
    freeze(model)
    save_packed(model, tmp_path / "frozen", RECORD)
    assert (tmp_path / "latent" / FILE_NAME).read_bytes() == (tmp_path / "frozen" / FILE_NAME).read_bytes()


@pytest.mark.parametrize("frozen", [False, True])
def test_levels_that_contradict_the_record_are_not_packed(model: PreTrainedModel, tmp_path: Path, frozen: bool) -> None:
    quantize_model(model, quantization(weights="int4"))
    if frozen:
        freeze(model)
    with pytest.raises(ConfigError, match=r"record has ternary weights, but .* has levels from -7 to 7\."):
        save_packed(model, tmp_path, RECORD)
    assert not (tmp_path / FILE_NAME).exists()


def test_config_json_has_only_an_outline(packed: Path) -> None:
    """The digest of the packed file covers the encoder's full configuration."""
    outline = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    assert outline["model_type"] == "kdqat"
    assert outline["id2label"] == {str(index): label for index, label in LABELS.items()}
    assert "hidden_size" not in outline


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)


def replace(path: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, path)


@pytest.mark.parametrize("damage", [cut, flip, replace, Path.unlink])
def test_a_damaged_file_is_refused(packed: Path, damage: Callable[[Path], None]) -> None:
    damage(packed / FILE_NAME)
    with pytest.raises(MissingInputError):
        AutoModelForSequenceClassification.from_pretrained(packed)


def test_a_file_without_a_tensor_of_its_model_is_refused(student: PreTrainedModel, packed: Path) -> None:
    """A missing tensor is never replaced by random numbers, and such a file is not written either."""
    parts = model_parts(student, RECORD)
    del parts.arrays["classifier.weight"]
    write_packed(packed / FILE_NAME, parts)
    with pytest.raises(MissingInputError, match=r"classifier\.weight is missing"):
        AutoModelForSequenceClassification.from_pretrained(packed)
    del student.classifier
    with pytest.raises(ConfigError, match=r"classifier\.weight is missing"):
        save_packed(student, packed, RECORD)

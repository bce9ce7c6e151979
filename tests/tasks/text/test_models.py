"""Classifiers from folders: plain, ternary and packed; labels by name; and what is refused."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from kdqat_cli.config import Params
from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.modules import classifier_of
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.networks.t5_model import T5EncoderForSequenceClassification
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.params import resolve
from kdqat_cli.quantizers.parameters import freeze, quantized_layers
from kdqat_cli.record import Inputs, Record
from kdqat_cli.stages.export import export
from kdqat_cli.store.folder import ABOUT
from kdqat_cli.store.places import EMBEDDED
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.models import load_teacher, student_record
from kdqat_cli.tasks.records import recorded, recorded_task, size_figures, task_file
from kdqat_cli.tasks.registry import load_text_task
from kdqat_cli.tasks.text.models import load_classifier, load_encoder, save_classifier
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE
from tests.architectures import tiny
from tests.conftest import VOCABULARY
from tests.recipes import quantization
from tests.stages.classifiers import THREE, logits, name_labels, task_with

QUANTIZATION = quantization()


@pytest.fixture
def ternary(model: PreTrainedModel, tiny_encoder: Path, tmp_path: Path) -> Path:
    """A folder in the form of `quantize`."""
    name_labels(model, THREE)
    task = task_with(THREE)
    save_classifier(model, AutoTokenizer.from_pretrained(tiny_encoder), tmp_path / "teacher", Record(kind="teacher"))
    teacher = load_classifier(tmp_path / "teacher")
    quantize_model(teacher.model, QUANTIZATION)
    freeze(teacher.model)
    settings = resolve(task.name, Params())
    assert settings.quantization == QUANTIZATION
    record = student_record("ternary", task, teacher, settings)
    save_classifier(teacher.model, teacher.tokenizer, tmp_path / "ternary" / "model", record)
    return tmp_path / "ternary"


@pytest.fixture
def packed(ternary: Path, tmp_path: Path) -> Path:
    """A folder in the form of `export`, with a packed model."""
    export(str(ternary), tmp_path / "packed")
    return tmp_path / "packed" / "model"


class TestLoadEncoder:
    def test_the_head_is_that_of_the_task(self, tiny_encoder: Path, tiny_task: Path) -> None:
        task = load_text_task(str(tiny_task / "tiny.yaml"))
        model, tokenizer = load_encoder(str(tiny_encoder), task)
        assert classifier_of(model).out_features == 2
        assert model.config.id2label == {0: "sad", 1: "glad"}
        assert model.config.problem_type == "single_label_classification"
        assert tokenizer("good film")["input_ids"][0] == tokenizer.cls_token_id
        regression, _ = load_encoder(str(tiny_encoder), task_with(None))
        assert classifier_of(regression).out_features == 1
        assert regression.config.problem_type == "regression"

    @pytest.mark.parametrize("labels", [THREE, THREE[:2]])
    @pytest.mark.parametrize("architecture", FAMILIES)
    def test_the_head_of_another_classifier_is_not_used(
        self, architecture: str, labels: list[str], tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = tiny(architecture, vocab_size=len(VOCABULARY))
        save_classifier(source, AutoTokenizer.from_pretrained(tiny_encoder), tmp_path / "other", Record(kind="teacher"))
        of_base = f"{source.base_model_prefix}."
        encoder = {name: values for name, values in source.state_dict().items() if name.startswith(of_base)}

        def head(seed: int) -> dict[str, torch.Tensor]:
            torch.manual_seed(seed)
            state = load_encoder(str(tmp_path / "other"), task_with(labels))[0].state_dict()
            assert all(torch.equal(state[name], values) for name, values in encoder.items())
            return {name: values for name, values in state.items() if name not in encoder}

        with caplog.at_level(logging.WARNING, "kdqat_cli"):
            first, again, other = head(1), head(1), head(2)
        assert [record.getMessage() for record in caplog.records if "has a classification head" in record.message] == [
            f"{tmp_path / 'other'} has a classification head; a new one is trained in its place."
        ] * 3
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)
        assert not any(torch.equal(values, source.state_dict()[name]) for name, values in first.items()), (
            "weights and biases; those of the source are not 0"
        )

    def test_a_missing_folder_names_the_command_that_makes_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MissingInputError, match="no model folder assets/encoder") as caught:
            load_encoder(EMBEDDED, task_with(THREE))
        assert caught.value.fix == "kdqat fetch"

    @pytest.mark.parametrize("name", ["./absent", "/absent/folder", "absent", "a/b/c"])
    def test_a_name_that_is_neither_folder_nor_hub_id_is_not_looked_up(self, name: str) -> None:
        with pytest.raises(MissingInputError, match=f"There is no model folder {name}"):
            load_encoder(name, task_with(THREE))

    def test_only_the_encoder_of_a_t5_is_used(self, tiny_encoder: Path, tmp_path: Path) -> None:
        """The sequence classifier of transformers would include the decoder."""
        config = T5Config(vocab_size=150, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "t5")
        model, tokenizer = load_encoder(str(tmp_path / "t5"), task_with(THREE))
        assert type(model) is T5EncoderForSequenceClassification
        assert classifier_of(model).out_features == 3
        assert list(model.config.id2label.values()) == THREE
        save_classifier(model.eval(), tokenizer, tmp_path / "teacher", Record(kind="teacher"))
        again = load_classifier(tmp_path / "teacher").model
        assert type(again) is type(model)
        batch = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
        assert torch.equal(logits(again, batch), logits(model, batch))


class TestLoadClassifier:
    def test_a_plain_folder(self, model: PreTrainedModel, tiny_encoder: Path, batch: Any, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
        loaded = load_classifier(tmp_path)
        assert (loaded.record, loaded.weights) == (Record(kind="plain"), tmp_path / "model.safetensors")
        assert not loaded.model.training
        assert not quantized_layers(loaded.model)
        assert torch.equal(logits(loaded.model, batch), logits(model, batch))

    def test_a_ternary_folder_is_quantised_again(self, model: PreTrainedModel, ternary: Path, batch: Any) -> None:
        """Both the folder of the stage and its model folder are accepted; the logits equal those before saving."""
        quantize_model(model, QUANTIZATION)
        freeze(model)
        for folder in (ternary, str(ternary / "model")):
            loaded = load_classifier(folder)
            assert loaded.record.kind == "ternary"
            assert loaded.record.inputs == Inputs(names=["input_ids", "attention_mask", "token_type_ids"])
            assert loaded.model.config.id2label == dict(enumerate(THREE))
            assert torch.equal(logits(loaded.model, batch), logits(model, batch))
        assert recorded_task(str(ternary)) == "tiny"

    def test_a_packed_folder_has_the_same_logits(self, ternary: Path, packed: Path, batch: Any) -> None:
        loaded, source = load_classifier(packed), load_classifier(ternary)
        assert (loaded.record.kind, loaded.weights) == ("packed", packed / FILE_NAME)
        assert torch.equal(logits(loaded.model, batch), logits(source.model, batch))
        assert loaded.tokenizer("a lovely film")["input_ids"] == source.tokenizer("a lovely film")["input_ids"]
        assert loaded.record.labels == THREE
        assert recorded_task(str(packed)) == recorded_task(str(packed.parent)) == "tiny"

    def test_another_tokenizer_is_refused(self, packed: Path) -> None:
        path = packed / TOKENIZER_FILE
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
        path.write_text(json.dumps(tokenizer), encoding="utf-8")
        with pytest.raises(MissingInputError, match="not the tokenizer") as caught:
            load_classifier(packed)
        assert caught.value.fix == "kdqat export"
        path.unlink()
        with pytest.raises(MissingInputError, match="not the tokenizer"):
            load_classifier(packed)

    def test_a_missing_folder_names_the_fix(self, tmp_path: Path) -> None:
        with pytest.raises(MissingInputError, match=f"There is no model folder {tmp_path / 'absent'}") as caught:
            load_classifier(tmp_path / "absent", "kdqat finetune-teacher --task tiny")
        assert caught.value.fix == "kdqat finetune-teacher --task tiny"
        assert caught.value.exit_code == 3
        (tmp_path / "notes.txt").touch()
        with pytest.raises(MissingInputError, match=r"no config\.json") as caught:
            load_classifier(tmp_path, "kdqat distill")
        assert caught.value.fix == "kdqat distill"

    @pytest.mark.parametrize("name", ["runs/rte/teacher", "absent", "./runs/teacher"])
    def test_a_name_without_the_form_of_a_hub_id_is_a_folder(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MissingInputError, match=f"There is no model folder {name}"):
            load_classifier(name, "kdqat quantize")

    def test_a_name_with_the_form_of_a_hub_id_is_searched_on_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(MissingInputError, match="the hub model of that name could not be loaded: HF_HUB_OFFLINE"):
            load_classifier("owner/teacher", "kdqat finetune-teacher")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("model.safetensors", b"damaged"),
            ("model.safetensors", b""),
            ("model.safetensors", None),
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("config.json", b"{}"),
            (TOKENIZER_FILE, b"{"),
            (ABOUT, b"{"),
            (ABOUT, b"[1]"),
            (ABOUT, b'{"quantization": {"weights": "binary"}}'),
        ],
    )
    def test_a_damaged_folder_is_refused(self, ternary: Path, name: str, content: bytes | None) -> None:
        path = ternary / "model" / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(KdqatError) as caught:
            load_classifier(ternary)
        assert caught.value.exit_code in (2, 3)

    def test_weights_of_another_size_are_refused(self, ternary: Path) -> None:
        path = ternary / "model" / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}), encoding="utf-8")
        with pytest.raises(MissingInputError):
            load_classifier(ternary)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_nan_or_infinite_weight_is_refused(self, ternary: Path, value: float) -> None:
        path, name = ternary / "model" / "model.safetensors", "bert.encoder.layer.1.output.LayerNorm.weight"
        state = load_file(path)
        state[name][0] = value
        save_file(state, path, {"format": "pt"})
        with pytest.raises(MissingInputError, match=f"the model's weight {name} is NaN or infinite"):
            load_classifier(ternary)

    def test_a_damaged_packed_file_is_refused(self, packed: Path) -> None:
        content = (packed / FILE_NAME).read_bytes()
        cut = (content[:-1], content[:100], b"")
        for damaged in (*cut, content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]):
            (packed / FILE_NAME).write_bytes(damaged)
            with pytest.raises(MissingInputError):
                load_classifier(packed)
            if damaged in cut:  # the record is read without the weights
                with pytest.raises(MissingInputError):
                    recorded_task(str(packed))

    @pytest.mark.parametrize("content", [None, b"{", b"{}", b'{"model_type": "bert"}'])
    def test_a_packed_folder_with_a_damaged_outline_is_refused(self, packed: Path, content: bytes | None) -> None:
        (packed / "config.json").unlink()
        if content is not None:
            (packed / "config.json").write_bytes(content)
        with pytest.raises(MissingInputError):
            load_classifier(packed)


class TestLoadTeacher:
    @pytest.mark.parametrize(("name", "what"), [("ternary", "a ternary student"), ("packed", "a packed student")])
    def test_a_student_is_refused_as_a_teacher(self, ternary: Path, packed: Path, name: str, what: str) -> None:
        folder = str(ternary if name == "ternary" else packed)
        with pytest.raises(ConfigError, match=f"{folder} holds {what}, not a teacher") as caught:
            load_teacher(folder, task_with(THREE))
        assert caught.value.fix == "--teacher runs/tiny/teacher"
        with pytest.raises(ConfigError, match=f"{folder} holds {what}, not an encoder"):
            load_encoder(folder, task_with(THREE))

    def test_a_teacher_has_its_labels_in_the_task_s_order(self, ternary: Path) -> None:
        folder = str(ternary.parent / "teacher")
        loaded = load_teacher(folder, task_with(THREE[::-1]))
        assert loaded.model.config.id2label == dict(enumerate(THREE[::-1]))
        assert torch.equal(loaded.model.classifier.bias, load_classifier(folder).model.classifier.bias.flip(0))

    def test_a_teacher_may_be_used_as_an_encoder(self, ternary: Path, tmp_path: Path) -> None:
        """Both the folder of the stage and its model folder are accepted; the head is kept if it fits."""
        (tmp_path / "stage").mkdir()
        (ternary.parent / "teacher").rename(tmp_path / "stage" / "model")
        model, _ = load_encoder(str(tmp_path / "stage"), task_with(THREE))
        source = load_classifier(tmp_path / "stage").model
        assert torch.equal(model.bert.pooler.dense.weight, source.bert.pooler.dense.weight)


class TestOwnTask:
    """A user's task is found again from the model."""

    @pytest.fixture
    def work(self, tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(tiny_task, tmp_path / "data")
        return tmp_path

    @pytest.mark.parametrize("ending", [".yaml", ".yml"])
    def test_a_file_in_the_working_folder_is_recorded_relative_to_it(self, work: Path, ending: str) -> None:
        (work / "data" / "tiny.yaml").rename(work / "data" / f"tiny{ending}")
        assert task_file(load_text_task(f"./data/tiny{ending}")) == f"data/tiny{ending}"
        assert task_file(load_text_task(str(work / "data" / f"tiny{ending}"))) == f"data/tiny{ending}"

    def test_a_file_elsewhere_is_recorded_as_it_is(self, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (work / "other").mkdir()
        monkeypatch.chdir(work / "other")
        assert task_file(load_text_task("../data/tiny.yaml")) == str((work / "data" / "tiny.yaml").resolve())

    def test_a_packaged_task_has_no_file(self) -> None:
        assert task_file(load_text_task("rte")) is None

    def test_a_teacher_s_record_has_it(self, rated_teacher: Path, rated_task: Path) -> None:
        assert recorded(rated_teacher).inputs == Inputs(names=["input_ids", "attention_mask", "token_type_ids"])
        assert recorded_task(str(rated_teacher)) == str(rated_task / "rated.yaml")

    def test_the_recorded_file_is_the_task(self, work: Path) -> None:
        record = Record(kind="teacher", task="tiny", task_file="data/tiny.yaml")
        (work / "model").mkdir()
        write_json(work / "model" / ABOUT, record.to_json())
        assert recorded_task("model") == "data/tiny.yaml"
        assert load_text_task(recorded_task("model") or "").folder == Path("data")
        (work / "data" / "tiny.yaml").unlink()
        with pytest.raises(
            MissingInputError, match=r"model was made for the task data/tiny.yaml, but that file does not exist"
        ) as caught:
            recorded_task("model")
        assert caught.value.fix == "--task FILE"


def test_an_exported_model_is_smaller(ternary: Path, packed: Path, tmp_path: Path) -> None:
    source = load_classifier(ternary)
    assert source.weights is not None
    full = size_figures(source.model, source.weights)
    small = size_figures(source.model, packed / FILE_NAME)
    parameters = sum(parameter.numel() for parameter in source.model.parameters())
    size = (packed / FILE_NAME).stat().st_size
    assert small == {
        "parameters": parameters,
        "bytes": size,
        "bits_per_weight": pytest.approx(8 * size / parameters, abs=5e-4),
        "ratio_to_fp32": pytest.approx(4 * parameters / size, abs=5e-3),
    }
    assert full["bits_per_weight"] >= 32
    assert small["bytes"] < full["bytes"]


def test_only_ternary_models_are_packed(ternary: Path, packed: Path, tmp_path: Path) -> None:
    for folder, what, fix in (
        (ternary.parent / "teacher", "holds a teacher; only a student", "kdqat distill --task TASK --teacher"),
        (packed, "is already packed", "kdqat export --student"),
    ):
        with pytest.raises(ConfigError, match=what) as caught:
            export(str(folder), tmp_path / "again")
        assert str(caught.value.fix).startswith(fix)
        assert not (tmp_path / "again").exists()


def test_code_in_a_model_folder_is_not_run(tmp_path: Path, tiny_encoder: Path, tiny_task: Path) -> None:
    """There is no question to the user about it, either."""
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": names}), encoding="utf-8"
    )
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(ConfigError, match="has the architecture 'mine', which kdqat does not know"):
        load_encoder(str(folder), load_text_task(str(tiny_task / "tiny.yaml")))
    assert not (tmp_path / "ran").exists()

"""Weights that do not fit: missing, left-over and wrongly sized tensors are named, and none gets random values."""

import json
import logging
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.tasks.records import recorded
from kdqat_cli.tasks.text.models import load_classifier, load_encoder
from tests.conftest import VOCABULARY
from tests.stages.classifiers import THREE, change_weights, copied, edit, name_labels, task_with

State = dict[str, Tensor]
TASK = task_with(THREE)
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return copied(tiny_encoder, tmp_path / "encoder")


@pytest.fixture
def classifier(model: PreTrainedModel, tiny_encoder: Path, tmp_path: Path) -> Path:
    name_labels(model, THREE)
    return saved(model, tiny_encoder, tmp_path / "classifier")


def saved(model: PreTrainedModel, tiny_encoder: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


def without(part: str) -> Callable[[State], State]:
    return lambda state: {name: values for name, values in state.items() if part not in name}


def with_copies(part: str, other: str) -> Callable[[State], State]:
    return lambda state: state | {name.replace(part, other): values for name, values in state.items() if part in name}


def with_relative_positions(state: State) -> State:
    return state | {"encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(127, 8)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            without("word_embeddings"),
            r"missing \(they would be random numbers\): bert.embeddings.word_embeddings.weight",
        ),
        (without("encoder.layer.1."), r"missing .*bert.encoder.layer.1.* and 13 more"),
        (without("pooler.dense.bias"), r"missing .*bert.pooler.dense.bias"),
        (with_copies("layer.2.", "layer.3."), r"left over: encoder.layer.3.* and 13 more"),
        (with_relative_positions, r"left over: encoder.layer.0.attention.self.distance_embedding.weight"),
        (lambda state: {f"module.{name}": values for name, values in state.items()}, r"left over: module.embeddings"),
        (
            lambda state: state | {"embeddings.LayerNorm.weight": torch.ones(30)},
            r"LayerNorm.weight is 30 instead of 32",
        ),
    ],
)
def test_an_incomplete_encoder_is_refused(encoder: Path, change: Callable[[State], State], sentence: str) -> None:
    change_weights(encoder, change)
    with pytest.raises(MissingInputError, match=f"encoder do not fit the bert model.*{sentence}"):
        load_encoder(str(encoder), TASK)


def test_the_prefix_of_a_wrapper_is_recognised(encoder: Path) -> None:
    change_weights(encoder, lambda state: {f"module.{name}": values for name, values in state.items()})
    with pytest.raises(MissingInputError) as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix is not None
    assert "module." in caught.value.fix


def test_a_checkpoint_of_a_training_is_recognised(encoder: Path) -> None:
    state = load_file(encoder / "model.safetensors")
    (encoder / "model.safetensors").unlink()
    torch.save({"state_dict": state, "epoch": 3}, encoder / "pytorch_model.bin")
    with pytest.raises(MissingInputError) as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix == "save the state_dict alone, not a dictionary with the keys epoch, state_dict"


def test_a_missing_shard_is_named(encoder: Path, tiny_encoder: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(tiny_encoder).save_pretrained(encoder, max_shard_size="20KB")
    (encoder / "model.safetensors").unlink()
    lost = sorted(encoder.glob("model-0*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(MissingInputError, match=lost.name) as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix == f"copy or download {lost.name} into {encoder}"


@pytest.mark.parametrize(("stem", "ending"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards_without_a_valid_index_are_reported(encoder: Path, stem: str, ending: str) -> None:
    (encoder / "model.safetensors").rename(encoder / f"{stem}-00001-of-00002.{ending}")
    index = encoder / f"{stem}.{ending}.index.json"
    with pytest.raises(MissingInputError, match=f"has the weights {stem}-00001.*, but no {index.name}") as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix == f"copy or download {index.name} into {encoder}"
    for content in ("", "[]", '{"weight_map": 3}'):
        index.write_text(content)
        with pytest.raises(MissingInputError, match=f"{index.name} is damaged") as caught:
            load_encoder(str(encoder), TASK)
        assert caught.value.fix == "copy or download the folder again"


def test_nan_and_infinite_weights_are_refused(encoder: Path) -> None:
    change_weights(encoder, lambda state: state | {"embeddings.LayerNorm.weight": torch.full((32,), torch.nan)})
    with pytest.raises(MissingInputError, match=r"LayerNorm.weight is NaN or infinite"):
        load_encoder(str(encoder), TASK)


def test_the_head_of_pretraining_is_left_out_with_a_remark(
    tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A masked language model has no pooler, either."""
    source = BertForMaskedLM(BertConfig(**SIZES))
    folder = saved(source, tiny_encoder, tmp_path / "mlm")
    with caplog.at_level(logging.WARNING, "kdqat_cli"):
        loaded, _ = load_encoder(str(folder), TASK)
    assert torch.equal(
        loaded.base_model.embeddings.word_embeddings.weight, source.bert.embeddings.word_embeddings.weight
    )
    assert [record.getMessage() for record in caplog.records if record.name.startswith("kdqat_cli")] == [
        f"{folder} has no pooler; a new one is trained with the head.",
        f"{folder}: cls.predictions.bias, cls.predictions.transform.LayerNorm.bias, "
        "cls.predictions.transform.LayerNorm.weight and 2 more are not used.",
    ]


def test_position_ids_and_a_pooler_that_is_not_used_are_left_out(tiny_encoder: Path, tmp_path: Path) -> None:
    source = RobertaModel(RobertaConfig(**SIZES, type_vocab_size=2, pad_token_id=0))
    folder = saved(source, tiny_encoder, tmp_path / "roberta")
    change_weights(folder, lambda state: state | {"embeddings.position_ids": torch.arange(512)[None]})
    loaded, _ = load_encoder(str(folder), TASK)
    words = loaded.base_model.embeddings.word_embeddings.weight
    assert torch.equal(words, source.embeddings.word_embeddings.weight)


def test_a_classifier_without_its_head_is_refused(tiny_encoder: Path, classifier: Path) -> None:
    """The source is an encoder, or a classifier without a part of its head."""
    with pytest.raises(MissingInputError, match=r"has no trained classification head: classifier.bias") as caught:
        load_classifier(tiny_encoder)
    assert caught.value.fix == f"kdqat finetune-teacher --task TASK --encoder {tiny_encoder}"
    change_weights(classifier, without("classifier.weight"))
    with pytest.raises(MissingInputError, match=r"has no trained classification head: classifier.weight would"):
        load_classifier(classifier)


def test_a_head_of_another_size_is_refused(classifier: Path) -> None:
    edit(classifier / "config.json", id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    with pytest.raises(MissingInputError, match=r"classifier.weight is 3×32 instead of 2×32"):
        load_classifier(classifier)


def test_an_encoder_of_another_size_is_refused(classifier: Path) -> None:
    edit(classifier / "config.json", intermediate_size=48)
    with pytest.raises(MissingInputError, match=r"bert.encoder.layer.0.intermediate.dense.bias is 64 instead of 48"):
        load_encoder(str(classifier), task_with(["no", "yes"]))


@pytest.mark.parametrize("load", [load_classifier, lambda folder: load_encoder(str(folder), TASK)])
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "albert"}, "has the architecture 'albert', which kdqat does not know; it knows bert, roberta"),
        ({"position_embedding_type": "relative_key"}, "has the position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is a decoder"),
        ({"layer_norm_eps": math.inf}, "is out of range: layer_norm_eps is inf"),
        ({"layer_norm_eps": -1.0}, "is out of range: layer_norm_eps is -1.0"),
        ({"hidden_size": 0}, "is out of range: hidden_size is 0"),
        ({"hidden_size": -32}, "is out of range: hidden_size is -32"),
        ({"num_attention_heads": 0}, "is out of range: num_attention_heads is 0"),
        ({"num_hidden_layers": 0}, "is out of range: num_hidden_layers is 0"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "holds weights that were quantised by 'gptq'"),
        ({"quantization_config": {}}, "holds weights that were quantised by None"),
        ({"hidden_act": "nope"}, "has the hidden_act 'nope', which transformers does not know"),
    ],
)
def test_unsupported_models_are_refused_before_their_weights_are_read(
    classifier: Path, load: Callable[[Path], Any], config: dict[str, Any], sentence: str
) -> None:
    edit(classifier / "config.json", **config)
    (classifier / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=f"{classifier} {sentence}"):
        load(classifier)


def test_every_known_architecture_is_named(classifier: Path) -> None:
    edit(classifier / "config.json", model_type="gpt2")
    with pytest.raises(ConfigError) as caught:
        load_encoder(str(classifier), TASK)
    for name in [*FAMILIES, "t5", "mt5"]:
        assert (name in caught.value.sentence) == (name != "kdqat-t5-encoder"), "one of kdqat's own names"


def test_an_adapter_is_not_a_model(encoder: Path) -> None:
    """transformers would load the adapter's base model, perhaps from the hub."""
    (encoder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x/y"}), encoding="utf-8")
    with pytest.raises(MissingInputError, match="holds an adapter"):
        load_encoder(str(encoder), TASK)
    (encoder / "config.json").unlink()
    for load in (load_classifier, recorded):
        with pytest.raises(MissingInputError, match="holds an adapter"):
            load(encoder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"layer_norm_eps": "1e-5"}, "The config.json of .*: .*'layer_norm_eps' expected float, got str"),
        (
            {"id2label": {"0": "yes"}, "label2id": {"yes": 0}},
            "is a classifier .*, but its id2label has only one output",
        ),
        ({"id2label": ["no", "yes"]}, r"has the id2label \['no', 'yes'\], which does not name the outputs"),
        ({"id2label": {"no": 0}}, "has the id2label .*, which does not name the outputs"),
        ({"problem_type": "odd"}, "has the problem_type 'odd'"),
        ({"model_type": None}, "has no model: it has no config.json with a model_type"),
    ],
)
def test_a_faulty_configuration_is_reported_plainly(classifier: Path, config: dict[str, Any], sentence: str) -> None:
    edit(classifier / "config.json", **{"problem_type": "single_label_classification"} | config)
    with pytest.raises(KdqatError, match=sentence):
        load_classifier(classifier)


@pytest.mark.parametrize("content", ["[]", "5", "{", ""])
def test_a_configuration_that_is_not_a_json_object_is_refused(classifier: Path, content: str) -> None:
    (classifier / "config.json").write_text(content)
    with pytest.raises(MissingInputError, match=r"config\.json of .*classifier"):
        load_classifier(classifier)


@pytest.mark.parametrize("load", [load_classifier, lambda folder: load_encoder(str(folder), TASK), recorded])
def test_a_folder_without_a_model_is_reported(classifier: Path, tmp_path: Path, load: Callable[[Path], Any]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(MissingInputError, match=r"The folder .*run is empty\."):
        load(folder)
    (folder / "trainer_state.json").write_text("{}")
    with pytest.raises(MissingInputError, match=r"The folder .*run has no model: it has no config.json"):
        load(folder)
    for name in ("checkpoint-9", "checkpoint-10", "1_Pooling"):
        shutil.copytree(classifier, folder / name)
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "mean"}')
    with pytest.raises(MissingInputError, match=r"has no model: .* Its folder checkpoint-10 has one\.") as caught:
        load(folder)
    assert caught.value.fix == f"the same command with {folder / 'checkpoint-10'}"


def test_the_encoder_in_a_folder_of_sentence_transformers_is_named(encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder, tmp_path / "st/0_Transformer")
    (tmp_path / "st/config.json").write_text('{"__version__": {"sentence_transformers": "2.2.0"}}')
    with pytest.raises(MissingInputError, match=r"has no model: .* Its folder 0_Transformer has one\."):
        load_encoder(str(tmp_path / "st"), TASK)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "vocab.txt"])
def test_a_pointer_of_git_lfs_is_not_the_file(encoder: Path, name: str) -> None:
    if name == "vocab.txt":
        (encoder / "tokenizer.json").unlink()
    (encoder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4711\n")
    with pytest.raises(MissingInputError, match=rf"{name} is a pointer of Git LFS, not the file itself\.") as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix == "git lfs pull"


def test_a_pointer_in_place_of_an_unused_file_does_no_harm(encoder: Path) -> None:
    (encoder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n")
    load_encoder(str(encoder), TASK)


def test_weights_that_cannot_be_read(encoder: Path) -> None:
    weights = encoder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MissingInputError, match=r"The weights of .*: a .safetensors file is truncated or damaged"):
        load_encoder(str(encoder), TASK)
    weights.unlink()
    with pytest.raises(MissingInputError, match=r"it has no weights \(model.safetensors or pytorch_model.bin\)"):
        load_encoder(str(encoder), TASK)
    (encoder / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    with pytest.raises(MissingInputError, match="contains Python objects, which kdqat does not load") as caught:
        load_encoder(str(encoder), TASK)
    assert "weights_only" not in f"{caught.value.sentence} {caught.value.fix}"


@pytest.mark.parametrize("load", [load_classifier, lambda folder: load_encoder(str(folder), TASK)])
def test_weights_without_a_meaning_are_refused(classifier: Path, load: Callable[[Path], Any]) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    good = load_file(classifier / "model.safetensors")[name]
    for bad, told in (
        (good.index_fill(0, torch.tensor([3]), math.nan), f"{name} is NaN or infinite"),
        (good.to(torch.int8), rf"model.safetensors holds {name} as I8, not as floating-point"),
        (good.to(torch.complex64), f"{name} as C64"),
    ):
        change_weights(classifier, lambda state, bad=bad: state | {name: bad})  # type: ignore[misc]
        with pytest.raises(MissingInputError, match=told) as caught:
            load(classifier)
        assert caught.value.fix is not None
    change_weights(classifier, lambda state: state | {name: good, "bert.embeddings.position_ids": torch.arange(64)})
    load(classifier)


@pytest.mark.parametrize(
    ("name", "told"),
    [("a\nb", r"left over: 'a\\nb'\."), ("", r"left over: ''\."), ("x" * 5000, r"left over: 'x+\.\.\.x+'\.")],
)
def test_unusual_names_of_tensors_are_shown_on_one_line(encoder: Path, name: str, told: str) -> None:
    change_weights(encoder, lambda state: state | {name: torch.ones(1)})
    with pytest.raises(MissingInputError, match=told) as caught:
        load_encoder(str(encoder), TASK)
    assert caught.value.fix == "model.save_pretrained(FOLDER), in the program that trained the model"

"""Tokenizers that are missing or do not fit their encoder, and the settings of those that fit."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from kdqat_cli.engine.student import native_student
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.families import FAMILIES
from kdqat_cli.networks.loading import Source, load_config
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Batches, Inputs
from kdqat_cli.tasks.text.inference import Predictor, tokenize
from kdqat_cli.tasks.text.models import load_classifier, load_encoder
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE, inputs_of
from kdqat_cli.tasks.text.rows import row_length
from kdqat_cli.tasks.text.tokenizers import load_tokenizer
from tests.architectures import tiny
from tests.conftest import VOCABULARY
from tests.recipes import quantization
from tests.stages.classifiers import THREE, copied, edit, name_labels, task_with

TASK = task_with(THREE)
CONFIG = "tokenizer_config.json"
TEXTS = [
    "bad",
    "a great film and a good story , brave and warm",
    "the plot",
    "漢 the 漢 film",
    "dull music with weak actor .",
]


@pytest.fixture
def classifier(model: PreTrainedModel, tiny_encoder: Path, tmp_path: Path) -> Path:
    name_labels(model, THREE)
    model.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.fixture
def roberta(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A RoBERTa with one token type and the tokenizer of BERT, whose padding is 0; the configuration says 1."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = RobertaConfig(
        **sizes,
        vocab_size=len(VOCABULARY),
        intermediate_size=40,
        max_position_embeddings=22,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=3,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def fitted(folder: Path, inputs: Inputs | None = None) -> Any:
    source = Source.find(str(folder))
    return load_tokenizer(source, load_config(source), inputs)


def rows_of(tokenizer: Any, length: int = 64) -> Dataset:
    return tokenize(Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)}), tokenizer, length)


class TestFiles:
    @pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "t5"])
    @pytest.mark.parametrize("named", [True, False])
    def test_without_tokenizer_files_no_vocabulary_is_invented(
        self, tiny_encoder: Path, tmp_path: Path, architecture: str, named: bool
    ) -> None:
        folder = copied(tiny_encoder, tmp_path / "encoder", model_type=architecture, architectures=None)
        (folder / TOKENIZER_FILE).unlink()
        if not named:
            (folder / CONFIG).unlink()
        with pytest.raises(MissingInputError, match=r"encoder has no tokenizer(\.json| files)"):
            load_encoder(str(folder), TASK)

    def test_a_list_of_words_is_enough_for_bert(self, tiny_encoder: Path, tmp_path: Path) -> None:
        folder = copied(tiny_encoder, tmp_path / "encoder")
        expected = AutoTokenizer.from_pretrained(folder)("a great film")["input_ids"]
        (folder / TOKENIZER_FILE).unlink()
        (folder / CONFIG).unlink()
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        assert fitted(folder)("a great film")["input_ids"] == expected

    def test_roberta_needs_its_merges_too(self, roberta: Path) -> None:
        (roberta / TOKENIZER_FILE).unlink()
        (roberta / CONFIG).unlink()
        words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "ab"]
        (roberta / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        with pytest.raises(MissingInputError, match=r"has no tokenizer.json.*vocab.*merges"):
            fitted(roberta)
        (roberta / "merges.txt").write_text("#version: 0.2\na b\n")
        assert fitted(roberta)("ab")["input_ids"] == [0, 7, 2]

    @pytest.mark.parametrize("content", ["{", '{"version": "1.0", "model": {"type": "Sixth"}}', ""])
    def test_a_damaged_file_is_named(self, classifier: Path, content: str) -> None:
        (classifier / TOKENIZER_FILE).write_text(content)
        with pytest.raises(MissingInputError, match=f"The tokenizer of {classifier} could not be loaded"):
            load_classifier(classifier)

    def test_the_same_checks_apply_to_kdqats_models(self, classifier: Path) -> None:
        (classifier / TOKENIZER_FILE).unlink()
        with pytest.raises(MissingInputError, match=r"has no tokenizer.json"):
            load_classifier(classifier)


class TestVocabulary:
    def test_a_token_without_an_embedding_is_refused(self, classifier: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(classifier)
        tokenizer.add_tokens(["[URL]"])
        tokenizer.save_pretrained(classifier)
        count = len(VOCABULARY)
        with pytest.raises(
            ConfigError, match=rf"has {count + 1} tokens \(the last is '\[URL\]'\), but .* only {count}"
        ):
            load_classifier(classifier)
        with pytest.raises(ConfigError, match=rf"has {count + 1} tokens"):
            load_encoder(str(classifier), TASK)

    def test_embeddings_without_a_token_are_accepted(self, tmp_path: Path, tiny_encoder: Path) -> None:
        model = tiny("bert", vocab_size=192)
        model.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
        assert len(load_classifier(tmp_path).tokenizer) == len(VOCABULARY) < 192


class TestCase:
    """A vocabulary with capitals. BERT's class in transformers lower-cases texts unless a setting prevents it."""

    @pytest.fixture
    def cased(self, tiny_encoder: Path, tmp_path: Path) -> Path:
        """A folder with only a vocab.txt."""
        folder = copied(tiny_encoder, tmp_path / "encoder", vocab_size=len(VOCABULARY) + 1)
        (folder / TOKENIZER_FILE).unlink()
        (folder / CONFIG).unlink()
        (folder / "vocab.txt").write_text("\n".join([*VOCABULARY, "Good"]) + "\n", encoding="utf-8")
        return folder

    def test_the_vocabulary_alone_does_not_determine_the_case(self, cased: Path) -> None:
        with pytest.raises(MissingInputError, match=r"vocab.txt has 'Good', but no .* says do_lower_case") as caught:
            fitted(cased)
        assert caught.value.fix is not None
        assert '{"do_lower_case": false} in ' in caught.value.fix

    @pytest.mark.parametrize("lower", [True, False])
    def test_a_given_setting_applies(self, cased: Path, caplog: pytest.LogCaptureFixture, lower: bool) -> None:
        (cased / CONFIG).write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lower}))
        with caplog.at_level(logging.WARNING, "kdqat_cli"):
            assert (fitted(cased).tokenize("Good") == ["Good"]) is not lower
        told = [record for record in caplog.records if record.name.startswith("kdqat_cli")]
        assert len(told) == lower
        if lower:
            assert "makes lower case of texts, as its files say, but its vocabulary has 'Good'" in told[0].getMessage()

    def test_tokenizer_json_alone_determines_the_case(self, cased: Path, tmp_path: Path) -> None:
        written = self.written(cased, lower=False)
        assert AutoTokenizer.from_pretrained(cased).tokenize("Good") != ["Good"], "the tokens of transformers"
        tokenizer = fitted(cased)
        for text in ("Good", "A Good film ( 123 ), the Plot", "漢film"):
            assert tokenizer(text)["input_ids"] == written.encode(text).ids
        assert (tokenizer.pad_token, tokenizer.model_max_length) == ("[PAD]", 64)
        assert inputs_of(tokenizer).names == inputs_of(AutoTokenizer.from_pretrained(cased)).names
        tokenizer.save_pretrained(tmp_path / "saved")
        assert AutoTokenizer.from_pretrained(tmp_path / "saved").tokenize("Good") == ["Good"]

    def test_files_that_contradict_each_other_are_refused(self, cased: Path) -> None:
        self.written(cased, lower=False)
        (cased / CONFIG).write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
        with pytest.raises(MissingInputError, match=r"has do_lower_case true, but tokenizer.json has lowercase false"):
            fitted(cased)

    def test_every_other_part_of_the_file_applies_too(self, cased: Path) -> None:
        written = self.written(cased, lower=False)
        written.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        written.save(str(cased / TOKENIZER_FILE))
        assert fitted(cased)("good,Good")["input_ids"] == written.encode("good,Good").ids
        assert len(fitted(cased)("good,Good")["input_ids"]) == 3, "one unknown piece"

    def written(self, folder: Path, lower: bool) -> Tokenizer:
        """Replaces the vocabulary by a tokenizer.json."""
        tokenizer = BertTokenizer(dict(zip([*VOCABULARY, "Good"], range(1000), strict=False)), do_lower_case=lower)
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
        (folder / "vocab.txt").unlink()
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE))


class TestPadding:
    def test_the_padding_token_of_the_configuration_is_used(self, classifier: Path) -> None:
        edit(classifier / CONFIG, pad_token=None)
        assert AutoTokenizer.from_pretrained(classifier).pad_token is None
        assert fitted(classifier).pad_token == "[PAD]"

    def test_an_ordinary_token_is_not_used_as_padding(self, classifier: Path) -> None:
        edit(classifier / CONFIG, pad_token=None)
        edit(classifier / "config.json", pad_token_id=VOCABULARY.index("film"))
        with pytest.raises(MissingInputError, match="names no padding token") as caught:
            load_classifier(classifier)
        assert caught.value.fix is not None
        assert "tokenizer_config.json" in caught.value.fix

    @pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"model_input_names": ["input_ids"]}])
    def test_an_answer_does_not_depend_on_batch_mates(self, classifier: Path, changes: dict[str, Any]) -> None:
        edit(classifier / CONFIG, **changes)
        loaded = load_classifier(classifier)
        rows, predictor = rows_of(loaded.tokenizer), Predictor(loaded.model)
        together = predictor.logits(rows, loaded.tokenizer)
        alone = predictor.logits(rows, loaded.tokenizer, Batches(size=1))
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)

    def test_another_padding_token_than_in_the_configuration(self, roberta: Path) -> None:
        """Positions are counted from the configuration's padding id, as in the training; in torch and in the engine."""
        loaded = load_classifier(roberta)
        rows = rows_of(loaded.tokenizer)
        assert any(1 in ids for ids in rows["input_ids"]), "the token with the padding id of the configuration"
        alone = Predictor(loaded.model).logits(rows, loaded.tokenizer, Batches(size=1))
        together = Predictor(loaded.model).logits(rows, loaded.tokenizer)
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
        assert np.abs(alone - alone.mean(0)).max() > 0.1, "the logits depend on the texts"
        quantize_model(loaded.model, quantization())
        freeze(loaded.model)
        engine = native_student(loaded.model)
        assert engine is not None
        served = engine.logits([(ids, None) for ids in rows["input_ids"]])
        with torch.no_grad():
            torch_alone = [loaded.model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in rows["input_ids"]]
        np.testing.assert_allclose(served, np.stack(torch_alone), rtol=1e-2, atol=1e-2)

    def test_positions_without_a_padding_token_are_refused(self, roberta: Path) -> None:
        content = json.loads((roberta / "config.json").read_text())
        (roberta / "config.json").write_text(json.dumps(content | {"pad_token_id": None}))
        with pytest.raises(ConfigError, match="has the pad_token_id None"):
            load_classifier(roberta)


class TestInputs:
    def test_token_types_are_left_out_if_there_is_only_one(self, roberta: Path) -> None:
        """The tokenizer of BERT gives type 1 to the second text, and there is no embedding 1."""
        tokenizer = fitted(roberta)
        assert set(tokenizer("a film", "the plot")) == {"input_ids", "attention_mask"}
        assert inputs_of(tokenizer) == Inputs(names=["input_ids", "attention_mask"])

    def test_token_types_are_left_out_if_the_tokenizer_has_none(self, classifier: Path) -> None:
        edit(classifier / CONFIG, model_input_names=["attention_mask", "input_ids"])
        assert set(fitted(classifier)("a film", "the plot")) == {"input_ids", "attention_mask"}

    def test_a_token_type_without_an_embedding_is_refused(self, classifier: Path) -> None:
        content = (classifier / TOKENIZER_FILE).read_text(encoding="utf-8")
        changed = content.replace('"type_id":1', '"type_id":2').replace('"type_id": 1', '"type_id": 2')
        assert changed != content
        (classifier / TOKENIZER_FILE).write_text(changed, encoding="utf-8")
        with pytest.raises(ConfigError, match="gives the token type 2, but the encoder has 2 token types"):
            load_classifier(classifier)

    def test_the_truncation_side_is_kept_and_recorded(self, classifier: Path) -> None:
        edit(classifier / CONFIG, truncation_side="left")
        tokenizer = fitted(classifier)
        assert inputs_of(tokenizer).truncation_side == "left"
        whole, cut = (rows_of(tokenizer, length)[1]["input_ids"] for length in (64, 6))
        assert cut == [whole[0], *whole[-5:]]

    def test_recorded_inputs_have_precedence(self, classifier: Path) -> None:
        recorded = Inputs(names=["input_ids", "attention_mask"], truncation_side="left")
        tokenizer = fitted(classifier, recorded)
        assert inputs_of(tokenizer) == recorded


class TestPositions:
    @pytest.mark.parametrize("architecture", FAMILIES)
    def test_a_row_may_be_as_long_as_the_table_of_positions(self, architecture: str) -> None:
        model = tiny(architecture)
        limit = FAMILIES[architecture].longest_row(model.config.to_dict())
        if limit is None:
            assert architecture == "kdqat-t5-encoder"
            model(input_ids=torch.full((1, 300), 7))
            return
        assert model(input_ids=torch.full((1, limit), 7)).logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 7))

    @pytest.mark.parametrize("says", [None, 22, 10**30, 16])
    def test_the_limit_of_the_tokenizer_is_at_most_that_of_the_table(self, roberta: Path, says: int | None) -> None:
        edit(roberta / CONFIG, model_max_length=says)
        tokenizer = fitted(roberta)
        limit = min(20, says or 20)  # 22 positions; padding and the position before it take two
        assert tokenizer.model_max_length == limit
        assert row_length(TASK, tokenizer, None) == limit
        with pytest.raises(ConfigError, match=f"at most {limit} tokens, not 64") as caught:
            row_length(TASK, tokenizer, 64)
        assert caught.value.fix == f"--max-length {limit}"

    def test_a_row_has_room_for_text(self, roberta: Path) -> None:
        tokenizer = fitted(roberta)
        assert TASK.pairs
        assert row_length(TASK, tokenizer, 5) == 5
        with pytest.raises(ConfigError, match="no room for two texts beside the 3 special tokens") as caught:
            row_length(TASK, tokenizer, 4)
        assert caught.value.fix == "--max-length 5"

    def test_a_record_of_longer_rows_is_refused(self, classifier: Path) -> None:
        (classifier / "kdqat.json").write_text('{"version": 1, "kind": "teacher", "max_length": 65}')
        with pytest.raises(MissingInputError, match="was made for rows of 65 tokens, but reads at most 64"):
            load_classifier(classifier)

"""GGUF files: blocks by hand and by the gguf package; the slow tests run llama.cpp."""

import copy
import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, RobertaTokenizerFast

from kdqat_cli.errors import ConfigError, GateError
from kdqat_cli.exporters import gguf_file, gguf_run
from kdqat_cli.exporters.gguf_file import encode
from kdqat_cli.exporters.gguf_vocabulary import added_tokens
from kdqat_cli.quantizers.codes import MATRIX, ROW, Codes
from tests.conftest import VOCABULARY
from tests.exporters.students import logits, student, unrounded

gguf = pytest.importorskip("gguf", reason="pip install gguf")
SENTENCES = ["a great film and a good story", "the plot", "bad", "dull music with weak actor .", "it was"]


@pytest.fixture(scope="session")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def random_weight(rows: int, columns: int, row_scales: bool) -> Codes:
    draw = torch.Generator().manual_seed(columns)
    levels = torch.randint(-1, 2, (rows, columns), generator=draw).to(torch.int8)
    scales = torch.rand(rows if row_scales else 1, generator=draw) + 0.01
    return Codes(levels, scales, ROW if row_scales else MATRIX)


def test_tq2_bytes_by_hand() -> None:
    """Byte i of the first 32 has the codes i, i + 32, i + 64 and i + 96, each plus 1, the first in the lowest bits."""
    levels = torch.zeros(1, 256, dtype=torch.int8)
    levels[0, 0], levels[0, 32], levels[0, 96], levels[0, 128] = 1, -1, 1, -1
    kind, blocks = encode(Codes(levels, torch.tensor([0.5]), MATRIX), "TQ2_0", "w")
    assert (kind, blocks.shape) == ("TQ2_0", (1, 66))
    assert blocks[0, 0] == 0b10_01_00_10
    assert blocks[0, 32] == 0b01_01_01_00
    assert set(blocks[0, 1:32]) == {0b01_01_01_01}
    assert blocks[0, 64:].tobytes() == np.float16(0.5).tobytes()


def test_q4_bytes_by_hand() -> None:
    levels = torch.zeros(1, 32, dtype=torch.int8)
    levels[0, 0], levels[0, 16], levels[0, 31] = 1, -1, 1
    kind, blocks = encode(Codes(levels, torch.tensor([0.5]), MATRIX), "TQ2_0", "w")
    assert (kind, blocks.shape) == ("Q4_0", (1, 18))
    assert blocks[0, :2].tobytes() == np.float16(0.5).tobytes()
    assert blocks[0, 2:].tolist() == [0x79, *[0x88] * 14, 0x98]


@pytest.mark.parametrize("row_scales", [True, False])
@pytest.mark.parametrize(
    ("columns", "trits", "expected"), [(512, "TQ1_0", "TQ1_0"), (256, "TQ2_0", "TQ2_0"), (96, "TQ1_0", "Q4_0")]
)
def test_every_type_holds_the_codes_exactly(columns: int, trits: str, expected: str, row_scales: bool) -> None:
    weight = random_weight(5, columns, row_scales)
    kind, blocks = encode(weight, trits, "w")
    assert kind == expected
    values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    scales = weight.scales[:, None].expand(5, 1).half().float().numpy()
    assert np.array_equal(values, weight.levels.numpy() * scales)


def test_a_row_of_zeros_stays_zero() -> None:
    weight = Codes(torch.zeros(2, 256, dtype=torch.int8), torch.zeros(2), ROW)
    values = gguf.quants.dequantize(encode(weight, "TQ2_0", "w")[1], gguf.GGMLQuantizationType.TQ2_0)
    assert not values.any()


def test_rows_that_do_not_fill_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="w has rows of 40 weights; GGUF's blocks hold 256 or 32"):
        encode(random_weight(2, 40, False), "TQ2_0", "w")


def test_the_fields_of_the_file(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = student("bert", intermediate_size=256, vocab_size=len(VOCABULARY))
    model.config.id2label = {0: "sad", 1: "schön", 2: "so so"}
    gguf_file.write(model, tokenizer, tmp_path, "TQ1_0")
    reader = gguf.GGUFReader(tmp_path / gguf_file.FILE)
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "bert"
    assert said["bert.classifier.output_labels"] == ["sad", "schön", "so so"]
    assert said["bert.pooling_type"] == gguf.PoolingType.RANK
    assert said["bert.attention.causal"] is False
    assert said["tokenizer.ggml.normalizer.lowercase"] is True
    words = said["tokenizer.ggml.tokens"]
    assert words[: len(VOCABULARY)][2] == "[CLS]"
    assert words[VOCABULARY.index("great")] == "\u2581great"
    assert words[VOCABULARY.index("##a")] == "a"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert (kinds["blk.1.ffn_down.weight"], kinds["blk.1.ffn_up.weight"]) == ("TQ1_0", "Q4_0")
    assert (kinds["token_embd.weight"], kinds["cls.weight"]) == ("Q4_0", "Q4_0")
    assert kinds["cls.output.weight"] == "F32"
    state = model.state_dict()
    assert len(kinds) == len(state)
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert np.array_equal(found["cls.output.bias"], state["classifier.bias"].numpy())
    assert np.array_equal(found["position_embd.weight"], state["bert.embeddings.position_embeddings.weight"].numpy())


def test_the_positions_of_roberta_start_after_padding(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    model = student("roberta", pad_token_id=1, intermediate_size=64, vocab_size=len(VOCABULARY))
    gguf_file.write(model, tokenizer, tmp_path, "TQ2_0")
    reader = gguf.GGUFReader(tmp_path / gguf_file.FILE)
    (positions,) = [tensor.data for tensor in reader.tensors if tensor.name == "position_embd.weight"]
    assert np.array_equal(positions, model.roberta.embeddings.position_embeddings.weight[2:].detach().numpy())
    assert reader.fields["bert.context_length"].contents() == 38


@pytest.mark.parametrize("architecture", ["electra", "distilbert", "mpnet", "kdqat-t5-encoder"])
def test_models_that_llama_cpp_does_not_support_are_refused(
    architecture: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"no classifier of the type {architecture}, but has bert, roberta") as caught:
        gguf_file.write(student(architecture), tokenizer, tmp_path, "TQ2_0")
    assert caught.value.fix == "--format onnx"


def test_another_activation_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this model has relu"):
        gguf_file.write(student("bert", hidden_act="relu"), tokenizer, tmp_path, "TQ2_0")


def written(tokenizer: PreTrainedTokenizerBase, folder: Path, rows: int) -> dict[str, Any]:
    """The fields of a GGUF file with `rows` embeddings about a tokenizer."""
    model = student("bert", vocab_size=rows, pad_token_id=tokenizer.pad_token_id, hidden_size=96, intermediate_size=96)
    gguf_file.write(model, tokenizer, folder, "TQ2_0")
    fields = gguf.GGUFReader(folder / gguf_file.FILE).fields
    return {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in fields.items()}


def retold(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer with changes in its tokenizer.json."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) | changes
    copied = copy.deepcopy(tokenizer)
    copied._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(backend))
    return copied


BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
LOWER, STRIP, NFD = {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "NFD"}


def sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(normalizers)}


NORMALIZERS: list[tuple[dict[str, Any] | None, bool, bool]] = [
    (None, False, False),
    ({**BERT, "lowercase": True, "strip_accents": None}, True, True),
    ({**BERT, "lowercase": True, "strip_accents": False}, True, False),
    ({**BERT, "lowercase": False, "strip_accents": None}, False, False),
    ({**BERT, "lowercase": False, "strip_accents": True}, False, True),
    (sequence(NFD, LOWER, STRIP), True, True),
    (sequence(LOWER), True, False),
    (sequence(NFD, STRIP), False, True),
    (sequence({"type": "NFC"}, {**BERT, "lowercase": True, "strip_accents": None}), True, True),
    (sequence(sequence(NFD, sequence(LOWER)), STRIP), True, True),
    (sequence(), False, False),
]


@pytest.mark.parametrize(("normalizer", "lowercase", "strip"), NORMALIZERS)
def test_every_form_of_a_normaliser_is_read(
    normalizer: dict[str, Any] | None, lowercase: bool, strip: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    told = written(retold(tokenizer, normalizer=normalizer), tmp_path, len(tokenizer))
    assert (told["normalizer.lowercase"], told["normalizer.strip_accents"]) == (lowercase, strip)


@pytest.mark.parametrize("kind", ["NFKC", "Nmt"])
def test_a_normaliser_that_llama_cpp_does_not_have_is_refused(
    kind: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for normalizer in ({"type": kind}, sequence(LOWER, {"type": kind})):
        with pytest.raises(ConfigError, match=f"llama.cpp's WordPiece has no normaliser {kind}") as told:
            written(retold(tokenizer, normalizer=normalizer), tmp_path, len(tokenizer))
        assert told.value.fix == "--format onnx"
    lowered = retold(bpe(tmp_path), normalizer=LOWER)
    with pytest.raises(ConfigError, match=r"llama.cpp's BPE has no normaliser Lowercase"):
        written(lowered, tmp_path, len(lowered))


def test_added_tokens_keep_their_text_and_have_their_own_type(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """llama.cpp searches for them literally in the text, so a word mark or a lost prefix would hide them."""
    added = copy.deepcopy(tokenizer)
    added.add_tokens(["[URL]", "##odd"])
    added.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    told = written(added, tmp_path, len(added) + 3)
    tail = slice(len(tokenizer), None)
    assert told["tokens"][tail] == ["[URL]", "##odd", "<turn>", *(f"[PAD{len(added) + more}]" for more in range(3))]
    assert told["token_type"][tail] == [4, 4, 3, 5, 5, 5]
    assert added_tokens(added) == ["[URL]", "##odd"]
    assert added_tokens(tokenizer) == []
    word = VOCABULARY.index("film")
    assert (told["tokens"][word], told["token_type"][word]) == ("\u2581film", 1)


def test_more_tokens_than_embeddings_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    added = copy.deepcopy(tokenizer)
    added.add_tokens(["[URL]", "[USER]"])
    with pytest.raises(
        ConfigError, match=rf"token '\[USER\]' of the tokenizer has the id {len(tokenizer) + 1}, but the model has"
    ):
        written(added, tmp_path, len(tokenizer) + 1)


def test_tokens_that_are_equal_for_llama_cpp_are_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """llama.cpp would abort while it loads the file."""
    added = copy.deepcopy(tokenizer)
    piece = next(token for token in VOCABULARY if token.startswith("##"))
    added.add_tokens([piece.removeprefix("##")])
    with pytest.raises(ConfigError, match=f"llama.cpp cannot distinguish the tokens '{piece}' and '{piece[2:]}'"):
        written(added, tmp_path, len(added))


def test_pairs_with_different_token_types_are_refused(tmp_path: Path) -> None:
    ones = np.ones((1, 3), dtype=np.int64)
    with pytest.raises(ConfigError, match="gives every token the type 0"):
        gguf_run.logits(tmp_path, [{"input_ids": ones, "attention_mask": ones, "token_type_ids": ones}])


def bpe(folder: Path) -> PreTrainedTokenizerBase:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        SENTENCES * 3, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    )
    trained.save_model(str(folder))
    return RobertaTokenizerFast.from_pretrained(folder)


def sizes(width: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }


def _killed(_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refusing(path: Path) -> None:
    raise ConfigError(f"{path} is refused.", "another")


def test_a_crash_of_llama_cpp_is_a_failed_gate_and_its_errors_are_shown(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"llama.cpp crashed on model.gguf"):
        gguf_run.apart(_killed, tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match=r"model.gguf is refused") as refused:
        gguf_run.apart(_refusing, tmp_path / "model.gguf")
    assert refused.value.fix == "another"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "width", "trits"),
    [("bert", 256, "TQ2_0"), ("bert", 256, "TQ1_0"), ("bert", 96, "TQ2_0"), ("roberta", 256, "TQ2_0")],
)
def test_llama_cpp_computes_the_student(
    architecture: str, width: int, trits: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    lib = pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python")
    tokenizer = bpe(tmp_path) if architecture == "roberta" else tokenizer
    model: PreTrainedModel = student(architecture, **sizes(width, tokenizer))
    model.config.id2label = {0: "sad", 1: "schön", 2: "so so"}
    gguf_file.write(model, tokenizer, tmp_path, trits)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    (found,) = gguf_run.logits(tmp_path, [{name: values.numpy() for name, values in batch.items()}])
    expected = logits(unrounded(model), batch).numpy()
    # The differences come from 8-bit inputs, FP16 keys and values, and GELU from a table, on weights ten times BERT's.
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert expected.std(0).min() > 0.1, "the logits depend on the tokens"

    with closing(gguf_run.LlamaClassifier(tmp_path / gguf_file.FILE, 64, 1)) as classifier:
        loaded = classifier.model
        assert [lib.llama_model_cls_label(loaded, label).decode() for label in range(classifier.labels)] == [
            "sad",
            "schön",
            "so so",
        ]
    assert gguf_run.tokens(tmp_path, SENTENCES) == tokenizer(SENTENCES)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize(("normalizer", "lowercase", "strip"), [case for case in NORMALIZERS if case[0] is not None])
def test_llama_cpp_splits_texts_as_the_tokenizer_does(
    normalizer: dict[str, Any], lowercase: bool, strip: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python")
    added = copy.deepcopy(tokenizer)
    added.add_tokens([AddedToken("[URL]", normalized=False)])
    added.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    added = retold(added, normalizer=normalizer)
    texts = [*SENTENCES, "A Great Film", "thé plot", "[URL] was bad[URL]", "the <turn> plot [SEP]", "", "film " * 50]
    written(added, tmp_path, len(added))
    found = gguf_run.tokens(tmp_path, texts)
    expected = added(texts)["input_ids"]
    differing = [text for text, ids, other in zip(texts, expected, found, strict=True) if ids != other]
    assert differing == []
    assert (expected[5] == added("a great film")["input_ids"]) == lowercase
    assert (expected[6] == added("the plot")["input_ids"]) == strip

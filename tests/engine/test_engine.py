"""Whole models: the engine's logits equal those of torch for the packed model, with every architecture and kernel."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import kdqat_cli.native.library
from kdqat_cli.engine.engine import Engine
from kdqat_cli.engine.row import Row
from kdqat_cli.errors import ConfigError
from kdqat_cli.native import MOST_THREADS, fused
from kdqat_cli.native.library import KERNEL_VARIABLE, LIBRARY_VARIABLE, TORCH, kernels, library
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantizers.parameters import freeze
from kdqat_cli.record import Record
from tests.architectures import LABELS, WORDS, tiny
from tests.commands import run
from tests.recipes import quantization

native = pytest.mark.skipif(not kernels(), reason="the native library was not built")

LENGTHS = [7, 1, 30, 12, 12, 2, 25, 38, 17, 5, 9, 20]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert, gelu_new": ("bert", {"hidden_act": "gelu_new"}),
    "bert, relu, odd sizes": ("bert", {"hidden_act": "relu", "hidden_size": 36, "num_attention_heads": 6}),
    "bert, one label": ("bert", {"num_labels": 1, "intermediate_size": 70}),
    "roberta": ("roberta", {}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1}),
    "electra": ("electra", {}),
    "electra, small embedding": ("electra", {"embedding_size": 20}),
    "distilbert": ("distilbert", {}),
    "mpnet": ("mpnet", {}),
    "t5, gated": ("kdqat-t5-encoder", {}),
    "t5, not gated": ("kdqat-t5-encoder", {"feed_forward_proj": "relu"}),
}


def pack(folder: Path, model: PreTrainedModel, **changes: Any) -> Path:
    settings = quantization(weight_clip=None, **changes)
    quantize_model(model, settings)
    freeze(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_packed(model, folder, Record(quantization=settings))
    return folder


def sequences(model: PreTrainedModel, lengths: list[int]) -> list[Row]:
    draw = np.random.default_rng(0)
    types = getattr(model.config, "type_vocab_size", 0)
    rows: list[Row] = []
    for length in lengths:
        ids = draw.integers(5, WORDS, length).tolist()
        rows.append((ids, draw.integers(0, types, length).tolist() if types else None))
    return rows


def logits_by_torch(folder: Path, rows: list[Row], dtype: torch.dtype = torch.float32) -> Any:
    """Computes one row at a time, so that torch has no padding either."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).to(dtype)
    out = []
    with torch.no_grad():
        for ids, types in rows:
            inputs = {"input_ids": torch.tensor([ids])} | ({"token_type_ids": torch.tensor([types])} if types else {})
            out.append(model(**inputs).logits[0].numpy())
    return np.stack(out)


@native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("clip", [None, 0.9])
def test_logits_are_as_exact_as_those_of_torch(
    variant: str, clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with float64: near a rounding boundary, torch's FP32 and the engine may round either way."""
    architecture, options = VARIANTS[variant]
    model = tiny(architecture, **options)
    folder = pack(tmp_path, model, activation_clip=clip)
    rows = sequences(model, LENGTHS)
    exact = logits_by_torch(folder, rows, torch.float64)
    scale = np.abs(exact).max()
    by_torch = np.abs(logits_by_torch(folder, rows) - exact) / scale
    for kernel in kernels():
        monkeypatch.setenv(KERNEL_VARIABLE, kernel)
        for threads in (1, 2):
            engine = Engine.load(folder, threads)
            assert (engine.kernel, engine.remark, engine.labels) == (kernel, None, exact.shape[1])
            logits = engine.logits(rows)
            assert logits.dtype == np.float32
            error = np.abs(logits - exact) / scale
            assert np.median(error) <= max(3 * np.median(by_torch), 1e-6), (kernel, threads)
            assert error.max() <= 0.03, (kernel, threads)


@native
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "kdqat-t5-encoder"])
def test_logits_do_not_depend_on_batch_mates_order_or_threads(architecture: str, tmp_path: Path) -> None:
    """Bit for bit, also if a batch is divided into chunks, or the outputs of a few rows among threads."""
    model = tiny(architecture)
    folder = pack(tmp_path, model)
    rows = sequences(model, [3, 1, 36, 20] * 25)  # more than one chunk
    expected = Engine.load(folder, 1).logits(rows)
    for threads in (1, 2, 3):
        engine = Engine.load(folder, threads)
        assert np.array_equal(engine.logits(rows), expected)
        assert np.array_equal(engine.logits(rows[::-1]), expected[::-1])
        alone = np.concatenate([engine.logits([row]) for row in rows[:4]])
        assert np.array_equal(alone, expected[:4])


@native
@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "distilbert", "mpnet", "kdqat-t5-encoder"])
def test_the_longest_row_is_known_without_a_trial(architecture: str, tmp_path: Path) -> None:
    engine = Engine.load(pack(tmp_path, tiny(architecture)), 1)
    most = configured(engine.config).longest_row(engine.config)
    if most is None:
        assert architecture == "kdqat-t5-encoder"
        return
    assert engine.logits([([7] * most, None)]).shape == (1, engine.labels)
    with pytest.raises(ValueError, match=r"long|position"):
        engine.logits([([7] * (most + 1), None)])


def test_the_library_has_the_same_limit_of_threads() -> None:
    source = Path(kdqat_cli.native.library.__file__).with_name("src") / "api.cpp"
    assert f"kMostThreads = {MOST_THREADS};" in source.read_text(encoding="utf-8")


@native
def test_calls_from_several_threads(tmp_path: Path) -> None:
    model = tiny("bert")
    engine = Engine.load(pack(tmp_path, model), 2)
    rows = sequences(model, LENGTHS)
    expected = engine.logits(rows)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(logits, expected) for logits in pool.map(engine.logits, [rows] * 40))


@native
def test_serving_loads_no_torch(tmp_path: Path) -> None:
    folder = pack(tmp_path, tiny("bert"))
    program = (
        "import sys; from kdqat_cli.engine.engine import Engine;"
        f"print(Engine.load({str(folder)!r}, 2).logits([([5, 6, 7], None)]).shape, 'torch' in sys.modules)"
    )
    assert run(tmp_path, sys.executable, "-c", program).stdout.split() == ["(1,", str(LABELS) + ")", "False"]


REFUSED: dict[str, tuple[list[Row], str]] = {
    "no rows": ([], "no rows"),
    "an empty row": ([([5], None), ([], None)], "empty"),
    "an id above": ([([5, WORDS], None)], "out of range"),
    "an id far above": ([([2**40], None)], "integers of at least 0"),
    "an id below": ([([5, -1], None)], "integers of at least 0"),
    "no integer": ([([5.5], None)], "integers of at least 0"),  # type: ignore[list-item]
    "a row too long": ([([5] * 41, None)], "too long"),
    "a type above": ([([5], [2])], "type is out of range"),
    "too few types": ([([5, 6], [0])], "as many token types as tokens"),
    "types of another row": ([([5, 6], [0]), ([5], [0, 0])], "as many token types as tokens"),
}


@native
@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_the_model_cannot_take_are_refused(case: str, tmp_path: Path) -> None:
    engine = Engine.load(pack(tmp_path, tiny("bert")), 2)
    rows, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        engine.logits(rows)
    assert engine.logits([([5] * 40, [1] * 40)]).shape == (1, LABELS), "the engine still works"


def forget_the_library() -> None:
    """Clears the caches, so that the process looks for the library again."""
    library.cache_clear()
    fused._kernel.cache_clear()


def test_torch_computes_if_the_library_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a model in full precision, without a library, or with torch by name: transformers' logits, and a remark."""
    model = tiny("bert")
    rows = sequences(model, LENGTHS)
    full = pack(tmp_path / "full", tiny("bert"), activations="fp32")
    folder = pack(tmp_path / "packed", model)
    cases = {"full precision": (full, {}), "by name": (folder, {KERNEL_VARIABLE: TORCH})}
    cases["no library"] = (folder, {LIBRARY_VARIABLE: str(tmp_path / "none.so")})
    for case, (source, variables) in cases.items():
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            forget_the_library()
            try:
                engine = Engine.load(source, 1)
            finally:
                forget_the_library()
        assert engine.kernel == TORCH
        assert (engine.remark is None) == (case == "by name")
        expected = logits_by_torch(source, rows)
        np.testing.assert_allclose(engine.logits(rows), expected, atol=0.03 * np.abs(expected).max())
        refused: list[list[Row]] = [[], [([], None)], [([WORDS], None)], [([5] * 41, None)]]
        for bad in refused:
            with pytest.raises(ValueError, match=r"no rows|empty|cannot compute"):
                engine.logits(bad)


def test_a_kernel_that_does_not_run_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pack(tmp_path, tiny("bert"))
    monkeypatch.setenv(KERNEL_VARIABLE, "abacus")
    with pytest.raises(ConfigError, match="abacus"):
        Engine.load(folder)


@native
@pytest.mark.parametrize("option", [{"hidden_act": "silu"}, {"is_decoder": True}])
def test_a_variant_that_the_engine_does_not_support_is_computed_by_torch(
    tmp_path: Path, option: dict[str, Any]
) -> None:
    engine = Engine.load(pack(tmp_path, tiny("bert", **option)), 1)
    assert engine.kernel == TORCH
    assert engine.remark is not None
    assert engine.remark.startswith("The engine")

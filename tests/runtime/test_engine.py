"""Whole models: the engine's logits are those of the packed model through torch, for every architecture and kernel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from kdqat_cli.config import ActivationsName, Quantization
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.quantization.layers import freeze
from kdqat_cli.quantization.model import quantize_model
from kdqat_cli.runtime.engine import Engine
from kdqat_cli.runtime.native import KERNEL_VARIABLE, kernels
from kdqat_cli.runtime.native_model import Row
from tests.architectures import WORDS, tiny

native = pytest.mark.skipif(not kernels(), reason="the native library was not built")

LENGTHS = [7, 1, 30, 12, 12, 2, 25]
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


def pack(folder: Path, model: PreTrainedModel, clip: float | None = None, activations: ActivationsName = "int8") -> Path:
    settings = Quantization(
        weights="ternary", weight_clip=None, activations=activations, activation_clip=clip, activation_scale="token"
    )
    quantize_model(model, settings)
    freeze(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_packed(model, folder, {"quantization": settings.model_dump()})
    return folder


def sequences(model: PreTrainedModel, lengths: list[int]) -> list[Row]:
    draw = np.random.default_rng(0)
    types = getattr(model.config, "type_vocab_size", 0)
    rows: list[Row] = []
    for length in lengths:
        ids = draw.integers(5, WORDS, length).tolist()
        rows.append((ids, draw.integers(0, types, length).tolist() if types else None))
    return rows


def reference(folder: Path, rows: list[Row]) -> Any:
    """One row at a time, so that torch pads nothing either."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    out = []
    with torch.no_grad():
        for ids, types in rows:
            inputs = {"input_ids": torch.tensor([ids])} | ({"token_type_ids": torch.tensor([types])} if types else {})
            out.append(model(**inputs).logits[0].numpy())
    return np.stack(out)


@native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("clip", [None, 0.9])
def test_logits_are_torch_s(
    variant: str, clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, options = VARIANTS[variant]
    model = tiny(architecture, **options)
    folder = pack(tmp_path / "packed", model, clip)
    rows = sequences(model, LENGTHS)
    expected = reference(folder, rows)
    results = []
    for kernel in kernels():
        monkeypatch.setenv(KERNEL_VARIABLE, kernel)
        for threads in (1, 2):
            engine = Engine.load(folder, threads)
            assert (engine.kernel, engine.remark, engine.labels) == (kernel, None, expected.shape[1])
            results.append(engine.logits(rows))
    for logits in results:
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4 * np.abs(expected).max())

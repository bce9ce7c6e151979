"""The encoder of T5 (Raffel et al., 2020) and mT5: pre-norm, RMSNorm, relative positions, no biases.

The classifier is kdqat's own (t5_model.py).
"""

from typing import TYPE_CHECKING

from kdqat_cli.networks.family import Family, OwnClassifier, classifier

if TYPE_CHECKING:
    from kdqat_cli.networks.t5_model import T5EncoderConfig, T5EncoderForSequenceClassification


def _classes() -> "tuple[type[T5EncoderConfig], type[T5EncoderForSequenceClassification]]":
    from kdqat_cli.networks.t5_model import T5EncoderConfig, T5EncoderForSequenceClassification

    return T5EncoderConfig, T5EncoderForSequenceClassification


T5 = Family(
    "kdqat-t5-encoder",
    "encoder",
    layers="block",
    words="embed_tokens",
    attention="layer.0.SelfAttention",
    layer_matrices={
        "query": "layer.0.SelfAttention.q",
        "key": "layer.0.SelfAttention.k",
        "value": "layer.0.SelfAttention.v",
        "output": "layer.0.SelfAttention.o",
        "up": "layer.1.DenseReluDense.wi",
        "down": "layer.1.DenseReluDense.wo",
    },
    gated_matrices={"up": "layer.1.DenseReluDense.wi_0", "gate": "layer.1.DenseReluDense.wi_1"},
    layer_vectors={"attention_gain": "layer.0.layer_norm.weight", "output_gain": "layer.1.layer_norm.weight"},
    vectors={"final_gain": "encoder.final_layer_norm.weight"} | classifier("classifier"),
    sizes={
        "hidden": "d_model",
        "embedding": "d_model",
        "layers": "num_layers",
        "heads": "num_heads",
        "head_size": "d_kv",
        "inner": "d_ff",
        "epsilon": "layer_norm_epsilon",
        "embedding_epsilon": "layer_norm_epsilon",
    },
    constants={"pre_norm": 1, "scaling": 1.0},
    head="mean",
    head_activation="none",
    activation="dense_act_fn",
    relative="encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    own_classifier=OwnClassifier(
        _classes,
        sources=("t5", "mt5"),
        needs=("transformers.models.t5.modeling_t5", "kdqat_cli.networks.t5_model"),
    ),
)

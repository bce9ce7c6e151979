"""BERT (Devlin et al., 2019), and the parts that its relatives share."""

from dataclasses import replace

from kdqat_cli.networks.family import Family, classifier, embeddings, norms

SIZES = {
    "hidden": "hidden_size",
    "embedding": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "epsilon": "layer_norm_eps",
    "embedding_epsilon": "layer_norm_eps",
}
FEED_FORWARD = {"up": "intermediate.dense", "down": "output.dense"}
DENSE_HEAD = classifier("classifier.out_proj", "classifier.dense")


def bert_like(model_type: str, base: str) -> Family:
    """A family with BERT's modules and with a head of a linear, tanh and a linear, all in full precision.

    `dataclasses.replace` changes the fields in which a relative differs.

    Args:
        model_type: see `Family`.
        base: see `Family`.
    """
    return Family(
        model_type,
        base,
        layers="encoder.layer",
        words="embeddings.word_embeddings",
        attention="attention.self",
        layer_matrices={
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "output": "attention.output.dense",
        }
        | FEED_FORWARD,
        layer_vectors=norms("attention.output.LayerNorm", "output.LayerNorm"),
        vectors=embeddings(base) | DENSE_HEAD,
        sizes=SIZES,
        head="dense",
        head_activation="tanh",
    )


BERT = replace(
    bert_like("bert", "bert"),
    vectors=embeddings("bert") | classifier("classifier"),
    matrices={"pooler": "bert.pooler.dense"},
    head="pooled",
    llama_cpp="bert",
)

"""DistilBERT (Sanh et al., 2019): no token types, no pooler, and other names of modules than BERT."""

from kdqat_cli.networks.family import Family, classifier, embeddings, norms

DISTILBERT = Family(
    "distilbert",
    "distilbert",
    layers="transformer.layer",
    words="embeddings.word_embeddings",
    attention="attention",
    layer_matrices={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "output": "attention.out_lin",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
    },
    layer_vectors=norms("sa_layer_norm", "output_layer_norm"),
    vectors=embeddings("distilbert", types=False) | classifier("classifier", "pre_classifier"),
    sizes={"hidden": "dim", "embedding": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim"},
    constants={"epsilon": 1e-12, "embedding_epsilon": 1e-12},
    head="dense",
    head_activation="relu",
    activation="activation",
    other_heads=(*Family.other_heads, "vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)

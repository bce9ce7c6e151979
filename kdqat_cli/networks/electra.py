"""ELECTRA (Clark et al., 2020): BERT's modules; the word embedding may be narrower than the layers."""

from dataclasses import replace

from kdqat_cli.networks.bert import SIZES, bert_like
from kdqat_cli.networks.family import Family

ELECTRA = replace(
    bert_like("electra", "electra"),
    sizes=SIZES | {"embedding": "embedding_size"},
    matrices={"projection": "electra.embeddings_project"},
    head_activation="gelu",
    other_heads=(*Family.other_heads, "discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
)

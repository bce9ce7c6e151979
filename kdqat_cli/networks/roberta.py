"""RoBERTa (Liu et al., 2019) and XLM-R: BERT's modules, with positions counted from the id of the padding token."""

from dataclasses import replace

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.bert import bert_like
from kdqat_cli.networks.family import Config, Family


def padding_position(config: Config) -> int:
    """The position of padding tokens, which is the id of the padding token; other tokens are counted from the next one.

    Raises:
        ConfigError: the configuration names no padding token, or the token is not in the vocabulary.
    """
    padding = config.get("pad_token_id")
    if not isinstance(padding, int) or not 0 <= padding < config["vocab_size"]:
        raise ConfigError(
            f"The configuration has the pad_token_id {shown(padding)}, but positions are counted from the id of the "
            "padding token.",
            '"pad_token_id" in config.json, as the model was trained with (RoBERTa: 1)',
        )
    return padding


def roberta_like(model_type: str, base: str = "roberta") -> Family:
    """A family with RoBERTa's modules and positions; `bert_like` explains the arguments."""
    return replace(bert_like(model_type, base), padding_position=padding_position, llama_cpp="bert")


ROBERTA = roberta_like("roberta")
XLM_ROBERTA = roberta_like("xlm-roberta")

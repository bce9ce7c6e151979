"""RoBERTa (Liu et al., 2019) and XLM-R: BERT's modules, with positions that count from the padding token's id on."""

from typing import Any

from kdqat_cli.errors import ConfigError, shown
from kdqat_cli.networks.bert import bert_like
from kdqat_cli.networks.family import Config, Family


def padding_position(config: Config) -> int:
    """Padding stays at the position of its id, and the other tokens count from the next one on.

    Raises:
        ConfigError: the configuration names no padding token, or none of the vocabulary.
    """
    padding = config.get("pad_token_id")
    if not isinstance(padding, int) or not 0 <= padding < config["vocab_size"]:
        raise ConfigError(
            f"The configuration has the pad_token_id {shown(padding)}, but positions count from the padding token's "
            "id.",
            '"pad_token_id" in config.json, as the model was trained with (RoBERTa: 1)',
        )
    return padding


def roberta_like(model_type: str, base: str = "roberta", **parts: Any) -> Family:
    """A family whose modules and positions are RoBERTa's; arguments as of `bert_like`."""
    common: dict[str, Any] = {"padding_position": padding_position, "llama_cpp": "bert"}
    return bert_like(model_type, base, **(common | parts))


ROBERTA = roberta_like("roberta")
XLM_ROBERTA = roberta_like("xlm-roberta")

"""config.json of a classifier on T5's encoder."""

from typing import Self

from transformers import PreTrainedConfig
from transformers.models.t5.configuration_t5 import T5Config


class T5EncoderConfig(T5Config):  # type: ignore[misc]
    """T5's configuration without a decoder.

    It has a model type of its own because under T5's a transformers without kdqat would load the folder as
    `T5ForSequenceClassification`, with a decoder of random weights, and only warn.
    """

    model_type = "kdqat-t5-encoder"
    is_encoder_decoder: bool = False
    use_cache: bool = False

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Self:
        """The configuration of a T5's or mT5's encoder."""
        own = ("model_type", "architectures", "is_encoder_decoder", "use_cache")
        return cls(**{key: value for key, value in config.to_dict().items() if key not in own})

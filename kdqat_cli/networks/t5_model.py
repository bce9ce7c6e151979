"""A sequence classifier on T5's encoder: mean over real tokens, dropout, linear.

transformers' `T5ForSequenceClassification` also runs the decoder, but the third model of Kim et al. is an encoder. T5
has no token that represents the sentence. The mean of the encoder's states is the best of the poolings compared in
Sentence-T5 (Ni et al., 2022, section 5).

The encoder is used without T5's `shared` table, which is there only to be tied to a decoder. So the word embedding has
one name.
"""

from pathlib import Path
from typing import Self

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel, T5PreTrainedModel, T5Stack

from kdqat_cli.networks.family import LoadingReport


class T5EncoderConfig(T5Config):  # type: ignore[misc]
    """T5's configuration without a decoder.

    It has its own model type. Under the model type of T5, a transformers without kdqat would load the folder as
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


class T5EncoderForSequenceClassification(T5PreTrainedModel):  # type: ignore[misc]
    """Classifies sentences by the mean of T5's encoder states."""

    config_class = T5EncoderConfig
    base_model_prefix = "encoder"

    def __init__(self, config: T5EncoderConfig) -> None:
        """Random weights of the given sizes."""
        super().__init__(config)
        self.encoder = T5Stack(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @classmethod
    def from_source(
        cls, location: str | Path, config: T5EncoderConfig, **options: object
    ) -> tuple[PreTrainedModel, LoadingReport]:
        """The encoder of a T5 or mT5 checkpoint with a new classifier.

        Args:
            location: hub id or folder.
            config: the configuration of the encoder, with the labels of the new classifier.
            options: options of transformers' `from_pretrained`.

        Returns:
            The classifier in eval mode, and transformers' loading report of the encoder, with the head among the
            missing keys.
        """
        options["output_loading_info"] = True
        source, report = T5EncoderModel.from_pretrained(location, config=config, **options)
        model = cls(config)
        model.encoder.load_state_dict(source.encoder.state_dict())
        head = {f"classifier.{name}" for name in model.classifier.state_dict()}
        return model.eval(), report | {"missing_keys": head.union(report["missing_keys"])}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **options: object
    ) -> SequenceClassifierOutput:
        """Logits (B, C) of tokens (B, L), and the loss if labels (B,) are given."""
        outputs = self.encoder(input_ids, attention_mask=attention_mask, **options)
        states = outputs.last_hidden_state
        weights = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states.dtype)
        mean = (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
        logits = self.classifier(self.dropout(mean))
        return SequenceClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

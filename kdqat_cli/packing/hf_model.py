"""What transformers' AutoModelForSequenceClassification makes of a packed folder."""

import json
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.config import CodecName
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint, packed_parts, write_packed
from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig
from kdqat_cli.packing.packed_file import PackedParts
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.quantizers.parameters import quantized_layers
from kdqat_cli.record import Record


def model_parts(model: PreTrainedModel, record: Record, half: bool = False) -> PackedParts:
    """A student as its packed checkpoint holds it.

    Args:
        model: the student; layers that are not frozen give the codes that they would be frozen at.
        record: where the student comes from; its `quantization` is what loads it again.
        half: scales, offsets, points and what is not quantised as FP16.

    Raises:
        ConfigError: a value is not finite, or its parts do not fit each other (soundness.py).
    """
    weights = {f"{name}.weight": layer.codes().cpu() for name, layer in quantized_layers(model).items()}
    dense = {name: tensor.cpu() for name, tensor in model.state_dict().items() if name not in weights}
    parts = packed_parts(weights, dense, model.config.to_dict(), record, half)
    if fault := fault_of(parts):
        raise ConfigError(f"The student cannot be packed: {fault}", "kdqat distill")
    return parts


def save_packed(
    model: PreTrainedModel, folder: Path, record: Record, half: bool = False, codec: CodecName | None = None
) -> None:
    """Writes a student as config.json and the packed file, into an existing folder.

    Arguments and errors as of `model_parts` and `write_packed`.
    """
    parts = model_parts(model, record, half)
    write_packed(folder / FILE_NAME, parts, codec)
    labels = {key: parts.config[key] for key in ("id2label", "label2id", "problem_type")}
    outline = {"model_type": MODEL_TYPE, "architectures": [KdqatForSequenceClassification.__name__], **labels}
    (folder / "config.json").write_text(json.dumps(outline, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def empty_model(checkpoint: PackedCheckpoint) -> PreTrainedModel:
    """The architecture of a packed file with quantised layers; its parameters have no storage yet."""
    # Here, not above: importing the auto classes registers kdqat's own class with them.
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if checkpoint.record.quantization is None:
        raise MissingInputError("The packed model does not say how it was quantised.", "kdqat export")
    values = dict(checkpoint.config)
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        # Drawing random weights to throw them away takes most of a load.
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # of keys that soundness.py does not know, each architecture says it in its own way
        raise MissingInputError(f"The packed model's configuration is damaged: {error}.", "kdqat export") from error
    quantize_model(model, checkpoint.record.quantization)
    return model


def fill(model: PreTrainedModel, state: dict[str, Tensor], source: str | Path) -> PreTrainedModel:
    """An empty model with its parameters, in eval mode.

    Raises:
        MissingInputError: `state`, which comes from `source`, has other tensors than the model.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # of another shape
        raise MissingInputError(f"{source} does not fit its own configuration: {error}.") from error
    if missing or unexpected:
        raise MissingInputError(
            f"{source} does not fit its own configuration: "
            f"{len(missing)} tensors are missing, {len(unexpected)} are not known."
        )
    return model.eval()


class KdqatForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """The door through which transformers loads a packed folder; what comes out is the architecture's own class."""

    config_class = KdqatConfig

    @classmethod
    def from_pretrained(cls, folder: str | Path, *_: Any, **kwargs: Any) -> PreTrainedModel:
        """The classifier of a packed folder, with quantised weights and activations, in eval mode.

        Its logits equal those of the student in torch bit for bit on the same machine (FP32 remainder).

        Raises:
            MissingInputError: the folder has no packed file, or it is truncated, altered or foreign.
        """
        checkpoint = PackedCheckpoint(Path(folder) / FILE_NAME)
        model, state, codes = empty_model(checkpoint), checkpoint.dense(), checkpoint.codes()
        for name, layer in quantized_layers(model).items():
            if f"{name}.weight" not in codes:
                raise MissingInputError(
                    f"{folder} does not fit its own record: {name} is not quantised.", "kdqat export"
                )
            layer.freeze(codes[f"{name}.weight"])
            state[f"{name}.weight"] = layer.weight
        return fill(model, state, folder)

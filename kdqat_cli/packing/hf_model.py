"""What transformers' AutoModelForSequenceClassification makes of a packed folder."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.config import CodecName
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.nets import NETS
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME, PackedCheckpoint, packed_parts, write_packed
from kdqat_cli.packing.hf_config import MODEL_TYPE, KdqatConfig
from kdqat_cli.packing.packed_file import PackedParts
from kdqat_cli.packing.soundness import fault_of
from kdqat_cli.quantizers.parameters import plain_name, plain_state, quantized_weights
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
    weights = {name: weight.codes().cpu() for name, weight in quantized_weights(model).items()}
    # Without counters, such as a batch norm's of its batches: they say how a model was trained, not what it computes.
    state = {name: tensor for name, tensor in plain_state(model).items() if tensor.is_floating_point()}
    dense = {name: tensor.cpu() for name, tensor in state.items() if name not in weights}
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
    kind = values.pop("model_type")
    try:
        # Drawing random weights to throw them away takes most of a load.
        if kind in NETS:
            config_class, model_class = NETS[kind].classes()
            with init_empty_weights(include_buffers=True):
                model: PreTrainedModel = model_class(config_class(**values))
        else:
            config = AutoConfig.for_model(kind, **values)
            with init_empty_weights(include_buffers=False):
                model = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # of keys that soundness.py does not know, each architecture says it in its own way
        raise MissingInputError(f"The packed model's configuration is damaged: {error}.", "kdqat export") from error
    quantize_model(model, checkpoint.record.quantization)
    return model


def fill(model: PreTrainedModel, state: dict[str, Tensor], source: str | Path) -> PreTrainedModel:
    """An empty model with its parameters, in eval mode.

    Raises:
        MissingInputError: `state`, which comes from `source`, has other tensors than the model.
    """
    own = model.state_dict()
    names = {plain_name(name): name for name in own}
    counters = {name: torch.zeros(values.shape, dtype=values.dtype) for name, values in own.items() if _counts(values)}
    named = counters | {names.get(name, name): values for name, values in state.items()}
    try:
        missing, unexpected = model.load_state_dict(named, strict=False, assign=True)
    except RuntimeError as error:  # of another shape
        raise MissingInputError(f"{source} does not fit its own configuration: {error}.") from error
    if missing or unexpected:
        raise MissingInputError(
            f"{source} does not fit its own configuration: "
            f"{len(missing)} tensors are missing, {len(unexpected)} are not known."
        )
    return model.eval()


def _counts(values: Tensor) -> bool:
    return values.is_meta and not values.is_floating_point() and not values.dim()


def packed_model(checkpoint: PackedCheckpoint, source: str | Path) -> PreTrainedModel:
    """The model of a packed file, its weights frozen at their codes, in eval mode.

    Raises:
        MissingInputError: the file's parts do not fit each other; `source` is what the error calls it.
    """
    model, state, codes = empty_model(checkpoint), checkpoint.dense(), checkpoint.codes()
    for name, weight in quantized_weights(model).items():
        if name not in codes:
            raise MissingInputError(f"{source} does not fit its own record: {name} is not quantised.", "kdqat export")
        if codes[name].levels.shape != weight.weight.shape:
            raise MissingInputError(f"{source} does not fit its own configuration: {name} has another shape.")
        weight.freeze(codes.pop(name))
        state[name] = weight.weight
    if codes:
        raise MissingInputError(f"{source} does not fit its own record: {min(codes)} is quantised.", "kdqat export")
    return fill(model, state, source)


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
        return packed_model(PackedCheckpoint(Path(folder) / FILE_NAME), folder)

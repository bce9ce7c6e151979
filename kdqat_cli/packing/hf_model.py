"""The class that transformers' AutoModelForSequenceClassification uses for a packed folder."""

import json
from pathlib import Path

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
    """The parts of the packed checkpoint of a student.

    Args:
        model: the student. A layer that is not frozen gives the codes of its latent weight.
        record: the record of the student; loading needs its `quantization`.
        half: store scales, offsets, points and other tensors as FP16.

    Raises:
        ConfigError: a value is NaN or infinite, or the parts do not fit each other (soundness.py).
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
    """Writes config.json and the packed file of a student into an existing folder.

    `model_parts` and `write_packed` explain the arguments and errors.
    """
    parts = model_parts(model, record, half)
    write_packed(folder / FILE_NAME, parts, codec)
    told = ("id2label", "label2id", "problem_type", *(["threshold"] if record.threshold is not None else []))
    labels = {key: parts.config[key] for key in told}
    outline = {"model_type": MODEL_TYPE, "architectures": [KdqatForSequenceClassification.__name__], **labels}
    (folder / "config.json").write_text(json.dumps(outline, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def empty_model(checkpoint: PackedCheckpoint) -> PreTrainedModel:
    """The architecture of a packed file, with quantised layers and with parameters that have no memory yet."""
    # Imported here, because the import of the auto classes registers kdqat's own class.
    from transformers import AutoConfig, AutoModelForSequenceClassification

    if checkpoint.record.quantization is None:
        raise MissingInputError("The packed model does not say how it was quantised.", "kdqat export")
    values = dict(checkpoint.config)
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        # Without this, drawing random weights, which are never used, would take most of the time.
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # keys that soundness.py does not check lead to different errors in each architecture
        raise MissingInputError(f"The packed model's configuration is damaged: {error}.", "kdqat export") from error
    quantize_model(model, checkpoint.record.quantization)
    return model


def fill(model: PreTrainedModel, state: dict[str, Tensor], source: str | Path) -> PreTrainedModel:
    """Sets the parameters of an empty model, and puts it in eval mode.

    Raises:
        MissingInputError: `state`, which was read from `source`, does not have the tensors of the model.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # a tensor has another shape
        raise MissingInputError(f"{source} does not fit its own configuration: {error}.") from error
    if missing or unexpected:
        raise MissingInputError(
            f"{source} does not fit its own configuration: "
            f"{len(missing)} tensors are missing, and {len(unexpected)} are unknown."
        )
    return model.eval()


class KdqatForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """Makes transformers load a packed folder; the loaded model has the class of its architecture."""

    config_class = KdqatConfig

    @classmethod
    def from_pretrained(cls, folder: str | Path, *_: object, **kwargs: object) -> PreTrainedModel:
        """The classifier of a packed folder, with quantised weights and activations, in eval mode.

        On the same machine its logits equal those of the student in torch bit for bit, if the file was not made with
        FP16.

        Raises:
            MissingInputError: the folder has no packed file, or the file is truncated, altered or foreign.
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

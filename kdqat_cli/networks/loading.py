"""Loads model folders and hub ids, and checks that every weight is there, is used and has the right size.

transformers replaces missing weights by random numbers and ignores weights that do not fit, with at most a warning.
Here this is an error, with two exceptions. First, the head of a new classifier (an encoder with a new head for a task)
may be missing, because it is trained; BERT's pooler is part of the head. A head in the checkpoint is for another task
and is not used. Second, weights that provably do not change an answer may be left over; a warning names them
(`_unused`).
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils.quantization_config import QuantizationConfigMixin

from kdqat_cli.errors import ConfigError, KdqatError, MissingInputError, shown
from kdqat_cli.files import refuse_odd_files, refuse_unreadable
from kdqat_cli.hub import CONFIG, first_line, refuse_absent, refuse_adapter, refuse_hollow, why_unreachable
from kdqat_cli.networks.families import FAMILIES, listed, own_classifiers
from kdqat_cli.networks.family import Config, LoadingReport
from kdqat_cli.networks.finite import weight_at_fault
from kdqat_cli.networks.nets import NETS
from kdqat_cli.networks.parts import sizes_of
from kdqat_cli.networks.weight_files import refuse_incomplete, refuse_integers

_LOGGER = logging.getLogger(__name__)
Loader = Callable[..., tuple[PreTrainedModel, LoadingReport]]
_SHOWN = 3  # names of tensors in one sentence
_LONGEST_NAME = 200  # characters
_QUANTISED = ("bitnet", "compressed-tensors")
"""Values of `quant_method` in the exports of kdqat; transformers turns their integers into the exact weights."""
_SAVE = "model.save_pretrained(FOLDER), in the program that trained the model"
_AGAIN = "copy or download the folder again"
_ANOTHER = "a model of another architecture: kdqat ls encoders"

_POOLER = re.compile(r"(^|\.)pooler\.dense\.(weight|bias)$")
_POSITION_IDS = re.compile(r"(^|\.)position_ids$")


class _LoadingOptions(TypedDict):
    local_files_only: bool
    trust_remote_code: bool


@dataclass(frozen=True)
class Source:
    """The place of a model.

    Attributes:
        location: folder or hub id.
        fix: the command that makes the folder, for errors.
        unreachable: why the hub does not answer, so that only its cache is read; empty for a folder.
    """

    location: str
    fix: str | None = None
    unreachable: str = ""

    @classmethod
    def find(cls, location: str, fix: str | None = None) -> "Source":
        """A folder with a config.json, or a hub id.

        Raises:
            MissingInputError: there is no such folder, it has no model, or a file in it is not a regular file.
        """
        path = Path(location)
        if path.is_dir():
            refuse_odd_files(path)
            refuse_adapter(path)
            if not (path / CONFIG).is_file():
                refuse_hollow(path, fix)
            return cls(location, fix)
        refuse_absent(location, fix)
        return cls(location, fix, why_unreachable(location, "model"))

    @property
    def options(self) -> _LoadingOptions:
        """The options for every loader of transformers."""
        # With trust_remote_code unset, transformers would ask whether to run code from the model.
        return {"local_files_only": bool(self.unreachable), "trust_remote_code": False}

    @contextmanager
    def reading(self, part: str = "") -> Iterator[None]:
        """Turns any error inside into one sentence; `part` says what is read, for example "the tokenizer of "."""
        try:
            yield
        except KdqatError:
            raise
        except Exception as error:  # hub, file system, JSON and safetensors have different exceptions
            what, (reason, fix) = f"{part or 'the folder '}{self.location}", _plainly(error)
            if Path(self.location).is_dir():
                refuse_unreadable(Path(self.location))
                fix = fix or self.fix
            else:
                what = f"there is no folder {self.location}, and {part}the hub model of that name"
                fix = "the same command with a local folder in place of the hub id"
            reason = self.unreachable or reason
            raise MissingInputError(f"{what[0].upper()}{what[1:]} could not be loaded: {reason}.", fix) from error


def _plainly(error: Exception) -> tuple[str, str | None]:
    """A library's error about a model folder as one sentence, and the fix if it is known."""
    reason = first_line(error)
    if isinstance(error, SafetensorError):
        return f"a .safetensors file is truncated or damaged ({reason})", _AGAIN
    if reason.startswith("Weights only load failed"):  # torch's advice would run the code in the file
        return "pytorch_model.bin is damaged, or contains Python objects, which kdqat does not load", _SAVE
    if reason.startswith("Error no file named"):
        return "it has no weights (model.safetensors or pytorch_model.bin)", _SAVE
    if isinstance(error, ImportError):
        return reason, "pip install, with the package that it names"
    return reason, None if isinstance(error, MemoryError) else _AGAIN


def load_config(source: Source) -> PreTrainedConfig:
    """The configuration of a classifier of a known architecture.

    Raises:
        ConfigError: kdqat does not know the architecture, or this variant of it.
        MissingInputError: config.json is not readable, or does not name each output.
    """
    config = _read_config(source)
    _check_architecture(source, config)
    return config


def load_encoder_config(source: Source, **head: object) -> tuple[PreTrainedConfig, Loader]:
    """The configuration of a new classifier on an encoder, and the function that loads the classifier.

    For a model with a decoder (T5), it is kdqat's own classifier on the encoder without the decoder.

    Args:
        source: the place of the encoder.
        head: fields of the configuration that describe the new head.

    Raises:
        ConfigError: kdqat does not know the architecture, or this variant of it.
        MissingInputError: config.json is not readable.
    """
    config = _read_config(source, **head)
    own = own_classifiers().get(config.model_type)
    if own is not None:
        with source.reading():
            own_config, own_model = own.classes()
            config = own_config.of(config)
        _check_architecture(source, config)
        return config, own_model.from_source
    _check_architecture(source, config)
    return config, AutoModelForSequenceClassification.from_pretrained


def load_net(source: Source, again: str | None = None) -> PreTrainedModel:
    """One of kdqat's own networks with every weight of its source, in FP32.

    Args:
        source: the place of the model.
        again: the command that makes the model again; None: kdqat did not make it.

    Raises:
        ConfigError: kdqat does not know the architecture.
        MissingInputError: config.json is not readable; or see `load_weights`.
    """
    with source.reading():
        values, _ = PreTrainedConfig.get_config_dict(source.location, **source.options)
    net = NETS.get(values.get("model_type"))
    if net is None:
        raise ConfigError(
            f"{source.location} has the architecture {shown(values.get('model_type'))}, but the networks that kdqat "
            f"trains are {', '.join(NETS)}."
        )
    config_class, model_class = net.classes()
    with source.reading():
        config = config_class.from_dict(values)
    return load_weights(source, config, model_class.from_pretrained, again=again)


def _read_config(source: Source, **head: object) -> PreTrainedConfig:
    """The configuration in config.json, with the fields of a new head, if any."""
    with source.reading(f"the {CONFIG} of "):
        values, _ = PreTrainedConfig.get_config_dict(source.location, **source.options)
        if not isinstance(values, dict):
            raise MissingInputError(f"The {CONFIG} of {source.location} is not a JSON object.", source.fix)
        kind = values.get("model_type")
        if kind is None and Path(source.location).is_dir():
            refuse_hollow(Path(source.location), source.fix)
        if not isinstance(kind, str) or kind not in {*FAMILIES, *own_classifiers()}:
            raise _unknown(source, kind)
        if not head:
            _check_outputs(source, values)
        config: PreTrainedConfig = AutoConfig.from_pretrained(source.location, **source.options, **head)
        return config


def _check_outputs(source: Source, values: Config) -> None:
    """Checks that id2label names the outputs by number; the message of transformers would be hard to understand."""
    names = values.get("id2label")
    if names is None:
        return
    fix = f'"id2label" in its {CONFIG}, with a name for each output: {{"0": …, "1": …}}'
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise MissingInputError(
            f"{source.location} has the id2label {shown(names)}, which does not name the outputs by number.", fix
        )
    if len(names) == 1 and values.get("problem_type") == "single_label_classification":
        raise MissingInputError(
            f"{source.location} is a classifier (problem_type), but its id2label has only one output.", fix
        )


def _unknown(source: Source, kind: object) -> ConfigError:
    return ConfigError(
        f"{source.location} has the architecture {shown(kind)}, which kdqat does not know; it knows {listed()}.",
        _ANOTHER,
    )


def _check_architecture(source: Source, config: PreTrainedConfig) -> None:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise _unknown(source, config.model_type)
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise ConfigError(
            f"{source.location} is a decoder (is_decoder in its config.json); kdqat takes encoders.", _ANOTHER
        )
    positions = getattr(config, "position_embedding_type", None)
    if positions not in (None, "absolute"):
        raise ConfigError(
            f"{source.location} has the position_embedding_type {positions!r}, which this version of transformers "
            "ignores; kdqat supports 'absolute' only.",
            "a model with absolute positions",
        )
    sizes_of(family, config.to_dict(), f"The {CONFIG} of {source.location}")
    quantisation = getattr(config, "quantization_config", None)
    if quantisation is not None:
        _check_quantisation(source, quantisation)
    activation = getattr(config, family.activation)
    if activation not in ACT2FN:
        raise ConfigError(
            f"{source.location} has the {family.activation} {shown(activation)}, which transformers does not know.",
            "the config.json that was saved with the weights",
        )
    # Off: it only saves memory, and it fails for lengths that it does not divide.
    config.chunk_size_feed_forward = 0


def _check_quantisation(source: Source, quantisation: dict[str, object] | QuantizationConfigMixin) -> None:
    values = quantisation if isinstance(quantisation, dict) else quantisation.to_dict()
    method = values.get("quant_method")
    if method not in _QUANTISED:
        raise ConfigError(
            f"{source.location} holds weights that were quantised by {shown(method)} (quantization_config in its "
            f"{CONFIG}); kdqat takes weights in full or half precision.",
            "the checkpoint that this one was quantised from",
        )


def load_weights(
    source: Source,
    config: PreTrainedConfig,
    loader: Loader = AutoModelForSequenceClassification.from_pretrained,
    new_head: bool = False,
    again: str | None = None,
) -> PreTrainedModel:
    """A classifier with every weight of its source, in FP32.

    Args:
        source: the place of the model.
        config: its configuration.
        loader: loads it, with the arguments and results of `from_pretrained`.
        new_head: whether the head is new. It may then be missing in the source, and is not read from it.
        again: the command that makes the model again; None: kdqat did not make it.

    Raises:
        MissingInputError: the tensors of the source do not fit the model, or one is NaN or infinite.
    """
    with source.reading("the weights of "), warnings.catch_warnings():
        refuse_incomplete(Path(source.location))
        if getattr(config, "quantization_config", None) is None:  # else transformers converts the integers to weights
            refuse_integers(Path(source.location))
        warnings.simplefilter("ignore", UserWarning)  # torch warns about the pickle protocol
        # Other sizes are only reported here and refused below, because the loader's own error does not name them.
        model, report = loader(
            source.location,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **source.options,
        )
    _check_report(source, model, report, new_head, again)
    if new_head:
        _renew_head(source, model, report)
    if weight := weight_at_fault({"model": model}):  # such a model would always answer the first label
        fix = again or "another checkpoint: the training of this one diverged, or its file is damaged"
        raise MissingInputError(f"{source.location}: {weight} is NaN or infinite.", fix)
    return model


def _check_report(
    source: Source, model: PreTrainedModel, report: LoadingReport, new_head: bool, again: str | None
) -> None:
    missing, left_over = set(report["missing_keys"]), set(report["unexpected_keys"])
    head = _head(model)
    pooler = {name for name in model.state_dict() if _POOLER.search(name)}
    if pooler and pooler <= missing:
        head |= pooler
        if new_head:
            _LOGGER.warning("%s has no pooler; a new one is trained with the head.", source.location)
    if missing and missing <= head and not new_head:
        raise MissingInputError(
            f"{source.location} has no trained classification head: {_listed(missing)} would be random numbers.",
            again or f"kdqat finetune-teacher --task TASK --encoder {source.location}",
        )
    faults = []
    if lacking := missing - (head if new_head else set()):
        faults.append(f"missing (they would be random numbers): {_listed(lacking)}")
    if strange := {name for name in left_over if not _unused(name, model)}:
        faults.append(f"left over: {_listed(strange)}")
    if odd := [one for one in report["mismatched_keys"] if not (new_head and one[0] in head)]:
        faults.append(f"of another size: {_listed(map(_size, odd))}")
    if faults:
        raise MissingInputError(
            f"The weights in {source.location} do not fit the {model.config.model_type} model that its config.json "
            f"describes; {'; '.join(faults)}.",
            again or _remedy(strange, lacking),
        )
    if left_over:
        _LOGGER.warning("%s: %s are not used.", source.location, _listed(left_over))


def _head(model: PreTrainedModel) -> set[str]:
    """The names of a classifier's tensors that do not belong to its encoder; empty for a network without an encoder."""
    if not model.base_model_prefix:
        return set()
    return {name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")}


def _renew_head(source: Source, model: PreTrainedModel, report: LoadingReport) -> None:
    """Replaces a trained head by a new random one, as for an encoder without a head."""
    head = _head(model)
    if head <= set(report["missing_keys"]):
        return
    fresh = type(model)(model.config).state_dict()
    model.load_state_dict({name: fresh[name] for name in head}, strict=False)
    _LOGGER.warning("%s has a classification head; a new one is trained in its place.", source.location)


def _remedy(strange: set[str], lacking: set[str]) -> str:
    """The fix, from the tensors that the model does not have and those that the source does not have."""
    if all(name.startswith("module.") for name in strange) and strange:
        return "save model.module in place of model: a wrapper added the prefix module. to every name"
    if lacking and strange and not any("." in name for name in strange):
        return f"save the state_dict alone, not a dictionary with the keys {_listed(strange)}"
    return _SAVE


def _unused(name: str, model: PreTrainedModel) -> bool:
    """Whether a left-over tensor provably does not change the answers of a classifier.

    Such tensors are the heads of other tasks, the pooler of encoders whose classifier does not use it (RoBERTa,
    ELECTRA, MPNet), and position_ids (0, 1, 2, …), which earlier versions of transformers saved.
    """
    family = FAMILIES.get(model.config.model_type)
    return (family is not None and name.startswith(family.other_heads)) or bool(
        _POOLER.search(name) or _POSITION_IDS.search(name)
    )


def _size(mismatch: tuple[str, Iterable[int], Iterable[int]]) -> str:
    name, found, wanted = mismatch
    return f"{name} is {'×'.join(map(str, found))} instead of {'×'.join(map(str, wanted))}"


def _listed(parts: Iterable[str]) -> str:
    names = [part if part.isprintable() and 0 < len(part) < _LONGEST_NAME else shown(part) for part in sorted(parts)]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

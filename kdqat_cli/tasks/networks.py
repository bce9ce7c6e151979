"""The common part of the kinds of tasks whose models are kdqat's own networks (networks/nets.py).

Such a kind derives from `NetworkKind`. It adds `reading` and `rows`; `config`, if the task sets fields of the network's
configuration; and `reads_lines`, if `kdqat predict` supports it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from kdqat_cli.config import CodecName, Device
from kdqat_cli.errors import ConfigError
from kdqat_cli.networks.loading import Source, load_net
from kdqat_cli.networks.nets import new_network
from kdqat_cli.networks.quantized import quantize_model
from kdqat_cli.packing.checkpoint import FILE_NAME
from kdqat_cli.packing.codes_file import load_codes, save_codes
from kdqat_cli.packing.network import load_network, save_network
from kdqat_cli.quantizers.parameters import plain_state
from kdqat_cli.record import Record
from kdqat_cli.store.folder import ABOUT
from kdqat_cli.store.writing import write_json
from kdqat_cli.tasks.answers import Answerer
from kdqat_cli.tasks.kind import Own
from kdqat_cli.tasks.records import made_by, model_folder, recorded_in
from kdqat_cli.tasks.task import label_config

_WEIGHTS = "model.safetensors"


@dataclass
class LoadedNetwork:
    """One of kdqat's own networks: see `Loaded` in tasks/kind.py."""

    model: PreTrainedModel
    weights: Path | None
    record: Record


class NetworkKind:
    """The members of `Kind` (tasks/kind.py) that do not depend on the rows.

    Attributes:
        name: name of the kind.
    """

    name: str

    def config(self, task: Own) -> dict[str, object]:
        """Fields of a network's configuration that the task sets, besides the labels; here none."""
        return {}

    def inputs(self, source: str) -> dict[str, str]:
        """No inputs, because a new network has random weights."""
        return {}

    def new(
        self,
        task: Own,
        source: str,
        data_dir: Path | None = None,
        teacher: Own = None,
        fields: Mapping[str, object] | None = None,
    ) -> LoadedNetwork:
        """Makes the network named `source`, with random weights."""
        model = new_network(source, self.name, fields, **self.config(task), **label_config(task))
        return LoadedNetwork(placed(model), None, Record(network=source))

    def load(self, source: str, fix: str | None = None) -> LoadedNetwork:
        """Loads a network that kdqat trained."""
        folder = model_folder(source)
        if (folder / FILE_NAME).exists():
            packed = folder / FILE_NAME
            model, record = load_network(packed)
            return LoadedNetwork(placed(model), packed, record)
        record = recorded_in(folder)
        place = Source.find(str(folder) if folder.is_dir() else source, fix)
        again = made_by(record)
        model = load_net(place, again)
        if record.quantization is not None:
            quantize_model(model, record.quantization)
            load_codes(model, folder, again or "kdqat distill")
        weights = folder / _WEIGHTS
        return LoadedNetwork(placed(model).eval(), weights if weights.exists() else None, record)

    def align(self, loaded: Own, task: Own, name: str) -> None:
        """Refuses a network whose labels or inputs differ from the task's; it does not reorder labels."""
        config, fix = loaded.model.config, f"kdqat finetune-teacher --task {task.name}"
        labels = [config.id2label[index] for index in range(config.num_labels)]
        if labels != task.labels:
            wanted = ", ".join(task.labels)
            raise ConfigError(f"{name} has the labels {', '.join(labels)}, but task {task.name} has {wanted}.", fix)
        for key, value in self.config(task).items():
            found = getattr(config, key, None)
            if found != value:
                raise ConfigError(f"{name} was made for {key} {found}, but task {task.name} has {value}.", fix)

    def as_recorded(self, loaded: LoadedNetwork, task: Own, max_length: int | None) -> Record:
        """The network's record."""
        if max_length is not None:
            raise ConfigError(
                f"--max-length has no meaning for task {task.name}, whose rows are not truncated.", "no --max-length"
            )
        return loaded.record

    def taught(self, rows: Own, loaded: Own, folder: Path) -> Own:
        """Refuses, because the loss of the logits already compares whole answers."""
        raise no_targets(self.name)

    def write_reader(self, loaded: Own, folder: Path, name: str) -> dict[str, object]:
        """Writes nothing, because the task file says how rows are read."""
        return {}

    def pack(self, loaded: Own, folder: Path, record: Record, half: bool, codec: CodecName | None) -> None:
        """Writes the packed file, which is all that such a network needs."""
        save_network(loaded.model, folder, record, half, codec)

    def answerer(self, source: str, task: Callable[[], Own], device: Device | None) -> Answerer:
        """Loads the network onto the device, and wraps it by `reads_lines`."""
        loaded = self.load(source)
        if device == "cpu":
            loaded.model.cpu()
        spec = task()
        self.align(loaded, spec, f"The model {source}")
        return self.reads_lines(loaded, spec)

    def reads_lines(self, loaded: Own, task: Own) -> Answerer:
        """The answerer of a loaded network.

        Raises:
            ConfigError: `kdqat predict` does not support the kind.
        """
        raise ConfigError(
            f"kdqat predict does not support rows of the kind {self.name}.",
            f"kdqat evaluate --task {task.name}",
        )

    def save(self, loaded: Own, folder: Path, record: Record) -> None:
        """Writes config.json, model.safetensors, a student's codes and kdqat.json."""
        loaded.model.save_pretrained(folder, state_dict=plain_state(loaded.model))
        save_codes(loaded.model, folder)
        write_json(folder / ABOUT, record.to_json())


def no_targets(kind: str) -> ConfigError:
    """The error about `distillation.targets: teacher` for a kind other than translation."""
    return ConfigError(
        f"distillation.targets: teacher needs translations, but the rows are of the kind {kind}.",
        "--set distillation.targets=references",
    )


def placed(model: PreTrainedModel) -> PreTrainedModel:
    """Moves the model to the GPU, if there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")

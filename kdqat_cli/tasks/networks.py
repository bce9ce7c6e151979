"""What the kinds of tasks share whose models are kdqat's own networks (networks/nets.py), trained from the beginning.

Such a kind derives from `NetworkKind` and adds how it reads rows: `reading` and `rows`, and `config` where a task
determines something of a network; and `reads_lines` where `kdqat predict` takes it.
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
    """A network of kdqat's: see `Loaded` in tasks/kind.py."""

    model: PreTrainedModel
    weights: Path | None
    record: Record


class NetworkKind:
    """The part of `Kind` (tasks/kind.py) that does not depend on what a row is.

    Attributes:
        name: the kind's name.
    """

    name: str

    def config(self, task: Own) -> dict[str, object]:
        """What a task determines of a network's configuration beside the labels: nothing."""
        return {}

    def inputs(self, source: str) -> dict[str, str]:
        """Nothing: a new network has random weights."""
        return {}

    def new(
        self,
        task: Own,
        source: str,
        data_dir: Path | None = None,
        teacher: Own = None,
        fields: Mapping[str, object] | None = None,
    ) -> LoadedNetwork:
        """A network by name, with random weights."""
        model = new_network(source, self.name, fields, **self.config(task), **label_config(task))
        return LoadedNetwork(placed(model), None, Record(network=source))

    def load(self, source: str, fix: str | None = None) -> LoadedNetwork:
        """A network that kdqat trained."""
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
        """Refuses a network that was made for other labels or inputs than the task's: it cannot be reordered."""
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
        """What is recorded."""
        if max_length is not None:
            raise ConfigError(f"--max-length has no meaning for task {task.name}, whose rows are read whole.")
        return loaded.record

    def taught(self, rows: Own, loaded: Own, folder: Path) -> Own:
        """Refuses: the loss of the logits already compares all of an answer."""
        raise no_targets(self.name)

    def write_reader(self, loaded: Own, folder: Path, name: str) -> dict[str, object]:
        """Nothing: the task says how its rows are read."""
        return {}

    def pack(self, loaded: Own, folder: Path, record: Record, half: bool, codec: CodecName | None) -> None:
        """As the packed file alone."""
        save_network(loaded.model, folder, record, half, codec)

    def answerer(self, source: str, task: Callable[[], Own], device: Device | None) -> Answerer:
        """The network, on the device; `reads_lines` says the rest."""
        loaded = self.load(source)
        if device == "cpu":
            loaded.model.cpu()
        spec = task()
        self.align(loaded, spec, f"The model {source}")
        return self.reads_lines(loaded, spec)

    def reads_lines(self, loaded: Own, task: Own) -> Answerer:
        """What answers lines.

        Raises:
            ConfigError: the kind takes no lines.
        """
        raise ConfigError(
            f"Rows of the kind {self.name} cannot be given to kdqat predict as lines.",
            f"kdqat evaluate --task {task.name}",
        )

    def save(self, loaded: Own, folder: Path, record: Record) -> None:
        """Writes config.json, model.safetensors, a student's codes and kdqat.json."""
        loaded.model.save_pretrained(folder, state_dict=plain_state(loaded.model))
        save_codes(loaded.model, folder)
        write_json(folder / ABOUT, record.to_json())


def no_targets(kind: str) -> ConfigError:
    """The error about a teacher's answers as targets, of a kind that has none."""
    return ConfigError(
        f"distillation.targets: teacher is for translations; rows of the kind {kind} have no sentences as answers.",
        "--set distillation.targets=references",
    )


def placed(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")

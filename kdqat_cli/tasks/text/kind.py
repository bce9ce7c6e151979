"""Text as a kind of task: see `Kind` in tasks/kind.py."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NoReturn

from kdqat_cli.config import CodecName, Device, Training
from kdqat_cli.errors import ConfigError
from kdqat_cli.packing.hf_model import save_packed
from kdqat_cli.record import BY_LENGTH, Batches, Record
from kdqat_cli.store.digest import file_digest
from kdqat_cli.tasks.networks import no_targets
from kdqat_cli.tasks.records import task_file
from kdqat_cli.tasks.text.answers import LoadedAnswerer
from kdqat_cli.tasks.text.head import align_labels
from kdqat_cli.tasks.text.inference import reader_of
from kdqat_cli.tasks.text.models import (
    Classifier,
    encoder_digest,
    encoder_location,
    load_classifier,
    load_encoder,
    save_classifier,
)
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE, inputs_of
from kdqat_cli.tasks.text.rows import TaskRows, row_length, task_rows
from kdqat_cli.tasks.text.schema import TextTask


class TextKind:
    """Texts, or pairs of texts, that encoders of transformers read through a tokenizer."""

    def inputs(self, source: str) -> dict[str, str]:
        """See `Kind`; the only input is the encoder."""
        return {"encoder": encoder_location(source)}

    def new(
        self,
        task: TextTask,
        source: str,
        data_dir: Path | None = None,
        teacher: Classifier | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> Classifier:
        """Loads an encoder (hub id, folder, or `embedded`) and gives it a new head for the task."""
        if fields:
            name = next(iter(fields))
            raise ConfigError(
                f"network.{name} has no meaning for task {task.name}, whose encoder has a configuration of its own.",
                f"--set network.{name}=null",
            )
        model, tokenizer = load_encoder(source, task)
        return Classifier(model, tokenizer, None, Record(encoder=source, sources={"encoder": encoder_digest(source)}))

    def load(self, source: str, fix: str | None = None) -> Classifier:
        """Loads a classifier."""
        return load_classifier(source, fix)

    def align(self, loaded: Classifier, task: TextTask, name: str) -> None:
        """Reorders the rows of the head; see `Kind`."""
        align_labels(loaded.model, task, name)

    def reading(
        self, loaded: Classifier, task: TextTask, training: Training, section: Literal["teacher", "student"]
    ) -> Record:
        """See `Kind`; the record has the length in tokens, the inputs, and how rows are batched."""
        option = "--max-length " if section == "teacher" else "--set student.max_length="
        max_length = row_length(task, loaded.tokenizer, training.max_length, option)
        # If a batch shares a scale, a student's score depends on how batches are made: here as in the training.
        fixed = section == "student" and training.padding == "max_length"
        batches = Batches(size=training.batch_size, pad_to=max_length) if fixed else BY_LENGTH
        return Record(
            task=task.name,
            task_file=task_file(task),
            labels=task.labels,
            pairs=task.pairs,
            max_length=max_length,
            inputs=inputs_of(loaded.tokenizer),
            batches=batches.model_copy(update={"keeps_more": training.keeps_more}),
        )

    def as_recorded(self, loaded: Classifier, task: TextTask, max_length: int | None) -> Record:
        """See `Kind`; rows are cut to `max_length`, else to the recorded length, else to the task's length."""
        record = loaded.record
        batches = record.batches
        if max_length:
            batches = batches.model_copy(update={"pad_to": batches.pad_to and max_length})
        length = row_length(task, loaded.tokenizer, max_length or record.max_length)
        return record.model_copy(update={"batches": batches, "max_length": length})

    def rows(
        self,
        task: TextTask,
        split: str,
        data_dir: Path | None,
        loaded: Classifier,
        record: Record,
        limit: int | None = None,
    ) -> TaskRows:
        """See `Kind`."""
        return task_rows(task, split, data_dir, loaded.tokenizer, record.row_length, record.batches, limit)

    def taught(self, rows: TaskRows, loaded: Classifier, folder: Path) -> NoReturn:
        """Refuses, because a label is not a sentence."""
        raise no_targets("text")

    def write_reader(self, loaded: Classifier, folder: Path, name: str) -> dict[str, object]:
        """Writes the tokenizer."""
        reader = reader_of(loaded.tokenizer, loaded.record.row_length)
        if fault := reader.fault(loaded.model.config.to_dict(), loaded.record.pairs):
            raise ConfigError(f"The tokenizer of {name} does not fit the model: {fault}", "kdqat distill")
        loaded.tokenizer.save_pretrained(folder)
        return {
            "tokenizer": file_digest(folder / TOKENIZER_FILE),
            "inputs": inputs_of(loaded.tokenizer),
            "batches": Batches(keeps_more=loaded.record.batches.keeps_more),
        }

    def pack(self, loaded: Classifier, folder: Path, record: Record, half: bool, codec: CodecName | None) -> None:
        """Writes config.json and the packed file, which transformers can load too."""
        save_packed(loaded.model, folder, record, half, codec)

    def answerer(self, source: str, task: Callable[[], TextTask], device: Device | None) -> LoadedAnswerer:
        """See `Kind`; a line is a text or a pair of texts, and the task is not needed."""
        answerer = LoadedAnswerer(source)
        if device == "cpu":
            answerer.loaded.model.cpu()
        return answerer

    def save(self, loaded: Classifier, folder: Path, record: Record) -> None:
        """Writes config.json, model.safetensors, a student's codes, the tokenizer and kdqat.json."""
        save_classifier(loaded.model, loaded.tokenizer, folder, record)


TEXT = TextKind()

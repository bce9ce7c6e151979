"""Translation as a kind of task: see `Kind` in tasks/kind.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdqat_cli.config import Training
from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.networks.nets import new_network
from kdqat_cli.record import Record
from kdqat_cli.tasks.networks import LoadedNetwork, NetworkKind, placed
from kdqat_cli.tasks.records import made_by, model_folder, task_file
from kdqat_cli.tasks.translation.answers import TranslationAnswerer
from kdqat_cli.tasks.translation.data import load_pairs, load_sentences
from kdqat_cli.tasks.translation.kept import kept_translations
from kdqat_cli.tasks.translation.rows import TranslationRows
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.words import FILE, Vocabulary


@dataclass
class Translator(LoadedNetwork):
    """A network with its vocabulary."""

    vocabulary: Vocabulary


class TranslationKind(NetworkKind):
    """Sentences and their translations, for kdqat's own networks, which read them word by word."""

    name = "translation"

    def new(
        self,
        task: TranslationTask,
        source: str,
        data_dir: Path | None = None,
        teacher: Translator | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> Translator:
        """Makes a network with random weights. Its vocabulary is its teacher's, or without one that of train."""
        if teacher is not None:
            vocabulary: Vocabulary = teacher.vocabulary
        else:
            vocabulary = _vocabulary(task, data_dir)
        model = new_network(source, self.name, fields, **vocabulary.sizes)
        return Translator(placed(model), None, Record(network=source), vocabulary)

    def load(self, source: str, fix: str | None = None) -> Translator:
        """Loads a network that kdqat trained, with its vocabulary."""
        loaded = super().load(source, fix)
        config = loaded.model.config
        sizes = {"source_words": config.source_words, "target_words": config.target_words}
        again = made_by(loaded.record) or "kdqat export"
        vocabulary = Vocabulary.load(model_folder(source), sizes, again)
        if vocabulary.digest != loaded.record.sources.get("vocabulary"):
            raise MissingInputError(f"{source}: the network was trained with another {FILE}.", again)
        return Translator(loaded.model, loaded.weights, loaded.record, vocabulary)

    def align(self, loaded: Translator, task: TranslationTask, name: str) -> None:
        """Refuses a network whose languages or form of words differ from the task's."""
        known = loaded.vocabulary
        fix = f"kdqat finetune-teacher --task {task.name}"
        if known.languages != task.languages:
            made, wanted = (" → ".join(languages) for languages in (known.languages, task.languages))
            raise ConfigError(f"{name} translates {made}, but task {task.name} is {wanted}.", fix)
        for key in ("words", "lower"):
            made, wanted = getattr(known, key), getattr(task, key)
            if made != wanted:
                raise ConfigError(f"{name} was made for {key}: {made}, but task {task.name} has {wanted}.", fix)

    def reading(
        self, loaded: Translator, task: TranslationTask, training: Training, section: Literal["teacher", "student"]
    ) -> Record:
        """See `Kind`; the task file has the length of pairs (`longest`), so the settings must have no `max_length`."""
        if training.max_length is not None:
            raise ConfigError(
                f"{section}.max_length has no meaning for task {task.name}: the length of pairs is in the task file "
                "(longest).",
                f"--set {section}.max_length=null",
            )
        words: dict[str, str | None] = {"vocabulary": loaded.vocabulary.digest}
        return Record(task=task.name, task_file=task_file(task), rows_kind=self.name, sources=words)

    def rows(
        self,
        task: TranslationTask,
        split: str,
        data_dir: Path | None,
        loaded: Translator,
        record: Record,
        limit: int | None = None,
    ) -> TranslationRows:
        """See `Kind`."""
        pairs = load_pairs(task, split, data_dir, loaded.vocabulary.cutters).first(limit)
        return TranslationRows(task, pairs, loaded.vocabulary)

    def taught(self, rows: TranslationRows, loaded: Translator, folder: Path) -> TranslationRows:
        """The rows with the teacher's translations, by beam search, as targets."""
        return rows.taught(kept_translations(rows, loaded.model, loaded.weights, folder))

    def reads_lines(self, loaded: Translator, task: TranslationTask) -> TranslationAnswerer:
        """An answerer whose lines are sentences."""
        return TranslationAnswerer(loaded.model, loaded.vocabulary, task)

    def write_reader(self, loaded: Translator, folder: Path, name: str) -> dict[str, object]:
        """Writes vocabulary.json."""
        loaded.vocabulary.save(folder)
        return {}

    def save(self, loaded: Translator, folder: Path, record: Record) -> None:
        """Writes the files of `NetworkKind.save`, and vocabulary.json."""
        super().save(loaded, folder, record)
        loaded.vocabulary.save(folder)


def _vocabulary(task: TranslationTask, data_dir: Path | None) -> Vocabulary:
    """The vocabulary of the training rows."""
    if task.words == "sentencepiece":
        return Vocabulary.of_pieces(task, *load_sentences(task, "train", data_dir))
    rows = load_pairs(task, "train", data_dir)
    return Vocabulary.of(task, rows.source, rows.target)


TRANSLATION = TranslationKind()

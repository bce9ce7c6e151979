"""The sentences of a task with their translations, from two files with the same number of lines."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdqat_cli.errors import MissingInputError
from kdqat_cli.files import lines
from kdqat_cli.tasks.sources import data_folders, found_in
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.words import Cut
from kdqat_cli.tasks.translation.words import cutters as plain_cutters

_LONGEST_LINE = 2**16  # bytes
_READ_BY = {"metric", "words", "lower", "longest", "beam", "most"}  # fields that rows and their score depend on


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations.

    Attributes:
        source: words of each source sentence, at least one.
        target: words of each target sentence, at least one.
        references: the lines of the target file.
    """

    source: Sequence[Sequence[str]]
    target: Sequence[Sequence[str]]
    references: Sequence[str]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.references)

    @property
    def longer_sides(self) -> list[int]:
        """The number of words of the longer side of each pair."""
        return [max(len(one), len(other)) for one, other in zip(self.source, self.target, strict=True)]

    def first(self, limit: int | None) -> "Pairs":
        """The first `limit` pairs; None: all."""
        return Pairs(self.source[:limit], self.target[:limit], self.references[:limit])

    def up_to(self, longest: int) -> "Pairs":
        """The pairs with at most `longest` words on each side."""
        return self.part([index for index, length in enumerate(self.longer_sides) if length <= longest])

    def part(self, numbers: Sequence[int]) -> "Pairs":
        """Some of the pairs, by their numbers."""
        source, target = ([side[index] for index in numbers] for side in (self.source, self.target))
        return Pairs(source, target, [self.references[index] for index in numbers])

    def digest(self, task: TranslationTask) -> str:
        """sha256 over all pairs in their order, and over the fields of the task that their score depends on."""
        state = hashlib.sha256(json.dumps(task.model_dump(include=_READ_BY), sort_keys=True).encode())
        for rows in (self.source, self.references):
            state.update(json.dumps(rows).encode())
        return state.hexdigest()


def load_sentences(task: TranslationTask, split: str, data_dir: Path | None = None) -> tuple[list[str], list[str]]:
    """Loads the lines of the source and of the target file of one split.

    Args:
        task: the task.
        split: train, dev, or another split of the task.
        data_dir: the user's folder of local data, or None.

    Raises:
        MissingInputError: a file is missing or cannot be read, the two have different numbers of lines, or a carriage
            return is inside a line.
    """
    return _read(task, split, data_dir)[0]


def load_pairs(
    task: TranslationTask, split: str, data_dir: Path | None = None, cutters: tuple[Cut, Cut] | None = None
) -> Pairs:
    """Loads the pairs of one split. From train, pairs with more than `longest` words on a side are left out.

    Args:
        task: the task.
        split: train, dev, or another split of the task.
        data_dir: the user's folder of local data, or None.
        cutters: functions that split source and target sentences into words; None: those of `words.cutters`.

    Raises:
        MissingInputError: see `load_sentences`; or a line has no words, or no pair is short enough.
    """
    sentences, paths = _read(task, split, data_dir)
    cuts = cutters or plain_cutters(task)
    source, target = (_words(cut, rows, path) for cut, rows, path in zip(cuts, sentences, paths, strict=True))
    pairs = Pairs(source, target, sentences[1])
    short = pairs.up_to(task.longest)
    if not len(short):
        raise MissingInputError(
            f"Task {task.name}: every pair of the split {split} has a side with more than {task.longest} words.",
            "a larger longest in the task file",
        )
    return short if split == "train" else pairs


def _read(task: TranslationTask, split: str, data_dir: Path | None) -> tuple[tuple[list[str], list[str]], list[Path]]:
    folders = data_folders(task, data_dir)
    paths = [found_in(folders, name, task) for name in task.files[split]]
    sources, references = (_sentences(path) for path in paths)
    if len(sources) != len(references):
        raise MissingInputError(
            f"{paths[0]} has {len(sources)} lines, but {paths[1]} has {len(references)}; line i of one must translate "
            "line i of the other.",
            f"files.{split} in the task file, with two files that belong together",
        )
    return (sources, references), paths


def _sentences(path: Path) -> list[str]:
    found = []
    for number, line in enumerate(lines(path, _LONGEST_LINE), 1):
        sentence = line.removesuffix("\n").removesuffix("\r")
        if "\r" in sentence:
            raise MissingInputError(
                f"{path}, line {number} has a carriage return inside it; lines must end in \\n or \\r\\n.",
                f"tr '\\r' '\\n' < {path} > NEW, if its lines end in \\r",
            )
        found.append(sentence)
    return found


def _words(cut: Cut, sentences: list[str], path: Path) -> list[list[str]]:
    rows = [cut(sentence) for sentence in sentences]
    if [] in rows:
        number = rows.index([]) + 1
        raise MissingInputError(f"{path}, line {number} has no words.", f"remove line {number} from both files")
    return rows

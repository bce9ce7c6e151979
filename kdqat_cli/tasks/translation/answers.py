"""Sentences → translations."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from kdqat_cli.tasks.answers import Answer, Gives
from kdqat_cli.tasks.translation.data import Pairs
from kdqat_cli.tasks.translation.rows import TranslationRows
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.words import Vocabulary
from kdqat_cli.texts import Text


@dataclass(frozen=True)
class TranslationAnswerer:
    """A translator: see `Answerer` in tasks/answers.py.

    Attributes:
        model: the network.
        vocabulary: its words, and how sentences are split into words.
        task: the task, which has the settings of the beam search.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    task: TranslationTask
    gives: Gives = "translation"
    labels: list[str] | None = None
    pairs: bool | None = False
    remark: str | None = None

    def answers(self, batch: list[Text]) -> list[Answer]:
        """See `Answerer`. A line is a sentence; the answer to a line without words is an error."""
        found = [Answer(error="The line has no words.") for _ in batch]
        words = {place: self.vocabulary.cutters[0](line.text) for place, line in enumerate(batch)}
        words = {place: row for place, row in words.items() if row}
        if words:
            rows = list(words.values())
            pairs = Pairs(rows, [[]] * len(rows), [""] * len(rows))
            translations = TranslationRows(self.task, pairs, self.vocabulary).translations(self.model)
            for place, translation in zip(words, translations, strict=True):
                found[place] = Answer(translation=translation)
        return found

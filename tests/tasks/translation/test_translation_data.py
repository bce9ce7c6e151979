"""Parallel files, words and vocabularies of translation tasks, and faulty files that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.tasks.registry import load_task
from kdqat_cli.tasks.translation.data import load_pairs
from kdqat_cli.tasks.translation.rows import TranslationRows
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.words import Vocabulary, cut

TASK: dict[str, Any] = {
    "kind": "translation",
    "name": "pets",
    "title": "Pets",
    "languages": ["de", "en"],
    "files": {"train": ["train.de", "train.en"], "dev": ["dev.de", "dev.en"]},
    "network": "lstm-tiny",
}
GERMAN = 'Der Hund, der "Hund" heißt.\nDie Katze schläft.\n'
ENGLISH = "The dog that is called Hund.\nThe cat sleeps.\n"


def pets(folder: Path, **changes: Any) -> TranslationTask:
    return TranslationTask.model_validate({**TASK, **changes}).model_copy(update={"folder": folder})


def write(folder: Path, split: str, source: str, target: str) -> None:
    for language, text in (("de", source), ("en", target)):
        (folder / f"{split}.{language}").write_bytes(text.encode())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for split in ("train", "dev"):
        write(tmp_path, split, GERMAN, ENGLISH)
    return tmp_path


def test_words_are_those_that_bleu_counts() -> None:
    from sacrebleu.metrics.bleu import BLEU

    sentence = "A woman's dog, 1990-2000. &amp; U.S. e.g. (x) saftig-grün «ja»"
    words = cut(sentence, "13a", lower=False)
    assert words[:5] == ["A", "woman's", "dog", ",", "1990"]
    assert cut(" ".join(words), "13a", lower=False) == words, "splitting them again changes nothing"
    assert BLEU(force=True).corpus_score([" ".join(words)], [[sentence]]).score == pytest.approx(100)
    assert cut("A woman 's dog ,", "spaces", lower=True) == ["a", "woman", "'s", "dog", ","]


def test_line_ends_and_a_byte_order_mark_are_not_part_of_a_sentence(files: Path) -> None:
    plain = load_pairs(pets(files), "dev")
    write(files, "dev", "\ufeff" + GERMAN.replace("\n", "\r\n"), ENGLISH.removesuffix("\n"))
    pairs = load_pairs(pets(files), "dev")
    assert pairs == plain
    assert pairs.references == ENGLISH.splitlines()
    assert pairs.source[1] == ["Die", "Katze", "schläft", "."]


@pytest.mark.parametrize(
    ("german", "english", "said"),
    [
        (GERMAN + "Ja.\n", ENGLISH, r"dev.de has 3 lines, but .*dev.en has 2; line i of one must translate line i of"),
        ("Ja.\n\n", "Yes.\nNo.\n", r"dev.de, line 2 has no words"),
        ("Ja.\nNein.\n", "Yes.\n \t\n", r"dev.en, line 2 has no words"),
        ("Ja.\rNein.\r", "Yes.\nNo.\n", r"dev.de, line 1 has a carriage return inside it; lines must end in"),
        ("", "", "every pair of the split dev has a side with more than 50 words"),
        ("Ja. " * 30, "Yes.", "every pair of the split dev has a side with more than 50 words"),
        ("ja " * 30_000, "Yes.", "dev.de, line 1 has more than 65,536 bytes"),
    ],
)
def test_each_fault_is_reported_in_one_sentence(german: str, english: str, said: str, files: Path) -> None:
    write(files, "dev", german, english)
    with pytest.raises(MissingInputError, match=said):
        load_pairs(pets(files), "dev")


def test_a_file_that_is_missing_or_not_text(files: Path) -> None:
    (files / "dev.en").write_bytes(b"caf\xe9\nx\n")
    with pytest.raises(MissingInputError, match=r"dev.en, line 1 is not UTF-8 text"):
        load_pairs(pets(files), "dev")
    (files / "dev.en").unlink()
    with pytest.raises(MissingInputError, match=r"Task pets: there is no dev.en in") as caught:
        load_pairs(pets(files), "dev")
    assert caught.value.fix == "--data-dir FOLDER, where FOLDER holds dev.en"


def test_long_pairs_are_left_out_only_from_train(files: Path) -> None:
    task = pets(files, longest=5)
    assert len(load_pairs(task, "train")) == 1
    assert len(load_pairs(task, "dev")) == 2


def test_a_vocabulary_has_the_most_frequent_words(files: Path) -> None:
    pairs = load_pairs(pets(files), "train")
    known = Vocabulary.of(pets(files), pairs.source, pairs.target)
    assert known.source == ['"', ".", "Hund", ",", "Der", "Die", "Katze", "der", "heißt", "schläft"]
    assert known.sizes == {"source_words": 12, "target_words": 13}
    assert known.source_numbers(["Hund", "Maus"]) == [4, 0]
    numbers = known.target_numbers(["The", "mouse", "sleeps"])
    assert numbers[1] == 0
    assert min(numbers[0], numbers[2]) >= 4
    assert known.sentence(numbers, ["Die", "Maus", "schläft"]) == "The Maus sleeps"
    fewer = pets(files, vocabulary=2, lower=True)
    pairs = load_pairs(fewer, "train")
    assert Vocabulary.of(fewer, pairs.source, pairs.target).source == ['"', "."]
    assert Vocabulary.of(pets(files, least=2), pairs.source, pairs.target).source == ['"', ".", "der", "hund"]
    with pytest.raises(MissingInputError, match="no word occurs 9 times in train"):
        Vocabulary.of(pets(files, least=9), pairs.source, pairs.target)


def test_a_batch_is_padded_at_the_end_and_labels_end_the_sentence(files: Path) -> None:
    task = pets(files)
    pairs = load_pairs(task, "train")
    rows = TranslationRows(task, pairs, Vocabulary.of(task, pairs.source, pairs.target))
    batch = rows.collate("longest")(rows.examples)
    long, short = (target for _, target in rows.examples)
    assert batch["target_in"].tolist() == [[2, *long], [2, *short, *[1] * (len(long) - len(short))]]
    assert batch["labels"].tolist() == [[*long, 3], [*short, 3, *[-100] * (len(long) - len(short))]]
    assert (batch["counted"] == (batch["labels"] != -100)).all()
    assert batch["lengths"].tolist() == [len(source) for source, _ in rows.examples]
    assert rows.lengths == [9, 4]


def test_the_digest_covers_the_rows_and_how_they_are_read(files: Path) -> None:
    def digest(**changes: Any) -> str:
        task = pets(files, **changes)
        return load_pairs(task, "dev").digest(task)

    assert digest() == digest(title="Other", network="lstm-small")
    assert len({digest(), digest(lower=True), digest(beam=1), digest(longest=49)}) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"has no vocabulary.json, which has the words of the network"),
        ("{", "vocabulary.json is not JSON; the vocabulary is damaged"),
        ("[]", "must have keys and values"),
        ({"source": ["a", "a"]}, "source: a word occurs twice"),
        ({"target": "abc"}, "target: input should be a valid list"),
        ({"target": ["a"]}, "vocabulary.json has 5 target words, special ones included, but its network has 13"),
    ],
)
def test_a_vocabulary_that_is_missing_or_damaged(content: Any, said: str, files: Path) -> None:
    task = pets(files)
    pairs = load_pairs(task, "train")
    known = Vocabulary.of(task, pairs.source, pairs.target)
    known.save(files)
    assert Vocabulary.load(files, known.sizes, None) == known
    path = files / "vocabulary.json"
    if content is None:
        path.unlink()
    else:
        text = content if isinstance(content, str) else json.dumps(known.model_dump() | content)
        path.write_text(text, encoding="utf-8")
    with pytest.raises(MissingInputError, match=said) as caught:
        Vocabulary.load(files, known.sizes, "kdqat finetune-teacher")
    assert caught.value.fix == "kdqat finetune-teacher"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {"train": ["a", "b"]}}, "files: dev must be given"),
        ({"files": {"train": ["a"], "dev": ["a", "b"]}}, "files.train: list should have at least 2 items"),
        ({"languages": ["de"]}, "languages: list should have at least 2 items"),
        ({"metric": "accuracy"}, "metric: input should be 'bleu' or 'chrf'"),
        ({"labels": ["a", "b"]}, "labels is not a known key"),
        ({"beam": 0}, "beam: input should be greater than or equal to 1"),
    ],
)
def test_faults_of_a_task_file(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump({**TASK, **change}), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_task(str(path))

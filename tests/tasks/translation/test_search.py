"""Beam search against all possible sentences, and the scores of its translations."""

from itertools import product
from typing import Any

import pytest
import sacrebleu
import torch
from torch import Tensor

from kdqat_cli.networks.nets import new_network
from kdqat_cli.tasks.translation.data import Pairs
from kdqat_cli.tasks.translation.rows import TranslationRows
from kdqat_cli.tasks.translation.schema import TranslationTask
from kdqat_cli.tasks.translation.search import search
from kdqat_cli.tasks.translation.words import BEGIN, END, Vocabulary

SOURCES = [[2, 5, 3], [4], [0, 2, 2, 4, 3], [3, 5]]
WORDS = (0, 4, 5, 6)  # of a target sentence: the unknown word, and three words
MOST = 4
TASK = TranslationTask.model_validate(
    {
        "kind": "translation",
        "name": "letters",
        "title": "Letters",
        "languages": ["small", "large"],
        "files": {"train": ["a", "b"], "dev": ["a", "b"]},
        "network": "lstm-tiny",
    }
)


@pytest.fixture(params=[0, 1, 2])
def model(request: pytest.FixtureRequest) -> Any:
    """A network with large weights, so that probabilities differ clearly."""
    torch.manual_seed(request.param)
    model = new_network("lstm-tiny", "translation", source_words=6, target_words=7).double().eval()
    for parameter in model.parameters():
        parameter.data *= 8
    return model


def padded(sources: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(row) for row in sources]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1), torch.tensor(list(map(len, rows)))


def log_probability(model: Any, source: list[int], words: tuple[int, ...]) -> float:
    inputs = [BEGIN, *words]
    logits = model(*padded([source]), torch.tensor([inputs])).logits[0].detach()
    return float(sum(logits[place].log_softmax(-1)[word] for place, word in enumerate([*words, END])))


def found(model: Any, sources: list[list[int]], beam: int) -> list[tuple[int, ...]]:
    return [tuple(words[:, 0].tolist()) for words in search(model, *padded(sources), beam, MOST)]


def test_a_beam_of_full_width_finds_the_most_probable_sentence(model: Any) -> None:
    all_sentences = [words for length in range(MOST) for words in product(WORDS, repeat=length)]
    for source, best in zip(SOURCES, found(model, SOURCES, 300), strict=True):
        likely = max(all_sentences, key=lambda words: log_probability(model, source, words))
        assert best == likely


def test_a_beam_of_one_always_takes_the_most_probable_word(model: Any) -> None:
    for source, given in zip(SOURCES, found(model, SOURCES, 1), strict=True):
        words: list[int] = []
        while len(words) < MOST:
            logits = model(*padded([source]), torch.tensor([[BEGIN, *words]])).logits[0, -1].detach()
            word = max((*WORDS, END), key=lambda word: logits[word].item())
            if word == END:
                break
            words.append(word)
        assert given == tuple(words)


@pytest.mark.parametrize("beam", [1, 3])
def test_batch_mates_do_not_change_a_translation(model: Any, beam: int) -> None:
    together = found(model, SOURCES, beam)
    assert together == [found(model, [source], beam)[0] for source in SOURCES]


def test_scores_equal_those_of_sacrebleu_and_unknown_words_come_from_the_source(model: Any) -> None:
    pairs = Pairs(
        [["a", "d", "b"], ["c"], ["x", "a", "a", "c", "b"], ["b", "d"]],
        [["A", "B"], ["C", "C"], ["Y", "A"], ["B"]],
        ["A B", "C C", "Y A", "B"],
    )
    known = Vocabulary(
        languages=TASK.languages, words="13a", lower=False, source=["a", "b", "c", "d"], target=["A", "B", "C"]
    )
    rows = TranslationRows(TASK, pairs, known)
    assert [source for source, _ in rows.examples] == SOURCES
    texts = rows.translations(model.train())
    for source, text, words in zip(SOURCES, texts, search(model, *padded(SOURCES), TASK.beam, TASK.most), strict=True):
        expected = [
            pairs.source[SOURCES.index(source)][place] if word == 0 else known.target[word - 4]
            for word, place in words.tolist()
        ]
        assert text.split() == expected
    scored = rows.score(model)
    assert model.training, "the mode of the model is unchanged"
    assert scored["bleu"] == sacrebleu.corpus_bleu(texts, [list(pairs.references)], force=True).score == scored["score"]
    assert scored["chrf"] == sacrebleu.corpus_chrf(texts, [list(pairs.references)]).score
    totals = [log_probability(model.eval(), source, tuple(target)) for source, target in rows.examples]
    words_and_ends = sum(len(target) + 1 for _, target in rows.examples)
    assert scored["perplexity"] == pytest.approx(torch.tensor(-sum(totals) / words_and_ends).exp().item(), rel=1e-5)
    assert rows.chance == sacrebleu.corpus_bleu(["A B"] * 4, [list(pairs.references)], force=True).score

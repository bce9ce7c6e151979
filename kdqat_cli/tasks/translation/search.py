"""Beam search: finds a probable translation of each sentence with an encoder-decoder.

At each step, the `beam` most probable continuations of a sentence's hypotheses are kept. A hypothesis that ends leaves
the beam. The probability of a hypothesis cannot grow with its length. So the search for a sentence stops when its best
ended hypothesis is at least as probable as the best one in the beam. A beam of 1 always takes the most probable word.
As in the public code of Polino et al., the log probability is not divided by the length.
"""

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from kdqat_cli.tasks.translation.words import BEGIN, END, PADDING


@torch.no_grad()
def search(model: PreTrainedModel, source: Tensor, lengths: Tensor, beam: int, most: int) -> list[Tensor]:
    """Translates sentences.

    Args:
        model: a network that has `encode` and `step` (networks/seq2seq_model.py), in eval mode.
        source: word numbers (B, S), padded at the end.
        lengths: numbers of words (B,) of the sentences, without padding.
        beam: hypotheses per sentence.
        most: largest number of words of a translation.

    Returns:
        Per sentence (words, 2): the number of each word, and the position of the source word with the largest weight.
    """
    rows, here = len(source), source.device
    totals = torch.full((rows, beam), -torch.inf, device=here)  # log probability of each hypothesis
    totals[:, 0] = 0  # the others are impossible at first, because they would be copies of this one
    paths = torch.zeros((rows, beam, 0, 2), dtype=torch.long, device=here)
    best, best_totals = [paths[0, 0]] * rows, torch.full((rows,), -torch.inf, device=here)
    first = torch.arange(rows, device=here)[:, None] * beam
    words = torch.full((rows * beam,), BEGIN, device=here)
    with parametrize.cached():
        read, state = model.encode(source, lengths)
        copies = torch.arange(rows, device=here).repeat_interleave(beam)
        read, state = read.chosen(copies), state.chosen(copies)
        for _ in range(most):
            logits, weights, state = model.step(words, read, state)
            totals, parents, chosen = _continued(totals, logits)
            seen = weights.argmax(-1).view(rows, beam).gather(1, parents)
            paths = _extended(paths, parents, torch.stack([chosen, seen], -1))
            ended = chosen == END
            for row, place in (ended & (totals > best_totals[:, None])).nonzero().tolist():
                if totals[row, place] > best_totals[row]:
                    best[row], best_totals[row] = paths[row, place, :-1], totals[row, place]
            totals = totals.masked_fill(ended, -torch.inf)
            if (totals.amax(1) <= best_totals).all():
                break
            state, words = state.chosen((first + parents).flatten()), chosen.flatten()
    for row in (best_totals == -torch.inf).nonzero().flatten().tolist():  # none ended
        best[row] = paths[row, totals[row].argmax()]
    return best


def _extended(paths: Tensor, parents: Tensor, last: Tensor) -> Tensor:
    """The parents' paths (B, beam, words, 2) with one more word each, of (B, beam, 2)."""
    before = paths.gather(1, parents[:, :, None, None].expand(-1, -1, *paths.shape[2:]))
    return torch.cat([before, last[:, :, None]], 2)


def _continued(totals: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable continuations of each sentence: log probability, hypothesis and new word, each (B, beam)."""
    rows, beam = totals.shape
    # Padding and begin are excluded only after the softmax, so the other probabilities stay the model's.
    logs = logits.float().log_softmax(-1)
    logs[:, [PADDING, BEGIN]] = -torch.inf
    found, places = (totals[:, :, None] + logs.view(rows, beam, -1)).flatten(1).topk(beam)
    return found, places // logits.size(-1), places % logits.size(-1)

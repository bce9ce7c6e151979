"""Beam search: a likely translation of each sentence by an encoder-decoder.

At each step the `beam` likeliest continuations of a sentence's hypotheses are kept. One that ends leaves the beam. A
hypothesis gets no likelier as it grows, so a sentence is done when its best ended hypothesis is at least as likely as
the best of its beam. With a beam of 1 the likeliest word is taken each time. The probability is not divided by the
length, as in the public code of Polino et al.
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
        lengths: real words (B,) of each.
        beam: hypotheses per sentence.
        most: words of a translation at most.

    Returns:
        Per sentence (words, 2): the number of each word, and the place of the source word that it looked at most.
    """
    rows, here = len(source), source.device
    totals = torch.full((rows, beam), -torch.inf, device=here)  # log probability of each hypothesis
    totals[:, 0] = 0  # all others would be copies of the first
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
            before = paths.gather(1, parents[:, :, None, None].expand(-1, -1, *paths.shape[2:]))
            paths = torch.cat([before, torch.stack([chosen, seen], -1)[:, :, None]], 2)
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


def _continued(totals: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest continuations of each sentence: log probability, hypothesis and new word, each (B, beam)."""
    rows, beam = totals.shape
    # The probabilities are the model's; what is no word of a sentence is not taken.
    logs = logits.float().log_softmax(-1)
    logs[:, [PADDING, BEGIN]] = -torch.inf
    found, places = (totals[:, :, None] + logs.view(rows, beam, -1)).flatten(1).topk(beam)
    return found, places // logits.size(-1), places % logits.size(-1)

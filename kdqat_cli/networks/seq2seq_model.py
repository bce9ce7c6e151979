"""The torch classes of the LSTM encoder-decoders; seq2seq.py explains what they compute and names the sources."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

_BEGIN = 0.1  # the first parameters are uniform in ± this


class Seq2SeqConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of an encoder-decoder.

    Attributes:
        source_words: number of source words, special tokens included.
        target_words: number of target words, and of logits.
        layers: number of LSTM layers of the encoder, and also of the decoder.
        hidden: width of each layer.
        word_vectors: width of a word vector.
        dropout: dropout rate between layers and on the output of the attention.
    """

    model_type = "kdqat-lstm"
    source_words: int = 2
    target_words: int = 4
    layers: int = 1
    hidden: int = 32
    word_vectors: int = 32
    dropout: float = 0.0


class Encoded(NamedTuple):
    """An encoded source: B sentences of at most S words."""

    states: Tensor
    """(B, S, hidden): the states of the encoder, which the attention averages."""
    keys: Tensor
    """(B, S, hidden): W_in times the states."""
    real: Tensor
    """(B, S): false at padding."""

    def chosen(self, rows: Tensor) -> "Encoded":
        """The sentences of these indices."""
        return Encoded(self.states[rows], self.keys[rows], self.real[rows])


class State(NamedTuple):
    """The state of a decoder in B sentences."""

    hidden: tuple[Tensor, ...]
    """Per layer (B, hidden)."""
    cells: tuple[Tensor, ...]
    """Per layer (B, hidden)."""
    fed: Tensor
    """(B, hidden): the output of the attention at the previous step."""

    def chosen(self, rows: Tensor) -> "State":
        """The sentences of these indices."""
        hidden, cells = (tuple(layer[rows] for layer in layers) for layers in (self.hidden, self.cells))
        return State(hidden, cells, self.fed[rows])


class Attention(nn.Module):
    """Luong's "general" attention; see seq2seq.py."""

    def __init__(self, hidden: int) -> None:
        """Sets the width."""
        super().__init__()
        self.inner = nn.Linear(hidden, hidden, bias=False)
        self.outer = nn.Linear(2 * hidden, hidden, bias=False)

    def forward(self, query: Tensor, source: Encoded) -> tuple[Tensor, Tensor]:
        """A query (B, hidden) → the output (B, hidden), and the weights of the source words (B, S)."""
        scores = (source.keys @ query[:, :, None])[:, :, 0]
        weights = scores.masked_fill(~source.real, -torch.inf).softmax(-1)
        seen = (weights[:, None] @ source.states)[:, 0]
        return self.outer(torch.cat([seen, query], -1)).tanh(), weights


class Seq2Seq(PreTrainedModel):  # type: ignore[misc]
    """Translates word by word."""

    config_class = Seq2SeqConfig
    main_input_name = "source"

    def __init__(self, config: Seq2SeqConfig) -> None:
        """Random weights of the given sizes."""
        super().__init__(config)
        hidden, vectors, layers = config.hidden, config.word_vectors, config.layers
        self.source_vectors = nn.Embedding(config.source_words, vectors)
        self.target_vectors = nn.Embedding(config.target_words, vectors)
        between = config.dropout if layers > 1 else 0.0  # with one layer, torch would warn
        self.encoder = nn.LSTM(vectors, hidden, layers, batch_first=True, dropout=between)
        widths = [vectors + hidden, *[hidden] * (layers - 1)]
        self.decoder = nn.ModuleList(nn.LSTMCell(width, hidden) for width in widths)
        self.attention = Attention(hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.generator = nn.Linear(hidden, config.target_words)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        kinds = nn.Embedding | nn.LSTM | nn.LSTMCell | nn.Linear
        if isinstance(module, kinds) and module is not self.generator:
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -_BEGIN, _BEGIN)

    def forward(self, source: Tensor, lengths: Tensor, target_in: Tensor, **_: object) -> Seq2SeqLMOutput:
        """The logits of every target word, given the words before it.

        Args:
            source: word indices (B, S), padded at the end.
            lengths: number of real words (B,) of each source, at least 1.
            target_in: word indices (B, L) of the previous words; the first is the begin token.

        Returns:
            An object with `logits` (B, L, target words).
        """
        with parametrize.cached():  # computes a quantised weight once, not at every step
            read, state = self.encode(source, lengths)
            given = []
            for vectors in self.target_vectors(target_in).unbind(1):
                state = self._step(vectors, read, state)[0]
                given.append(state.fed)
            return Seq2SeqLMOutput(logits=self.generator(torch.stack(given, 1)))

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Encoded, State]:
        """Encodes sources; `forward` explains the arguments. Also returns the first state of the decoder."""
        packed = pack_padded_sequence(
            self.source_vectors(source), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        # cuDNN has no gradient of an LSTM in eval mode, which the sensitivity measure needs.
        with torch.backends.cudnn.flags(enabled=self.training or not torch.is_grad_enabled()):
            states, (hidden, cells) = self.encoder(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=source.size(1))
        real = torch.arange(source.size(1), device=source.device) < lengths[:, None]
        begin = State(hidden.unbind(0), cells.unbind(0), torch.zeros_like(hidden[-1]))
        return Encoded(states, self.attention.inner(states), real), begin

    def step(self, words: Tensor, read: Encoded, state: State) -> tuple[Tensor, Tensor, State]:
        """Computes the next word of each sentence.

        Args:
            words: indices (B,) of the previous words.
            read: the encoded sources.
            state: the state after the previous step.

        Returns:
            The logits (B, target words), the weights of the source words (B, S), and the new state.
        """
        state, weights = self._step(self.target_vectors(words), read, state)
        return self.generator(state.fed), weights, state

    def _step(self, vectors: Tensor, read: Encoded, state: State) -> tuple[State, Tensor]:
        values = torch.cat([vectors, state.fed], -1)
        hidden, cells = [], []
        for layer, before in enumerate(zip(state.hidden, state.cells, strict=True)):
            output, cell = self.decoder[layer](self.dropout(values) if layer else values, before)
            hidden.append(output)
            cells.append(cell)
            values = output
        given, weights = self.attention(values, read)
        return State(tuple(hidden), tuple(cells), self.dropout(given)), weights

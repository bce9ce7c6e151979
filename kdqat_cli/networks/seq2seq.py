"""LSTM encoder-decoders with attention, as Polino et al. (ICLR 2018) use for translation (OpenNMT-py of 2017).

A unidirectional LSTM reads the source. Each layer of the decoder begins with the last state of the same layer of the
encoder. At each step t the decoder reads the word vector of the previous word and the attention's previous output
(input feeding):

    q_t = LSTM cells([words(y_{t-1}); a_{t-1}]),  a_0 = 0
    w_t = softmax over real source words of q_t · W_in h_s        (Luong et al., 2015: "general")
    a_t = tanh(W_out [Σ_s w_ts h_s; q_t])
    logits_t = generator(a_t)

W_in and W_out have no bias. Dropout of 0.3 is applied between LSTM layers and to a_t. The first value of every
parameter is uniform in ±0.1, except in the generator, which begins like torch's linears. The sizes are those of the
paper's public code (antspy/quantized_distillation), with word vectors of 500 in every network of the paper.
"""

from typing import TYPE_CHECKING

from kdqat_cli.networks.net import Net, Shapes

if TYPE_CHECKING:
    from kdqat_cli.networks.seq2seq_model import Seq2Seq, Seq2SeqConfig

_PAPER = {"word_vectors": 500, "dropout": 0.3}

SHAPES: Shapes = {
    "lstm-teacher": {"layers": 2, "hidden": 500, **_PAPER},
    **{f"lstm-{hidden}": {"layers": 1, "hidden": hidden, **_PAPER} for hidden in (550, 512, 500, 256, 128, 100)},
    "lstm-medium": {"layers": 2, "hidden": 256, "word_vectors": 256, "dropout": 0.3},
    "lstm-small": {"layers": 1, "hidden": 128, "word_vectors": 128, "dropout": 0.3},
    "lstm-tiny": {"layers": 1, "hidden": 32, "word_vectors": 32, "dropout": 0.0},
}
_ABOUT = {
    "lstm-teacher": "2 layers of 500, translation teacher of Polino et al.",
    "lstm-550": "1 layer of 550, distilled WMT13 student of Polino et al.",
    "lstm-512": "1 layer of 512, student of Polino et al.",
    "lstm-500": "1 layer of 500, undistilled WMT13 student of Polino et al.",
    "lstm-256": "1 layer of 256, student of Polino et al.",
    "lstm-128": "1 layer of 128, student of Polino et al.",
    "lstm-100": "1 layer of 100, multi30k student of Polino et al.'s public code",
    "lstm-medium": "2 layers of 256, word vectors of 256: trains on a CPU",
    "lstm-small": "1 layer of 128, word vectors of 128: a student of lstm-medium",
    "lstm-tiny": "1 layer of 32, word vectors of 32: for tests",
}


def _classes() -> "tuple[type[Seq2SeqConfig], type[Seq2Seq]]":
    from kdqat_cli.networks.seq2seq_model import Seq2Seq, Seq2SeqConfig

    return Seq2SeqConfig, Seq2Seq


SEQ2SEQ = Net("kdqat-lstm", "translation", _classes, SHAPES, first="source_vectors", last="generator", about=_ABOUT)
